"""The tokenizer of a Hugging Face directory as GGUF's `tokenizer.*` keys.

Source: the keys that llama.cpp's converters write. What they cannot express is an :class:`UnsupportedError`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperion.errors import FormatError, UnsupportedError
from hyperion.formats.strict_json import parse_object
from hyperion.formats.writing import Typed
from hyperion.tokenizer.bpe import PRETOKENIZERS
from hyperion.tokenizer.huggingface import Loaded, Sidecar, load_json, read_bytes
from hyperion.tokenizer.sentencepiece import SPACE, parse_model
from hyperion.tokenizer.vocabulary import TokenKind

__all__ = ["vocabulary_metadata"]

_U32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
KEY = "tokenizer.ggml."
UNUSED_SCORE = -10000.0
NAMES = {"llama3": "llama-bpe"}  # where a family's first name is not the usual one
GPT2_WORDS = PRETOKENIZERS["gpt-2"].patterns[0]


def vocabulary_metadata(folder: Path, vocab_size: int) -> dict[str, Typed]:
    """Keys and values of the tokenizer in a directory.

    Parameters
    ----------
    folder : Path
        With ``tokenizer.model`` or ``tokenizer.json``, and the configuration files beside it.
    vocab_size : int
        Rows of the embedding; a smaller vocabulary is filled up with unused tokens.

    Raises
    ------
    FormatError
        If there is neither file, or it does not follow its format.
    UnsupportedError
        If GGUF has no way to say what the tokenizer does.
    """
    if (folder / "tokenizer.model").is_file():
        return _from_sentencepiece(folder, vocab_size)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise FormatError(f"{folder}: has no tokenizer.json and no tokenizer.model", path=str(folder))
    content = parse_object(read_bytes(file), str(file))
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise UnsupportedError(f"{file}: only BPE vocabularies have a form in GGUF that Hyperion writes")
    loaded = load_json(file)  # checks all that is read below, and knows begin and end
    try:
        if any(SPACE in token for token in model["vocab"]) and model.get("byte_fallback"):
            keys = _from_merges(file, content, loaded)
        else:
            keys = _from_byte_level(file, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{file}: not laid out as expected: {type(error).__name__}: {error}", path=str(file)) from None
    tokens, kinds = _columns(file, content, loaded)
    return _assemble(keys, tokens, kinds, vocab_size, loaded, loaded.end_ids)


def _from_sentencepiece(folder: Path, vocab_size: int) -> dict[str, Typed]:
    vocabulary = parse_model(read_bytes(folder / "tokenizer.model"))
    if vocabulary.charsmap or vocabulary.squeeze_spaces:
        raise UnsupportedError(f"{folder}: tokenizer.model normalizes its input, which GGUF's 'llama' vocabularies cannot say")
    Sidecar.beside(folder).apply(vocabulary)
    keys = {
        KEY + "model": Typed(_STRING, "llama"), KEY + "pre": Typed(_STRING, "default"),
        KEY + "scores": Typed(_ARRAY, np.array(vocabulary.scores, np.float32)),
        KEY + "add_space_prefix": Typed(_BOOL, vocabulary.add_space_prefix),
    }  # fmt: skip
    return _assemble(keys, list(vocabulary.tokens), list(vocabulary.kinds), vocab_size, vocabulary, vocabulary.end_ids)


def _assemble(
    keys: dict[str, Typed], tokens: list[str], kinds: list[int], vocab_size: int, special: Any, ends: Any
) -> dict[str, Typed]:
    """All keys, with columns as long as the embedding."""
    missing = vocab_size - len(tokens)
    if missing < 0:
        raise UnsupportedError(f"the tokenizer has {len(tokens)} tokens, the embedding {vocab_size} rows")
    tokens += [f"[PAD{i}]" for i in range(len(tokens), vocab_size)]
    kinds += [TokenKind.UNUSED] * missing
    if KEY + "scores" in keys:
        scores = np.concatenate([keys[KEY + "scores"].value, np.full(missing, UNUSED_SCORE, np.float32)])
        keys[KEY + "scores"] = Typed(_ARRAY, scores)
    keys[KEY + "tokens"] = Typed(_ARRAY, tokens)
    keys[KEY + "token_type"] = Typed(_ARRAY, np.array(kinds, np.int32))
    ids = {"bos": special.bos_id, "eos": special.eos_id, "unknown": special.unk_id}
    others = sorted(set(ends) - {special.eos_id})
    if others and special.eos_id is not None:
        ids["eot"] = others[0]
    keys |= {f"{KEY}{name}_token_id": Typed(_U32, i) for name, i in ids.items() if i is not None}
    keys[KEY + "add_bos_token"] = Typed(_BOOL, bool(special.add_bos))
    keys[KEY + "add_eos_token"] = Typed(_BOOL, bool(special.add_eos))
    if special.chat_template is not None:
        keys["tokenizer.chat_template"] = Typed(_STRING, special.chat_template)
    return keys


def _columns(file: Path, content: Mapping[str, Any], loaded: Loaded) -> tuple[list[str], list[int]]:
    """Tokens by number, and their kinds; numbers that no token has become unused ones."""
    by_id = {i: text for text, i in content["model"]["vocab"].items()}
    kinds: dict[int, int] = {}
    if content["model"].get("byte_fallback"):
        kinds = {i: TokenKind.BYTE for i, text in by_id.items() if len(text) == 6 and text[:3] == "<0x" and text[5] == ">"}
    for token in content.get("added_tokens") or []:
        by_id[token["id"]] = token["content"]
        kinds[token["id"]] = TokenKind.CONTROL if token.get("special") else TokenKind.USER_DEFINED
    if loaded.unk_id is not None:
        kinds[loaded.unk_id] = TokenKind.UNKNOWN
    size = max(by_id) + 1
    if size > 2 * len(by_id) + 1024:
        raise FormatError(f"{file}: {len(by_id)} tokens are numbered up to {size}", path=str(file))
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(size)]
    return tokens, [int(kinds.get(i, TokenKind.NORMAL)) if i in by_id else TokenKind.UNUSED for i in range(size)]


def _pairs(merges: Sequence[Any]) -> list[tuple[str, str]]:
    """The merges, which files write as "left right" or [left, right]."""
    found = []
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        found.append((left, right))
    return found


# ---- byte-level BPE ----------------------------------------------------------------------------------------------------


def _from_byte_level(file: Path, content: Mapping[str, Any]) -> dict[str, Typed]:
    model = content["model"]
    normalizer = content.get("normalizer")
    # NFC is dropped, as everywhere: GGUF names no normalization, and text that is typed is in this form already.
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise UnsupportedError(f"{file}: GGUF has no way to name the normalizer {normalizer.get('type')!r}")
    patterns = _patterns(file, content.get("pre_tokenizer"))
    ignore = bool(model.get("ignore_merges", False))
    name = next((n for n, p in PRETOKENIZERS.items() if p.patterns == patterns and p.ignore_merges == ignore), None)
    if name is None:
        raise UnsupportedError(f"{file}: no pre-tokenizer that GGUF names cuts text by {patterns!r:.200}")
    merges = [f"{left} {right}" for left, right in _pairs(model["merges"])]
    return {
        KEY + "model": Typed(_STRING, "gpt2"),
        KEY + "pre": Typed(_STRING, NAMES.get(name, name)),
        KEY + "merges": Typed(_ARRAY, merges),
    }


def _patterns(file: Path, state: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The patterns by which a pre-tokenizer cuts, one after the other."""
    steps = (state or {}).get("pretokenizers", [state or {}])
    found: list[str] = []
    byte_level = False
    for step in steps:
        kind = step.get("type")
        if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert") and "Regex" in step["pattern"]:
            found.append(step["pattern"]["Regex"])
        elif kind == "Digits" and step.get("individual_digits"):
            found.append(r"\p{N}")
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            byte_level = True
            found += [GPT2_WORDS] if step.get("use_regex", True) else []
        else:
            raise UnsupportedError(f"{file}: GGUF has no way to name the pre-tokenizer step {step!r:.120}")
    if not byte_level:
        raise UnsupportedError(f"{file}: the vocabulary is not byte-level, and not SentencePiece's")
    return tuple(found)


