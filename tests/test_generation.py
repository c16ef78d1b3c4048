"""Sampling settings, logprobs, processors and stop strings, on the model that ships in the package."""

import copy
import dataclasses
import itertools
import math
import pickle
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import hyperion
from benchmarks import synthetic
from hyperion.cli.common import model_path
from hyperion.generation import Sampler, lookup
from hyperion.generation.lookup import draft_tokens
from hyperion.generation.sampling import likeliest, top_log_probabilities
from hyperion.generation.stops import StopFilter
from hyperion.memory import format_size

PROMPT = "ROMEO:\nWhat"


@pytest.fixture(scope="module")
def model():
    with model_path(None) as path, hyperion.load_model(path, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def streamed():
    """The same model with weights that are streamed, so that drafts are verified."""
    with model_path(None) as path, hyperion.load_model(path, threads=1, context_length=256) as model:
        model.replan(model.smallest_budget + 1_000_000)
        assert model.plan.streamed_bytes > 0
        yield model


def log_softmax(x):
    x = x.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def test_logprobs_are_those_of_the_models_logits(model):
    ids = model.tokenizer.encode(PROMPT)
    chunks = list(model.stream(ids, temperature=1.5, seed=3, max_length=12, logprobs=5, presence_penalty=2.0))
    drawn = [c.token for c in chunks]
    expected = model.logits([*ids, *drawn])[len(ids) - 1 :]
    for row, chunk in zip(expected, chunks, strict=False):
        exact = log_softmax(row)
        assert chunk.logprob == pytest.approx(exact[chunk.token], abs=1e-9)
        tokens = [t for t, _ in chunk.top_logprobs]
        assert tokens == np.argsort(-exact, kind="stable")[:5].tolist()
        assert [p for _, p in chunk.top_logprobs] == pytest.approx(exact[tokens], abs=1e-9)
    assert model.stream(ids, max_length=1).__next__().top_logprobs == ()
    everything = next(model.stream(ids, max_length=1, logprobs=10**6)).top_logprobs
    assert len(everything) == model.tokenizer.vocab_size
    assert sum(np.exp(p) for _, p in everything) == pytest.approx(1)


@given(
    st.lists(st.integers(0, 6), max_size=12), st.integers(0, 5), st.floats(-2, 2), st.floats(-2, 2), st.floats(0.5, 2),
)  # fmt: skip
def test_penalties_are_as_their_definition_says(seen, window, frequency, presence, repetition):
    logits = np.array([3.0, -1.0, 0.5, 2.0, 0.0, 1.5, -2.5], np.float32)
    expected = logits.astype(np.float64)
    for token in set(counted := seen if window == 0 else seen[-window:]):
        expected[token] = expected[token] / repetition if expected[token] > 0 else expected[token] * repetition
        expected[token] -= frequency * counted.count(token) + presence
    caught = []
    config = hyperion.GenerationConfig(
        temperature=0, repetition_window=window, frequency_penalty=frequency, presence_penalty=presence,
        repetition_penalty=repetition, logit_processors=lambda tokens, x: caught.append(x.copy()) or x,
    )  # fmt: skip
    before = logits.copy()
    Sampler(config)(logits, seen)
    np.testing.assert_allclose(caught[0], expected, atol=1e-5)
    np.testing.assert_array_equal(logits, before)


@given(st.integers(2, 4000), st.integers(1, 70), st.sampled_from((3, 1000)), st.sampled_from((0.0, 0.3, 0.999)),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_top_k_draws_from_the_largest_and_of_equals_from_the_first(size, k, values, forbidden, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, values, size).astype(np.float32)
    logits[rng.random(size) < forbidden] = -np.inf
    logits[rng.integers(size)] = 5
    largest = np.lexsort((np.arange(size), -logits))[:k]
    sampler = Sampler(hyperion.GenerationConfig(top_k=k, top_p=1.0, temperature=1e9, seed=1))
    drawn = {sampler.draw(logits, ()) for _ in range(20)}
    assert drawn <= set(largest[np.isfinite(logits[largest])].tolist())
    if k == 1:
        assert drawn == {int(np.argmax(logits))}


@given(st.integers(1025, 9000), st.sampled_from((0.05, 1.0, 4.0, 40.0)), st.sampled_from((0.0, 0.4, 0.95, 1.0)),
       st.sampled_from((0.0, 0.01, 1.0)), st.sampled_from((0.0, 0.5, 0.999)), st.integers(0, 2**32 - 1))  # fmt: skip
def test_a_draw_from_all_tokens_is_the_one_that_sorting_them_gives(size, spread, top_p, min_p, forbidden, seed):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal(size) * spread, 2).astype(np.float32)
    logits[rng.random(size) < forbidden] = -np.inf
    logits[rng.integers(size)] = 1
    order = np.lexsort((np.arange(size), -logits))
    weights = np.exp((logits[order].astype(np.float64) - float(logits.max())) / 0.7)
    total = np.cumsum(weights)
    keep = int(np.count_nonzero(weights))
    keep = min(keep, int(np.searchsorted(total, top_p * total[-1])) + 1) if top_p < 1 else keep
    keep = max(1, min(keep, int(np.count_nonzero(weights >= min_p))) if min_p else keep)
    sampler = Sampler(hyperion.GenerationConfig(top_k=0, top_p=top_p, min_p=min_p, temperature=0.7, seed=seed))
    numbers = random.Random(seed)
    for _ in range(5):
        place = int(np.searchsorted(total[:keep], numbers.random() * total[keep - 1], side="right"))
        assert sampler.draw(logits, ()) == order[min(place, keep - 1)]


def test_a_draw_from_all_tokens_puts_few_in_order(monkeypatch):
    sizes = []
    monkeypatch.setattr("hyperion.generation.sampling.likeliest", lambda x, k: sizes.append(k) or likeliest(x, k))
    logits = 4 * np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    for top_p in (1.0, 0.9):
        Sampler(hyperion.GenerationConfig(top_k=0, top_p=top_p, seed=1)).draw(logits, ())
    assert max(sizes) <= 512 * 8


def test_logits_that_are_not_numbers_do_not_stop_a_draw():
    logits = np.arange(5000, dtype=np.float32)
    logits[1000:] = np.nan
    assert 0 <= Sampler(hyperion.GenerationConfig(top_k=3000, seed=1)).draw(logits, ()) < 5000
    assert 0 <= Sampler(hyperion.GenerationConfig(top_k=40, seed=1)).draw(logits, ()) < 5000


def test_a_processor_sees_every_token_once_and_its_word_is_final(model):
    ids = model.tokenizer.encode(PROMPT)
    allowed = model.tokenizer.encode("a b c d e f g", add_special=False)
    lengths = []

    def only(tokens, logits):
        lengths.append(len(tokens))
        assert list(tokens[: len(ids)]) == ids
        masked = np.full_like(logits, -np.inf)
        masked[allowed] = logits[allowed]
        return masked

    for settings in ({"temperature": 0}, {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "seed": 1}):
        lengths.clear()
        drawn = [c.token for c in model.stream(ids, max_length=20, logit_processors=[only], **settings)]
        assert set(drawn) <= set(allowed)
        assert lengths == list(range(len(ids), len(ids) + 20))


def test_processors_run_in_order_and_in_batches(model):
    log = []

    def note(name):
        def processor(tokens, logits):
            log.append(name)
            return logits

        return processor

    plain = [model.generate(p, temperature=0, max_length=5) for p in ("ROMEO:", "JULIET:")]
    config = hyperion.GenerationConfig(temperature=0, max_length=5, logit_processors=(note("a"), note("b")))
    assert model.generate(["ROMEO:", "JULIET:"], config) == plain
    assert log == ["a", "b"] * 10


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0, "frequency_penalty": 0.3, "presence_penalty": -0.2, "repetition_window": 0},
        {"temperature": 0.9, "seed": 5, "repetition_penalty": 1.1},
        {"temperature": 0, "logit_processors": lambda tokens, x: x + np.float32(0.5) * (np.arange(len(x)) == len(tokens))},
    ],
    ids=["greedy", "penalties", "sampled", "processor"],
)
def test_drafts_change_nothing(model, streamed, settings):
    prompt = "To be, or not to be, that is the question: to be, or not to be, that"
    expected = [c.token for c in model.stream(prompt, max_length=60, **settings)]
    passes = streamed.stream_stats["passes"]
    assert [c.token for c in streamed.stream(prompt, max_length=60, **settings)] == expected
    assert streamed.stream_stats["passes"] > passes


