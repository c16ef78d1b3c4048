"""Mapped models: layers, weights, the cache's limit and policy, memory that is really returned, files that fail."""

import gc
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import hostile_files as h
import hyperion
from hostile_files import STRING, gguf, key, tensor, text
from hyperion import MappedModel, MmapConfig, open_mapped_model
from hyperion._kernels import quant, reference, stream
from hyperion.errors import (
    FormatError,
    HyperionIOError,
    HyperionRuntimeError,
    InvalidArgumentError,
    MemoryBudgetError,
    UnsupportedError,
)
from hyperion.formats import container
from hyperion.formats.native import NativeTensor, NativeWriter
from hyperion.formats.writing import Typed
from hyperion.loading.pages import AROUND
from hyperion.memory import MemoryBudget, process_budget
from weights import FLOATS, QUANTIZED, random_raw

PAGE = 4096
COLS = 256
ROWS = 64  # of a block's one matrix: 64 KiB of float32
LAYER = ROWS * COLS * 4

not_on_windows = pytest.mark.skipif(os.name == "nt", reason="Windows does not let a mapped file be replaced or removed")


def write_model(path, blocks=6, rows=ROWS, architecture="nobody-knows-it"):
    """A GGUF of an unknown architecture whose layers have a matrix each, filled with the layer's number."""
    names = ["token_embd.weight", *(f"blk.{i}.w.weight" for i in range(blocks)), "output.weight"]
    entries, data = [], b""
    for i, name in enumerate(names):
        entries.append(tensor(name, [COLS, rows], 0, len(data)))
        data += np.full((rows, COLS), i, "<f4").tobytes()
    path.write_bytes(gguf([key("general.architecture", STRING, text(architecture))], entries, data))
    return path


@pytest.fixture
def path(tmp_path):
    return write_model(tmp_path / "m.gguf")


def config(layers, **options):
    return MmapConfig(max_cache_size=layers * LAYER, **options)


def active(model):
    return [d.layer_index for d in model.layers if d.is_active]


def value(weights):
    (array,) = weights.values()
    assert (array == array.flat[0]).all()
    return int(array.flat[0])


def wait_for(model, layer):
    """Until a prefetch has ended, in whatever way."""
    with model._lock:
        assert model._lock.wait_for(lambda: not model._layers[layer].loading, 60)


# ---- opening -----------------------------------------------------------------------------------------------------


def test_layers_are_listed_without_reading(path, monkeypatch):
    reads = []
    real = container._pread
    monkeypatch.setattr(container, "_pread", lambda fd, view, offset: reads.append(len(view)) or real(fd, view, offset))
    with open_mapped_model(path) as m:
        assert sum(reads) <= 8192
        assert len(m) == m.layer_count == 8
        first = min(t.offset for t in m.tensors.values())
        for i, d in enumerate(m.layers):
            assert (d.layer_index, d.offset, d.size, d.precision) == (i, first + i * LAYER, LAYER, 32)
            assert (d.is_active, d.cached_weights, d.priority, d.last_accessed, d.access_count) == (False, None, 0.0, 0, 0)
        assert [t.name for t in m.layer_tensors(3)] == ["blk.2.w.weight"]
        assert m.metadata["general.architecture"] == "nobody-knows-it"
        assert m.path == str(path)
        assert m.memory_usage == 0


@pytest.mark.parametrize("name", ["shakespeare-q4_k_m.gguf", "hf"])
def test_the_real_model(shared, name):
    path = shared / "models" / "shakespeare" / name
    with open_mapped_model(path) as m:
        assert len(m) == 8
        assert sum(d.size for d in m.layers) == sum(t.nbytes for t in m.tensors.values())
        assert [d.precision for d in m.layers] == ([16] * 8 if name == "hf" else [4] * 7 + [6])
        assert [len(m.layer_tensors(i)) for i in range(8)] == [1, *[9] * 6, 2]
        for i in range(len(m)):
            stored, floats = m.get_layer_weights(i), m.get_layer_weights(i, dequantize=True)
            assert list(stored) == list(floats) == [t.name for t in m.layer_tensors(i)]
            for t in m.layer_tensors(i):
                raw = m.container.read(t)
                assert stored[t.name].tobytes() == raw.tobytes()
                expected = reference.dequantize(t.type_name.lower(), raw, int(np.prod(t.shape[:-1])), t.shape[-1])
                assert floats[t.name].dtype == np.float32
                assert floats[t.name].shape == t.shape
                assert np.array_equal(floats[t.name], expected.reshape(t.shape))


