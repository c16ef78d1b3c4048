"""Tensors: storage by strategy, views without copies, in-place operations, and memory that stays within a budget."""

import gc
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import hyperion
from hyperion import DataType, InvalidArgumentError, Tensor, TensorMemoryConfig, TensorOp
from hyperion.memory import MemoryBudget, process_budget

STRATEGIES = ["STATIC", "POOLED", "STREAMING"]
WINDOW = 64 << 10
SHAPES = [(), (0,), (1,), (7,), (33, 5), (3, 40000), (4097,), (301, 97)]
FLOATS = ["float16", "float32", "float64"]


def config(strategy, **settings):
    return TensorMemoryConfig(strategy=strategy, stream_buffer_size=WINDOW, **settings)


def tensor_of(array, strategy, **settings):
    tensor = Tensor(array.shape, array.dtype, config(strategy, **settings))
    tensor.stream(array)
    return tensor


def content(tensor):
    return tensor.read().reshape(tensor.shape)


def values(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * 3).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -50), min(info.max, 50), shape, dtype)


# ---- storage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", list(DataType))
def test_what_is_streamed_in_is_read_back(strategy, shape, dtype):
    array = values(shape, dtype.numpy)
    with Tensor(shape, dtype, config(strategy)) as tensor:
        assert (tensor.shape, tensor.size, tensor.nbytes) == (array.shape, array.size, array.nbytes)
        assert not content(tensor).any()
        assert hyperion.stream_tensor_data(tensor, array) == array.nbytes
        np.testing.assert_array_equal(content(tensor), array)
        assert hyperion.get_tensor_memory_stats(tensor).bytes_streamed == array.nbytes


@settings(max_examples=40, deadline=None)
@given(data=st.data(), strategy=st.sampled_from(STRATEGIES))
def test_any_writes_give_what_an_array_gives(data, strategy):
    size = data.draw(st.sampled_from([1, 1000, WINDOW, WINDOW + 1, 3 * WINDOW + 17]))
    expected = np.zeros(size, np.uint8)
    with Tensor(size, "uint8", config(strategy)) as tensor:
        for number in range(data.draw(st.integers(1, 5))):
            offset = data.draw(st.integers(0, size))
            count = data.draw(st.integers(0, size - offset))
            part = values(count, np.uint8, number)
            tensor.stream(part.tobytes(), offset)
            expected[offset : offset + count] = part
            offset = data.draw(st.integers(0, size))
            np.testing.assert_array_equal(tensor.read(offset), expected[offset:])
        np.testing.assert_array_equal(tensor.read(), expected)


def test_where_the_bytes_count():
    budget = MemoryBudget("1MB", name="test")
    with Tensor(1000, "float32", config("STATIC"), budget=budget) as tensor:
        assert budget.by_owner() == {"tensor": tensor.stats.resident_bytes}
    assert budget.used == 0
    with Tensor(1 << 24, "float32", config("STREAMING"), budget=budget) as tensor:
        assert budget.by_owner() == {"tensor window": WINDOW}
        assert tensor.stats.file_bytes == tensor.nbytes == 1 << 26
    assert budget.used == 0
    with pytest.raises(hyperion.MemoryBudgetError):
        Tensor(1 << 20, "float32", config("STATIC"), budget=budget)
    with pytest.raises(hyperion.MemoryBudgetError):
        Tensor(1 << 24, "uint8", TensorMemoryConfig(strategy="STREAMING", stream_buffer_size="2MB"), budget=budget)
    assert budget.used == 0


def test_writing_in_order_reads_nothing():
    with Tensor(10 * WINDOW, "uint8", config("STREAMING")) as tensor:
        part = np.arange(1000, dtype=np.uint16).view(np.uint8)
        for at in range(0, tensor.nbytes - part.nbytes, part.nbytes):
            tensor.stream(part, at)
        tensor.stream(part, 5)
        tensor.fill(3)
        assert (tensor.stats.bytes_read, tensor.sum()) == (0, 3 * tensor.size)
        assert tensor.stats.bytes_written >= tensor.nbytes
        before = tensor.stats
        np.testing.assert_array_equal(tensor.read(tensor.nbytes - 100), 3)  # still in the window
        assert tensor.stats.bytes_read == before.bytes_read


