"""Models of real shapes with random weights, for measuring: nothing is downloaded, and any type can be had.

``python -m benchmarks.synthetic --shape 1.1b --type q4_0 out.gguf`` writes a GGUF file that Hyperion and llama.cpp load.

Quantized blocks are drawn directly (random codes and scales), so a file is written at about the disk's speed in a few
megabytes of memory. Scales are chosen so that a matrix keeps the norm of what it is applied to: activations stay of
order one through every layer and logits are finite and distinct. What such a model says is noise; what it costs is real.
All matrices of a file have the one type that was asked for; norms and biases are F32.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import string
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

ALIGNMENT = 32
CHUNK_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The dimensions of a decoder-only transformer of the Llama family."""

    arch: str = "llama"
    n_layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocab: int = 32000
    head_dim: int = 0
    context_length: int = 4096
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.width // self.heads)

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, rows first, in execution order. One-dimensional ones are norms and biases."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "token_embd.weight", (self.vocab, self.width)
        for i in range(self.n_layers):
            block = f"blk.{i}."
            yield block + "attn_norm.weight", (self.width,)
            for name, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
                yield f"{block}{name}.weight", (rows, self.width)
                if self.arch == "qwen2":
                    yield f"{block}{name}.bias", (rows,)
            if self.arch == "qwen3":
                yield block + "attn_q_norm.weight", (self.head_dim,)
                yield block + "attn_k_norm.weight", (self.head_dim,)
            yield block + "attn_output.weight", (self.width, q)
            yield block + "ffn_norm.weight", (self.width,)
            yield block + "ffn_gate.weight", (self.feed_forward, self.width)
            yield block + "ffn_up.weight", (self.feed_forward, self.width)
            yield block + "ffn_down.weight", (self.width, self.feed_forward)
        yield "output_norm.weight", (self.width,)
        yield "output.weight", (self.vocab, self.width)


SHAPES = {
    "tiny": Shape(n_layers=2, width=256, feed_forward=512, heads=4, kv_heads=2, vocab=1024, context_length=512),
    "1.1b": Shape(n_layers=22, width=2048, feed_forward=5632, heads=32, kv_heads=4),
    "7b": Shape(n_layers=32, width=4096, feed_forward=11008, heads=32, kv_heads=32),
    "8b": Shape(
        n_layers=32, width=4096, feed_forward=14336, heads=32, kv_heads=8, vocab=128256, context_length=8192, rope_theta=5e5
    ),
}


# Random blocks. A function takes (generator, n blocks, the standard deviation that the values shall have) and returns
# uint8 [n, bytes per block]. `spread` gives each block a scale of its own, as in real files.


def spread(rng: np.random.Generator, n: int, mean: float, signed: bool = False) -> np.ndarray:
    values = mean * (0.75 + 0.5 * rng.random(n, dtype=np.float32))
    if signed:
        values *= rng.integers(0, 2, n, dtype=np.int8) * 2 - 1
    return values


def halves(*columns: np.ndarray) -> np.ndarray:
    """float arrays of length n → uint8 [n, 2 * columns], as IEEE halves."""
    return np.stack(columns, axis=1).astype("<f2").view(np.uint8)


