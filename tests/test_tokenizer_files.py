"""Plain vocabulary files, tokenizer.json, directories and GGUF files."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperion import FormatError, HyperionError, HyperionIOError, InvalidArgumentError
from hyperion.tokenizer import Tokenizer, TokenizerConfig

BYTES = [f"<0x{b:02X}>" for b in range(256)]


def plain(tmp_path, lines, **options):
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Tokenizer(TokenizerConfig(vocabulary_path=path, **options))


def texts(tokenizer, text, **options):
    return [tokenizer.id_to_token(i) for i in tokenizer.encode(text, **options)]


def test_longest_match_with_spaces_loses_nothing(tmp_path):
    tokenizer = plain(tmp_path, ["<unk>", "a", "ab", "abc", " ", "the ", "x y", "é"])
    assert texts(tokenizer, "abcab a") == ["abc", "ab", " ", "a"]
    assert texts(tokenizer, "the x ya") == ["the ", "x y", "a"]
    assert texts(tokenizer, "a??é") == ["a", "<unk>", "é"]
    for text in ("abcab a", "the é  ", ""):
        assert tokenizer.detokenize(tokenizer.tokenize(text)) == text
    assert tokenizer.unk_id == 0
    assert tokenizer.detokenize(tokenizer.tokenize("a?")) == "a<unk>"


def test_longest_match_with_marks(tmp_path):
    tokenizer = plain(tmp_path, ["[UNK]", "▁", "▁the", "cat", "c"])
    assert texts(tokenizer, " the cat") == ["▁the", "▁", "cat"]
    assert tokenizer.detokenize(tokenizer.tokenize(" the cat")) == " the cat"


def test_longest_match_of_words(tmp_path):
    tokenizer = plain(tmp_path, ["<unk>", "hello", "world", ",", "Hello"])
    assert texts(tokenizer, "hello  world") == ["hello", "world"]
    assert tokenizer.detokenize(tokenizer.tokenize("hello  world")) == "hello world"
    stream = tokenizer.stream()
    assert [stream.push(i) for i in tokenizer.tokenize("hello world")] == ["hello", " world"]
    assert tokenizer.decode(tokenizer.tokenize("world"), continuation=True) == " world"


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_byte_tokens_make_every_text_come_back(tmp_path_factory, text):
    tokenizer = plain(tmp_path_factory.mktemp("v"), [*BYTES, " ", "th", "the", "é"])
    assert tokenizer.detokenize(tokenizer.tokenize(text)) == text
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in tokenizer.tokenize(text)]
    assert "".join(parts) + stream.flush() == text


def test_without_unknown_token_uncovered_text_is_an_error(tmp_path):
    tokenizer = plain(tmp_path, ["a", " "])
    assert tokenizer.tokenize("a a") == [0, 1, 0]
    with pytest.raises(InvalidArgumentError, match="'b'"):
        tokenizer.tokenize("ab")
    tokenizer = plain(tmp_path, ["a", "##b"])
    assert tokenizer.tokenize("ab") == [0, 1]
    with pytest.raises(InvalidArgumentError):
        tokenizer.tokenize("c")


def test_case(tmp_path):
    words = ["<unk>", "Hello", "hello", "world", "É", " "]
    tokenizer = plain(tmp_path, words, case_sensitive=False)
    assert tokenizer.tokenize("HELLO hello WORLD é") == [1, 5, 1, 5, 3, 5, 4]
    tokenizer = plain(tmp_path, words)
    assert tokenizer.tokenize("Hello hello WORLD")[:3] == [1, 5, 2]
    assert tokenizer.token_to_id("hello") == 2


def test_wordpiece(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "un", "##aff", "##able", "want", "##ed", ",", "Ünlü", "unlu"]
    tokenizer = plain(tmp_path, words, case_sensitive=False)
    assert texts(tokenizer, "UNaffable, wanted ünlü zzz") == ["un", "##aff", "##able", ",", "want", "##ed", "unlu", "[UNK]"]
    assert tokenizer.detokenize(tokenizer.tokenize("unaffable wanted")) == "unaffable wanted"
    stream = tokenizer.stream()
    assert [stream.push(i) for i in tokenizer.tokenize("wanted un")] == ["want", "ed", " un"]
    assert texts(tokenizer, "[CLS] want[PAD]", parse_special=True) == ["[CLS]", "want", "[PAD]"]
    assert 2 not in tokenizer.tokenize("[CLS]")
    assert tokenizer.decode([2, 3, 0]) == "un"
    assert texts(plain(tmp_path, words), "Want want") == ["[UNK]", "want"]


def test_max_tokens_caps_a_plain_vocabulary(tmp_path):
    words = ["<unk>", "a", "ab", "abc"]
    assert plain(tmp_path, words).vocab_size == 4
    tokenizer = plain(tmp_path, words, max_tokens=3)
    assert tokenizer.vocab_size == 3
    assert texts(tokenizer, "abc") == ["ab", "<unk>"]
    assert plain(tmp_path, words, max_tokens=50_000).vocab_size == 4


@pytest.mark.parametrize("content", [b"", b"\n", b"a\n\nb\n", b"a\nb\na\n", b"a\n\xff\n", b"\r\n"])
def test_bad_plain_files(tmp_path, content):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(FormatError) as error:
        Tokenizer.from_file(path)
    assert "offset" in error.value.context


def test_windows_lines_and_a_missing_last_newline(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(b"a\r\nb\r\nc")
    assert Tokenizer.from_file(path).tokenize("cab") == [2, 0, 1]


# --- tokenizer.json


def json_tokenizer(**changes):
    alphabet = {"a": 0, "b": 1, "ab": 2, "Ġ": 3}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 4, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True},
            {"id": 5, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True},
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": alphabet, "merges": ["a b"]},
    }  # fmt: skip
    return content | changes


def write(folder, content, **beside):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for name, value in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_tokenizer_json_with_its_configuration(tmp_path):
    write(
        tmp_path,
        json_tokenizer(),
        tokenizer_config={"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True, "chat_template": "T"},
        generation_config={"eos_token_id": [5, 4]},
    )
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.encode("ab a") == [4, 2, 3, 0]
    assert tokenizer.encode("ab", add_special=False) == [2]
    assert tokenizer.decode([4, 2, 3, 0, 5]) == "ab a"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_ids) == (4, 5, {4, 5})
    assert tokenizer.add_bos
    assert not tokenizer.add_eos
    assert tokenizer.chat_template == "T"
    assert tokenizer.encode("<s>", add_special=False, parse_special=True) == [4]
    assert tokenizer.encode("<s>", add_special=False) == []
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}J")
    assert Tokenizer.from_file(tmp_path).render_chat([]) == "<s>J"


def test_tokenizer_json_alone(tmp_path):
    tokenizer = Tokenizer.from_file(write(tmp_path, json_tokenizer()) / "tokenizer.json")
    assert tokenizer.bos_id is None
    assert tokenizer.encode("ab") == [2]
    assert tokenizer.end_ids == {5}  # by its text


def test_tokenizer_json_with_its_own_decoder(tmp_path):
    content = json_tokenizer(
        pre_tokenizer={"type": "Whitespace"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": 0, "b": 1, "##b": 2, ",": 3}},
    )  # fmt: skip
    tokenizer = Tokenizer.from_file(write(tmp_path, content))
    ids = tokenizer.encode("ab, b")
    assert ids == [0, 2, 3, 1]
    assert tokenizer.decode(ids) == "ab, b"
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)
    with pytest.raises(InvalidArgumentError):
        tokenizer.decode([77])
    with pytest.raises(InvalidArgumentError):
        tokenizer.stream().push(77)


def test_max_tokens_caps_tokenizer_json(tmp_path):
    path = write(tmp_path, json_tokenizer()) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(path, max_tokens=2)
    assert tokenizer.vocab_size == 2
    assert tokenizer.encode("ab") == [0, 1]
    assert tokenizer.token_to_id("<s>") is None
    tokenizer = Tokenizer(TokenizerConfig(vocabulary_path=path, case_sensitive=False))
    assert tokenizer.encode("AB") == [2]


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(json_tokenizer(model=None)).encode(),
        json.dumps(json_tokenizer(model={"type": "Martian"})).encode(),
        json.dumps(json_tokenizer(added_tokens=7)).encode(),
    ],
)
def test_bad_tokenizer_json(tmp_path, data):
    (tmp_path / "tokenizer.json").write_bytes(data)
    for cap in (None, 3):
        with pytest.raises(FormatError):
            Tokenizer.from_file(tmp_path / "tokenizer.json", max_tokens=cap)


def test_merges_of_unknown_tokens(tmp_path):
    content = json_tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]})
    with pytest.raises(FormatError):
        Tokenizer.from_file(write(tmp_path, content))


@pytest.mark.parametrize("beside", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_bad_files_beside(tmp_path, beside):
    write(tmp_path, json_tokenizer())
    (tmp_path / "tokenizer_config.json").write_bytes(beside)
    with pytest.raises(FormatError):
        Tokenizer.from_file(tmp_path)


def test_odd_values_beside_are_ignored_or_refused(tmp_path):
    for config in ({"bos_token": 7, "added_tokens_decoder": {"x": 1, "3": []}, "chat_template": [{"name": "tool_use"}]}, {"bos_token": "absent", "add_bos_token": "yes"}):  # fmt: skip
        write(tmp_path, json_tokenizer(), tokenizer_config=config, generation_config={"eos_token_id": [-1, 1 << 40, "x"]})
        tokenizer = Tokenizer.from_file(tmp_path)
        assert tokenizer.encode("ab") == [2]
        assert tokenizer.end_ids == {5}


def test_model_file_with_added_tokens(shared, tmp_path):
    source = shared / "models/shakespeare/hf/tokenizer.model"
    (tmp_path / "tokenizer.model").write_bytes(source.read_bytes())
    added = {"2048": {"content": "<|user|>", "special": True, "rstrip": True}, "2": {"content": "</s>", "special": True}}
    config = {"added_tokens_decoder": added, "legacy": False, "add_bos_token": False, "chat_template": "x"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.vocab_size == 2049
    assert tokenizer.token_to_id("<|user|>") == 2048
    ids = tokenizer.encode("<|user|> the king", parse_special=True)
    assert ids[0] == 2048
    assert 2048 not in ids[1:]
    assert tokenizer.encode("the king") == Tokenizer.from_file(source).encode("the king", add_special=False)
    config["added_tokens_decoder"] = {"3000": added["2048"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="3000"):
        Tokenizer.from_file(tmp_path)


def test_gguf_files(shared, tmp_path):
    path = shared / "vocab/ggml-vocab-llama-bpe.gguf"
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.vocab_size == 128256
    assert tokenizer.encode("Hello") == [128000, 9906]
    assert Tokenizer.from_file(str(path)).encode("Hello") == [128000, 9906]
    capped = Tokenizer(TokenizerConfig(vocabulary_path=path, max_tokens=5000, case_sensitive=False))
    assert capped.vocab_size == 5000
    assert capped.bos_id is None
    assert capped.decode(capped.encode("Hello World, naïve 🦙")) == "hello world, naïve 🦙"
    assert max(capped.encode("Hello World, naïve 🦙")) < 5000
    with pytest.raises(HyperionIOError):
        Tokenizer.from_gguf(tmp_path / "absent.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(HyperionError):
        Tokenizer.from_gguf(tmp_path / "broken.gguf")


def test_max_tokens_caps_sentencepiece(shared):
    for name in ("shakespeare-q8_0.gguf", "hf/tokenizer.model", "hf/tokenizer.json"):
        tokenizer = Tokenizer.from_file(shared / "models/shakespeare" / name, max_tokens=1000)
        assert tokenizer.vocab_size == 1000
        ids = tokenizer.encode("the king", add_special=False)
        assert max(ids) < 1000