def test_tensors_of_one_configuration_share_a_pool():
    budget = MemoryBudget("4MB", name="test")
    settings = config("POOLED", pool_size=1 << 20)
    first = Tensor(1000, "float32", settings, budget=budget)
    reserved = budget.by_owner()["tensor pool"]
    assert reserved >= 1 << 20
    second = Tensor(1000, "float32", settings, budget=budget)
    third = second.copy()
    assert budget.by_owner() == {"tensor pool": reserved}
    pool = settings.pool(budget)
    assert pool.stats().current_usage == 12000
    with pytest.raises(hyperion.HyperionMemoryError):
        Tensor(1 << 20, "float32", settings, budget=budget)
    for tensor in (first, second, third):
        tensor.close()
    assert pool.stats().current_usage == 0
    del pool, settings, first, second, third, tensor
    gc.collect()
    assert budget.used == 0
    before = hyperion.get_memory_stats().current_usage
    with Tensor(1000, "float32", TensorMemoryConfig(strategy="POOLED")):
        assert hyperion.get_memory_stats().current_usage == before + 4000
    assert hyperion.get_memory_stats().current_usage == before


@pytest.mark.parametrize("strategy", ["STATIC", "POOLED"])
def test_a_view_outlives_its_tensor(strategy):
    tensor = tensor_of(np.arange(50000, dtype=np.float32), strategy)
    array, view = np.asarray(tensor), memoryview(tensor)
    tensor.close()
    tensor.close()
    del tensor
    gc.collect()
    np.testing.assert_array_equal(array, np.arange(50000))
    assert view[49999] == 49999.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_closed_tensor_says_so(strategy):
    used = process_budget().used
    tensor = Tensor(1 << 20, "float32", config(strategy))
    tensor.close()
    for use in (tensor.numpy, tensor.read, tensor.sum, lambda: tensor.stream(b"1234"), lambda: tensor.in_place("relu"), lambda: tensor.stats):
        with pytest.raises(hyperion.HyperionRuntimeError, match="closed"):
            use()
    with pytest.raises(BufferError):
        memoryview(tensor)
    assert process_budget().used <= max(used, hyperion.get_memory_stats().held)


# ---- views ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["STATIC", "POOLED"])
def test_views_share_the_elements(strategy):
    tensor = tensor_of(values((3, 5), np.float32), strategy)
    array = tensor.numpy()
    for view in (np.asarray(tensor), np.asarray(memoryview(tensor)), np.from_dlpack(tensor), np.array(tensor, copy=None)):
        assert view.shape == (3, 5)
        assert np.shares_memory(view, array)
    np.asarray(tensor)[1, 2] = 77
    assert content(tensor)[1, 2] == 77
    assert memoryview(tensor).shape == (3, 5)
    assert memoryview(tensor).format == "f"
    assert not np.shares_memory(np.array(tensor, copy=True), array)
    assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
    again = Tensor.wrap(tensor)
    again.in_place(TensorOp.SCALE, 2)
    assert array[1, 2] == 154


def test_torch_sees_the_same_elements():
    torch = pytest.importorskip("torch")
    with Tensor((4, 3), "float32") as tensor:
        there = torch.from_dlpack(tensor)
        there += 5
        assert tensor.sum() == 60
        back = Tensor.wrap(there)
        back.in_place("neg")
        assert there.sum() == -60
        assert back.stats.strategy is None
        del there, back


def test_wrapping_what_others_own():
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    tensor = Tensor.wrap(array)
    assert np.shares_memory(np.asarray(tensor), array)
    tensor.in_place(TensorOp.ADD, 1)
    assert array[0, 0] == 1
    assert tensor.stats.resident_bytes == 0
    data = bytearray(8)
    Tensor.wrap(data).fill(7)
    assert data == b"\x07" * 8
    fixed = Tensor.wrap(bytes(8))
    for change in (lambda: fixed.fill(1), lambda: fixed.stream(b"1"), lambda: fixed.in_place("relu")):
        with pytest.raises(InvalidArgumentError, match="cannot be written"):
            change()
    assert fixed.sum() == 0
    for bad in (array.T, array[:, ::2], [1, 2], 3, None, "text", np.array(["a"]), np.zeros(3, np.complex64), np.zeros(2, ">f4")):
        with pytest.raises(InvalidArgumentError):
            Tensor.wrap(bad)