@pytest.mark.parametrize(
    ("processor", "says"),
    [
        (lambda tokens, x: x[:-1], "shape"),
        (lambda tokens, x: None, "shape"),
        (lambda tokens, x: x.astype(np.int32), "int32"),
        (lambda tokens, x: np.full_like(x, -np.inf), "-inf"),
        (lambda tokens, x: np.where(np.arange(len(x)) == 7, np.nan, x), "nan"),
    ],
)
def test_what_a_bad_processor_returns_is_an_error(model, processor, says):
    with pytest.raises(hyperion.InvalidArgumentError, match=says):
        model.generate(PROMPT, max_length=2, logit_processors=processor)
    assert model.generate(PROMPT, temperature=0, max_length=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("frequency_penalty", float("nan")), ("presence_penalty", "x"), ("logprobs", -1), ("logprobs", True), ("logit_processors", [3])],
)
def test_settings_are_checked_when_set(name, value):
    config = hyperion.GenerationConfig()
    with pytest.raises(hyperion.InvalidArgumentError, match=name):
        setattr(config, name, value)


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_are_found_however_the_text_is_cut(text, stops, data):
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    expected = text[: min(ends)[1]] if ends else text
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    filter = StopFilter(stops)
    out = [filter.push(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert "".join(out) + filter.flush() == expected
    assert filter.stopped == bool(ends)


def test_a_stop_string_across_tokens_ends_the_stream(model):
    """The stop string begins inside of one token and ends inside of a later one."""
    full = list(model.stream(PROMPT, temperature=0, max_length=40))
    text = "".join(c.text for c in full)
    pieces = [c.text for c in full]
    cut = next(i for i in range(5, len(pieces) - 3) if len(pieces[i]) > 1 and len(pieces[i + 2]) > 1)
    stop = pieces[cut][-1] + pieces[cut + 1] + pieces[cut + 2][:1]
    at = text.index(stop)
    stopped = list(model.stream(PROMPT, temperature=0, max_length=40, stop=stop))
    assert "".join(c.text for c in stopped) == text[:at]
    assert stopped[-1].finish_reason == "stop"
    assert len(stopped) < len(full)
    assert model.generate([PROMPT, PROMPT], temperature=0, max_length=40, stop=stop) == [text[:at]] * 2


@pytest.mark.parametrize("prompt", [b"abc", bytearray(b"abc"), [1.5], [1, 2.0], np.array([1.0]), [None], 7, None, [[1, 2.5]]], ids=repr)
def test_what_is_neither_text_nor_ids_is_refused(model, prompt):
    with pytest.raises(hyperion.InvalidArgumentError, match="text or token ids"):
        model.generate(prompt, max_length=1)


def test_ids_of_a_session_are_integers_and_not_cut_off(model):
    with model.session() as session:
        for tokens in ([1.5], np.array([2.0], np.float32), b"abc", [True], [2**70], ["1"], None, [[1], [2, 3]]):
            with pytest.raises(hyperion.InvalidArgumentError, match="tokens are integers"):
                session.eval(tokens)
        for tokens in ([], [[1]], 3):
            with pytest.raises(hyperion.InvalidArgumentError, match="one dimension"):
                session.eval(tokens)
        expected = session.eval([1, 2])
        for tokens in (np.array([1, 2], np.uint8), (1, 2), np.array([1, 2], np.int32)):
            session.truncate(0)
            assert np.array_equal(session.eval(tokens), expected)
    assert np.array_equal(model.logits(np.array([1, 2], np.int16)), model.logits([1, 2]))


def test_paths_and_what_a_model_says_of_itself(streamed):
    assert f"context of 256, {format_size(streamed.plan.budget)} of memory" in repr(streamed)
    with model_path(None) as path:
        with hyperion.load_model(str(path).encode(), threads=1) as model:
            assert model.path == str(path)
            assert "llama" in repr(model)
        assert "closed" in repr(model)
    for nothing in (None, 3):
        with pytest.raises(hyperion.InvalidArgumentError, match="str or PathLike"):
            hyperion.load_model(nothing)


def test_a_session_that_nobody_holds_gives_its_cache_back(model):
    before = model.memory_stats.by_owner
    for _ in range(3):
        model.session().eval([1, 2])  # dropped at once, though a LayerScheduler may ask for its hidden states
        assert "kv cache" not in model.memory_stats.by_owner
        model.session().close()
        assert model.memory_stats.by_owner == before
    kept, lost = model.session(), model.session()
    with_two = model.memory_stats.by_owner["kv cache"]
    del lost
    assert model.memory_stats.by_owner["kv cache"] == with_two - kept.nbytes
    kept.eval([1, 2])
    assert kept.tokens == [1, 2]
    kept.close()
    assert model.memory_stats.by_owner == before


def test_hidden_states_of_a_dropped_session_are_those_of_an_open_one(model):
    scheduler = model.scheduler
    with model.session() as session:
        session.eval([1, 2, 3])
        expected = np.array(scheduler.get_layer_output(2))
    model.session().eval([1, 2, 3])
    assert np.array_equal(scheduler.get_layer_output(2), expected)


def test_the_room_for_a_session_comes_back_even_where_a_finalizer_finds_the_lock_taken(model):
    before = model.memory_stats.by_owner["kv cache"]
    session = model.session()
    with model._lock:
        del session  # must not wait
        assert model.memory_stats.by_owner.get("kv cache", 0) == 0
    model.generate(PROMPT, max_length=1)
    assert model.memory_stats.by_owner["kv cache"] == before


def test_a_plan_made_after_a_session_has_gone_has_room_for_the_next(streamed):
    session = streamed.session()
    del session
    streamed.replan()  # weights must not take the room
    assert streamed.memory_stats.by_owner["kv cache"] == streamed.plan.items["kv cache"] > 0
    assert streamed.generate(PROMPT, max_length=2, temperature=0)


def test_a_small_session_closes_after_a_plan_that_was_made_beside_it(streamed):
    before = streamed.plan.budget
    session = streamed.session(capacity=1)
    for budget in (before, streamed.smallest_budget):
        streamed.replan(budget)
        items = streamed.plan.items
        assert items["kv cache"] + items["open sessions"] >= streamed.session_bytes(streamed.context_length)
    session.close()  # never fails
    assert streamed.generate(PROMPT, max_length=2, temperature=0)
    streamed.replan(before)


def test_rows_of_logits_go_where_the_caller_wants_them(model):
    class Rows(list):
        def __call__(self, entry, place, row):
            self.append((entry, place, row.copy()))

    rows = Rows()  # empty, and so not true
    with model.session() as session:
        assert model.forward([(session, [1, 2, 3])], logits="all", each=rows) == []
    assert [row[:2] for row in rows] == [(0, 0), (0, 1), (0, 2)]
    assert np.array_equal(np.stack([row for *_, row in rows]), model.logits([1, 2, 3]))


def test_what_is_open_is_neither_pickled_nor_copied(model):
    with model.session() as session:
        for thing in (model, session, model.tokenizer):
            for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="neither copied nor pickled"):
                    attempt(thing)
    for again in (pickle.loads(pickle.dumps(model.plan)), copy.deepcopy(model.plan)):
        assert again == model.plan
        assert str(again).startswith(str(dataclasses.replace(model.plan, forecast=None)))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.generate("a", {"max_length": 3}), "expected a GenerationConfig or None; settings by name"),
        (lambda m: m.generate("a", 5), "config is 5, expected a GenerationConfig"),
        (lambda m: m.generate("a", stop=5), "stop is 5, expected strings"),
        (lambda m: m.generate("a", logit_processors=5), "logit_processors is 5, expected functions"),
        (lambda m: m.logits([]), "no token ids"),
        (lambda m: m.logits([1, 2.5]), "not list of float, int"),
        (lambda m: m.logits(np.ones((2, 3))), r"not ndarray of float64 and shape \(2, 3\)"),
        (lambda m: m.generate("a", top_K=3), "did you mean top_k"),
        (lambda m: m.generate("a", temperature=np.ones(2)), "temperature is array"),
        (lambda m: m.generate("a", stop=b"a"), "stop is .b'a',."),
        (lambda m: m.generate("a", progress=5), "progress is 5, expected a function"),
        (lambda m: m.perplexity(None), "text or token ids .integers., not NoneType"),
        (lambda m: m.perplexity([1.0, 2.0]), "not list of float"),
        (lambda m: m.perplexity(["a"]), "not list of str"),
        (lambda m: m.perplexity([1, 2], window="x"), "window is 'x', expected an integer from 2 to the context's"),
        (lambda m: m.perplexity([1, 2], segments=0), "segments is 0, expected an integer of 1 or more"),
        (lambda m: m.session("5"), "capacity is '5', expected an integer of 1"),
        (lambda m: m.session(0), "capacity is 0"),
        (lambda m: m.session(5.0), "capacity is 5.0"),
        (lambda m: m.session().truncate(None), "truncate to is None, expected an integer from 0 to the session's 0"),
        (lambda m: m.session().truncate(True), "truncate to is True"),
        (lambda m: hyperion.load_model(m.path, progress=3), "progress is 3"),
        (lambda m: hyperion.load_model(m.path, kv_type=[]), "kv_type is"),
        (lambda m: hyperion.load_model(m.path, threads=2.0), "threads is 2.0, expected an integer from 1 to 1024"),
        (lambda m: hyperion.load_model(m.path, context_length="9"), "context_length is '9', expected an integer from 1 to the model's"),
    ],
)
def test_what_was_expected_and_what_came(model, call, says):
    with pytest.raises(hyperion.InvalidArgumentError, match=says):
        call(model)


