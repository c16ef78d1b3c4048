"""Vocabularies that are wrong are typed errors, never a panic, a hang or silence."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperion import FormatError, HyperionError, InvalidArgumentError, UnsupportedError
from hyperion.tokenizer import Tokenizer
from hyperion.tokenizer.engine import guarded
from hyperion.tokenizer.sentencepiece import parse_model
from tokenizer_data import CONTROL, NORMAL, byte_bpe, small_spm

T, S, K, M = (f"tokenizer.ggml.{n}" for n in ("tokens", "scores", "token_type", "merges"))
BOS, EOS = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"


def changed(metadata, **changes):
    out = dict(metadata)
    for name, value in changes.items():
        key = {"T": T, "S": S, "K": K, "M": M, "bos": BOS, "eos": EOS}.get(name, f"tokenizer.ggml.{name}")
        if value is None:
            out.pop(key, None)
        else:
            out[key] = value(out[key]) if callable(value) else value
    return out


BPE_CHANGES = {
    "no tokens": {"T": None},
    "empty tokens": {"T": []},
    "tokens are one string": {"T": "abc"},
    "tokens are numbers": {"T": lambda t: list(range(len(t)))},
    "one token is a number": {"T": lambda t: [*t[:-1], 7]},
    "tokens are a mapping": {"T": {"a": 1}},
    "token is not UTF-8": {"T": lambda t: [*t[:-1], b"\xff\xfe"]},
    "token has a surrogate": {"T": lambda t: [*t[:-1], "\udcff"]},
    "token twice": {"T": lambda t: [*t[:-1], t[5]]},
    "types too short": {"K": lambda k: k[:-1]},
    "types too long": {"K": lambda k: [*k, 1]},
    "types are floats": {"K": lambda k: [float(x) for x in k]},
    "types are strings": {"K": lambda k: ["1"] * len(k)},
    "types are a number": {"K": 1},
    "no merges": {"M": None},
    "merges are numbers": {"M": [1, 2]},
    "merges are a string": {"M": "a b"},
    "merge of unknown tokens": {"M": ["zz yy"]},
    "merge into an unknown token": {"M": ["a b"]},
    "bos out of range": {"bos": 259},
    "bos huge": {"bos": 1 << 60},
    "bos negative": {"bos": -2},
    "eos out of range": {"eos": 300},
    "eos is a string": {"eos": "2"},
    "eos is a bool": {"eos": True},
    "eos is a float": {"eos": 2.0},
    "eot out of range": {"eot_token_id": 999},
    "unknown out of range": {"unknown_token_id": 999},
    "add_bos is a number": {"add_bos_token": 1},
    "add_bos without bos": {"add_bos_token": True, "bos": None},
    "model is a number": {"model": 3},
    "pre is a number": {"pre": 3},
}


@pytest.mark.parametrize("what", BPE_CHANGES)
def test_wrong_bpe_vocabulary(what):
    with pytest.raises(FormatError):
        Tokenizer.from_metadata(changed(byte_bpe(("ab",)), **BPE_CHANGES[what]) if what != "merge into an unknown token" else changed(byte_bpe(), **BPE_CHANGES[what]))  # fmt: skip


SPM_CHANGES = {
    "no scores": {"S": None},
    "scores are strings": {"S": lambda s: ["0"] * len(s)},
    "scores too short": {"S": lambda s: s[:-1]},
    "scores too long": {"S": lambda s: [*s, 0.0]},
    "scores are one number": {"S": 1.0},
    "score is NaN": {"S": lambda s: [*s[:-1], float("nan")]},
    "score is infinite": {"S": lambda s: [*s[:-1], float("inf")]},
    "score is None": {"S": lambda s: [*s[:-1], None]},
    "score is a bool": {"S": lambda s: [*s[:-1], True]},
    "byte token reads otherwise": {"T": lambda t: [x if x != "<0x41>" else "<0xZZ>" for x in t]},
    "byte token in lower case": {"T": lambda t: [x if x != "<0xAB>" else "<0xab>" for x in t]},
    "token twice": {"T": lambda t: [*t[:-1], "<s>"]},
    "prefix is a number": {"add_space_prefix": 1},
    "tokens longer than words": {"T": lambda t: [*t[:-1], "x" * 100_000]},
}


@pytest.mark.parametrize("what", SPM_CHANGES)
def test_wrong_sentencepiece_vocabulary(what):
    with pytest.raises(FormatError):
        Tokenizer.from_metadata(changed(small_spm(), **SPM_CHANGES[what]))


@pytest.mark.parametrize("tokens", [["a"], ["a", "b"], ["<unk>", "<s>"]])
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_vocabulary_of_two_tokens(tokens, model):
    with pytest.raises(FormatError, match="no text"):
        Tokenizer.from_metadata({"tokenizer.ggml.model": model, T: tokens, S: [0.0] * len(tokens), M: []})


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "plamo2", "no_vocab", "", "GPT2"])
def test_unknown_models_are_named_with_the_known(model):
    with pytest.raises(UnsupportedError, match="gpt2.*llama"):
        Tokenizer.from_metadata(changed(byte_bpe(), model=model))


def test_metadata_without_tokenizer():
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.model"):
        Tokenizer.from_metadata({"general.architecture": "llama"})
    with pytest.raises(InvalidArgumentError):
        Tokenizer.from_metadata([("tokenizer.ggml.model", "gpt2")])


def test_minus_one_and_padding_out_of_range_mean_none():
    tokenizer = Tokenizer.from_metadata(
        changed(byte_bpe(), bos=0xFFFFFFFF, eot_token_id=-1, padding_token_id=999, fim_pad_token_id=10**6)
    )
    assert tokenizer.bos_id is None
    assert tokenizer.eot_id is None
    assert tokenizer.end_ids == {257}


def test_empty_token_gets_a_name():
    tokenizer = Tokenizer.from_metadata(changed(byte_bpe(), T=lambda t: [*t, ""], K=lambda k: [*k, NORMAL]))
    assert tokenizer.id_to_token(258) == "[EMPTY_258]"


def test_all_tokens_special():
    metadata = changed(small_spm(), K=lambda k: [CONTROL] * len(k))
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.decode(tokenizer.encode("ab", parse_special=True)) == ""


def test_panics_become_errors_and_interrupts_do_not():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(FormatError, match="index out of bounds"), guarded("build", building=True):
        raise panic("index out of bounds")
    with pytest.raises(HyperionError), guarded("encode", building=False):
        raise panic("x")
    with pytest.raises(KeyboardInterrupt), guarded("build", building=True):
        raise KeyboardInterrupt
    with pytest.raises(UnsupportedError), guarded("build", building=True):
        raise UnsupportedError("stays what it is")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 400) | st.floats(allow_nan=True) | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore:the file names no pre-tokenizer")
@settings(max_examples=150, deadline=None)
@given(
    base=st.sampled_from([byte_bpe(("ab", "the")), small_spm()]),
    key=st.sampled_from([T, S, K, M, BOS, EOS, "tokenizer.ggml.pre", "tokenizer.ggml.add_bos_token", "tokenizer.chat_template", "general.name"]),
    value=values,
    position=st.integers(0, 300),
    whole=st.booleans(),
)
def test_any_wrong_value_is_a_typed_error_or_works(base, key, value, position, whole):
    metadata = dict(base)
    if whole or not isinstance(metadata.get(key), list) or not metadata[key]:
        metadata[key] = value
    else:
        column = list(metadata[key])
        column[position % len(column)] = value
        metadata[key] = column
    try:
        tokenizer = Tokenizer.from_metadata(metadata)
        tokenizer.decode(tokenizer.encode("ab the é"))
    except HyperionError:
        pass


# --- SentencePiece files


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text, score=0.0, kind=1):
    return field(1, field(1, text.encode()) + field(2, score) + (field(3, kind) if kind != 1 else b""))


PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁", -1.0, 1), ("a", -2.0, 1), ("▁a", -0.5, 1)]


TRAINER, NORMALIZER = field(3, 2), field(4, 0)


def model(pieces=PIECES, trainer=TRAINER, normalizer=NORMALIZER):
    return b"".join(piece(*p) for p in pieces) + field(2, trainer) + field(3, normalizer)


def test_a_model_made_here_is_read(tmp_path):
    (tmp_path / "m.model").write_bytes(model())
    tokenizer = Tokenizer.from_file(tmp_path / "m.model")
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("a a?")] == ["<s>", "▁a", "▁a", "<unk>"]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)


def test_every_cut_of_a_model_is_an_error_or_a_smaller_model():
    data = model()
    for end in range(len(data)):
        try:
            parse_model(data[:end])
        except (FormatError, UnsupportedError):
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40,
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a" + varint(1 << 62),
        b"\x0b" * 10,
        b"\x02abc",
        model() + b"\x00\x01",
        model([*PIECES, ("x", float("nan"), 1)]),
        model([*PIECES, ("x", 0.0, 9)]),
        model([*PIECES, ("<0xQQ>", 0.0, 6)]),
        model(PIECES[:2]),
        model() + field(1, field(1, b"\xff") + field(2, 0.0)),
        model() + field(1, field(1, 5)),
        model() + field(1, 7),
        model(trainer=field(3, 2) + field(41, 99)),
        model(trainer=field(3, 2) + field(41, b"x")),
        model(normalizer=field(2, b"\x01\x02\x03") + field(4, 0)),
        model([*PIECES, ("a", 0.0, 1)]),
    ],
)
def test_bad_sentencepiece_files(tmp_path, data):
    path = tmp_path / "m.model"
    path.write_bytes(data)
    with pytest.raises(FormatError):
        Tokenizer.from_file(path)


@pytest.mark.parametrize("kind", [1, 3, 4, 77])
def test_other_sentencepiece_models_are_unsupported(kind):
    with pytest.raises(UnsupportedError, match="BPE"):
        parse_model(model(trainer=field(3, kind)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash(data):
    content = bytearray(model())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_model(bytes(content))
    except HyperionError:
        pass