def test_a_streaming_tensor_is_no_buffer():
    with Tensor(10, "float32", config("STREAMING")) as tensor:
        for use in (tensor.numpy, lambda: np.asarray(tensor), lambda: np.from_dlpack(tensor)):
            with pytest.raises(InvalidArgumentError, match="read"):
                use()
        with pytest.raises(BufferError):
            memoryview(tensor)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows(strategy):
    array = values((301, 97), np.float32)
    with tensor_of(array, strategy) as tensor:
        for index in (0, -1, 300, np.int64(7), slice(None), slice(3, 290), slice(-5, None), slice(9, 3), slice(0, 1000)):
            np.testing.assert_array_equal(tensor[index], array[index])
        tensor[5:9] = array[:4]
        tensor[-1] = 3
        tensor[0] = np.arange(97)
        expected = array.copy()
        expected[5:9], expected[-1], expected[0] = array[:4], 3, np.arange(97)
        np.testing.assert_array_equal(content(tensor), expected)
        np.testing.assert_array_equal(list(tensor), expected)
        for bad in (301, -302):
            with pytest.raises(IndexError):
                tensor[bad]
        with pytest.raises(ValueError, match="shape|rows"):
            tensor[0:2] = np.zeros((3, 97), np.float32)
        if strategy == "STREAMING":
            for bad in ("x", (0, 1), slice(0, 9, 2), 1.0, None):
                with pytest.raises(InvalidArgumentError):
                    tensor[bad]
            with pytest.raises(InvalidArgumentError, match="complex"):
                tensor[0] = 1j
        np.testing.assert_array_equal(content(tensor), expected)


# ---- in the library's other parts ----------------------------------------------------------------------------


def test_quantizing_a_tensor_into_a_tensor():
    array = values((64, 64), np.float32)
    with tensor_of(array, "POOLED") as tensor, Tensor((64, 64), "float32") as out:
        quantized = hyperion.quantize_tensor(tensor, hyperion.QuantizationConfig(bits=8, group_size=32))
        assert hyperion.dequantize_tensor(quantized, out) is out
        np.testing.assert_array_equal(out.numpy(), hyperion.dequantize_tensor(quantized))
        np.testing.assert_allclose(out.numpy(), array, atol=0.1)
        with pytest.raises(InvalidArgumentError):
            hyperion.dequantize_tensor(quantized, Tensor((64, 63), "float32"))


def test_layers_over_tensors_larger_than_memory():
    rows, width = 3000, 64
    array = values((rows, width), np.float32)
    budget = MemoryBudget("400kB", name="test")
    source, target = (Tensor((rows, width), "float32", config("STREAMING"), budget=budget) for _ in range(2))
    source.stream(array)
    with hyperion.ForwardScheduler(None, hyperion.ExecutionMode.STREAMING, "200kB", budget=budget) as scheduler:
        scheduler.add_layer(0, lambda part: part * 2, output_size=array.nbytes)
        scheduler.add_layer(1, lambda part: part + 1, depends_on=0, output_size=array.nbytes)
        scheduler.mark_output_unneeded(1)
        scheduler.prepare()
        while (layer := scheduler.execute_next(source, target if scheduler.executed_layers % 2 else None)) is not None:
            assert layer in (0, 1)
        assert scheduler.peak_memory_usage <= 200_000
    np.testing.assert_array_equal(content(target), array * 2 + 1)
    assert budget.peak <= 400_000 < array.nbytes


def test_layers_over_tensors_in_memory():
    with Tensor((3, 4), "float32") as given, Tensor((3, 4), "float32") as out:
        given.fill(2)
        with hyperion.create_forward_scheduler() as scheduler:
            scheduler.add_layer(0, lambda x: x * x, output_size=48)
            hyperion.prepare_forward_pass(scheduler)
            assert hyperion.execute_next_layer(scheduler, given, out) == 0
        assert out.sum() == 48


# ---- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [((-1,), "float32"), ((1.5,), "float32"), (None, "float32"), ("12", "float32"), ((2**40, 2**40), "float32"), ((1,) * 33, "int8"),
     ((2,), "complex64"), ((2,), None), ((2,), ">f4"), ((2,), "object"), ((2,), "float33")],
)  # fmt: skip
def test_tensors_that_cannot_be(dims, dtype):
    with pytest.raises(InvalidArgumentError):
        hyperion.create_tensor_with_memory_config(None, dims, dtype)


