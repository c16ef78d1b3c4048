"""Text to ids and back on real vocabularies, their special tokens, and streams."""

import collections
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hyperion import HyperionIOError, InvalidArgumentError
from hyperion.tokenizer import Tokenizer, TokenizerConfig
from hyperion.tokenizer.stream import ByteStream
from tokenizer_data import CONTROL, USER_DEFINED, byte_bpe, gguf_metadata, small_spm

NAMES = ("gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2")


@pytest.fixture(scope="module")
def vocabularies(shared):
    """The real vocabularies, opened once."""
    return {n: Tokenizer.from_metadata(gguf_metadata(shared / f"vocab/ggml-vocab-{n}.gguf"), consume=True) for n in NAMES}


def cases(shared, name):
    path = shared / f"vocab/ggml-vocab-{name}.gguf"
    texts = (path.parent / f"{path.name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    rows = (path.parent / f"{path.name}.out").read_text().split("\n")
    return list(zip(texts, ([int(x) for x in row.split()] for row in rows), strict=False))


@pytest.mark.parametrize("name", NAMES)
def test_fixtures(shared, vocabularies, name):
    tokenizer = vocabularies[name]
    found = cases(shared, name)
    assert len(found) == 47
    for text, ids in found:
        assert tokenizer.encode(text, add_special=False) == ids
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == text


@pytest.mark.parametrize(
    ("name", "bos", "eos", "eot", "ends", "add_bos"),
    [
        ("gpt-2", 50256, 50256, 50256, {50256}, False),
        ("llama-bpe", 128000, 128001, 128009, {128001, 128009}, True),
        ("llama-spm", 1, 2, None, {2}, True),
        ("phi-3", 1, 32000, 32007, {2, 32000, 32007}, True),
        ("qwen2", 151643, 151643, 151645, {128247, 151643, 151645}, False),
    ],
)
def test_special_tokens_are_those_of_llama_cpp(vocabularies, name, bos, eos, eot, ends, add_bos):
    tokenizer = vocabularies[name]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.eot_id) == (bos, eos, eot)
    assert tokenizer.end_ids == ends
    assert all(map(tokenizer.is_end, ends))
    assert not tokenizer.is_end(0)
    assert tokenizer.add_bos is add_bos
    assert tokenizer.encode("a")[0] == bos or not add_bos


def test_special_tokens_are_text_unless_parsed(vocabularies):
    tokenizer = vocabularies["llama-bpe"]
    text = "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    parsed = tokenizer.encode(text, add_special=False, parse_special=True)
    assert parsed == [128006, 882, 128007, 271, 6151, 128009]
    plain = tokenizer.encode(text, add_special=False)
    assert not set(plain) & {128006, 128007, 128009}
    assert tokenizer.decode(plain) == text
    assert tokenizer.decode(parsed) == "user\n\nhi"
    assert tokenizer.decode(parsed, skip_special=False) == text


def test_text_that_looks_like_a_control_token_never_becomes_one(vocabularies):
    for tokenizer in vocabularies.values():
        for token in tokenizer.end_ids:
            text = tokenizer.id_to_token(token)
            assert token not in tokenizer.encode(f"{text} {text}{text}", add_special=False)


def test_phi_3_swallows_space_after_special_tokens(vocabularies):
    tokenizer = vocabularies["phi-3"]
    ids = tokenizer.encode("<|user|>\n hi<|end|>\n<|assistant|>", add_special=False, parse_special=True)
    assert [tokenizer.id_to_token(i) for i in ids] == ["<|user|>", "▁hi", "<|end|>", "<|assistant|>"]


def test_streams_give_whole_characters(vocabularies):
    text = "नमस्ते 👩‍👩‍👧 漢字 🇩🇪"
    for tokenizer in vocabularies.values():
        ids = tokenizer.encode(text, add_special=False)
        stream = tokenizer.stream()
        parts = [stream.push(i) for i in ids]
        assert "\ufffd" not in "".join(parts)
        assert "" in parts  # some token ends inside a character
        assert "".join(parts) + stream.flush() == text


