"""SentencePiece tables against the library's engine with every merge listed."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperion import InvalidArgumentError, MemoryBudgetError, Tokenizer
from hyperion._kernels.pieces import Pieces, work_bytes
from hyperion.memory import MemoryBudget
from hyperion.tokenizer import pieces as slicing
from tokenizer_data import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, gguf_metadata, small_spm

MERGED = (NORMAL, USER_DEFINED, 0)


def listed(metadata):
    """The library's engine for the same vocabulary: every pair of tokens that makes a third, ranked by its score."""
    import tokenizers as lib

    tokens, kinds = list(metadata["tokenizer.ggml.tokens"]), list(metadata["tokenizer.ggml.token_type"])
    scores = metadata["tokenizer.ggml.scores"]
    parts = {t for t, k in zip(tokens, kinds, strict=True) if k in MERGED}
    order = sorted((i for i, k in enumerate(kinds) if k in MERGED), key=lambda i: (-scores[i], i))
    merges = [
        (t[:at], t[at:])
        for t in (tokens[i] for i in order)
        for at in range(len(t) - 1, 0, -1)
        if t[:at] in parts and t[at:] in parts
    ]
    every_byte = BYTE in kinds
    index = {t: i for i, t in enumerate(tokens)}
    model = lib.models.BPE(index, merges, unk_token=tokens[kinds.index(UNKNOWN)], fuse_unk=True, byte_fallback=every_byte)
    engine = lib.Tokenizer(model)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    engine.normalizer = lib.normalizers.Sequence(
        [*([lib.normalizers.Prepend("▁")] if prefix else []), lib.normalizers.Replace(" ", "▁")]
    )
    added = lib.AddedToken
    engine.add_special_tokens([added(t, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k in (CONTROL, UNKNOWN)])
    engine.add_tokens([added(t, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == USER_DEFINED])
    return engine


def same(metadata, texts):
    engine, tokenizer = listed(metadata), Tokenizer.from_metadata(metadata)
    for text in texts:
        for parse in (False, True):
            engine.encode_special_tokens = not parse
            assert tokenizer.encode(text, add_special=False, parse_special=parse) == engine.encode(text).ids, (text, parse)


ALPHABET = "ab▁c é<s>/"


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.text(ALPHABET.replace(" ", ""), min_size=1, max_size=5), min_size=3, max_size=25, unique=True),
    st.lists(st.integers(-3, 3), min_size=25, max_size=25),
    st.lists(st.sampled_from([NORMAL, NORMAL, NORMAL, USER_DEFINED, CONTROL]), min_size=25, max_size=25),
    st.booleans(), st.booleans(), st.lists(st.text(ALPHABET, max_size=30), min_size=1, max_size=4),
)  # fmt: skip
def test_any_vocabulary_and_text(pieces, scores, kinds, with_bytes, prefix, texts):
    metadata = small_spm(tuple(p for p in pieces if p not in ("<s>", "</s>", "<unk>")), with_bytes=with_bytes)
    n = len(metadata["tokenizer.ggml.tokens"]) - (259 if with_bytes else 3)
    if not n:
        return
    metadata["tokenizer.ggml.scores"][-n:] = [float(s) for s in scores[:n]]
    metadata["tokenizer.ggml.token_type"][-n:] = kinds[:n]
    metadata["tokenizer.ggml.add_space_prefix"] = prefix
    metadata["tokenizer.ggml.add_bos_token"] = False
    same(metadata, texts)


@pytest.mark.parametrize("slice_length", [1, 7, slicing.SLICE])
def test_a_real_vocabulary_in_slices(shared, monkeypatch, slice_length):
    monkeypatch.setattr(slicing, "SLICE", slice_length)
    metadata = gguf_metadata(shared / "vocab/ggml-vocab-llama-spm.gguf")
    text = (shared / "vocab/ggml-vocab-llama-spm.gguf.inp").read_text(encoding="utf-8")
    rng = np.random.default_rng(0)
    letters = list("  \n\tabcdeé日本語▁🦙" + "the and <s>")
    noise = ["".join(rng.choice(letters, n)) for n in (1, 2, 50, 3000)]
    same(metadata, [text, *text.split("\n"), text * 3, " " * 40, "a" * 500, "  x" * 90 + "▁ ▁  ▁", *noise])


def test_long_texts_are_cut_where_a_space_starts(monkeypatch):
    monkeypatch.setattr(slicing, "SLICE", 4)
    assert list(slicing._slices("abcdefg  hi ▁ jkl mnopq")) == ["abcdefg", "  hi", " ▁ jkl", " mnopq"]
    assert list(slicing._slices("")) == [""]
    whole = Tokenizer.from_metadata(small_spm(("▁", "a", "b", "a▁", "a▁b")))  # a token with a space inside: not cut
    assert whole.tokenize("a b" * 6).count(whole.token_to_id("a▁b")) == 6


def test_tables_are_checked():
    starts, ranks = np.array([0, 1, 3], np.uint32), np.array([0, 1], np.uint32)
    table = Pieces(b"abb", starts, ranks)
    assert (len(table), table.find(b"bb"), table.find(b"b"), table.piece(1), table.piece(2), table.repeated) == (2, 1, None, b"bb", None, None)
    assert Pieces(b"aa", np.array([0, 1, 2], np.uint32), ranks).repeated == (0, 1)
    assert table.nbytes >= 3 + 4 * 5 and table.encode(b"").tolist() == []
    with pytest.raises(InvalidArgumentError, match="cannot express"):
        table.encode(b"ab")
    wrong = [
        (b"ab", starts, ranks), (b"abb", starts[::-1].copy(), ranks), (b"abb", np.array([0, 4, 3], np.uint32), ranks),
        (b"abb", starts, ranks[:1]), (b"", starts[:1], ranks[:0]),
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(InvalidArgumentError):
            Pieces(*arguments)
    for options in ({"unknown": 2}, {"unknown": -1}, {"byte_pieces": np.zeros(255, np.uint32)}, {"byte_pieces": np.full(256, 2, np.uint32)}):
        with pytest.raises(InvalidArgumentError):
            Pieces(b"abb", starts, ranks, **options)
    for n in (1, 10, 1000):  # three pairs at most for every symbol, and its id
        assert work_bytes(n) == n * (6 * 4 + 3 * 5 * 4 + 4)
    with pytest.raises(TypeError):
        Pieces.__new__(Pieces)


def test_a_large_work_space_is_in_the_ledger(monkeypatch):
    tokenizer = Tokenizer.from_metadata(small_spm())
    short, long = "a" * 1000, "a" * 100_000  # without a space there is nowhere to cut
    monkeypatch.setattr(slicing, "process_budget", lambda: MemoryBudget(1 << 20, name="test"))
    assert tokenizer.encode(short)
    with pytest.raises(MemoryBudgetError):
        tokenizer.encode(long)


@pytest.mark.skipif(os.name == "nt", reason="needs a timer's signal")
def test_a_signal_ends_the_encoding_of_a_long_text():
    class Rung(Exception):
        pass

    def ring(*_):
        raise Rung

    tokenizer = Tokenizer.from_metadata(small_spm())
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Rung):
            while True:
                tokenizer.encode("ab" * 500_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
