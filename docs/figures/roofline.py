"""Draws made/roofline.png: the kernels of the machine that builds the documents, under its limits."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BRIEF = ["--types", "q4_0", "q8_0", "q4_k", "q6_k", "f16", "--threads", "1", "--rounds", "3", "--megabytes", "128"]

if __name__ == "__main__":
    made = HERE.parent / "made"
    made.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks", "kernels", *BRIEF, "--parts", "decode", "prefill", "--out", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # a peer that is absent is not missed
        if done.returncode:
            raise SystemExit(done.stderr)
        shutil.copyfile(Path(folder, "roofline.png"), made / "roofline.png")