def test_integers_of_numpy_are_integers():
    with model_path(None) as path, hyperion.load_model(path, threads=np.int64(1), context_length=np.int32(32)) as model:
        assert (model.threads, model.context_length) == (1, 32)
        assert model.session(np.uint8(5)).capacity == 5


@pytest.mark.parametrize("settings", [{"frequency_penalty": -1e300}, {"presence_penalty": -1e300}, {"repetition_penalty": 1e300},
                                      {"frequency_penalty": 1.5e308, "presence_penalty": 1.5e308}, {"temperature": 1e-320}])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_penalties_of_any_size_leave_an_order(settings):
    logits = np.array([3.0, -1.0, 2.0, 2.5], np.float32)
    seen = (1, 1, 3)
    token = Sampler(hyperion.GenerationConfig(seed=1, **settings)).draw(logits, seen)
    favoured = any(value < 0 for value in settings.values())
    assert (token in seen) if favoured else (token == 0 or "repetition_penalty" in settings or "presence_penalty" in settings)
    assert token != 1 or favoured


def failures(count, call):
    """What `count` threads that call a function until it fails end with; they are at it when `yield` returns."""
    said, started = [], threading.Barrier(count + 1)

    def work():
        started.wait()
        try:
            while True:
                call()
        except Exception as error:  # noqa: BLE001
            said.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.05)
    yield
    for thread in threads:
        thread.join()
    yield said


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.generate(PROMPT, max_length=3), lambda m: m.session(8).close(), lambda m: m.replan(), lambda m: m.restore(m.plan),
        lambda m: m.pin_layers({1: True}), lambda m: m.cache_stats(), lambda m: m.configure_cache(None),
        lambda m: m.set_simd_level(None), lambda m: m.optimize_memory_layout(),
    ],
)  # fmt: skip
def test_a_model_that_is_closed_meanwhile_says_so(call):
    """Calls of other threads end with an error of the library, whatever they were doing."""
    for _ in range(3):
        with model_path(None) as path:
            model = hyperion.load_model(path, threads=1)
        running = failures(4, lambda model=model: call(model))
        next(running)
        model.close()
        assert [type(error) for error in next(running)] == [hyperion.HyperionRuntimeError] * 4
        assert model.budget.stats().current_usage == 0