@pytest.mark.parametrize("make", ["bad", "missing", "directory", "text"])
def test_what_cannot_be_opened(tmp_path, make):
    path = tmp_path / "m.gguf"
    if make == "bad":
        path.write_bytes(gguf([], [tensor("t", [8])]))
    elif make == "directory":
        path.mkdir()
    elif make == "text":
        path.write_text("hello")
    used, descriptors = process_budget().used, count_descriptors()
    with pytest.raises(HyperionIOError if make == "missing" else FormatError):
        open_mapped_model(path)
    assert (process_budget().used, count_descriptors()) == (used, descriptors)


def test_a_vocabulary_has_two_empty_layers(tmp_path):
    (tmp_path / "v.gguf").write_bytes(gguf([key("general.architecture", STRING, text("llama"))]))
    with open_mapped_model(tmp_path / "v.gguf") as m:
        assert [d.size for d in m.layers] == [0, 0]
        assert dict(m.get_layer_weights(0)) == {}


def count_descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_configuration_is_keyword_only_and_copied(path):
    with pytest.raises(TypeError):
        MmapConfig(1)
    with pytest.raises(InvalidArgumentError, match="MmapConfig"):
        MappedModel(path, {"max_cache_size": 1})
    c = config(2)
    with open_mapped_model(path, c) as m:
        c.max_cache_size = 0
        assert m.config.max_cache_size == 2 * LAYER


# ---- weights -----------------------------------------------------------------------------------------------------


def test_weights_and_what_the_descriptor_says(path):
    with open_mapped_model(path) as m:
        d = m.get_layer_descriptor(3)
        weights = m.get_layer_weights(3)
        assert value(weights) == 3
        assert (d.is_active, d.access_count) == (True, 1)
        assert d.last_accessed > 0
        assert value(d.cached_weights) == 3
        assert m.memory_usage == LAYER
        before = d.last_accessed
        m.get_layer_weights(3)
        assert d.access_count == 2
        assert d.last_accessed > before
        stats = m.stats
        assert (stats.hits, stats.misses, stats.bytes_read, stats.cached_bytes) == (1, 1, LAYER, LAYER)
        m.release_layer_weights(3)
        assert (d.is_active, d.cached_weights, d.access_count, m.memory_usage) == (False, None, 2, 0)
        m.release_layer_weights(3)
        assert value(weights) == 3


def test_weights_are_read_only(path):
    with open_mapped_model(path) as m:
        weights = m.get_layer_weights(0)
        with pytest.raises(TypeError):
            weights["x"] = 1
        with pytest.raises(ValueError, match="read-only"):
            weights["token_embd.weight"][0, 0] = 1
        with pytest.raises(KeyError):
            weights["x"]


@pytest.mark.parametrize("index", [-1, 8, 1.0, True, None, "0"])
def test_there_is_no_such_layer(path, index):
    with open_mapped_model(path) as m:
        for call in (m.get_layer_weights, m.get_layer_descriptor, m.prefetch_layer_weights, m.release_layer_weights, m.layer_tensors):
            with pytest.raises(InvalidArgumentError, match="expected 0 to 7"):
                call(index)
        assert value(m.get_layer_weights(np.int64(2))) == 2


def test_every_type_as_it_is_stored_and_as_floats(tmp_path):
    rng = np.random.default_rng(5)
    raws, entries, data = {}, [], b""
    for name in (*FLOATS, *QUANTIZED):
        t = quant.TYPES[name]
        raws[name] = random_raw(rng, name, 3, 512)
        entries.append(tensor(f"blk.0.{name}", [512, 3], t.id, len(data)))
        data += raws[name].tobytes() + bytes(-raws[name].nbytes % 32)
    (tmp_path / "m.gguf").write_bytes(gguf([], entries, data))
    with open_mapped_model(tmp_path / "m.gguf") as m:
        stored, floats = m.get_layer_weights(1), m.get_layer_weights(1, dequantize=True)
        for name, raw in raws.items():
            a = stored[f"blk.0.{name}"]
            assert a.tobytes() == raw.tobytes()
            assert a.dtype == {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}.get(name, np.uint8)
            assert a.shape == ((3, 512) if name in FLOATS else (3, quant.TYPES[name].row_bytes(512)))
            assert np.array_equal(floats[f"blk.0.{name}"], reference.dequantize(name, raw, 3, 512))