# ---- SentencePiece vocabularies that were written as merges --------------------------------------------------------------


def _from_merges(file: Path, content: Mapping[str, Any], loaded: Loaded) -> dict[str, Typed]:
    """Scores that give the listed merges back: a token's is the place at which it first arises."""
    model = content["model"]
    tokens, kinds = _columns(file, content, loaded)
    merges = _pairs(model["merges"])
    order: dict[str, int] = {}
    for left, right in merges:
        order.setdefault(left + right, len(order))
    ordinary = {t for t, kind in zip(tokens, kinds, strict=True) if kind == TokenKind.NORMAL}
    implied = {
        (text[:at], text[at:])
        for text in ordinary
        if len(text) < 256
        for at in range(1, len(text))
        if text[:at] in ordinary and text[at:] in ordinary
    }
    grouped = all(order[a + b] <= order[c + d] for (a, b), (c, d) in itertools.pairwise(merges))
    if not grouped or len(implied) != len(merges) or implied != set(merges):
        raise UnsupportedError(f"{file}: the merges are not those that follow from scores, as a 'llama' vocabulary in GGUF needs")
    prefix = _space_prefix(file, content)
    lowest = -float(len(order) + 1)
    scores = [0.0 if kind != TokenKind.NORMAL else -float(order[t]) if t in order else lowest for t, kind in zip(tokens, kinds, strict=True)]
    return {
        KEY + "model": Typed(_STRING, "llama"), KEY + "pre": Typed(_STRING, "default"),
        KEY + "scores": Typed(_ARRAY, np.array(scores, np.float32)),
        KEY + "add_space_prefix": Typed(_BOOL, prefix),
    }  # fmt: skip


def _space_prefix(file: Path, content: Mapping[str, Any]) -> bool:
    """Whether a text gets a space in front; anything else that happens to it has no form in GGUF."""
    state = content.get("normalizer")
    steps = [] if state is None else state.get("normalizers", [state])
    prefix = False
    for step in steps:
        if step.get("type") == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif step.get("type") != "Replace" or step.get("pattern") != {"String": " "} or step.get("content") != SPACE:
            raise UnsupportedError(f"{file}: GGUF's 'llama' vocabularies have no form for the normalizer {step!r:.120}")
    before = content.get("pre_tokenizer")
    if before is not None:
        if before.get("type") != "Metaspace" or before.get("split", True) or before.get("replacement") != SPACE:
            raise UnsupportedError(f"{file}: GGUF's 'llama' vocabularies have no form for the pre-tokenizer {before!r:.120}")
        prefix = before.get("prepend_scheme", "always") != "never"
    return prefix
