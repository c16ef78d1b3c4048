"""ggml's own matrix products as a worker, through the libraries that llama-cpp-python brings: graphs of `ggml_mul_mat` on
the CPU backend, with weights in its plain buffer type or in the one that lays them out anew ("repacked").

Each product quantizes its activations itself, as in a model.
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import synthetic
from benchmarks.peers.products import activations, at_hand, copies, raw_weights
from benchmarks.peers.worker import serve

F32 = 0
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, data: None)
state: dict[str, Any] = {}


class InitParams(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


POINTER, SIZE, INT, LONG = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_cpu_init": (POINTER, []),
    "ggml_backend_cpu_set_n_threads": (None, [POINTER, INT]),
    "ggml_backend_cpu_buffer_type": (POINTER, []),
    "ggml_backend_get_device": (POINTER, [POINTER]),
    "ggml_backend_dev_backend_reg": (POINTER, [POINTER]),
    "ggml_backend_reg_get_proc_address": (POINTER, [POINTER, ctypes.c_char_p]),
    "ggml_backend_buft_name": (ctypes.c_char_p, [POINTER]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (POINTER, [POINTER, POINTER]),
    "ggml_backend_buffer_free": (None, [POINTER]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [POINTER, POINTER]),
    "ggml_backend_tensor_set": (None, [POINTER, POINTER, SIZE, SIZE]),
    "ggml_backend_tensor_get": (None, [POINTER, POINTER, SIZE, SIZE]),
    "ggml_backend_graph_compute": (INT, [POINTER, POINTER]),
    "ggml_init": (POINTER, [InitParams]),
    "ggml_free": (None, [POINTER]),
    "ggml_new_tensor_2d": (POINTER, [POINTER, INT, LONG, LONG]),
    "ggml_mul_mat": (POINTER, [POINTER, POINTER, POINTER]),
    "ggml_new_graph": (POINTER, [POINTER]),
    "ggml_build_forward_expand": (None, [POINTER, POINTER]),
    "ggml_log_set": (None, [POINTER, POINTER]),
    "ggml_tensor_overhead": (SIZE, []),
    "ggml_graph_overhead": (SIZE, []),
}


class NotRepacked(Exception):
    """This build of ggml has no repacking for these weights."""


class Library:
    """The functions above, wherever among the package's libraries they are."""

    def __init__(self) -> None:
        import llama_cpp

        folder = Path(llama_cpp.__file__).parent / "lib"
        suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
        files = [f for stem in ("ggml-base", "ggml-cpu", "ggml") for f in sorted(folder.glob(f"*{stem}.{suffix}"))]
        libraries = [ctypes.CDLL(str(f), mode=ctypes.RTLD_GLOBAL) for f in files]
        self.version = llama_cpp.__version__
        for name, (result, arguments) in FUNCTIONS.items():
            function = next(getattr(lib, name) for lib in libraries if hasattr(lib, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)

    def context(self, tensors: int, graphs: int = 0) -> int:
        """A context for descriptions of tensors and graphs; their data is allocated in buffers."""
        size = (tensors + 16) * self.tensor_overhead() + graphs * self.graph_overhead()
        return self.init(InitParams(size, None, True))

    def repacking(self, backend: int) -> int | None:
        """The buffer type that lays weights out anew, if this build has it."""
        registry = self.backend_dev_backend_reg(self.backend_get_device(backend))
        address = self.backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return None
        listed = ctypes.CFUNCTYPE(ctypes.POINTER(POINTER), POINTER)(address)(self.backend_get_device(backend))
        for buffer_type in listed:  # ends with NULL
            if not buffer_type:
                return None
            if b"REPACK" in self.backend_buft_name(buffer_type):
                return buffer_type
        return None


class Products:
    """`count` matrices of one kind and their graphs, by the number of tokens."""

    def __init__(self, lib: Any, backend: int, kind: str, rows: int, cols: int, count: int, repack: bool) -> None:
        self.lib, self.backend, self.rows, self.cols = lib, backend, rows, cols
        self.contexts, self.buffers = [lib.context(count)], []
        self.plain = lib.backend_cpu_buffer_type()
        buffer_type = lib.repacking(backend) if repack else self.plain
        if buffer_type is None:
            raise NotRepacked
        number = synthetic.TYPES[kind].number
        self.weights = [lib.new_tensor_2d(self.contexts[0], number, cols, rows) for _ in range(count)]
        self.allocate(self.contexts[0], buffer_type)
        raw = raw_weights(kind, rows, cols)
        if repack and not self.repacks():
            self.close()
            raise NotRepacked
        for weight in self.weights:
            lib.backend_tensor_set(weight, raw.ctypes.data, 0, raw.nbytes)
        self.graphs: dict[int, tuple[int, list[int], int]] = {}

    def allocate(self, context: int, buffer_type: int) -> None:
        buffer = self.lib.backend_alloc_ctx_tensors_from_buft(context, buffer_type)
        if not buffer:
            raise RuntimeError("ggml has no such buffer")
        self.buffers.append(buffer)

    def repacks(self) -> bool:
        """Whether the weights' buffer has a kernel for them; otherwise llama.cpp puts them into a plain one."""
        context = self.lib.context(2)
        x = self.lib.new_tensor_2d(context, F32, self.cols, 1)
        product = self.lib.mul_mat(context, self.weights[0], x)
        answer = self.lib.backend_dev_supports_op(self.lib.backend_get_device(self.backend), product)
        self.lib.free(context)
        return answer

    def graph(self, tokens: int) -> tuple[int, list[int], int]:
        """The graph of all products with one matrix of activations, its outputs, how many they are."""
        if tokens not in self.graphs:
            lib = self.lib
            weights = self.weights[: at_hand(len(self.weights), tokens)]
            context = lib.context(len(weights) + 1, 1)
            self.contexts.append(context)
            x = lib.new_tensor_2d(context, F32, self.cols, tokens)
            outputs = [lib.mul_mat(context, weight, x) for weight in weights]
            graph = lib.new_graph(context)
            for output in outputs:
                lib.build_forward_expand(graph, output)
            self.allocate(context, self.plain)
            values = activations(tokens, self.cols)
            lib.backend_tensor_set(x, values.ctypes.data, 0, values.nbytes)
            self.graphs[tokens] = graph, outputs, len(outputs)
        return self.graphs[tokens]

    def run(self, tokens: int) -> None:
        if self.lib.backend_graph_compute(self.backend, self.graph(tokens)[0]):
            raise RuntimeError("ggml failed")

    def close(self) -> None:
        for buffer in self.buffers:
            self.lib.backend_buffer_free(buffer)
        for context in self.contexts:
            self.lib.free(context)


def load(kind: str, rows: int, cols: int, nbytes: int, repack: bool) -> dict | None:
    """Matrices of at least `nbytes` together, in place of the last ones; None where there is no repacking for them."""
    if "lib" not in state:
        state["lib"] = Library()
        state["lib"].log_set(LOG, None)  # it would write a line for every weight
        state["backend"] = state["lib"].backend_cpu_init()
    if old := state.pop("products", None):
        old.close()
    count = copies(kind, rows, cols, nbytes)
    try:
        state["products"] = Products(state["lib"], state["backend"], kind, rows, cols, count, repack)
    except NotRepacked:
        return None
    return {"version": state["lib"].version, "count": count}


def seconds(tokens: int, threads: int, turns: int) -> float:
    """Seconds a product: `turns` times all matrices."""
    products = state["products"]
    state["lib"].backend_cpu_set_n_threads(state["backend"], threads)
    count = products.graph(tokens)[2]
    start = time.perf_counter()
    for _ in range(turns):
        products.run(tokens)
    return (time.perf_counter() - start) / turns / count


def result(tokens: int) -> list[float]:
    """The last token's outputs by the last matrix."""
    products = state["products"]
    products.run(tokens)
    out = np.empty((tokens, products.rows), np.float32)
    state["lib"].backend_tensor_get(products.graph(tokens)[1][-1], out.ctypes.data, 0, out.nbytes)
    return out[-1].tolist()


if __name__ == "__main__":
    serve({"load": load, "seconds": seconds, "result": result})