def test_a_session_is_never_filled_past_its_end(model):
    """One session belongs to one thread, but who shares it gets an error and no other memory overwritten."""
    with model.session(8) as session:
        session.eval([1] * 7)
        with model._lock:  # both have seen room for one more
            running = failures(2, lambda: session.eval([1]))
            next(running)
        assert [type(error) for error in next(running)] == [hyperion.InvalidArgumentError] * 2
        assert len(session) == 8


def test_a_function_that_the_model_calls_cannot_wait_for_it(model):
    """Each of these would wait for the lock that its own caller holds."""
    with model.session() as session:
        calls = [lambda *_: model.generate("a"), lambda *_: model.session(), lambda *_: session.close(), lambda *_: model.close(),
                 lambda *_: session.truncate(0), lambda *_: model.replan("60MB"), lambda *_: model.predict(),
                 lambda *_: model.scheduler.get_layer_output(1), lambda *_: model.scheduler.close()]  # fmt: skip
        for call in calls:
            with pytest.raises(hyperion.HyperionRuntimeError, match="busy"):
                model.generate(PROMPT, max_length=1, progress=call)
            with pytest.raises(hyperion.HyperionRuntimeError, match="busy"):
                model.forward([(session, [1])], each=call)
        assert session.eval([1]).shape == (model.config.vocab_size,)
    assert model.generate(PROMPT, max_length=1, temperature=0)


