"""The benchmark of variants: its rows, its table and its pictures, on a few of them."""

import json

import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks import pruned, variants


@pytest.fixture(scope="module")
def models(shared):
    return shared / "models" / "shakespeare"


def test_a_run_of_two_variants(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(variants, "ERROR_TYPES", ("q8_0", "q4_0"))
    text = tmp_path / "text.txt"
    text.write_text("ROMEO:\nBut soft, what light through yonder window breaks?\n" * 4)
    args = ["variants", "--model", str(models / "hf"), "--text", str(text), "--only", "q4_0", "--rounds", "1", "--out", str(tmp_path)]
    assert benchmarks_main.main([*args, "--segments", "1"]) == 0
    data = json.loads((tmp_path / "variants.json").read_text())
    rows = {row["name"]: row for row in data["rows"]}
    assert rows["q4_0"]["perplexity"] != rows["q4_0, least squares"]["perplexity"]
    assert rows["q4_0, 70% of blocks 32×32 pruned"]["weight_bytes"] < rows["q4_0"]["weight_bytes"]
    for layers in data["errors"].values():
        assert len(layers) == 6 and all(abs(sum(shares) - 1) < 1e-6 for shares in layers)
    assert "| q4_0 |" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "variants.png").stat().st_size > 1000 and (tmp_path / "variants-errors.png").stat().st_size > 1000


def test_a_run_of_pruned(tmp_path):
    args = ["pruned", "--models", str(tmp_path), "--shape", "tiny", "--rounds", "1", "--tokens", "2", "--out", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruned, "SHARE", 60)  # the fixed parts of so small a model alone are many times its file
        assert benchmarks_main.main(args) == 0
    data = json.loads((tmp_path / "pruned.json").read_text())
    for result in data["results"].values():
        assert result["weight_bytes"]["pruned"] < result["weight_bytes"]["dense"]
        assert all(speed > 0 for speeds in result["tokens_per_second"].values() for speed in speeds)
