"""Draws made/memory_timeline.png: a model's memory by owner, from opening to closing, under its budget."""

from pathlib import Path

import matplotlib.figure  # noqa: F401  (its import is no part of the picture)

import hyperion

HERE = Path(__file__).resolve().parent
MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"


def main() -> None:
    """Record and draw."""
    made = HERE.parent / "made"
    made.mkdir(exist_ok=True)
    hyperion.load_model(MODEL).close()  # imports are no part of the picture
    hyperion.enable_memory_tracking(True)
    try:
        with hyperion.load_model(MODEL, memory_budget="44MB", threads=1) as model:
            sessions = []
            for i in range(5):  # the plan holds one cache; every further session reserves its own
                sessions.append(model.session())
                for token in range(60):
                    sessions[i].eval([100 + token])
            for session in sessions[:3]:
                session.close()
                sessions[-1].eval(list(range(60)))
            hyperion.generate_memory_report(made / "memory_timeline.png")
    finally:
        hyperion.enable_memory_tracking(False)


if __name__ == "__main__":
    main()