def write_native(path, kinds, rows=37, cols=512):
    """A .hyperion file with one block of a matrix of each type and a vector; the matrices as GGUF rows."""
    rng = np.random.default_rng(8)
    tensors = [NativeTensor("token_embd.weight", 0, 3, cols, 0, True)]
    tensors += [NativeTensor(f"blk.0.{k}", quant.TYPES[k].id, rows, cols, 1, True) for k in kinds]
    tensors += [NativeTensor("blk.0.norm", 0, 1, cols, 1, False), NativeTensor("output.weight", 0, 5, cols, 2, True)]
    raws = {}
    with NativeWriter(path, {"general.architecture": Typed(STRING, "unknown")}, tensors, stream.checksums) as writer:
        for t in tensors:
            kind = next(k for k, known in quant.TYPES.items() if known.id == t.type)
            raws[t.name] = random_raw(rng, kind, t.rows, cols)
            writer.write(quant.pack(kind, raws[t.name], t.rows, cols).panels if t.packed else raws[t.name])
        writer.finish()
    return raws


def test_hyperion_files(tmp_path):
    kinds = ("f32", "f16", "q4_0", "q6_k")
    raws = write_native(tmp_path / "m.hyperion", kinds)
    with open_mapped_model(tmp_path / "m.hyperion") as m:
        assert [d.size for d in m.layers] == [sum(t.nbytes for t in m.layer_tensors(i)) for i in range(3)]
        stored, floats = m.get_layer_weights(1), m.get_layer_weights(1, dequantize=True)
        for k in kinds:
            name = f"blk.0.{k}"
            assert stored[name].tobytes() == bytes(quant.pack(k, raws[name], 37, 512).panels)
            assert stored[name].shape == (3, quant.TYPES[k].panel_bytes(512))
            assert np.array_equal(floats[name], reference.dequantize(k, raws[name], 37, 512))
        assert np.array_equal(floats["blk.0.norm"], raws["blk.0.norm"].view("<f4"))
        assert m.stats.bytes_read == m.memory_usage


@pytest.mark.parametrize("name", ["blk.0.q4_0", "blk.0.norm"])
def test_a_damaged_hyperion_file(tmp_path, name):
    write_native(tmp_path / "m.hyperion", ["q4_0"])
    with open_mapped_model(tmp_path / "m.hyperion") as m:
        info = m.tensors[name]
    with (tmp_path / "m.hyperion").open("r+b") as file:
        file.seek(info.offset + info.nbytes - 1)
        file.write(b"\x55")
    with open_mapped_model(tmp_path / "m.hyperion") as m:
        m.get_layer_weights(0)
        with pytest.raises(FormatError, match=rf"layer 1 \(block 0\): tensor '{name}'.*checksum"):
            m.get_layer_weights(1)
        assert active(m) == [0]
        assert m.memory_usage == m.get_layer_descriptor(0).size


def test_types_that_cannot_be_dequantized_are_listed(tmp_path):
    entries = [tensor("blk.0.a", [256], 16), tensor("blk.0.b", [4], 26, 96), tensor("blk.0.c", [0, 5], 8, 96)]
    (tmp_path / "m.gguf").write_bytes(gguf([], entries, bytes(96) + np.arange(4, dtype="<i4").tobytes()))
    with open_mapped_model(tmp_path / "m.gguf") as m:
        assert m.get_layer_weights(1)["blk.0.a"].shape == (66,)
        floats = m.get_layer_weights(1, dequantize=True)
        assert floats["blk.0.b"].tolist() == [0, 1, 2, 3]
        assert floats["blk.0.c"].shape == (5, 0)
        with pytest.raises(UnsupportedError, match=r"blk\.0\.a.*IQ2_XXS"):
            floats["blk.0.a"]