def test_a_move_that_is_broken_off_twice_is_finished_by_the_next_call(monkeypatch):
    """Ctrl-C, and again while the model goes back: no pass runs over weights and buffers that are not there."""
    with model_path(None) as path, hyperion.load_model(path, threads=1, context_length=64) as model:
        model.replan(model.smallest_budget + 1_000_000)
        plan, expected = model.plan, model.logits([1, 2, 3])

        def broken(*arguments):
            raise KeyboardInterrupt

        for name in ("allocate", "release"):
            with monkeypatch.context() as patch:
                patch.setattr(model.workspace, name, broken)
                with pytest.raises(KeyboardInterrupt):
                    model.replan("40MB")
            assert model.plan == plan
            assert np.array_equal(model.logits([1, 2, 3]), expected)
            assert model.budget.limit == plan.budget
            assert model.memory_stats.current_usage <= plan.budget


def test_a_batch_that_is_interrupted_ends_with_the_interrupt_and_the_plan_before():
    with model_path(None) as path, hyperion.load_model(path, threads=1, context_length=256) as model:
        model.replan(model.smallest_budget + 500_000)
        plan, expected = model.plan, model.generate(PROMPT, max_length=5, temperature=0)
        held = []

        def processor(tokens, logits):
            held.append(np.frombuffer(model.workspace._hidden, np.uint8))  # as the frames of an interrupted pass
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            model.generate([PROMPT] * 8, max_length=200, logit_processors=processor)
        held.clear()
        assert model.generate(PROMPT, max_length=5, temperature=0) == expected
        assert model.plan == plan
        assert model.memory_stats.current_usage <= plan.budget


