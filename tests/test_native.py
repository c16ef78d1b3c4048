"""The .hyperion file: the same bits as its source, damage named, hostile metadata refused, all of it or nothing."""

import errno
import os
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

import hyperion
from hyperion import HyperionIOError
from hyperion._kernels import stream
from hyperion.formats import open_container
from hyperion.formats.gguf import GGUFContainer
from hyperion.formats.native import NativeTensor, NativeWriter
from hyperion.formats.writing import GGUFWriter, TensorLayout, Typed
from hyperion.io import AtomicFile, SpoolFile
from hyperion.models.convert import prune

IDS = [(7 * i) % 2000 + 3 for i in range(14)]
TYPES = ["f16", "iq4_nl", "q2_k", "q3_k_m", "q4_0", "q4_1", "q4_k_m", "q5_0", "q5_1", "q5_k_m", "q6_k", "q8_0"]


@pytest.fixture(scope="module")
def models(shared):
    return shared / "models" / "shakespeare"


@pytest.fixture(scope="module")
def native(models, tmp_path_factory):
    """The Q4_0 model as a .hyperion file."""
    path = tmp_path_factory.mktemp("native") / "m.hyperion"
    hyperion.convert(models / "shakespeare-q4_0.gguf", path)
    return path


def streamed(path, **options):
    """The model in a budget in which most of it is streamed, the embedding too."""
    with pytest.raises(hyperion.MemoryBudgetError) as caught:
        hyperion.load_model(path, memory_budget=1_000_000, context_length=64, **options)
    return hyperion.load_model(path, memory_budget=caught.value.context["smallest"], context_length=64, **options)


def tensor_at(path, name):
    with open_container(path) as container:
        return container.tensors[name]


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
def test_the_logits_are_those_of_the_source(models, tmp_path, name):
    source, path = models / f"shakespeare-{name}.gguf", tmp_path / "m.hyperion"
    hyperion.convert(source, path)
    with hyperion.load_model(source) as model:
        expected = model.logits(IDS)
    with hyperion.load_model(path) as model:
        assert model.plan.resident
        np.testing.assert_array_equal(model.logits(IDS), expected)
    with streamed(path, io="direct") as model:
        assert model.plan.streamed_bytes > 0.8 * model.plan.weight_bytes
        np.testing.assert_array_equal(model.logits(IDS), expected)


@pytest.mark.parametrize("io", ["buffered", "auto"])
@pytest.mark.parametrize("extra", [300_000, 1_500_000])
def test_any_budget_and_way_of_reading(models, native, io, extra):
    with hyperion.load_model(models / "shakespeare-q4_0.gguf") as model:
        expected = model.logits(IDS)
    with streamed(native) as model:
        floor = model.plan.budget
    with hyperion.load_model(native, memory_budget=floor + extra, context_length=64, io=io) as model:
        assert 0 < model.plan.streamed_bytes < model.plan.weight_bytes
        for _ in range(2):  # the second pass is not checked again
            np.testing.assert_array_equal(model.logits(IDS), expected)


def test_the_old_name_opens(models, native, tmp_path):
    path = tmp_path / "m.tmai"
    shutil.copy(native, path)
    with open_container(path) as container:
        assert container.format == "hyperion"
    hyperion.convert(models / "shakespeare-q4_0.gguf", tmp_path / "n.tmai")
    assert (tmp_path / "n.tmai").read_bytes() == path.read_bytes()


# ---- what the file is ------------------------------------------------------------------------------------------------


def test_other_readers_see_no_weights(models, native):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(native)
    assert reader.alignment == 4096
    names = [t.name for t in reader.tensors]
    assert names[:5] == [
        "token_embd.weight.panels", "blk.0.attn_norm.weight", "blk.0.attn_q.weight.panels",
        "blk.0.attn_k.weight.panels", "blk.0.attn_v.weight.panels",
    ]  # fmt: skip
    assert names[-2:] == ["output_norm.weight", "output.weight.panels"]
    assert all(t.data_offset % 4096 == 0 for t in reader.tensors)
    for tensor in reader.tensors:
        packed = tensor.name.endswith(".panels")
        assert tensor.tensor_type.name == ("I8" if packed else "F32")
    source = gguf.GGUFReader(models / "shakespeare-q4_0.gguf")
    for key, field in source.fields.items():
        if not key.startswith(("GGUF.", "general.alignment")):
            assert reader.fields[key].types == field.types, key
            assert reader.fields[key].contents() == field.contents(), key