def test_safetensors_of_every_dtype_at_odd_offsets(tmp_path):
    rng = np.random.default_rng(6)
    kinds = {"U8": "u1", "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
    arrays = {f"model.layers.0.{k}": rng.integers(0, 100, (1 if k == "U8" else 3, 5)).astype(t) for k, t in kinds.items()}
    arrays["model.layers.0.BOOL"] = np.array([0, 1, 7], np.uint8)
    header, at = {}, 0
    for name, a in arrays.items():
        header[name] = h.entry(list(a.shape), at, at + a.nbytes, name.split(".")[-1])
        at += a.nbytes
    raw = json.dumps(header)
    raw += " " * (-len(raw) % 8)  # then U8 [1, 5] makes all that follow odd
    data = h.safetensors(raw.encode(), b"".join(a.tobytes() for a in arrays.values()))
    (tmp_path / "m.safetensors").write_bytes(data)
    with open_mapped_model(tmp_path / "m.safetensors") as m:
        stored, floats = m.get_layer_weights(1), m.get_layer_weights(1, dequantize=True)
        assert any(t.offset % 4 for t in m.layer_tensors(1) if t.type_name == "F32")
        for name, a in arrays.items():
            assert stored[name].dtype == a.dtype
            assert stored[name].flags.aligned
            assert not stored[name].flags.writeable
            assert np.array_equal(stored[name], a)
            expected = a.astype(np.float32) if "BF16" not in name else (a.astype(np.uint32) << 16).view(np.float32)
            assert np.array_equal(floats[name], expected)
        assert m.stats.bytes_read == m.memory_usage == at


@not_on_windows
def test_views_outlive_the_model(path):
    with open_mapped_model(path) as m:
        weights = [m.get_layer_weights(i) for i in range(len(m))]
        floats = m.get_layer_weights(2, dequantize=True)
    os.unlink(path)
    del m
    gc.collect()
    assert [value(w) for w in weights] == list(range(8))
    assert value(floats) == 2


# ---- the limit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_limit_is_held(path, adaptive):
    rng = np.random.default_rng(7)
    with open_mapped_model(path, config(3, adaptive_caching=adaptive)) as m:
        for i in rng.integers(0, 8, 200):
            assert value(m.get_layer_weights(i)) == i
            assert m.get_layer_descriptor(i).is_active
            assert m.memory_usage == LAYER * len(active(m)) <= 3 * LAYER
        s = m.stats
        assert s.hits + s.misses == 200
        assert s.evictions == s.misses - len(active(m))
        assert s.bytes_read == s.misses * LAYER
        assert s.peak_cached_bytes == 3 * LAYER


def test_a_layer_larger_than_the_cache_is_handed_out_and_not_kept(path):
    with open_mapped_model(path, MmapConfig(max_cache_size=LAYER - 1)) as m:
        for i in (1, 1, 2):
            assert value(m.get_layer_weights(i)) == i
        assert m.get_layer_descriptor(1).access_count == 2
        assert active(m) == []
        assert m.get_layer_descriptor(1).cached_weights is None
        assert (m.memory_usage, m.stats.misses, m.stats.bytes_read) == (0, 3, 0)
        assert not m.prefetch_layer_weights(3)


def test_a_limit_that_is_lowered_holds_from_the_next_layer_on(path):
    with open_mapped_model(path) as m:
        for i in range(8):
            m.get_layer_weights(i)
        m.config.max_cache_size = 2 * LAYER
        m.get_layer_weights(0)
        m.release_layer_weights(0)
        m.get_layer_weights(0)
        assert m.memory_usage == 2 * LAYER


def test_least_recently_used(path):
    with open_mapped_model(path, config(3, adaptive_caching=False)) as m:
        for i in (0, 1, 2, 0, 3):
            m.get_layer_weights(i)
        assert active(m) == [0, 2, 3]


def test_priorities_come_first(path):
    with open_mapped_model(path, config(3)) as m:
        m.set_layer_priority(1, 2)
        m.set_layer_priority(2, -1.5)
        for i in (1, 2, 3, 4, 5, 6, 7, 0):
            m.get_layer_weights(i)
            assert 1 in active(m)
            assert i < 3 or 2 not in active(m) or i == 3
        assert m.get_layer_descriptor(1).priority == 2.0
        m.reset_layer_priorities()
        assert [d.priority for d in m.layers] == [0.0] * 8
        for bad in (float("nan"), float("inf"), "1", None, True):
            with pytest.raises(InvalidArgumentError, match="priority"):
                m.set_layer_priority(1, bad)


def test_small_layers_are_given_up_last(tmp_path):
    entries = [tensor("token_embd.weight", [8]), tensor("blk.0.w", [2048], 0, 32), tensor("blk.1.w", [2048], 0, 32 + 8192)]
    (tmp_path / "m.gguf").write_bytes(gguf([], entries, bytes(32 + 2 * 8192)))
    with open_mapped_model(tmp_path / "m.gguf", MmapConfig(max_cache_size=8192 + 32, min_layer_cache_size=32)) as m:
        for i in (0, 1, 2):
            m.get_layer_weights(i)
        assert active(m) == [0, 2]
        m.config.max_cache_size = 8192
        m.get_layer_weights(1)
        assert active(m) == [1]


@pytest.mark.parametrize(("adaptive", "hits"), [(False, 0), (True, 10)])
def test_layers_in_turn(path, adaptive, hits):
    """Least recently used misses always; what can be had is (kept - 1) / (layers - 1) of the accesses (Belady)."""
    with open_mapped_model(path, config(3, adaptive_caching=adaptive)) as m:
        for _ in range(3):
            for i in range(8):
                m.get_layer_weights(i)
        before = m.stats.hits
        for _ in range(5):
            for i in range(8):
                m.get_layer_weights(i)
        found = m.stats.hits - before
        assert found >= hits
        assert found == 0 or adaptive


def test_adaptive_caching_forgets_what_is_no_longer_used(path):
    with open_mapped_model(path, config(2)) as m:
        for i in [0, 1] * 20 + [2, 3, 4] * 10:
            m.get_layer_weights(i)
        assert not {0, 1} & set(active(m))


# ---- memory ------------------------------------------------------------------------------------------------------


def resident(path):
    """Bytes of a file that are mapped into this process, as the kernel counts them."""
    total, here = 0, False
    with open("/proc/self/smaps") as file:
        for line in file:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                here = line.rstrip().endswith(str(path))
            elif here and words[0] == "Rss:":
                total += int(words[1]) << 10
    return total


needs_smaps = pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="resident pages cannot be counted here")


