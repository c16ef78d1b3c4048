"""The real model: logits, texts and perplexity against recorded outputs, and the same bits however work is cut."""

import json

import numpy as np
import pytest

import hyperion
from hyperion._kernels import dispatch

QUANTIZED = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q5_k_m", "q6_k", "q3_k_m", "q2_k", "iq4_nl"]


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "models" / "shakespeare"


@pytest.fixture(scope="module")
def reference(folder):
    return json.loads((folder / "reference.json").read_text()), np.load(folder / "reference.npz")


def gguf(folder, name):
    return folder / f"shakespeare-{name}.gguf"


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def mean_divergence(expected, actual):
    p, q = log_softmax(expected), log_softmax(actual)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


@pytest.mark.parametrize("source", ["f16", "hf"])
def test_float_weights_give_the_recorded_logits_and_texts(folder, reference, source):
    texts, arrays = reference
    with hyperion.load_model(folder / "hf" if source == "hf" else gguf(folder, "f16")) as model:
        for i, prompt in enumerate(texts["prompts"]):
            assert model.tokenizer.encode(prompt["prompt"]) == prompt["tokens"]
            logits = model.logits(prompt["tokens"])
            expected = arrays[f"f16_logits_{i}"] if source == "f16" and i < 3 else arrays[f"logits_{i}"]
            assert np.abs(logits - expected).max() <= 0.005
            tokens = [c.token for c in model.stream(prompt["prompt"], temperature=0, max_length=48)]
            assert tokens == prompt["greedy_tokens"]
            assert model.generate(prompt["prompt"], temperature=0, max_length=48) == prompt["greedy_text"]


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_logits_are_within_the_stated_distance(folder, reference, name):
    texts, arrays = reference
    with hyperion.load_model(gguf(folder, name)) as model:
        for i in range(3):
            logits = model.logits(texts["prompts"][i]["tokens"])
            expected = arrays[f"{name}_logits_{i}"]
            assert np.abs(logits - expected).max() <= 0.3
            assert mean_divergence(expected, logits) <= 7e-4


@pytest.mark.parametrize("name", ["f16", *QUANTIZED])
def test_perplexity_is_the_recorded_one(folder, shared, reference, name):
    text = (shared / "data" / "shakespeare_valid.txt").read_text()
    with hyperion.load_model(gguf(folder, name)) as model:
        measured = model.perplexity(text, window=256, segments=40)
    assert measured == pytest.approx(reference[0]["types"][name]["perplexity_exact"], rel=1e-3)


@pytest.mark.parametrize("name", ["q8_0", "q4_k_m", "f16"])
@pytest.mark.parametrize("simd", dispatch.levels())
def test_same_bits_however_the_work_is_cut(folder, reference, name, simd):
    prompts = [p["tokens"] for p in reference[0]["prompts"]]
    ids = (prompts[1] * 4)[:90]
    with hyperion.load_model(gguf(folder, name), threads=1, simd=simd) as model:
        expected = model.logits(ids)
        with model.session() as session:
            single = np.stack([session.eval([t]) for t in ids])
        with model.session() as session:
            sevens = np.concatenate([model.forward([(session, ids[i : i + 7])], logits="all")[0] for i in range(0, 90, 7)])
        sessions = [model.session() for _ in range(3)]
        work = list(zip(sessions, [prompts[2], ids, prompts[0]], strict=True))
        together = model.forward(work, logits="all")[1]
    with hyperion.load_model(gguf(folder, name), threads=2, simd=simd) as model:
        threaded = model.logits(ids)
    for other in (single, sevens, together, threaded):
        np.testing.assert_array_equal(other, expected)


def test_a_seed_gives_the_same_text_on_every_thread_count(folder):
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 0.95, "seed": 7, "max_length": 40}
    texts = set()
    for threads in (1, 2, 3):
        with hyperion.load_model(gguf(folder, "q8_0"), threads=threads) as model:
            texts.add(model.generate("ROMEO:", **settings))
    assert len(texts) == 1


def test_past_the_context_is_an_error_and_generation_ends_there(folder):
    with hyperion.load_model(gguf(folder, "q8_0"), context_length=16) as model:
        with pytest.raises(hyperion.InvalidArgumentError, match="context"):
            model.logits(list(range(17)))
        chunks = list(model.stream([1, 2, 3], max_length=100, ignore_end=True))
        assert chunks[-1].finish_reason == "context"
        assert len(chunks) == 16 - 3 + 1
        with model.session() as session:
            session.eval(list(range(16)))
            with pytest.raises(hyperion.InvalidArgumentError, match="context"):
                session.eval([1])
            assert len(session) == 16


def test_truncate_and_go_on_gives_the_bits_of_a_fresh_session(folder):
    with hyperion.load_model(gguf(folder, "q4_0")) as model, model.session() as session:
        session.eval(list(range(5, 60)))
        session.truncate(20)
        again = session.eval([7, 8])
        np.testing.assert_array_equal(again, model.logits([*range(5, 25), 7, 8])[-1])


@pytest.mark.parametrize("tokens", [[], [2048], [-1], [[1, 2]], ["a"]])
def test_bad_tokens_are_refused_and_leave_the_session_as_it_was(folder, tokens):
    with hyperion.load_model(gguf(folder, "q8_0")) as model, model.session() as session:
        session.eval([1, 2])
        with pytest.raises(hyperion.InvalidArgumentError):
            session.eval(tokens)
        assert session.tokens == [1, 2]


def test_stop_strings_end_the_text_before_them(folder, reference):
    prompt = reference[0]["prompts"][0]
    with hyperion.load_model(gguf(folder, "f16")) as model:
        text = model.generate(prompt["prompt"], temperature=0, max_length=48, stop=["acquainted", "never there"])
        assert text == prompt["greedy_text"].partition("acquainted")[0]


def test_closing_gives_every_reserved_byte_back(folder):
    model = hyperion.load_model(gguf(folder, "q8_0"), memory_budget="64MB")
    session = model.session()
    assert 0 < model.memory_stats.current_usage <= 64_000_000
    budget = model.budget
    model.close()
    model.close()
    assert budget.used == 0
    with pytest.raises(hyperion.HyperionRuntimeError, match="closed"):
        session.eval([1])
    with pytest.raises(hyperion.HyperionRuntimeError, match="closed"):
        model.generate("x")


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.replan("300MB", batch="x"),
        lambda m: m.replan("300MB", batch=0),
        lambda m: m.replan("300MB", tradeoff=2),
        lambda m: m.replan("300MB", tradeoff="x"),
        lambda m: m.replan("300MB", reserve=-1),
        lambda m: m.forward(5),
        lambda m: m.forward("x"),
        lambda m: m.forward([[1]]),
        lambda m: m.restore(5),
        lambda m: m.pin_layers(5),
        lambda m: m.pin_layers({99: True}),
        lambda m: m.pin_layers({1: "x"}),
        lambda m: m.save(None),
        lambda m: m.loader.attach(5),
        lambda m: m.tokenizer.id_to_token("x"),
    ],
)
def test_arguments_of_another_type_are_refused_by_name(folder, call):
    with hyperion.load_model(gguf(folder, "q4_0"), memory_budget="300MB") as model:
        plan = model.plan
        with pytest.raises(hyperion.InvalidArgumentError, match="expected|must be"):
            call(model)
        assert model.plan is plan