def test_a_panel_s_checksum_is_xxh64(native):
    assert stream.checksum(b"") == 0x51D8E999  # the low halves of the published values
    assert stream.checksum(b"abc") == 0xAD770999
    info = tensor_at(native, "blk.2.ffn_up.weight")
    with open_container(native) as container:
        data = container.read(info)
    assert len(info.checksums) == 768 // 16
    panel = data.nbytes // len(info.checksums)
    for i in (0, 7, 47):
        assert stream.checksum(data[i * panel : (i + 1) * panel]) == info.checksums[i] == xxh64(bytes(data[i * panel : (i + 1) * panel]))


def xxh64(data):
    """The low half of XXH64 by the specification, of a multiple of 32 bytes."""
    p1, p2, p3, p4 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63
    mask = (1 << 64) - 1

    def rotl(x, n):
        x &= mask
        return (x << n | x >> (64 - n)) & mask

    lanes = [(p1 + p2) & mask, p2, 0, -p1 & mask]
    for at in range(0, len(data), 32):
        for i, x in enumerate(struct.unpack_from("<4Q", data, at)):
            lanes[i] = rotl(lanes[i] + x * p2, 31) * p1 & mask
    h = sum(rotl(x, n) for x, n in zip(lanes, (1, 7, 12, 18), strict=True)) & mask
    for x in lanes:
        h = ((h ^ rotl(x * p2, 31) * p1) * p1 + p4) & mask
    h = h + len(data) & mask
    h = (h ^ h >> 33) * p2 & mask
    h = (h ^ h >> 29) * p3 & mask
    return (h ^ h >> 32) & 0xFFFFFFFF


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blk.3.attn_q.weight", "layer 3"), ("blk.0.ffn_down.weight", "layer 0"), ("blk.5.attn_norm.weight", "layer 5"),
        ("output.weight", "output head"), ("token_embd.weight", "token_embd"), ("output_norm.weight", "output_norm"),
    ],
)  # fmt: skip
def test_a_flipped_bit_names_the_layer(native, tmp_path, name, says):
    path = tmp_path / "m.hyperion"
    shutil.copy(native, path)
    info = tensor_at(path, name)
    flip(path, info.offset + info.nbytes // 2 + 1)
    with pytest.raises(hyperion.FormatError, match=f"{says}.*damaged"):
        hyperion.load_model(path)
    row = info.shape[0] // 2 if len(info.shape) == 2 else 0
    with pytest.raises(hyperion.FormatError, match=f"{says}.*damaged"), streamed(path) as model:
        model.logits([1, row, row + 1])
    with pytest.raises(hyperion.FormatError, match=f"{info.name}.*damaged"):
        hyperion.convert(path, tmp_path / "out.gguf")
    assert os.listdir(tmp_path) == ["m.hyperion"]


def test_every_byte_of_a_panel_counts(native, tmp_path):
    info = tensor_at(native, "blk.1.attn_k.weight")
    with open_container(native) as container:
        data = container.read(info)
    panel = data[: data.nbytes // len(info.checksums)].copy()
    for at in range(0, panel.nbytes, 7):
        panel[at] ^= 1 << at % 8
        assert stream.checksum(panel) != info.checksums[0]
        panel[at] ^= 1 << at % 8


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q4_0", "q4_1", "q8_0", "q2_k", "q3_k", "q4_k", "q6_k"])
def test_scales_that_are_not_finite_are_found_though_the_checksum_fits(tmp_path, kind):
    from hyperion._kernels import quant

    t = quant.block_type(kind)
    panel = np.zeros(t.panel_bytes(512), np.uint8)
    bad = {"f32": 0x7FC00000, "bf16": 0x7F80}.get(kind, 0xFE00)
    path = tmp_path / "p"
    (tmp_path / "p").write_bytes(panel.tobytes())
    file, out = stream.File(path), np.empty_like(panel)
    stream.read_rows(file, t.id, 0, 16, 512, out, packed=True)
    value = struct.pack("<I" if kind == "f32" else "<H", bad)
    for at in (0, 15 * len(value), panel.nbytes // 2):  # the first record's first and last row, a later record's first
        broken = panel.copy()
        broken[at : at + len(value)] = np.frombuffer(value, np.uint8)
        path.write_bytes(broken.tobytes())
        sums = np.array([stream.checksum(broken)], np.uint32)
        with pytest.raises(hyperion.FormatError, match="NaN or infinite"):
            stream.read_rows(stream.File(path), t.id, 0, 16, 512, out, packed=True, sums=sums)


# ---- hostile metadata ------------------------------------------------------------------------------------------------


def tiny(path, change=None, rows=20, cols=64):
    """A file of one matrix and one vector whose header `change` may alter before it is written."""
    tensors = [NativeTensor("a.weight", 2, rows, cols, 0, True), NativeTensor("b.weight", 0, 1, cols, 1, False)]
    with NativeWriter(path, {"general.architecture": Typed(8, "none")}, tensors, stream.checksums) as writer:
        if change is not None:
            change(writer._writer)
            writer._writer.file.close()
            with GGUFWriter(path, writer._writer.metadata, writer._writer.tensors, 4096) as plain:
                for t in writer._writer.tensors:
                    plain.write(bytes(t.nbytes))
                plain.finish()
            return
        writer.write(bytes(tensors[0].nbytes))
        writer.write(bytes(tensors[1].nbytes))
        writer.finish()


def setting(**values):
    def change(writer):
        for key, value in values.items():
            key = "hyperion." + key.replace("__", ".")
            if value is None:
                del writer.metadata[key]
            else:
                writer.metadata[key] = value

    return change


def array(dtype, *values):
    return Typed(9, np.array(values, dtype))


BAD = [
    ("version", setting(version=Typed(4, 2))),
    ("version", setting(version=Typed(4, 0))),
    ("version", setting(version=Typed(8, "1"))),
    ("version", setting(version=Typed(6, 1.0))),
    ("panel.version", setting(panel__version=Typed(4, 9))),
    ("panel.version", setting(panel__version=None)),
    ("panels of 8", setting(panel__rows=Typed(4, 8))),
    ("checksums of type", setting(checksum__type=Typed(8, "crc"))),
    ("checksums of type", setting(checksum__type=None)),
    ("layer_count", setting(layer_count=Typed(4, 0))),
    ("layer_count", setting(layer_count=Typed(4, 1 << 31))),
    ("checksum.2", setting(layer_count=Typed(4, 3))),
    ("is of layer 1, of 1", setting(layer_count=Typed(4, 1))),
    ("checksum.0", setting(checksum__0=None)),
    ("checksum.0", setting(checksum__0=array(np.int32, 0, 0))),
    ("checksum.0 has 1 entries, too few", setting(checksum__0=array(np.uint32, 0))),
    ("checksum.0 has 3 entries, expected 2", setting(checksum__0=array(np.uint32, 0, 0, 0))),
    ("tensor.name", setting(tensor__name=None)),
    ("tensor.name", setting(tensor__name=array(np.uint8, 1, 2))),
    ("the table has 1", setting(tensor__name=Typed(9, ["a.weight"]))),
    ("twice", setting(tensor__name=Typed(9, ["a.weight", "a.weight"]))),
    ("not what the file has", setting(tensor__name=Typed(9, ["x.weight", "b.weight"]))),
    ("not what the file has", setting(tensor__rows=array(np.uint64, 33, 1))),
    ("not what the file has", setting(tensor__rows=array(np.uint64, (1 << 64) - 1, 1))),
    ("not what the file has", setting(tensor__cols=array(np.uint64, 96, 64))),
    ("not what the file has", setting(tensor__type=array(np.uint32, 8, 0))),
    ("cannot be", setting(tensor__cols=array(np.uint64, 65, 64))),
    ("cannot be", setting(tensor__rows=array(np.uint64, 0, 1))),
    ("tensor.rows has 1 entries", setting(tensor__rows=array(np.uint64, 20))),
    ("tensor.rows is missing", setting(tensor__rows=array(np.int64, 20, 1))),
    ("unknown type", setting(tensor__type=array(np.uint32, 4, 0))),
    ("plain tensor", setting(tensor__type=array(np.uint32, 2, 1))),
    ("plain tensor", setting(tensor__rows=array(np.uint64, 20, 2))),
    ("stored in way 7", setting(tensor__storage=array(np.uint8, 7, 0))),
    ("is of layer 9", setting(tensor__layer=array(np.uint32, 9, 1))),
]


@pytest.mark.parametrize(("says", "change"), BAD, ids=[f"{i}-{says}" for i, (says, _) in enumerate(BAD)])
def test_metadata_that_does_not_agree_is_refused(tmp_path, says, change):
    path = tmp_path / "m.hyperion"
    tiny(path, change)
    GGUFContainer(path).close()  # as a GGUF file it is sound
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with pytest.raises((hyperion.FormatError, hyperion.UnsupportedError), match=says):
        open_container(path)
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before


def test_any_cut_is_refused(tmp_path):
    path = tmp_path / "m.hyperion"
    tiny(path)
    with open_container(path) as container:
        assert container.tensors["a.weight"].shape == (20, 64)
        assert container.tensors["a.weight"].packed
    data = path.read_bytes()
    for size in [*range(0, 1500, 13), len(data) - 4097, len(data) - 8000]:
        path.write_bytes(data[:size])
        with pytest.raises(hyperion.HyperionError):
            open_container(path)


# ---- all of it or nothing --------------------------------------------------------------------------------------------


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    with AtomicFile(tmp_path / "f") as file:
        file.write(bytes(range(100)))
        file.rewrite(b"new", 10)
        file.write(b"end")
        assert not (tmp_path / "f").exists()
        file.commit()
    assert (tmp_path / "f").read_bytes() == bytes(range(10)) + b"new" + bytes(range(13, 100)) + b"end"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "close"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("old", [None, b"the old file"])
def test_an_error_leaves_the_old_file_or_none(models, tmp_path, monkeypatch, call, number, old):
    path = tmp_path / "m.hyperion"
    if old is not None:
        path.write_bytes(old)
    real, calls = getattr(os, call), []

    if call == "replace" and old is None and hasattr(os, "O_TMPFILE"):
        call, real = "link", os.link  # a nameless file gets its name by a link where there is nothing to replace

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == (3 if call == "write" else 1) and (call != "close" or sys._getframe(1).f_code.co_name == "commit"):
            raise OSError(number, os.strerror(number))
        if call == "close" and sys._getframe(1).f_code.co_name != "commit":
            calls.clear()
        return real(*args, **options)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(hyperion.HyperionIOError, match=os.strerror(number)) as caught:
        hyperion.convert(models / "shakespeare-q4_0.gguf", path)
    monkeypatch.undo()
    assert caught.value.context["errno"] == number
    assert os.listdir(tmp_path) == ([] if old is None else ["m.hyperion"])
    assert old is None or path.read_bytes() == old


SLOW_WRITER = """
import os, sys, time
from hyperion.io import AtomicFile
with AtomicFile(sys.argv[1]) as file:
    file.write(bytes(1000))
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="the system has no files without a name")
@pytest.mark.parametrize("old", [None, b"the old file"])
def test_a_killed_process_leaves_nothing(tmp_path, old):
    path = tmp_path / "m.hyperion"
    if old is not None:
        path.write_bytes(old)
    with subprocess.Popen([sys.executable, "-c", SLOW_WRITER, path], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"written\n"
        child.kill()
    assert os.listdir(tmp_path) == ([] if old is None else ["m.hyperion"])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("old", [None, b"the old file"])
def test_a_file_appears_whole_where_nameless_files_are_unknown(tmp_path, monkeypatch, old):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = tmp_path / "f"
    if old is not None:
        path.write_bytes(old)
    with AtomicFile(path) as file:
        file.write(b"new")
        assert len(os.listdir(tmp_path)) == (1 if old is None else 2)
        file.commit()
    assert os.listdir(tmp_path) == ["f"] and path.read_bytes() == b"new"


@pytest.mark.parametrize("nameless", [True, False])
def test_a_spool_file_is_gone_when_it_is_discarded(tmp_path, monkeypatch, nameless):
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("the system has no files without a name")
    with SpoolFile(tmp_path) as file:
        file.write(b"GGUF")
        file.commit()
    with open(file.path, "rb") as again:
        assert again.read() == b"GGUF"
    assert len(os.listdir(tmp_path)) == (0 if nameless else 1)
    file.discard()
    assert os.listdir(tmp_path) == []


def test_an_error_of_a_nameless_file_names_its_folder(tmp_path, monkeypatch):
    def failing(*args):
        raise OSError(errno.ENOSPC, "the disk is full")

    with SpoolFile(tmp_path) as file:
        monkeypatch.setattr(os, "write", failing)
        with pytest.raises(HyperionIOError, match=re.escape(str(tmp_path))):
            file.write(b"x")
        monkeypatch.undo()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_the_old_file(models, tmp_path, error):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def stop(done, total):
        if done > total // 2:
            raise error

    with pytest.raises(error):
        hyperion.convert(models / "shakespeare-q4_0.gguf", path, progress=stop)
    assert os.listdir(tmp_path) == ["m.gguf"]
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit on a file's size")
def test_a_limit_on_the_file_s_size(models, tmp_path):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import resource
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            try:
                hyperion.convert(models / "shakespeare-q4_0.gguf", tmp_path / "m.hyperion")
            except hyperion.HyperionIOError as caught:
                code = 0 if caught.context["errno"] == errno.EFBIG and not os.listdir(tmp_path) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_disk_that_is_too_small_is_told_of_at_once(models, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(hyperion.HyperionIOError, match="1000 free"):
        hyperion.convert(models / "shakespeare-q4_0.gguf", tmp_path / "m.hyperion")
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(models, tmp_path):
    source = models / "shakespeare-q4_0.gguf"
    (tmp_path / "d.hyperion").mkdir()
    for path in (tmp_path / "d.hyperion", tmp_path / "none" / "m.hyperion"):
        with pytest.raises(hyperion.HyperionIOError):
            hyperion.convert(source, path)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "f.hyperion")
        with pytest.raises(hyperion.HyperionIOError, match="regular"):
            hyperion.convert(source, tmp_path / "f.hyperion")


def test_a_link_is_followed_and_a_file_may_be_converted_onto_itself(models, tmp_path):
    path, link = tmp_path / "m.gguf", tmp_path / "link.gguf"
    shutil.copy(models / "shakespeare-q4_0.gguf", path)
    link.symlink_to(path)
    hyperion.convert(link, link, format="hyperion")
    assert link.is_symlink()
    with open_container(path) as container:
        assert container.format == "hyperion"


def test_weights_are_not_quantized_or_pruned_onto_their_own_source(models, tmp_path):
    path, link = tmp_path / "m.gguf", tmp_path / "link.gguf"
    shutil.copy(models / "shakespeare-f16.gguf", path)
    link.symlink_to(path)
    before = path.read_bytes()
    for dst in (path, link):
        with pytest.raises(hyperion.InvalidArgumentError, match="is the source itself"):
            hyperion.convert(path, dst, "q4_0")
        with pytest.raises(hyperion.InvalidArgumentError, match="is the source itself"):
            hyperion.convert(path, dst, mixed=hyperion.MixedPrecisionConfig())
        with pytest.raises(hyperion.InvalidArgumentError, match="is the source itself"):
            prune(path, dst, hyperion.PruneConfig(sparsity=0.5))
    assert path.read_bytes() == before


def test_a_writer_takes_only_what_it_was_told_of(tmp_path):
    layout = [TensorLayout("a", 0, (3,), 12)]
    with GGUFWriter(tmp_path / "f", {}, layout) as writer:
        with pytest.raises(hyperion.InvalidArgumentError):
            writer.write(bytes(13))
        with pytest.raises(hyperion.InvalidArgumentError):
            writer.finish()
    for metadata in ({"k": Typed(4, -1)}, {"k": Typed(13, 0)}, {"k": Typed(8, 3)}, {"": Typed(4, 1)}):
        with pytest.raises(hyperion.InvalidArgumentError):
            GGUFWriter(tmp_path / "f", metadata, layout)
    assert os.listdir(tmp_path) == []
