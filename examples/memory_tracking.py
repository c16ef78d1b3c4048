"""Where memory goes: by owner, over time, as a report."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"

hyperion.enable_memory_tracking(True)

with hyperion.load_model(MODEL, memory_budget="64MB") as model:
    model.generate("ROMEO:", max_length=20)
    stats = hyperion.get_memory_stats()
    print(f"Current usage: {stats.current_usage} bytes")
    print(f"Peak usage: {stats.peak_usage} bytes")
    hyperion.generate_memory_report("memory_report.txt")
    hyperion.generate_memory_report("memory_report.json")  # memory_report.png needs the extra `plot`

print(Path("memory_report.txt").read_text(encoding="utf-8"))
hyperion.enable_memory_tracking(False)