@needs_smaps
def test_memory_is_taken_and_really_returned(tmp_path):
    path = write_model(tmp_path / "m.gguf", rows=1024)  # layers of 1 MiB
    edges = 2 * PAGE  # of a layer, shared with its neighbours
    with open_mapped_model(path) as m:
        assert resident(path) == 0
        held = []
        for i in range(4):
            held.append(m.get_layer_weights(i))
            assert abs(resident(path) - m.memory_usage) <= (i + 1) * edges
        for i in range(4):
            m.release_layer_weights(i)
            assert resident(path) <= m.memory_usage + 4 * edges
        assert resident(path) == 0
        assert value(held[2]) == 2  # a view brings its pages in again
        assert resident(path) >= 1 << 20
        m.release_layer_weights(2)
        assert resident(path) == 0
        assert [value(w) for w in held] == [0, 1, 2, 3]
    assert resident(path) == 0


@needs_smaps
def test_the_limit_holds_for_resident_pages_too(tmp_path):
    path = write_model(tmp_path / "m.gguf", rows=1024)
    with open_mapped_model(path, MmapConfig(max_cache_size=3 << 20)) as m:
        for i in [*range(8)] * 3:
            assert value(m.get_layer_weights(i)) == i
            assert resident(path) <= (3 << 20) + 3 * 2 * PAGE


@needs_smaps
def test_pages_of_a_layer_that_is_too_large_go_with_the_next(tmp_path):
    path = write_model(tmp_path / "m.gguf", rows=1024)
    with open_mapped_model(path, MmapConfig(max_cache_size=1 << 19)) as m:
        for i in range(8):
            assert value(m.get_layer_weights(i)) == i
            assert resident(path) <= (1 << 20) + 2 * AROUND
        m.release_layer_weights(7)
        assert resident(path) == 0


def test_the_ledger_knows(path):
    ledger = MemoryBudget(2 * LAYER, name="test")
    with MappedModel(path, budget=ledger) as m:
        for i in range(5):
            m.get_layer_weights(i)
            assert ledger.used == m.memory_usage <= 2 * LAYER
        other = ledger.reserve("other", 0)
        m.release_layer_weights(active(m)[0])
        other.resize(LAYER)
        m.get_layer_weights(6)
        assert active(m) == [6]
        m.release_layer_weights(6)
        other.resize(LAYER + 1)
        with pytest.raises(MemoryBudgetError):
            m.get_layer_weights(0)
        assert not m.prefetch_layer_weights(0)
        assert ledger.used == LAYER + 1
        other.release()
        assert value(m.get_layer_weights(0)) == 0
    assert ledger.used == 0