def test_a_configuration_is_checked_and_copied(tmp_path):
    settings = TensorMemoryConfig(strategy="streaming", stream_buffer_size="1MiB", stream_directory=tmp_path)
    tensor = hyperion.create_tensor_with_memory_config(settings, (3,), DataType.INT8)
    settings.strategy = "STATIC"
    assert tensor.config.strategy is hyperion.TensorAllocStrategy.STREAMING
    assert tensor.config.stream_directory == str(tmp_path)
    tensor.close()
    assert hyperion.list_dir(tmp_path) == []
    for field, bad in (("strategy", "HEAP"), ("strategy", 1), ("stream_buffer_size", 100), ("pool_size", -1), ("enable_in_place", 1),
                       ("stream_directory", 3), ("window", 3)):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            setattr(settings, field, bad)
    with pytest.raises(InvalidArgumentError):
        Tensor(3, "int8", "STATIC")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_writes_and_reads_outside_are_refused(strategy):
    with tensor_of(values((10, 10), np.float32), strategy) as tensor:
        before = content(tensor)
        for data, offset, size in (
            (bytes(401), 0, None), (bytes(4), 397, None), (bytes(4), -1, None), (bytes(4), 0, 5), (bytes(4), 2**70, None), (bytes(4), 0, -1),
            (np.zeros(3, np.float64), 0, None), (np.zeros((4, 4), np.float32)[:, ::2], 0, None), ("text", 0, None), (None, 0, None),
            (bytes(4), 1.0, None), (bytes(4), True, None),
        ):  # fmt: skip
            with pytest.raises(InvalidArgumentError):
                hyperion.stream_tensor_data(tensor, data, offset, size)
        for offset, size in ((0, 404), (2, 4), (0, 3), (400, 4), (-4, 4)):
            with pytest.raises(InvalidArgumentError):
                tensor.read(offset, size)
        for out in (np.zeros(3), bytearray(8), np.zeros(101, np.float32)):
            with pytest.raises(InvalidArgumentError):
                tensor.read(out=out)
        np.testing.assert_array_equal(content(tensor), before)
        assert tensor.read(400).size == 0
        out = np.zeros((2, 10), np.float32)
        assert tensor.read(40, out=out) is out
        np.testing.assert_array_equal(out, before[1:3])


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX directories")
def test_a_disk_that_fails(tmp_path, monkeypatch):
    with pytest.raises(hyperion.HyperionIOError, match="cannot make"):
        Tensor(10, "int8", config("STREAMING", stream_directory=tmp_path / "no"))
    with pytest.raises(hyperion.HyperionIOError, match="needed"):
        Tensor(1 << 59, "int8", config("STREAMING", stream_directory=tmp_path))
    with Tensor(4 * WINDOW, "uint8", config("STREAMING", stream_directory=tmp_path)) as tensor:
        tensor.fill(1)

        class Full:
            def __init__(self, file):
                self.file = file

            def __getattr__(self, name):
                return getattr(self.file, name)

            def write(self, data):
                raise OSError(28, "No space left on device")

        real, tensor._window._file = tensor._window._file, Full(tensor._window._file)
        with pytest.raises(hyperion.HyperionIOError, match="No space"):
            tensor.fill(2)
        tensor._window._file = real
        tensor.fill(3)
        assert tensor.sum() == 3 * tensor.size


# ---- operations ----------------------------------------------------------------------------------------------


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, weight=1.0, bias=0.0, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x, weight=1.0, eps=1e-5):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


W97 = np.linspace(0.5, 2, 97).astype(np.float32)

