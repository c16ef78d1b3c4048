"""One model in every type, mixed and pruned: size, perplexity and speed, and what each type does to the weights.

The same text is scored in the same segments by Hyperion and, where llama-cpp-python is there and GGUF can say the variant, by
llama.cpp on the GGUF file that Hyperion writes. With matplotlib two pictures are drawn into the folder of `--out`: size against
perplexity against speed, and the errors of quantization layer by layer.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report, variants_plot
from benchmarks.peers.worker import Worker, WorkerError

SHARED = Path(__file__).resolve().parents[2] / "shared"
WINDOW = 512
DECODED = 48
ERROR_TYPES = ("q8_0", "q5_0", "q4_0", "q4_k", "q3_k")


@dataclass(frozen=True)
class Variant:
    """A row of the table: what becomes of the model."""

    name: str
    type: str | None = None
    method: str | None = None
    mixed: str | None = None
    sparsity: float = 0.0
    block: int = 32

    @property
    def for_llama(self) -> bool:
        """Whether llama.cpp is asked too: pruned weights are plain GGUF with zeros, which shows nothing new."""
        return self.sparsity == 0


TYPES = ("f16", "q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "iq4_nl", "q3_k", "q2_k")
VARIANTS = (
    *(Variant(name, name) for name in TYPES),
    Variant("q4_0, least squares", "q4_0", "mse"),
    Variant("q4_1, least squares", "q4_1", "mse"),
    Variant("q4_1, HQQ", "q4_1", "hqq"),
    Variant("mixed: default", mixed="embedding=int8,attention=int4,ffn=int4,output=fp16"),
    Variant("mixed: default, least squares", method="mse", mixed="embedding=int8,attention=int4,ffn=int4,output=fp16"),
    Variant("mixed: attention int8", mixed="embedding=int8,attention=int8,ffn=int4,output=int8"),
    *(Variant(f"{t}, {s:.0%} of blocks 32×32 pruned", t, sparsity=s) for t in ("q8_0", "q4_0") for s in (0.1, 0.3, 0.5, 0.7)),
    Variant("q8_0, 30% of blocks 4×4 pruned", "q8_0", sparsity=0.3, block=4),
    Variant("q8_0, 30% of weights pruned", "q8_0", sparsity=0.3, block=1),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "shakespeare" / "hf", help="what is converted")
    parser.add_argument("--text", type=Path, default=SHARED / "data" / "shakespeare_valid.txt", help="what is scored")
    parser.add_argument("--segments", type=int, help="score so many segments of 512 tokens at most")
    parser.add_argument("--only", help="variants whose names contain this")
    parser.add_argument("--rounds", type=int, default=5, help="samples of speed")
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python")
    parser.add_argument("--out", type=Path, help="folder for variants.md, variants.json and the pictures")


def write(variant: Variant, model: Path, path: Path) -> str:
    """Make the variant's file; returns how its matrices are stored."""
    from hyperion.models.convert import convert, prune
    from hyperion.models.mixed import parse_mixed_precision
    from hyperion.models.prune import PruneConfig

    if variant.sparsity:
        config = PruneConfig(sparsity=variant.sparsity, block_size=variant.block)
        _, tensors = prune(model, path, config, variant.type, method=variant.method)
        sparse = sum(t.storage == "sparse" for t in tensors)
        return f"{sparse} of {len(tensors)} sparse" if sparse else "dense"
    mixed = None if variant.mixed is None else parse_mixed_precision(variant.mixed)
    convert(model, path, variant.type, method=variant.method, mixed=mixed)
    return "dense"


def segments(model: Any, text: str, most: int | None) -> list[list[int]]:
    """The pieces that :func:`hyperion.generation.perplexity.perplexity` scores."""
    ids = model.tokenizer.encode(text, add_special=False)
    begin = [model.tokenizer.bos_id] if model.tokenizer.add_bos and model.tokenizer.bos_id is not None else []
    step = WINDOW - len(begin)
    parts = [begin + ids[i : i + step] for i in range(0, len(ids), step)]
    return [p for p in parts if len(p) >= 2][:most]


def measure(path: Path, text: str, most: int | None, rounds: int) -> dict[str, Any]:
    """Perplexity, bytes that a token reads, and samples of tokens a second."""
    from hyperion import load_model

    with load_model(path, context_length=WINDOW) as model:
        speeds = []
        for _ in range(rounds):
            with model.session() as session:
                session.eval([1])
                start = time.perf_counter()
                for token in range(5, 5 + DECODED):
                    session.eval([token])
                speeds.append(DECODED / (time.perf_counter() - start))
        return {
            "weight_bytes": model.plan.weight_bytes,
            "perplexity": model.perplexity(text, window=WINDOW, segments=most),
            "tokens_per_second": speeds,
            "parts": segments(model, text, most),
        }