def test_nothing_grows(path):
    gc.collect()  # what earlier tests left may not go in the middle
    used, counts = process_budget().used, []
    for _ in range(30):
        with open_mapped_model(path, config(3)) as m:
            for i in range(8):
                m.prefetch_layer_weights((i + 1) % 8)
                m.get_layer_weights(i)
        gc.collect()
        counts.append((count_descriptors(), threading.active_count(), process_budget().used))
    assert all(last <= first for first, last in zip(counts[0], counts[-1], strict=True)), counts
    assert counts[-1][2] == used


# ---- prefetching -------------------------------------------------------------------------------------------------


def test_prefetch(path):
    with open_mapped_model(path) as m:
        assert m.prefetch_layer_weights(4)
        assert m.memory_usage == LAYER
        wait_for(m, 4)
        d = m.get_layer_descriptor(4)
        assert d.is_active
        assert (d.access_count, d.last_accessed) == (0, 0)
        assert m.prefetch_layer_weights(4)
        assert value(m.get_layer_weights(4)) == 4
        s = m.stats
        assert (s.hits, s.misses, s.prefetches, s.bytes_read) == (1, 0, 1, LAYER)
        for i in range(8):
            assert m.prefetch_layer_weights(i)
        assert [value(m.get_layer_weights(i)) for i in range(8)] == list(range(8))
        assert m.stats.bytes_read == 8 * LAYER


def test_prefetch_switched_off(path):
    with open_mapped_model(path, MmapConfig(prefetch_enabled=False)) as m:
        assert not m.prefetch_layer_weights(4)
        assert m.memory_usage == 0
        assert m.stats.prefetches == 0
        m.get_layer_weights(4)
        assert m.prefetch_layer_weights(4)


def test_what_prefetch_does_not_push_out(path):
    with open_mapped_model(path, config(3)) as m:
        m.get_layer_weights(0)
        m.get_layer_weights(1)
        assert m.prefetch_layer_weights(2)
        wait_for(m, 2)
        assert m.prefetch_layer_weights(3)  # for 0
        wait_for(m, 3)
        assert active(m) == [1, 2, 3]
        assert not m.prefetch_layer_weights(4)  # 1 is in use, the others were prefetched
        assert active(m) == [1, 2, 3]
        m.get_layer_weights(2)
        m.set_layer_priority(1, 1)
        assert not m.prefetch_layer_weights(4)
        m.set_layer_priority(4, 1)
        assert m.prefetch_layer_weights(4)
        wait_for(m, 4)
        assert active(m) == [2, 3, 4]


def test_a_layer_on_its_way_is_waited_for(path, monkeypatch):
    started, go = threading.Event(), threading.Event()
    real = container._pread

    def slow(fd, view, offset):
        started.set()
        assert go.wait(60)
        return real(fd, view, offset)

    with open_mapped_model(path) as m:
        monkeypatch.setattr(container, "_pread", slow)
        assert m.prefetch_layer_weights(5)
        assert started.wait(60)
        assert not m.get_layer_descriptor(5).is_active
        threading.Timer(0.05, go.set).start()
        assert value(m.get_layer_weights(5)) == 5
        assert m.stats.bytes_read == LAYER


@pytest.mark.parametrize("how", ["close", "drop"])
def test_closing_with_prefetches_under_way(path, how):
    for _ in range(20):
        m = open_mapped_model(path)
        for i in range(8):
            m.prefetch_layer_weights(i)
        if how == "close":
            m.close()
        del m
        gc.collect()
    for thread in [t for t in threading.enumerate() if t.name == "hyperion-prefetch"]:
        thread.join(60)
        assert not thread.is_alive()