CASES = [
    ("ADD", 1.5, lambda x: x + 1.5), ("SUB", 1.5, lambda x: x - 1.5), ("MUL", -2, lambda x: x * -2), ("DIV", 3, lambda x: x / 3),
    ("SCALE", 0.25, lambda x: x * 0.25), ("CLAMP", (-1, 0.5), lambda x: np.clip(x, -1, 0.5)), ("CLAMP", {"low": 0}, lambda x: np.maximum(x, 0)),
    ("CLAMP", (None, None), lambda x: x), ("ABS", None, np.abs), ("NEG", None, np.negative), ("RELU", None, lambda x: np.maximum(x, 0)),
    ("GELU", None, lambda x: x * special.ndtr(x)), ("GELU", {"approximate": "tanh"}, gelu_tanh), ("SILU", None, lambda x: x * special.expit(x)), ("TANH", None, np.tanh), ("SIGMOID", None, special.expit),
    ("EXP", None, np.exp), ("SOFTMAX", None, lambda x: special.softmax(x, axis=-1)), ("LAYER_NORM", None, layer_norm),
    ("LAYER_NORM", {"weight": W97, "bias": W97[::-1], "eps": 1e-3}, lambda x: layer_norm(x, W97, W97[::-1], 1e-3)),
    ("RMS_NORM", None, rms_norm), ("RMS_NORM", {"weight": W97, "eps": 0.1}, lambda x: rms_norm(x, W97, 0.1)),
    ("ADD", W97, lambda x: x + W97), ("MUL", W97.astype(np.float64), lambda x: x * W97),
]  # fmt: skip
TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("op", "params", "expected"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_operations_give_what_others_give_under_every_strategy(dtype, op, params, expected):
    array = values((301, 97), dtype)
    results = []
    for strategy in STRATEGIES:
        with tensor_of(array, strategy) as tensor:
            assert hyperion.tensor_in_place_op(tensor, TensorOp[op], params) is tensor
            results.append(content(tensor))
            assert tensor.stats.in_place_ops == 1
    with np.errstate(over="ignore"):
        exact = expected(array.astype(np.float64)).astype(dtype).astype(np.float64)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(results[0].astype(np.float64), exact, rtol=tolerance, atol=tolerance)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_sqrt_of_what_has_one():
    array = np.abs(values((5, 97), np.float32))
    with tensor_of(array, "STREAMING") as tensor:
        np.testing.assert_array_equal(content(tensor.in_place("sqrt")), np.sqrt(array))
        tensor.in_place("neg").in_place("sqrt")
        assert np.isnan(tensor.max())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["GELU", "SILU", "TANH", "SIGMOID", "RELU", "EXP", "SOFTMAX"])
def test_the_ends_of_the_number_line(dtype, op):
    torch = pytest.importorskip("torch")
    function = {
        "GELU": torch.nn.functional.gelu, "SILU": torch.nn.functional.silu, "TANH": torch.tanh,
        "SIGMOID": torch.sigmoid, "RELU": torch.relu, "EXP": torch.exp, "SOFTMAX": lambda x: torch.softmax(x, -1),
    }[op]  # fmt: skip
    big = {"float16": 6e4, "float32": 3e38, "float64": 1e308}[dtype]
    array = np.array([[-big, -100, -1e-3, -0.0], [0.0, 1e-3, 100, big], [np.nan, 1, 2, 3]], dtype)
    with tensor_of(array, "STATIC") as tensor:
        found = content(tensor.in_place(op)).astype(np.float64)
    expected = function(torch.from_numpy(array.astype(np.float64)))
    with np.errstate(over="ignore"):
        expected = expected.numpy().astype(dtype).astype(np.float64)
    nan = np.isnan(found)
    assert np.isnan(expected)[2, 0]
    assert nan[2, 0]
    np.testing.assert_allclose(found[:2], expected[:2], rtol=TOLERANCE[dtype] * 10, atol=1e-30 if dtype != "float16" else 1e-7)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("op", ["ADD", "SUB", "MUL"])
def test_two_tensors(strategy, op):
    a, b = values((301, 97), np.float32), values((301, 97), np.float32, 1)
    expected = {"ADD": a + b, "SUB": a - b, "MUL": a * b}[op]
    for other in (b, np.asfortranarray(b), tensor_of(b, "STATIC"), tensor_of(b, "STREAMING")):
        with tensor_of(a, strategy) as tensor:
            np.testing.assert_array_equal(content(tensor.in_place(op, other)), expected)
            np.testing.assert_array_equal(content(tensor.in_place("scale", 0)), 0)