@pytest.mark.parametrize("where", [0, 1])
def test_memory_is_given_back_where_ctrl_c_comes_while_it_is_counted(model, monkeypatch, where):
    from hyperion.memory import allocate
    from hyperion.memory.budget import Reservation

    release, calls = Reservation.release, []

    def interrupted(self):
        calls.append(self)
        if len(calls) <= 2:
            if where:
                release(self)
            raise KeyboardInterrupt
        release(self)

    used = model.memory_stats.current_usage
    buffer = allocate(model.budget, "test", 100_000)
    monkeypatch.setattr(Reservation, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):  # comes again when the memory is counted
        buffer.close()
        time.sleep(0.01)
    assert model.memory_stats.current_usage == used


def test_what_belongs_to_a_closed_model_says_so():
    with model_path(None) as path, hyperion.load_model(path, threads=1) as model:
        session, loader = model.session(), model.loader
        session.eval([1, 2])
    for call in (lambda: session.truncate(1), lambda: loader.load_layer(1), lambda: loader.unload_layer(1), lambda: loader.status(1)):
        with pytest.raises(hyperion.HyperionRuntimeError, match="closed"):
            call()


def test_a_closed_model_is_not_entered_again():
    with model_path(None) as path, hyperion.load_model(path, threads=1) as model:
        pass
    with pytest.raises(hyperion.HyperionRuntimeError, match="closed"), model:
        pass


