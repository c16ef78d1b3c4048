"""Mixed precision: what the groups become, in files and in an open model, within its budget."""

import os
import re

import numpy as np
import pytest
from click.testing import CliRunner

import hyperion
from hyperion import MixedPrecisionConfig, Precision
from hyperion.cli.app import app
from hyperion.formats import open_container
from hyperion.models.mixed import parse_mixed_precision

IDS = [1, *((11 * i) % 2000 + 3 for i in range(40))]
NAMES = {"embedding": "token_embd", "attention": "attn_", "ffn": "ffn_", "output": "output."}


@pytest.fixture(scope="module")
def models(shared):
    return shared / "models" / "shakespeare"


def types(path):
    """Name -> type of the matrices in a file."""
    with open_container(path) as container:
        return {name: info.type_name for name, info in container.tensors.items() if len(info.shape) == 2}


def test_the_configuration_checks_its_fields():
    config = hyperion.init_mixed_precision_config()
    assert config == MixedPrecisionConfig(
        embedding_precision=Precision.INT8, attention_precision="int4", ffn_precision=Precision.INT4, output_precision="FP16"
    )
    config.ffn_precision = "fp32"
    assert config.ffn_precision is Precision.FP32
    for wrong in (4, "int5", None, 1.0):
        with pytest.raises(hyperion.InvalidArgumentError, match="ffn_precision"):
            config.ffn_precision = wrong
    with pytest.raises(hyperion.InvalidArgumentError, match="no field 'ffn'"):
        config.ffn = Precision.INT8
    assert config.copy() == config and config.copy() is not config
    assert parse_mixed_precision("ffn=fp16, embedding = int4") == MixedPrecisionConfig(ffn_precision="fp16", embedding_precision="int4")
    for wrong in ("", "ffn", "ffn=int9", "heads=int8", "ffn=int8,ffn=int8"):
        with pytest.raises(hyperion.InvalidArgumentError):
            parse_mixed_precision(wrong)


def test_a_file_has_a_type_for_each_group(models, tmp_path):
    config = MixedPrecisionConfig(ffn_precision="fp16", output_precision="int8")
    done = hyperion.convert(models / "hf", tmp_path / "m.gguf", mixed=config)
    got = types(tmp_path / "m.gguf")
    wanted = {"embedding": "Q8_0", "attention": "Q4_0", "ffn": "F16", "output": "Q8_0"}
    for group, type in wanted.items():
        assert {t for name, t in got.items() if re.sub(r"^blk\.\d+\.", "", name).startswith(NAMES[group])} == {type}, group
    with open_container(tmp_path / "m.gguf") as container:
        assert done.nbytes == sum(t.nbytes for t in container.tensors.values())


def test_a_tied_head_keeps_the_finer_precision(models, tmp_path):
    assert MixedPrecisionConfig(output_precision="fp16").types(tied=True)["embedding"] == "f16"
    assert MixedPrecisionConfig(embedding_precision="fp32").types(tied=True)["output"] == "f32"


@pytest.mark.parametrize(("method", "type"), [("mse", "Q4_0"), ("hqq", "Q4_1"), ("absmax", "Q4_0")])
def test_the_method_is_that_of_the_four_bit_matrices(models, tmp_path, method, type):
    hyperion.convert(models / "hf", tmp_path / "m.gguf", mixed=MixedPrecisionConfig(), method=method)
    hyperion.convert(models / "hf", tmp_path / "plain.gguf", type.lower(), method=method)
    with open_container(tmp_path / "m.gguf") as mixed, open_container(tmp_path / "plain.gguf") as plain:
        info = mixed.tensors["blk.0.ffn_up.weight"]
        assert info.type_name == type
        np.testing.assert_array_equal(mixed.read(info), plain.read(plain.tensors["blk.0.ffn_up.weight"]))
        assert mixed.tensors["token_embd.weight"].type_name in ("Q8_0", "F16")


def test_contradictions_are_refused(models, tmp_path):
    with pytest.raises(hyperion.InvalidArgumentError, match="not both"):
        hyperion.convert(models / "hf", tmp_path / "m.gguf", "q4_0", mixed=MixedPrecisionConfig())
    with pytest.raises(hyperion.InvalidArgumentError, match="MixedPrecisionConfig"):
        hyperion.convert(models / "hf", tmp_path / "m.gguf", mixed="ffn=int8")
    assert os.listdir(tmp_path) == []