def test_an_operand_that_is_being_changed_is_copied_first():
    array = values(50000, np.float32)
    tensor = tensor_of(array, "STATIC")
    tensor.in_place("add", tensor.numpy()[::-1])
    np.testing.assert_array_equal(content(tensor), array + array[::-1])
    tensor = tensor_of(array, "STATIC")
    tensor.in_place("mul", tensor)
    np.testing.assert_array_equal(content(tensor), array * array)
    square = tensor_of(values((300, 300), np.float32), "STATIC")
    before = content(square)
    square.in_place("sub", square.numpy().T)
    np.testing.assert_array_equal(content(square), before - before.T)
    square.in_place("rms_norm", {"weight": square.numpy()[0]})
    np.testing.assert_allclose(content(square), rms_norm((before - before.T).astype(float), (before - before.T)[0]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_integers(dtype):
    array = values((301, 97), dtype)
    for op, params, expected in (
        ("ADD", 3, array + np.dtype(dtype).type(3)), ("MUL", array, array * array), ("SCALE", 2, array * np.dtype(dtype).type(2)),
        ("CLAMP", (2, 9), np.clip(array, 2, 9)), ("RELU", None, np.maximum(array, 0)),
    ):  # fmt: skip
        with tensor_of(array, "STREAMING") as tensor:
            np.testing.assert_array_equal(content(tensor.in_place(op, params)), expected)
            assert tensor.sum() == int(expected.sum(dtype=np.int64))
            assert (tensor.min(), tensor.max()) == (expected.min(), expected.max())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_operations_that_do_not_fit(strategy):
    with tensor_of(values((20, 97), np.float32), strategy) as tensor:
        before = content(tensor)
        for op, params in (
            ("POW", 2), (3, None), ("ADD", None), ("ADD", "1"), ("ADD", [1, 2]), ("ADD", np.zeros((20, 1), np.float32)), ("ADD", 1j),
            ("ADD", np.zeros(97, complex)), ("SCALE", None), ("SCALE", W97), ("SCALE", True), ("CLAMP", 3), ("CLAMP", (2, 1)), ("CLAMP", (0, math.nan)),
            ("RELU", 1), ("GELU", "tanh"), ("GELU", {"approximate": "erf"}), ("GELU", {}), ("SOFTMAX", {}), ("RMS_NORM", {"weights": W97}), ("RMS_NORM", {"weight": W97[:5]}), ("RMS_NORM", {"eps": -1}),
            ("LAYER_NORM", W97), ("LAYER_NORM", {"eps": math.nan}), ("LAYER_NORM", {"bias": "x"}),
        ):  # fmt: skip
            with pytest.raises(InvalidArgumentError):
                tensor.in_place(op, params)
        other = Tensor((97, 20), "float32", config("STREAMING"))
        with pytest.raises(InvalidArgumentError, match="differ"):
            tensor.in_place("add", other)
        np.testing.assert_array_equal(content(tensor), before)
    with tensor_of(values((20, 97), np.int32), strategy) as tensor:
        for op, params in (("GELU", None), ("DIV", 2), ("SCALE", 0.5), ("ADD", W97), ("ADD", 2**40), ("SOFTMAX", None)):
            with pytest.raises(InvalidArgumentError):
                tensor.in_place(op, params)
    with Tensor((), "float32", config(strategy)) as tensor, pytest.raises(InvalidArgumentError, match="rows"):
        tensor.in_place("softmax")


def test_rows_that_do_not_fit_the_window():
    with Tensor((3, WINDOW), "float32", config("STREAMING")) as tensor, pytest.raises(InvalidArgumentError, match=str(4 * WINDOW)):
        tensor.in_place("softmax")


def test_in_place_can_be_off():
    with Tensor(10, "float32", config("STATIC", enable_in_place=False)) as tensor:
        with pytest.raises(hyperion.HyperionRuntimeError, match="enable_in_place"):
            tensor.in_place("add", 1)
        with tensor.apply("add", 1) as result:
            assert (result.sum(), tensor.sum()) == (10, 0)
        used = process_budget().used
        with pytest.raises(InvalidArgumentError):
            tensor.apply("add", "x")
        assert process_budget().used == used


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0,), (1,), (4095,), (4096,), (4097,), (100_003,), (301, 97)])
def test_sums_are_the_same_bits_under_every_strategy(dtype, shape):
    array = values(shape, dtype)
    found = {s: tensor_of(array, s).sum() for s in STRATEGIES}
    assert len(set(found.values())) == 1
    exact = math.fsum(array.astype(np.float64).ravel().tolist())
    assert found["STATIC"] == pytest.approx(exact, rel=1e-12, abs=1e-9)
    if array.size:
        tensor = tensor_of(array, "STREAMING")
        assert (tensor.min(), tensor.max()) == (array.min(), array.max())
        assert tensor.mean() == pytest.approx(exact / array.size, rel=1e-12, abs=1e-12)
    else:
        with pytest.raises(InvalidArgumentError):
            tensor_of(array, "STATIC").min()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_sums_with_infinities():
    with tensor_of(np.array([1, np.inf, 2], np.float32), "STATIC") as tensor:
        assert tensor.sum() == math.inf
        tensor.in_place("mul", np.array([1, -1, 1], np.float32))
        assert tensor.sum() == -math.inf
    with tensor_of(np.array([np.inf, -np.inf], np.float32), "STATIC") as tensor:
        assert math.isnan(tensor.sum())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [None, 1, 13])