def codes(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    return np.frombuffer(rng.bytes(n * size), np.uint8).reshape(n, size)


def uniform_std(levels: int) -> float:
    return float(np.sqrt((levels**2 - 1) / 12))


def block_float(dtype: str) -> Callable[[np.random.Generator, int, float], np.ndarray]:
    def draw(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
        values = (rng.random(n, dtype=np.float32) - np.float32(0.5)) * np.float32(std * np.sqrt(12))
        if dtype == "bf16":
            return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8).reshape(n, 2)
        return values.astype(dtype).view(np.uint8).reshape(n, -1)

    return draw


def block_signed(code_bytes: int, code_std: float) -> Callable[[np.random.Generator, int, float], np.ndarray]:
    """Q4_0, Q5_0, Q8_0, IQ4_NL: one half d, then codes around zero; the sign of d is free."""

    def draw(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
        d = spread(rng, n, std / code_std, signed=True)
        return np.concatenate([halves(d), codes(rng, n, code_bytes)], axis=1)

    return draw


def block_offset(code_bytes: int, levels: int) -> Callable[[np.random.Generator, int, float], np.ndarray]:
    """Q4_1, Q5_1: d and m; m puts the mean of the unsigned codes at zero."""

    def draw(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
        d = spread(rng, n, std / uniform_std(levels))
        return np.concatenate([halves(d, -d * (levels - 1) / 2), codes(rng, n, code_bytes)], axis=1)

    return draw


def pack_6_bit(sc: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Eight 6-bit scales and mins a block in the 12 bytes of Q4_K and Q5_K."""
    low = [sc[:, :4] | ((sc[:, 4:] >> 4) << 6), m[:, :4] | ((m[:, 4:] >> 4) << 6)]
    return np.concatenate([*low, (sc[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)], axis=1)


def block_k_mins(code_bytes: int, levels: int) -> Callable[[np.random.Generator, int, float], np.ndarray]:
    """Q4_K, Q5_K: min code = scale code and dmin = d * (levels - 1) / 2 put every group's mean at zero."""

    def draw(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
        sc = rng.integers(32, 64, (n, 8), dtype=np.uint8)
        d = spread(rng, n, std / (47.5 * uniform_std(levels)))
        head = halves(d, d * (levels - 1) / 2)
        return np.concatenate([head, pack_6_bit(sc, sc), codes(rng, n, code_bytes)], axis=1)

    return draw


def block_q2_k(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
    sc = rng.integers(6, 16, (n, 16), dtype=np.uint8)
    d = spread(rng, n, std / (10.5 * uniform_std(4)))
    return np.concatenate([sc | (sc << 4), codes(rng, n, 64), halves(d, d * 1.5)], axis=1)


def block_q3_k(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
    d = spread(rng, n, std / (uniform_std(64) * uniform_std(8)), signed=True)
    return np.concatenate([codes(rng, n, 32 + 64 + 12), halves(d)], axis=1)


def block_q6_k(rng: np.random.Generator, n: int, std: float) -> np.ndarray:
    sc = rng.integers(64, 128, (n, 16), dtype=np.uint8)
    d = spread(rng, n, std / (95.5 * uniform_std(64)), signed=True)
    return np.concatenate([codes(rng, n, 128 + 64), sc, halves(d)], axis=1)


@dataclasses.dataclass(frozen=True)
class WeightType:
    """A GGUF type: its number, the file type that names it, weights and bytes a block, how to draw blocks."""

    number: int
    file_type: int
    weights: int
    size: int
    draw: Callable[[np.random.Generator, int, float], np.ndarray]


IQ4_NL_STD = float(np.std([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]))
TYPES = {
    "f32": WeightType(0, 0, 1, 4, block_float("<f4")),
    "f16": WeightType(1, 1, 1, 2, block_float("<f2")),
    "bf16": WeightType(30, 32, 1, 2, block_float("bf16")),
    "q4_0": WeightType(2, 2, 32, 18, block_signed(16, uniform_std(16))),
    "q4_1": WeightType(3, 3, 32, 20, block_offset(16, 16)),
    "q5_0": WeightType(6, 8, 32, 22, block_signed(20, uniform_std(32))),
    "q5_1": WeightType(7, 9, 32, 24, block_offset(20, 32)),
    "q8_0": WeightType(8, 7, 32, 34, block_signed(32, uniform_std(256))),
    "q2_k": WeightType(10, 10, 256, 84, block_q2_k),
    "q3_k": WeightType(11, 12, 256, 110, block_q3_k),
    "q4_k": WeightType(12, 15, 256, 144, block_k_mins(128, 16)),
    "q5_k": WeightType(13, 17, 256, 176, block_k_mins(32 + 128, 32)),
    "q6_k": WeightType(14, 18, 256, 210, block_q6_k),
    "iq4_nl": WeightType(20, 25, 32, 18, block_signed(16, IQ4_NL_STD)),
}


def vocabulary(size: int) -> tuple[list[str], list[float], list[int]]:
    """A SentencePiece vocabulary that spells every text: bytes, ASCII, then letter sequences up to the size.

    Returns
    -------
    tokens, scores, types : lists of length `size`
        Types are GGUF's: 2 unknown, 3 control, 6 byte, 1 normal.
    """
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    if size <= len(special) + 100:
        raise ValueError(f"a vocabulary needs more than {len(special) + 100} tokens, not {size}")
    letters = string.ascii_lowercase
    single = ["\u2581", *letters, *(c for c in map(chr, range(33, 127)) if c not in letters)]
    words = ("".join(p) for n in itertools.count(1) for p in itertools.product(letters, repeat=n))
    pieces = (piece for word in words for piece in ("\u2581" + word, word) if len(piece) > 1)
    tokens = special + list(itertools.islice(itertools.chain(single, pieces), size - len(special)))
    types = [2, 3, 3] + [6] * 256 + [1] * (size - len(special))
    scores = [0.0] * len(special) + [-float(i) for i in range(size - len(special))]
    return tokens, scores, types


def packed_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def packed_value(value: object) -> bytes:
    """One metadata value with its GGUF type: bool, int (u32), float (f32), str, and lists of int (i32), float, str."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + packed_string(value)
    if isinstance(value, list) and value:
        if isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(packed_string, value))
        code, dtype = (6, "<f4") if isinstance(value[0], float) else (5, "<i4")
        return struct.pack("<IIQ", 9, code, len(value)) + np.asarray(value, dtype).tobytes()
    raise TypeError(f"no GGUF type for {value!r}")


def metadata(shape: Shape, weight_type: str) -> dict[str, object]:
    tokens, scores, types = vocabulary(shape.vocab)
    arch = shape.arch
    return {
        "general.architecture": arch,
        "general.name": "synthetic",
        "general.file_type": TYPES[weight_type].file_type,
        "general.quantization_version": 2,
        "general.alignment": ALIGNMENT,
        f"{arch}.context_length": shape.context_length,
        f"{arch}.embedding_length": shape.width,
        f"{arch}.block_count": shape.n_layers,
        f"{arch}.feed_forward_length": shape.feed_forward,
        f"{arch}.attention.head_count": shape.heads,
        f"{arch}.attention.head_count_kv": shape.kv_heads,
        f"{arch}.attention.key_length": shape.head_dim,
        f"{arch}.attention.value_length": shape.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.dimension_count": shape.head_dim,
        f"{arch}.rope.freq_base": shape.rope_theta,
        f"{arch}.vocab_size": shape.vocab,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def tensor_bytes(dims: tuple[int, ...], weight_type: str) -> int:
    kind = TYPES[weight_type if len(dims) > 1 else "f32"]
    return int(np.prod(dims)) // kind.weights * kind.size


def tensor_chunks(rng: np.random.Generator, name: str, dims: tuple[int, ...], weight_type: str) -> Iterator[bytes]:
    """The bytes of one tensor in pieces of at most about CHUNK_BYTES."""
    if len(dims) == 1:
        centre = 0.0 if name.endswith("bias") else 1.0
        yield (centre + 0.1 * (rng.random(dims[0]) - 0.5)).astype("<f4").tobytes()
        return
    kind = TYPES[weight_type]
    # Rows of the embedding are used as they are; every other matrix keeps the norm of its input. The head's gain makes
    # the distribution over the vocabulary neither flat nor a single spike.
    std = 1.0 if name.startswith("token_embd") else dims[1] ** -0.5 * (2.0 if name.startswith("output") else 1.0)
    blocks = dims[0] * dims[1] // kind.weights
    step = max(1, CHUNK_BYTES // max(kind.size, 4))
    for start in range(0, blocks, step):
        yield kind.draw(rng, min(step, blocks - start), std).tobytes()


def write_model(
    path: str | os.PathLike[str],
    shape: Shape,
    weight_type: str,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a GGUF v3 file; it appears under its name when it is whole.

    Parameters
    ----------
    path : path
        Where to.
    shape : Shape
        Dimensions of the model.
    weight_type : str
        One of :data:`TYPES`, for all matrices.
    seed : int
        The same seed gives the same file.
    progress : callable, optional
        Called with (bytes written, bytes in all).
    """
    kind = TYPES[weight_type]
    tensors = list(shape.tensors())
    for name, dims in tensors:
        if len(dims) > 1 and dims[1] % kind.weights:
            raise ValueError(f"{name}: rows of {dims[1]} weights do not divide into {weight_type} blocks of {kind.weights}")
    values = metadata(shape, weight_type)
    header = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))]
    header += [packed_string(key) + packed_value(value) for key, value in values.items()]
    offset = 0
    for name, dims in tensors:
        number = kind.number if len(dims) > 1 else 0
        sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *reversed(dims))
        header.append(packed_string(name) + sizes + struct.pack("<IQ", number, offset))
        offset += -(-tensor_bytes(dims, weight_type) // ALIGNMENT) * ALIGNMENT

    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(b"".join(header))
            file.write(bytes(-file.tell() % ALIGNMENT))
            write_tensors(file, tensors, weight_type, seed, lambda done: progress and progress(done, offset))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(
    file: BinaryIO,
    tensors: list[tuple[str, tuple[int, ...]]],
    weight_type: str,
    seed: int,
    told: Callable[[int], object],
) -> None:
    """Draw and write the data of all tensors, each padded to the alignment."""
    rng = np.random.Generator(np.random.SFC64(seed))
    done = 0
    for name, dims in tensors:
        for chunk in tensor_chunks(rng, name, dims, weight_type):
            file.write(chunk)
            done += len(chunk)
            told(done)
        pad = -tensor_bytes(dims, weight_type) % ALIGNMENT
        file.write(bytes(pad))
        done += pad


def cached_model(folder: str | os.PathLike[str], shape_name: str, weight_type: str) -> Path:
    """The path of a model of a named shape in a folder; it is written there if it is not there yet."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"synthetic-{shape_name}-{weight_type}.gguf"
    if not path.exists():
        print(f"writing {path}", file=sys.stderr)
        write_model(path, SHAPES[shape_name], weight_type)
    return path


def main(argv: list[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description="Write a model with random weights.")
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--type", choices=TYPES, default="q4_0", type=str.lower)
    parser.add_argument("--arch", choices=["llama", "qwen2", "qwen3"], default="llama")
    parser.add_argument("--layers", type=int, help="another number of layers than the shape's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    shape = dataclasses.replace(SHAPES[args.shape], arch=args.arch)
    if args.layers is not None:
        shape = dataclasses.replace(shape, n_layers=args.layers)

    def show(done: int, total: int) -> None:
        print(f"\r{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end="", file=sys.stderr)

    write_model(args.out, shape, args.type, seed=args.seed, progress=show if sys.stderr.isatty() else None)


if __name__ == "__main__":
    main()