def test_several_threads(path):
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for i in rng.integers(0, 8, 150).tolist():
                choice = rng.integers(0, 4)
                if choice == 0:
                    m.prefetch_layer_weights(i)
                elif choice == 1:
                    m.release_layer_weights(i)
                else:
                    assert value(m.get_layer_weights(i)) == i
                assert m.memory_usage <= 3 * LAYER
        except BaseException as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)

    with open_mapped_model(path, config(3)) as m:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert failures == []
        for i in range(8):
            m.release_layer_weights(i)
        assert (m.memory_usage, active(m)) == (0, [])
        assert m.stats.hits + m.stats.misses == sum(d.access_count for d in m.layers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on(path):
    code = f"""
import os, warnings
warnings.simplefilter("ignore")
import hyperion
m = hyperion.open_mapped_model({str(path)!r})
for i in range(8):
    m.prefetch_layer_weights(i)
pid = os.fork()
good = all(float(next(iter(m.get_layer_weights(i).values()))[0, 0]) == i for i in range(8))
good = good and m.memory_usage == 8 * {LAYER} and m.prefetch_layer_weights(0)
m.close()
if pid == 0:
    os._exit(0 if good else 1)
raise SystemExit(0 if good and os.waitpid(pid, 0)[1] == 0 else 1)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment, timeout=120).returncode == 0


# ---- files that fail ---------------------------------------------------------------------------------------------


@not_on_windows
@pytest.mark.parametrize("how", ["truncated", "replaced", "changed"])
def test_a_file_that_is_no_longer_the_same(path, tmp_path, how):
    with open_mapped_model(path) as m:
        m.get_layer_weights(1)
        if how == "truncated":
            os.truncate(path, m.get_layer_descriptor(3).offset + 100)
        elif how == "replaced":
            os.replace(write_model(tmp_path / "other.gguf"), path)
        else:
            os.utime(path, ns=(1, 1))
        for call in (m.get_layer_weights, m.prefetch_layer_weights):
            for layer in (1, 3):
                with pytest.raises(HyperionIOError, match=rf"layer {layer} \(block {layer - 1}\).*{how}"):
                    call(layer)
        m.release_layer_weights(1)
        assert m.memory_usage == 0


@pytest.mark.parametrize("failure", [5, 0])
def test_reads_that_fail_name_the_layer(path, monkeypatch, failure):
    def fail(fd, view, offset):
        if failure:
            raise OSError(failure, os.strerror(failure))
        return 0

    with open_mapped_model(path) as m:
        with monkeypatch.context() as patch:
            patch.setattr(container, "_pread", fail)
            with pytest.raises(HyperionIOError, match=r"layer 2 \(block 1\): tensor 'blk\.1\.w\.weight'"):
                m.get_layer_weights(2)
            assert m.prefetch_layer_weights(3)
            wait_for(m, 3)
            assert (m.memory_usage, active(m)) == (0, [])
            with pytest.raises(HyperionIOError, match=r"layer 3 \(block 2\)"):
                m.get_layer_weights(3)
        assert [value(m.get_layer_weights(i)) for i in (2, 3)] == [2, 3]
        assert m.memory_usage == 2 * LAYER


@not_on_windows
def test_a_file_truncated_while_it_is_read_is_no_signal(path, monkeypatch):
    """Between the read and the mapping of the pages: an error, where touching the pages would be SIGBUS."""
    real = container._pread

    def read_and_cut(fd, view, offset):
        n = real(fd, view, offset)
        os.truncate(path, 4096)
        return n

    with open_mapped_model(path) as m:
        if not m._maps[str(path)]._populates:
            pytest.skip("pages cannot be mapped ahead here")
        monkeypatch.setattr(container, "_pread", read_and_cut)
        with pytest.raises(HyperionIOError, match="layer 4"):
            m.get_layer_weights(4)
        assert m.memory_usage == 0


def test_an_interrupted_load_leaves_nothing_behind(path, monkeypatch):
    def interrupt(fd, view, offset):
        raise KeyboardInterrupt

    with open_mapped_model(path) as m:
        with monkeypatch.context() as patch:
            patch.setattr(container, "_pread", interrupt)
            with pytest.raises(KeyboardInterrupt):
                m.get_layer_weights(2)
        assert (m.memory_usage, active(m)) == (0, [])
        assert value(m.get_layer_weights(2)) == 2


# ---- closing -----------------------------------------------------------------------------------------------------


def test_after_closing(path):
    m = open_mapped_model(path)
    d = m.get_layer_descriptor(0)
    m.get_layer_weights(0)
    m.close()
    m.close()
    assert m.closed
    assert (d.is_active, d.cached_weights, m.memory_usage) == (False, None, 0)
    for call in (m.get_layer_weights, m.prefetch_layer_weights, m.release_layer_weights):
        with pytest.raises(HyperionRuntimeError, match="closed"):
            call(0)
    assert "closed" in repr(m)


def test_names_are_where_users_look():
    assert hyperion.MappedModel is MappedModel
    assert hyperion.LayerDescriptor.__dataclass_fields__.keys() == {
        "offset", "size", "layer_index", "precision", "cached_weights", "is_active", "priority", "last_accessed", "access_count",
    }  # fmt: skip