def test_a_name_that_is_not_there_says_whose():
    with pytest.raises(AttributeError, match="'load_modle'") as error:
        _ = hyperion.load_modle
    assert (error.value.name, error.value.obj) == ("load_modle", hyperion)  # from which Python suggests another


def test_perplexity_is_the_same_number_under_every_budget(model, streamed):
    text = "What light through yonder window breaks? It is the east, and Juliet is the sun. " * 4
    ids = model.tokenizer.encode(text, add_special=False)
    scored = [model.tokenizer.bos_id, *ids]
    rows = np.stack([log_softmax(row) for row in model.logits(scored)])
    exact = np.exp(-rows[np.arange(len(ids)), ids].mean())
    assert model.perplexity(text) == pytest.approx(exact, rel=1e-12)
    assert streamed.plan.logits_rows < model.plan.logits_rows
    assert streamed.perplexity(text, window=200) == model.perplexity(text, window=200)


def test_logits_may_be_taken_where_the_engine_has_them(model):
    a, b = model.tokenizer.encode(PROMPT), [3, 4, 5]
    expected = {(i, place): row for i, ids in enumerate((a, b)) for place, row in enumerate(model.logits(ids))}
    for every in ("all", "last"):
        found = {}
        with model.session() as first, model.session() as second:
            work = [(first, a), (second, b)]
            assert model.forward(work, logits=every, each=lambda i, place, row, found=found: found.update({(i, place): row.copy()})) == []
        wanted = expected if every == "all" else {k: expected[k] for k in ((0, len(a) - 1), (1, len(b) - 1))}
        assert list(found) == list(wanted)
        assert all(np.array_equal(found[k], wanted[k]) for k in wanted)
    with model.session() as session:
        with pytest.raises(hyperion.InvalidArgumentError, match="'last' or 'all'"):
            model.forward([(session, a)], logits="none")
        with pytest.raises(hyperion.InvalidArgumentError, match="a pass once"):
            model.forward([(session, a), (session, a)])


def test_rows_of_logits_of_any_length_fit_their_buffer(tmp_path):
    """Rows that do not end with a cache line, with the scratch behind them."""
    synthetic.write_model(tmp_path / "m.gguf", synthetic.Shape(n_layers=1, width=64, feed_forward=64, heads=2, kv_heads=1, vocab=1051), "q8_0")
    with hyperion.load_model(tmp_path / "m.gguf", context_length=16) as odd:
        expected = odd.logits(range(1, 10))
        for above in (0, 50_000, 200_000):
            odd.replan(odd.smallest_budget + above)
            assert odd.plan.logits_rows < 9
            assert np.array_equal(odd.logits(range(1, 10)), expected)
            copied = 2 * odd.plan.logits_rows * 1051 * 4  # in the engine's buffer, and where the next tokens are drawn
            assert odd.budget.by_owner()["logits"] == odd.plan.items["logits"] >= copied


