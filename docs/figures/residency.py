"""Draws made/residency.png: how much of each layer is in memory for good, at every token, as the budget moves."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import hyperion

HERE = Path(__file__).resolve().parent
MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"
TOKENS = 16
"""Drawn under each budget."""


def shares(model: hyperion.Model) -> list[float]:
    """The pinned share of every layer."""
    states = [model.loader.status(i) for i in range(model.layer_count)]
    return [s.pinned_bytes / max(1, s.pinned_bytes + s.streamed_bytes) for s in states]


def record() -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Shares [layers, tokens], and what happened before which token."""
    columns: list[list[float]] = []
    events: list[tuple[int, str]] = []
    with hyperion.load_model(MODEL, memory_budget="64MB", threads=1, context_length=256) as model:
        smallest = model.smallest_budget
        steps = [("64 MB", 64_000_000), *((f"{n / 1e6:.1f} MB", n) for n in (smallest + 4_000_000, smallest + 2_500_000, smallest))]
        for name, budget in steps:
            model.replan(budget)
            events.append((len(columns), name))
            for _ in model.stream("ROMEO:", max_length=TOKENS, temperature=0, ignore_end=True):
                columns.append(shares(model))
        model.replan(smallest + 2_500_000)
        model.loader.load_layer(3)
        events.append((len(columns), f"{(smallest + 2_500_000) / 1e6:.1f} MB,\nload_layer(3)"))
        for _ in model.stream("ROMEO:", max_length=TOKENS, temperature=0, ignore_end=True):
            columns.append(shares(model))
    return np.array(columns).T, events


def draw(data: np.ndarray, events: list[tuple[int, str]], path: Path) -> None:
    """One row a layer, one column a token."""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    image = axes.imshow(data, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    layers = len(data)
    axes.set_yticks(range(layers), ["embedding", *(f"block {i}" for i in range(layers - 2)), "output"])
    axes.set_xlabel("token")
    for start, name in events:
        axes.axvline(start - 0.5, color="black", linewidth=0.8)
        axes.text(start, -0.7, name, fontsize=8, va="bottom")
    figure.colorbar(image, ax=axes, label="share that is pinned", pad=0.01)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    made = HERE.parent / "made"
    made.mkdir(exist_ok=True)
    draw(*record(), made / "residency.png")