def test_stream_flushes_a_character_that_never_ends(vocabularies):
    for tokenizer in vocabularies.values():
        ids = tokenizer.encode("x\U0010ffff", add_special=False)[:-1]
        stream = tokenizer.stream()
        text = "".join(map(stream.push, ids))
        assert text == "x"
        assert stream.flush() == "\ufffd"
        assert tokenizer.decode(ids) == "x\ufffd"
        assert stream.flush() == ""


def test_continuation_keeps_the_space(vocabularies):
    tokenizer = vocabularies["llama-spm"]
    ids = tokenizer.encode("world", add_special=False)
    assert tokenizer.decode(ids) == "world"
    assert tokenizer.decode(ids, continuation=True) == " world"
    stream = tokenizer.stream(continuation=True)
    assert "".join(map(stream.push, ids)) + stream.flush() == " world"


def test_demo_model_is_the_same_from_every_file(shared):
    folder = shared / "models/shakespeare"
    tokenizers = [Tokenizer.from_metadata(gguf_metadata(p)) for p in sorted(folder.glob("*.gguf"))]
    tokenizers += [Tokenizer.from_file(folder / "hf" / n) for n in ("tokenizer.json", "tokenizer.model", "")]
    assert len(tokenizers) == 15
    prompts = json.loads((folder / "reference.json").read_text())["prompts"]
    text = (shared / "data/shakespeare_valid.txt").read_text()
    expected = tokenizers[0].encode(text)
    for tokenizer in tokenizers:
        assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (2048, 1, 2, 0)
        assert tokenizer.add_bos
        assert not tokenizer.add_eos
        assert tokenizer.end_ids == {2}
        assert tokenizer.encode(text) == expected
        assert tokenizer.decode(expected) == text
        for prompt in prompts:
            assert tokenizer.encode(prompt["prompt"]) == prompt["tokens"]
            assert tokenizer.decode(prompt["greedy_tokens"]) == prompt["greedy_text"]
    for tokenizer in tokenizers[-3:]:
        for line in text.splitlines(keepends=True):
            assert tokenizer.encode(line) == tokenizers[0].encode(line)


def test_begin_and_end_are_added_as_the_file_asks():
    metadata = byte_bpe()
    plain = Tokenizer.from_metadata(metadata).encode("hi")
    begin, end = metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]
    metadata |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.encode("hi") == [begin, *plain, end]
    assert tokenizer.encode("hi", add_special=False) == plain
    assert tokenizer.encode("") == [begin, end]
    assert tokenizer.decode([begin, *plain, end]) == "hi"


def test_user_defined_tokens_are_always_found():
    metadata = byte_bpe(special=("<s>", "</s>", "<|tab|>", "<|ctl|>"))
    metadata["tokenizer.ggml.token_type"][-2:] = [USER_DEFINED, CONTROL]
    tokenizer = Tokenizer.from_metadata(metadata)
    tab, ctl = 258, 259
    ids = tokenizer.encode("a<|tab|>b<|ctl|>", add_special=False)
    assert ids[1] == tab
    assert ctl not in ids
    assert tokenizer.decode(ids) == "a<|tab|>b<|ctl|>"
    assert tokenizer.decode([tab, ctl]) == "<|tab|>"
    assert not tokenizer.is_special(tab)
    assert tokenizer.is_special(ctl)


def test_end_tokens_are_promoted_by_their_text():
    metadata = byte_bpe(special=("<s>", "</s>", "<|im_end|>", "<|fim_prefix|>", "<|file_sep|>"))
    metadata["tokenizer.ggml.token_type"] = [1] * 261  # a converter that types nothing
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.end_ids == {257, 258, 260}
    assert tokenizer.eot_id == 258
    assert tokenizer.encode("<|im_end|><|fim_prefix|>", add_special=False, parse_special=True) == [258, 259]
    assert tokenizer.decode([258, 259]) == ""


def test_gpt_oss_channel_markup_is_text_and_end_of_channel_no_end():
    names = ("<s>", "</s>", "<|return|>", "<|call|>", "<|end|>", "<|channel|>")
    tokenizer = Tokenizer.from_metadata(byte_bpe(special=names))
    assert tokenizer.end_ids == {257, 258, 259}
    assert tokenizer.decode([261, 260]) == "<|channel|><|end|>"