def allowed(logits, temperature, top_k, top_p, min_p):
    """Token ids that may be drawn, the likeliest first, with their probabilities: each filter by its own definition."""
    ids = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if top_k:
        ids = ids[:top_k]
    scaled = [math.exp((float(logits[i]) - float(logits[ids[0]])) / temperature) for i in ids]
    p = [s / sum(scaled) for s in scaled]
    sums = list(itertools.accumulate(p))
    assume(all(abs(s - top_p) > 1e-9 for s in sums) and all(abs(x - min_p * p[0]) > 1e-9 for x in p))
    nucleus = next((i + 1 for i, s in enumerate(sums) if s >= top_p), len(ids)) if top_p < 1 else len(ids)
    keep = max(1, min(nucleus, sum(x >= min_p * p[0] for x in p)))
    total = sum(p[:keep])
    return ids[:keep], [x / total for x in p[:keep]]


@given(
    st.lists(st.integers(-24, 24), min_size=1, max_size=12), st.sampled_from([0.3, 1.0, 2.5]), st.integers(0, 12),
    st.just(1.0) | st.floats(0.01, 1), st.sampled_from([0.0, 0.011, 0.13, 0.57]), st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_a_draw_is_as_the_filters_definitions_say(eighths, temperature, top_k, top_p, min_p, u):
    logits = np.array(eighths, np.float32) / 8
    ids, p = allowed(logits, temperature, top_k, top_p, min_p)
    sampler = Sampler(hyperion.GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    sums = list(itertools.accumulate(p))
    assume(all(abs(s - u) > 1e-9 for s in sums))
    sampler.random.random = lambda: u
    token, logprob = sampler(logits, [])
    assert token == ids[next((i for i, s in enumerate(sums) if s > u), len(ids) - 1)]
    assert logprob == pytest.approx(log_softmax(logits)[token])
    sampler.random.random = lambda: 0.0
    assert sampler(logits, [])[0] == ids[0]
    sampler.random.random = lambda: 1 - 2**-53
    assert sampler(logits, [])[0] == ids[-1]


def test_equal_logits_are_drawn_in_the_order_of_their_ids():
    sampler = Sampler(hyperion.GenerationConfig(temperature=1.0, top_k=3, top_p=1.0))
    logits = np.array([0, 2, 1, 2, 2, -1], np.float32)
    drawn = []
    for u in (0.0, 0.4, 0.9):
        sampler.random.random = lambda u=u: u
        drawn.append(sampler(logits, [])[0])
    assert drawn == [1, 3, 4]


@given(st.integers(1, 3000), st.data())
def test_the_likeliest_of_many_equal_ones_are_the_first(n, data):
    values = np.random.default_rng(n).integers(0, 4, n).astype(np.float32)
    if data.draw(st.booleans()):
        values[:: data.draw(st.integers(1, 7))] = -np.inf
    count = data.draw(st.integers(1, n))
    assert likeliest(values, count).tolist() == sorted(range(n), key=lambda i: (-values[i], i))[:count]
    names = top_log_probabilities(np.zeros(n, np.float32), count)
    assert [i for i, _ in names] == list(range(count))


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 7))
def test_drafts_are_what_followed_the_latest_and_longest_repetition(tokens, count):
    expected = []
    for n in (4, 3, 2):
        starts = [i for i in range(len(tokens) - n) if tokens[i : i + n] == tokens[-n:]]
        if starts and len(tokens) > n:
            expected = tokens[starts[-1] + n :][:count]
            break
    assert draft_tokens(tokens, count) == expected


def test_nothing_is_drafted_where_every_token_costs_a_pass(model, streamed, monkeypatch):
    """All weights are resident: a pass over several tokens takes longer than one over one."""
    asked = []
    monkeypatch.setattr(lookup, "draft_tokens", lambda seen, count: asked.append(count) or [])
    text = model.generate(PROMPT, max_length=5, temperature=0)
    assert asked == []
    assert streamed.generate(PROMPT, max_length=5, temperature=0) == text
    assert len(asked) == 4 and min(asked) >= 1