def test_the_command(models, tmp_path):
    path = str(tmp_path / "m.hyperion")
    result = CliRunner().invoke(app, ["convert", str(models / "hf"), path, "--mixed", "attention=int8,ffn=int4,output=fp16"])
    assert result.exit_code == 0, result.output
    assert types(path)["blk.0.attn_q.weight"] == "Q8_0" and types(path)["blk.0.ffn_up.weight"] == "Q4_0"


# ---- an open model -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "spool"
    path.mkdir()
    return path


@pytest.mark.parametrize("source", ["hf", "shakespeare-q8_0.gguf"])
@pytest.mark.parametrize("budget", ["64MB", "26MB"])
def test_an_open_model_runs_what_a_converted_file_runs(models, tmp_path, folder, source, budget):
    config = MixedPrecisionConfig(attention_precision="int8", output_precision="int8")
    hyperion.convert(models / source, tmp_path / "m.hyperion", mixed=config)
    with hyperion.load_model(tmp_path / "m.hyperion", context_length=128) as expected:
        logits = expected.logits(IDS)
    with hyperion.load_model(models / source, memory_budget=budget, context_length=128) as model:
        before, weights = model.logits(IDS), model.plan.weight_bytes
        done = model.apply_mixed_precision(config, folder=folder)
        np.testing.assert_array_equal(model.logits(IDS), logits)
        assert not np.array_equal(before, logits)
        assert model.plan.weight_bytes < weights
        assert {t.lower(): n for t, n in model.describe()["tensor_bytes"].items()} == done.types
        assert model.memory_stats.peak_usage <= model.plan.budget
        assert os.listdir(folder) == [] or not hasattr(os, "O_TMPFILE")
        saved = model.save(tmp_path / "saved.hyperion")
        model.replan("25MB")
        np.testing.assert_array_equal(model.logits(IDS), logits)
    assert os.listdir(folder) == []
    assert saved.types == done.types
    assert (tmp_path / "saved.hyperion").read_bytes() == (tmp_path / "m.hyperion").read_bytes()


def test_sessions_are_emptied_and_go_on(models, folder):
    with hyperion.load_model(models / "shakespeare-q8_0.gguf", context_length=64) as model, model.session() as session:
        session.eval(IDS[:20])
        hyperion.apply_mixed_precision(model, MixedPrecisionConfig())
        assert len(session) == 0
        np.testing.assert_array_equal(session.eval(IDS[:20]), model.logits(IDS[:20])[-1])
        usage = model.memory_stats.current_usage
        model.apply_mixed_precision(MixedPrecisionConfig(ffn_precision="int8"), folder=folder)
        assert model.memory_stats.current_usage > usage
        assert len(session) == 0 and np.isfinite(session.eval(IDS[:5])).all()


def test_after_an_error_the_model_is_as_before(models, folder, monkeypatch):
    path = models / "shakespeare-q4_0.gguf"
    with hyperion.load_model(path, memory_budget="26MB", context_length=32) as model:
        expected, plan = model.logits(IDS[:20]), model.plan

        def stop(done, total):
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            model.apply_mixed_precision(MixedPrecisionConfig(), folder=folder, progress=stop)
        with pytest.raises(hyperion.InvalidArgumentError):
            model.apply_mixed_precision(MixedPrecisionConfig(), method="none", folder=folder)
        with pytest.raises(hyperion.HyperionIOError):
            model.apply_mixed_precision(MixedPrecisionConfig(), folder=folder / "missing")
        assert model.plan == plan and os.listdir(folder) == []
        np.testing.assert_array_equal(model.logits(IDS[:20]), expected)
        assert model.memory_stats.current_usage <= model.plan.budget


def test_a_budget_that_cannot_hold_the_new_types(models, folder):
    with hyperion.load_model(models / "shakespeare-q4_0.gguf", context_length=32) as model:
        smallest = model.smallest_budget
    big = MixedPrecisionConfig(**{g + "_precision": "fp32" for g in NAMES})
    with hyperion.load_model(models / "shakespeare-q4_0.gguf", memory_budget=smallest + 2_000, context_length=32) as model:
        expected = model.logits(IDS[:20])
        with pytest.raises(hyperion.MemoryBudgetError):
            model.apply_mixed_precision(big, folder=folder)
        np.testing.assert_array_equal(model.logits(IDS[:20]), expected)