def test_sentencepiece_prefers_high_scores_and_falls_back_to_bytes():
    tokenizer = Tokenizer.from_metadata(small_spm())
    def texts(text):
        return [tokenizer.id_to_token(i) for i in tokenizer.encode(text, add_special=False)]

    assert texts("ab") == ["▁ab"]
    assert texts("aab") == ["▁a", "ab"]
    assert texts("é") == ["▁", "<0xC3>", "<0xA9>"]
    assert texts("") == []
    assert tokenizer.token_bytes(3 + 0xC3) == b"\xc3"
    assert tokenizer.token_bytes(tokenizer.token_to_id("▁ab")) == b" ab"


def test_sentencepiece_without_prefix_or_bytes():
    metadata = small_spm(with_bytes=False) | {"tokenizer.ggml.add_space_prefix": False}
    tokenizer = Tokenizer.from_metadata(metadata)
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("ab ééa", add_special=False)] == ["ab", "▁", "<unk>", "a"]
    metadata["tokenizer.ggml.token_type"][0] = 1
    metadata["tokenizer.ggml.unknown_token_id"] = 0xFFFFFFFF
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.decode(tokenizer.encode("ab a", add_special=False)) == "ab a"
    with pytest.raises(InvalidArgumentError, match="é"):
        tokenizer.encode("é")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("=" * 70, [1275, 9166, 9166, 9166, 9166, 2751]),
        (" " * 21, [462, 539]),
        ("aaaaaaa", [263, 27137, 7340]),
        ("abababab", [633, 370, 370, 370]),
        ("lllll ssss", [301, 645, 645, 269, 893, 29879]),
        ("-" * 33 + " " + "_" * 9, [448, 2683, 2683, 903, 14365]),
    ],
)
def test_equal_merges_are_taken_from_the_left(vocabularies, text, ids):
    """Texts that pairs of one rank cover in several ways; recorded from llama.cpp."""
    assert vocabularies["llama-spm"].encode(text, add_special=False) == ids
    assert vocabularies["llama-spm"].decode(ids) == text


def test_missing_bytes_are_named():
    metadata = byte_bpe()
    metadata["tokenizer.ggml.tokens"][metadata["tokenizer.ggml.tokens"].index("é")] = "zz"
    metadata["tokenizer.ggml.merges"] = []
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.decode(tokenizer.encode("plain")) == "plain"
    with pytest.raises(InvalidArgumentError, match="0xE9"):
        tokenizer.encode("鿿")


@pytest.mark.parametrize("text", [None, b"bytes", 3, "lone \ud800 surrogate"])
def test_bad_texts(text):
    with pytest.raises(InvalidArgumentError):
        Tokenizer.from_metadata(byte_bpe()).encode(text)


@pytest.mark.parametrize("ids", [[258], [-1], [1 << 40], ["a"], [1.5], "ab", 5, [None]])
def test_bad_ids(ids):
    tokenizer = Tokenizer.from_metadata(byte_bpe())
    with pytest.raises(InvalidArgumentError):
        tokenizer.decode(ids)
    if isinstance(ids, list):
        with pytest.raises(InvalidArgumentError):
            tokenizer.stream().push(ids[0])
        with pytest.raises(InvalidArgumentError):
            tokenizer.token_bytes(ids[0])


def test_lookup():
    tokenizer = Tokenizer.from_metadata(byte_bpe(("the",)))
    assert tokenizer.id_to_token(tokenizer.token_to_id("the")) == "the"
    assert tokenizer.token_to_id("absent") is None
    assert tokenizer.id_to_token(10**6) is None
    assert tokenizer.id_to_token(-1) is None
    assert tokenizer.vocab_size == 260
    assert tokenizer.tokenize("the") == tokenizer.encode("the", add_special=False)
    assert tokenizer.detokenize(tokenizer.tokenize(" the end")) == " the end"


def test_numpy_values_are_welcome():
    numpy = pytest.importorskip("numpy")
    metadata = small_spm()
    expected = Tokenizer.from_metadata(metadata).encode("ab aab é")
    metadata["tokenizer.ggml.scores"] = numpy.array(metadata["tokenizer.ggml.scores"], numpy.float32)
    metadata["tokenizer.ggml.token_type"] = numpy.array(metadata["tokenizer.ggml.token_type"], numpy.int32)
    metadata["tokenizer.ggml.bos_token_id"] = numpy.uint32(1)
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.encode("ab aab é") == expected
    assert tokenizer.decode(numpy.array(expected)) == "ab aab é"


