"""The machinery of the benchmarks: workers that answer, fail and die; the arithmetic of the report."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks import compare, kernels, machine, report
from benchmarks.peers.worker import Worker, WorkerError, token_ids
from hyperion._kernels.threads import Team, probe_regions

WORKER = """
import os, sys
from benchmarks.peers.worker import serve

def die(number):
    os.kill(os.getpid(), number)

serve({"double": lambda value: 2 * value, "divide": lambda by: 1 / by, "print": lambda: print("noise"), "die": die})
"""


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "a_worker.py").write_text(WORKER)
    root = str(Path(compare.__file__).resolve().parents[1])
    worker = Worker("a_worker", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"})
    yield worker
    worker.close()


def test_worker_answers_and_survives_errors_and_prints(worker):
    assert worker.ask("double", value=21) == 42
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        worker.ask("divide", by=0)
    with pytest.raises(WorkerError, match="no_such"):
        worker.ask("no_such")
    assert worker.ask("print") is None
    assert worker.ask("divide", by=4) == 0.25


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_death_of_a_worker_is_an_error_that_names_the_signal(worker):
    with pytest.raises(WorkerError, match="SIGABRT"):
        worker.ask("die", number=int(signal.SIGABRT))
    with pytest.raises(WorkerError):
        worker.ask("double", value=1)


def test_every_peer_gets_the_same_ordinary_tokens():
    ids = token_ids(500, 1024)
    assert ids == token_ids(600, 1024)[:500]
    assert min(ids) >= 300
    assert max(ids) < 1024


def test_statistics():
    assert report.spread([90.0, 95.0, 100.0, 105.0, 110.0]) == pytest.approx(0.05)
    assert report.spread([3.0]) == 0
    assert report.paired_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]) == 2.0
    assert report.number(1234.5) == "1,234"
    assert report.number(0.01234) == "0.0123"
    assert report.with_spread([200.0, 200.0]) == "200 ± 0%"
    assert report.with_spread([3.0]) == "3"


def test_verdict_takes_the_better_peer():
    speeds = {"hyperion": [30.0, 30.0], "llama.cpp": [10.0, 10.0], "llama.cpp repacked": [20.0, 20.0]}
    assert compare.verdict(speeds) == "1.50 ×"
    assert compare.verdict({"hyperion": [1.0]}) == "–"
    assert compare.verdict({"llama.cpp": [1.0]}) == "–"


def test_markdown_table_has_one_line_a_row():
    lines = report.markdown_table(["a", "b"], [["x", 1], ["y", 2]]).splitlines()
    assert lines == ["| a | b |", "| :-- | --: |", "| x | 1 |", "| y | 2 |"]


def test_the_machine_is_described_in_one_line():
    line = machine.sentence(machine.describe())
    assert "\n" not in line
    assert "Python" in line


def test_the_commands_measure_and_write_tables(tmp_path, capsys):
    small = ["--shape", "tiny", "--types", "q8_0", "--threads", "1", "--prefill", "8", "--decode", "2", "--context", "4"]
    folders = ["--models", str(tmp_path), "--out", str(tmp_path)]
    assert benchmarks_main.main(["compare", *small, *folders, "--rounds", "1", "--peers", "hyperion"]) == 0
    data = json.loads((tmp_path / "compare.json").read_text())
    (result,) = data["results"]
    assert result["failures"] == {}
    assert result["tokens_per_second"]["decode"]["hyperion"][0] > 0
    assert "q8_0 prefill" in capsys.readouterr().out
    assert benchmarks_main.main(["startup", "--rounds", "1", "--out", str(tmp_path)]) == 0
    assert len(json.loads((tmp_path / "startup.json").read_text())["milliseconds"]) == 2


def test_the_kernels_are_measured_beside_their_limits(tmp_path, capsys):
    shapes = ["--decode-shape", "64", "256", "--prefill-shape", "64", "256", "--megabytes", "1", "--tokens", "3"]
    work = ["--types", "q4_0", "f16", "--threads", "1", "--rounds", "2", "--parts", "decode", "prefill", *shapes]
    assert benchmarks_main.main(["kernels", *work, "--levels", "generic", "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "kernels.json").read_text())
    assert [(r["kind"], r["tokens"]) for r in data["products"]] == [("q4_0", 1), ("q4_0", 3), ("f16", 1), ("f16", 3)]
    for result in data["products"]:
        assert all(rate > 0 for rate in result["rates"]["hyperion generic"])
        assert result["operations"] == 2 * 64 * 256 * result["tokens"]
        assert result["agreement"] is None or result["agreement"] > 0.999
    assert data["products"][0]["nbytes"] == 64 * 256 // 32 * 18
    assert "| q4_0, 3 tok | 1 |" in capsys.readouterr().out
    if data["ceilings"]:
        pytest.importorskip("matplotlib")
        assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_a_better_peer_is_the_faster_one_that_ran():
    assert kernels.better({"hyperion avx2": [9.0], "ggml": [2.0], "ggml repacked": []}) == [2.0]
    assert kernels.better({"ggml": [2.0, 3.0], "ggml repacked": [1.0, 9.0]}) == [1.0, 9.0]
    assert kernels.better({"hyperion avx2": [9.0]}) is None


def test_regions_are_timed():
    assert probe_regions(Team(2), 1000) > 0


def test_sparse_products_are_compared_with_scipy(tmp_path, capsys):
    pytest.importorskip("scipy")
    options = ["--size", "64", "--formats", "bsr", "--densities", "0.3", "--columns", "4", "--threads", "1", "--rounds", "2"]
    assert benchmarks_main.main(["sparse", *options, "--out", str(tmp_path)]) == 0
    (result,) = json.loads((tmp_path / "sparse.json").read_text())["results"]
    assert all(len(result["seconds"][name]) == 2 for name in ("hyperion", "scipy", "numpy"))
    assert "| BSR × 4 | 0.3 | 1 |" in capsys.readouterr().out


def test_a_picture_of_speed_against_memory(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks import streaming_plot

    row = {"limit": 300_000_000, "seconds": 0.25, "eta": 0.8}
    beside = [{"limit": 310_000_000, "hyperion": row, "llama": {"seconds": 0.5}}, {"limit": 200_000_000, "hyperion": row, "llama": {}}]
    rows = [row, row | {"limit": 900_000_000, "seconds": 0.02, "eta": 1.0}, {"budget": 1}]
    streaming_plot.draw({"model": "a.gguf", "file_bytes": 620_000_000, "budgets": rows, "beside": beside}, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