def test_products(strategy, dtype, columns):
    a = values((301, 97), dtype)
    b = values((97,) if columns is None else (97, columns), np.float32, 1)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    with tensor_of(a, strategy) as tensor, tensor_of(a, "STATIC") as other:
        if dtype != "float64":
            np.testing.assert_array_equal(tensor @ b, other @ b)
        np.testing.assert_allclose(tensor @ b, expected, rtol=TOLERANCE[dtype], atol=100 * TOLERANCE[dtype])
        with Tensor(expected.shape, dtype, config("STREAMING")) as out:
            assert tensor.matmul(Tensor.wrap(b), out) is out
            np.testing.assert_array_equal(content(out), tensor.matmul(b, np.empty(expected.shape, dtype)))
        for bad in (b[:5], np.zeros((97, 2, 2)), np.zeros(97, int), "x"):
            with pytest.raises(InvalidArgumentError):
                tensor.matmul(bad)
        for bad in (tensor, np.zeros(3), [1], np.zeros(expected.shape, ">f4")):
            with pytest.raises(InvalidArgumentError):
                tensor.matmul(b, bad)


def test_threads_fill_one_tensor_and_cross_two():
    size = 1 << 18
    a, b = (Tensor(size, "int64", config("STREAMING")) for _ in range(2))

    def work(number):
        part = np.full(size // 4, number, np.int64)
        a.stream(part, number * part.nbytes)
        b.stream(part, number * part.nbytes)
        if number < 2:
            (a, b)[number].in_place("mul", (b, a)[number])  # each the other's operand: neither waits for ever

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert a.sum() % (size // 4) == 0


# ---- memory, seen from outside ---------------------------------------------------------------------------------

BUDGETED = """
import numpy as np, hyperion
from hyperion.memory import MemoryBudget

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

limit, width = 16 << 20, 1 << 10
def work(rows, budget):
    config = hyperion.TensorMemoryConfig(strategy="STREAMING", stream_buffer_size=limit // 2)
    t = hyperion.Tensor((rows, width), "float32", config, budget=budget)
    line = np.arange(64 * width, dtype=np.float32) % 64
    for at in range(0, t.nbytes, line.nbytes):
        hyperion.stream_tensor_data(t, line, at)
    total, most = t.sum(), t.max()
    t.in_place("scale", 0.5).in_place("add", np.ones(width, np.float32)).in_place("gelu").in_place("rms_norm")
    product = t @ np.ones((width, 4), np.float32)
    t.close()
    return total, most, product

work(256, MemoryBudget(limit))  # modules, BLAS and their buffers
before = peak()
budget = MemoryBudget(limit, name="budget")
rows = 4 * limit // width // 4
total, most, product = work(rows, budget)
print(peak() - before, budget.peak, total == rows * width * 31.5, most, product.shape, bool(np.isfinite(product).all()))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell the peak resident set")
def test_a_tensor_four_times_its_budget_is_filled_reduced_and_multiplied_within_it():
    done = subprocess.run([sys.executable, "-c", BUDGETED], capture_output=True, text=True, check=True)
    grown, reserved, *rest = done.stdout.split()
    assert " ".join(rest) == "True 63.0 (16384, 4) True"
    assert 0 < int(reserved) <= 16 << 20
    assert 4 << 20 < int(grown) <= 16 << 20