def test_metadata_is_left_alone_unless_given_away():
    metadata = byte_bpe(("the", "cat"))
    before = pickle.dumps(metadata)
    first = Tokenizer.from_metadata(metadata)
    assert pickle.dumps(metadata) == before
    assert Tokenizer.from_metadata(metadata, consume=True).encode("the cat") == first.encode("the cat")


def test_threads_that_parse_differently_do_not_disturb_each_other():
    tokenizer = Tokenizer.from_metadata(byte_bpe())
    text = "<s> text </s>" * 20
    expected = {p: tokenizer.encode(text, parse_special=p) for p in (False, True)}
    wrong = []

    def work(parse):
        for _ in range(200):
            if tokenizer.encode(text, parse_special=parse) != expected[parse]:
                wrong.append(parse)

    workers = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert expected[False] != expected[True]
    assert not wrong


def test_close():
    with Tokenizer.from_metadata(byte_bpe()) as tokenizer:
        assert tokenizer.memory_bytes > 0
    tokenizer.close()
    assert tokenizer.memory_bytes == 0
    with pytest.raises(InvalidArgumentError, match="closed"):
        tokenizer.encode("x")


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(HyperionIOError):
        Tokenizer.from_file(tmp_path / "absent.json")
    with pytest.raises(HyperionIOError, match="tokenizer.json"):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"1234")
    with pytest.raises(InvalidArgumentError, match=r"\.json"):
        Tokenizer.from_file(tmp_path / "x.bin")
    with pytest.raises(InvalidArgumentError):
        Tokenizer(str(tmp_path))


def test_config_checks_fields():
    config = TokenizerConfig(vocabulary_path="v.txt")
    assert (config.max_tokens, config.case_sensitive) == (None, True)
    config.max_tokens = 50000
    for name, value in (("max_tokens", 0), ("max_tokens", True), ("max_tokens", 1.0), ("case_sensitive", 1), ("vocabulary_path", ""), ("vocabulary_path", 3), ("max_token", 3)):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            setattr(config, name, value)
    assert config.max_tokens == 50000


def test_estimate_covers_what_the_process_grows_by(shared):
    """Growth of resident memory in a fresh process, measured outside Python's heap."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tokenizer_data as d, pathlib, gc, re\n"
        "from hyperion.tokenizer import Tokenizer; import tokenizers\n"
        "read = lambda k: int(re.search(k + r':\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10\n"
        "m = d.gguf_metadata(pathlib.Path(sys.argv[2])); estimate = Tokenizer.estimate_memory(m); before = read('VmRSS')\n"
        "t = Tokenizer.from_metadata(m, consume=True); t.encode('Hello')\n"
        "print(read('VmHWM') - before, estimate, t.memory_bytes)"
    )
    file = str(shared / "vocab/ggml-vocab-llama-bpe.gguf")
    out = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), file],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    grown, estimate, kept = map(int, out.stdout.split())
    assert grown <= estimate
    assert kept <= estimate <= 100_000_000


def test_decoding_asks_for_the_bytes_of_a_token_once():
    pieces = {1: b"", 2: b" a", 3: "\u20ac".encode()[:2], 4: "\u20ac".encode()[2:], 5: b"\xff"}

    asked = collections.Counter()

    class Source:
        def piece(self, token, skip_special):
            asked[token] += 1
            return pieces[token]

        def starts_with_prefix(self, token):
            return True

    ids = [1, 2, 3, 4, 2, 5, 3, 4, 1, 2, 3, 1]
    whole = ByteStream(Source(), skip_special=True, continuation=False).decode(ids)
    assert whole == "a\u20ac a\ufffd\u20ac a\ufffd"
    assert max(asked.values()) <= 2  # once more while the text has not begun
    stream = ByteStream(Source(), skip_special=True, continuation=False)
    assert "".join([*map(stream.push, ids), stream.flush()]) == whole