@contextlib.contextmanager
def llama_worker(python: str) -> Iterator[Worker | None]:
    """llama.cpp in a process of its own, or None where there is none."""
    worker = Worker("benchmarks.peers.llama", python=python)
    try:
        worker.ask("version")
        yield worker
    except WorkerError as error:
        if "version" not in str(error) and "llama_cpp" not in str(error):
            raise
        sys.stderr.write("no llama-cpp-python: its column stays empty\n")
        yield None
    finally:
        worker.close()


def llama_perplexity(worker: Worker, path: Path, parts: list[list[int]]) -> float:
    """The same segments under llama.cpp."""
    worker.ask("load", path=str(path), threads=1, context_length=WINDOW, repack=False)
    loss = sum(worker.ask("loss", ids=ids) for ids in parts)
    return float(np.exp(loss / sum(len(ids) - 1 for ids in parts)))


def errors(model: Path, folder: Path) -> dict[str, list[list[float]]]:
    """For each type and block of the model: quantiles of |error| over the RMS of the matrix that it is in."""
    import hyperion

    def matrices(path: Path) -> Iterator[tuple[int, str, np.ndarray]]:
        with hyperion.open_mapped_model(path) as mapped:
            for layer in range(1, mapped.layer_count - 1):
                arrays = mapped.get_layer_weights(layer, dequantize=True)
                for name in sorted(arrays):
                    if arrays[name].ndim == 2:
                        yield layer - 1, name, arrays[name]

    exact, result = folder / "exact.gguf", {}
    hyperion.convert(model, exact)
    for kind in ERROR_TYPES:
        path, found = folder / f"{kind}.gguf", {}
        hyperion.convert(model, path, kind)
        for (layer, name, old), (_, same, new) in zip(matrices(exact), matrices(path), strict=True):
            assert name == same
            counts, _ = np.histogram((new - old) / old.std(), bins=variants_plot.BINS)
            found[layer] = found.get(layer, 0) + counts
        result[kind] = [(counts / counts.sum()).tolist() for _, counts in sorted(found.items())]
    return result


def run(args: argparse.Namespace) -> int:
    """Convert, score, time, print, draw."""
    text = args.text.read_text(encoding="utf-8")
    chosen = [v for v in VARIANTS if args.only is None or args.only in v.name]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, llama_worker(args.llama_python) as llama:
        folder = Path(name)
        for variant in chosen:
            sys.stderr.write(f"{variant.name}\n")
            path = folder / "variant.hyperion"
            storage = write(variant, args.model, path)
            found = measure(path, text, args.segments, args.rounds)
            parts = found.pop("parts")
            row = {"name": variant.name, "storage": storage, "file_bytes": path.stat().st_size, **found}
            if llama is not None and variant.for_llama:
                gguf = folder / "variant.gguf"
                write(variant, args.model, gguf)
                row["llama_perplexity"] = llama_perplexity(llama, gguf, parts)
            rows.append(row)
        data = {"machine": machine.describe(), "rows": rows, "tokens": sum(map(len, parts)) if chosen else 0}
        if args.out is not None:
            data["errors"] = errors(args.model, folder)
    report.write("variants", markdown(data), data, args.out)
    if args.out is not None:
        variants_plot.draw(data, args.out)
    return 0


def markdown(data: dict[str, Any]) -> str:
    """The table of a run's data."""
    base = data["rows"][0]["perplexity"]
    lines = []
    for row in data["rows"]:
        theirs = row.get("llama_perplexity")
        lines.append([
            row["name"], f"{row['file_bytes'] / 1e6:.2f}", f"{row['weight_bytes'] / 1e6:.2f}", row["storage"],
            f"{row['perplexity']:.3f}", f"{row['perplexity'] / base - 1:+.2%}",
            "–" if theirs is None else f"{theirs:.3f} ({row['perplexity'] / theirs - 1:+.2%})",
            report.with_spread(row["tokens_per_second"]),
        ])  # fmt: skip
    header = ["", "file, MB", "read for a token, MB", "matrices", "perplexity", "against the first", "llama.cpp (ours over it)", "tokens/s"]
    parts = ["## Variants of one model", machine.sentence(data["machine"]) + f"; {data['tokens']} tokens scored",
             report.markdown_table(header, lines)]  # fmt: skip
    by_name = {row["name"]: row["perplexity"] for row in data["rows"]}
    searched = {k: v for k, v in by_name.items() if k in ("q4_0, least squares", "q4_1, least squares", "q4_1, HQQ")}
    plain = {k: by_name[k] for k in ("q4_0", "q4_1") if k in by_name}
    if searched and plain:
        said = [f"{k}: {v:.3f} ({v / plain[k[:4]] - 1:+.2%} against {k[:4]} by absmax)" for k, v in searched.items() if k[:4] in plain]
        parts.append("Searched 4-bit scales: " + "; ".join(said) + ".")
    return "\n\n".join(parts)
