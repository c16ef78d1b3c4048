"""A model's vocabulary as plain data, checked once.

A GGUF file describes its tokenizer by keys ``tokenizer.ggml.*``; a SentencePiece ``.model`` file says nearly the same in
protobuf. Both become one :class:`Vocabulary`, from which :mod:`hyperion.tokenizer.bpe` or
:mod:`hyperion.tokenizer.tables` builds an engine. Nothing here knows how a file is read: a mapping comes in.
"""

from __future__ import annotations

import enum
import importlib
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import FormatError, InvalidArgumentError, UnsupportedError

__all__ = ["TokenKind", "Vocabulary", "read_metadata"]

MODEL_KEY = "tokenizer.ggml.model"
PRE_KEY = "tokenizer.ggml.pre"
TOKENS_KEY = "tokenizer.ggml.tokens"
SCORES_KEY = "tokenizer.ggml.scores"
TYPES_KEY = "tokenizer.ggml.token_type"
MERGES_KEY = "tokenizer.ggml.merges"
TEMPLATE_KEY = "tokenizer.chat_template"

#: Where ``from_gguf`` finds its reader. The tokenizer stands below the formats and imports nothing of them; this
#: name, resolved when a path is first opened, is the one place where it reaches up.
CONTAINER_READER = ("hyperion.formats", "open_container")

#: A u32 key that holds -1: converters write it for "the model has no such token".
_ABSENT_ID = 0xFFFFFFFF

# Tokens that end an answer, whatever the file says of their type. Found by text, as llama.cpp does, because converters
# leave them out of the keys; the first that a vocabulary holds is its end of turn.
TURN_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>",
    "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>",
)  # fmt: skip
OTHER_ENDS = (
    "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "</s>", "<|eom_id|>", "[EOS]", "<eos>", "<turn|>",
    "<|tool_response>", "[e~[",
)  # fmt: skip
ENDS = (*TURN_ENDS, *OTHER_ENDS)
# Fill-in-the-middle tokens by role: the key that names one, and the texts that look like one. Padding, repository and
# file separators also end an answer.
_FILL_IN = (
    (("fim_pre_token_id", "prefix_token_id"), False,
     ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
      "<|prefix|>")),
    (("fim_suf_token_id", "suffix_token_id"), False,
     ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
      "<|suffix|>")),
    (("fim_mid_token_id", "middle_token_id"), False,
     ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
      "<|middle|>")),
    (("fim_pad_token_id",), True, ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")),
    (("fim_rep_token_id",), True, ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    (("fim_sep_token_id",), True, ("<|file_sep|>",)),
)  # fmt: skip


class TokenKind(enum.IntEnum):
    """What a token is; the values are GGUF's ``tokenizer.ggml.token_type``."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """Tokens and what belongs to them.

    Building an engine consumes :attr:`tokens` and :attr:`merges`: a vocabulary of 128,000 tokens is tens of megabytes
    of Python strings, and they need not exist beside the engine's own copy.

    Attributes
    ----------
    model : {"bpe", "spm"}
        Byte-level BPE with listed merges, or SentencePiece BPE with merges that follow from scores.
    tokens : sequence of str
        Text of token *i* at index *i*, distinct.
    kinds : bytearray
        A :class:`TokenKind` for each token.
    scores : sequence of float or None
        For "spm": the higher, the earlier a merge that yields this token.
    merges : sequence of str or None
        For "bpe": ``"left right"`` in order of rank.
    pre : str
        Name of the pre-tokenizer ("bpe").
    bos_id, eos_id, eot_id, eom_id, unk_id : int or None
        Begin and end of text, end of turn, end of message, unknown.
    end_ids : set of int
        All tokens after which an answer is over.
    add_bos, add_eos : bool or None
        Whether the model wants them around a text; None leaves it to the pre-tokenizer.
    add_space_prefix : bool
        For "spm": a text starts with a space that is not in it.
    prefix_once : bool
        That space is put before the whole text, as SentencePiece itself does it, not before every stretch of text
        between special tokens, as llama.cpp does it (and older Hugging Face tokenizers: "legacy").
    charsmap : bytes
        For "spm": SentencePiece's compiled normalization rules; empty for none.
    squeeze_spaces : bool
        For "spm": runs of spaces become one, and none stays at the ends of a text.
    stripping : set of int
        Special tokens that swallow the white space after them.
    chat_template : str or None
        The model's Jinja template.
    name : str
        The model's name (``general.name``): Phi-3 lets its special tokens swallow the white space after them.
    fill_in : dict of str to int
        Fill-in-the-middle tokens that the file names, by role.
    cut : bool
        ``max_tokens`` dropped tokens, which merges may still name.
    consume : bool
        The lists belong to this object, which may take them apart.
    """

    model: str
    tokens: Sequence[str]
    kinds: bytearray
    scores: Sequence[float] | None = None
    merges: Sequence[str] | None = None
    pre: str = ""
    bos_id: int | None = None
    eos_id: int | None = None
    eot_id: int | None = None
    eom_id: int | None = None
    unk_id: int | None = None
    end_ids: set[int] = field(default_factory=set)
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_space_prefix: bool = False
    prefix_once: bool = False
    charsmap: bytes = b""
    squeeze_spaces: bool = False
    stripping: set[int] = field(default_factory=set)
    chat_template: str | None = None
    name: str = ""
    fill_in: dict[str, int] = field(default_factory=dict)
    cut: bool = False
    consume: bool = False

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], *, max_tokens: int | None = None, consume: bool = False
    ) -> Vocabulary:
        """Check GGUF keys and values and take the vocabulary out of them.

        Parameters
        ----------
        metadata : mapping
            Keys to Python values; arrays as sequences (NumPy arrays for numbers are welcome).
        max_tokens : int, optional
            Read only the first so many tokens; what refers to later ones is dropped.
        consume : bool
            The caller gives the lists away.

        Raises
        ------
        FormatError
            If a key is missing, or its value is of the wrong type, length or range.
        UnsupportedError
            If the vocabulary's model is none that Hyperion knows.
        """
        model = _text(metadata, MODEL_KEY)
        if model is None:
            raise FormatError(f"the metadata has no {MODEL_KEY!r}: there is no tokenizer in it", key=MODEL_KEY)
        if model not in ("gpt2", "llama"):
            raise UnsupportedError(
                f"{MODEL_KEY} is {model!r}; supported are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)"
            )
        tokens = _tokens(metadata)
        total = len(tokens)
        if total < 3:
            raise FormatError(f"a vocabulary of {total} tokens holds no text beside begin and end", key=TOKENS_KEY)
        scores = _column(metadata, SCORES_KEY, total, integers=False)
        types = _column(metadata, TYPES_KEY, total, integers=True)
        cut = total if max_tokens is None else min(total, max_tokens)
        if cut < total:
            tokens = [tokens[i] for i in range(cut)]
            scores = None if scores is None else scores[:cut]
            types = None if types is None else types[:cut]
        kinds = bytearray(b"\x01" * cut)
        if types is not None:
            kinds = bytearray(t if 0 <= t <= 6 else 0 for t in types)
        if types is None and model == "llama":
            _guess_sentencepiece_kinds(tokens, kinds)
        self = cls(
            model="bpe" if model == "gpt2" else "spm",
            tokens=tokens,
            kinds=kinds,
            chat_template=_text(metadata, TEMPLATE_KEY),
            add_bos=_flag(metadata, "tokenizer.ggml.add_bos_token"),
            add_eos=_flag(metadata, "tokenizer.ggml.add_eos_token"),
            name=_text(metadata, "general.name") or "",
            cut=cut < total,
            consume=consume,
        )
        if self.model == "bpe":
            self.pre = _text(metadata, PRE_KEY) or ""
            self.merges = _merges(metadata)
        else:
            if scores is None:
                raise FormatError(f"a SentencePiece vocabulary needs {SCORES_KEY!r}, which is missing", key=SCORES_KEY)
            self.scores = _checked_scores(scores)
            prefix = _flag(metadata, "tokenizer.ggml.add_space_prefix")
            self.add_space_prefix = True if prefix is None else prefix
        self._take_special_ids(metadata, total)
        return self

    def _take_special_ids(self, metadata: Mapping[str, Any], total: int) -> None:
        defaults = {"bos": 1, "eos": 2, "unknown": 0} if self.model == "spm" else {}
        for name, attribute in (
            ("bos", "bos_id"), ("eos", "eos_id"), ("eot", "eot_id"), ("eom", "eom_id"), ("unknown", "unk_id")
        ):  # fmt: skip
            value = _token_id(metadata, f"tokenizer.ggml.{name}_token_id", total)
            if value is None and name in defaults and f"tokenizer.ggml.{name}_token_id" not in metadata:
                # SentencePiece numbers <unk>, <s>, </s> 0, 1, 2 unless told otherwise; believed only if typed so.
                standard = defaults[name]
                wanted = TokenKind.UNKNOWN if name == "unknown" else TokenKind.CONTROL
                value = standard if standard < len(self.kinds) and self.kinds[standard] == wanted else None
            if value is not None and value >= len(self.kinds):
                value = None  # cut off by max_tokens
            setattr(self, attribute, value)
        self.fill_in = {}
        for keys, _, _ in _FILL_IN:
            for key in keys:
                value = metadata.get(f"tokenizer.ggml.{key}")
                # Padding and such are written out of range by some converters and of no use here: then they are unnamed.
                token = -1 if isinstance(value, bool) or not isinstance(value, numbers.Integral) else int(value)
                if 0 <= token < len(self.kinds):
                    self.fill_in[keys[0]] = token
        for flag, value, name in (("bos", self.bos_id, "add_bos"), ("eos", self.eos_id, "add_eos")):
            if getattr(self, name) and value is None:
                if not self.cut:
                    raise FormatError(f"tokenizer.ggml.{name}_token is true, but the vocabulary names no {flag} token")
                setattr(self, name, False)

    def promote(self, index: Mapping[str, int]) -> None:
        """Type the tokens that converters are known to leave as ordinary text, and collect those that end an answer.

        Parameters
        ----------
        index : mapping
            Token text to id.
        """
        kinds = self.kinds
        for keys, ends, texts in _FILL_IN:
            if keys[0] in self.fill_in:
                found = [self.fill_in[keys[0]]]
            else:
                found = [index[text] for text in texts if text in index]
                for token in found:
                    kinds[token] = TokenKind.CONTROL
            if ends:
                self.end_ids.update(found)
        for text in ENDS:
            if text in index:
                end = index[text]
                kinds[end] = TokenKind.CONTROL
                self.end_ids.add(end)
                if self.eot_id is None and text in TURN_ENDS:
                    self.eot_id = end
        if self.eom_id is None:
            self.eom_id = index.get("<|eom_id|>")
        for text in ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"):
            if text in index:  # gpt-oss writes its channels with these: they are part of the answer's text
                kinds[index[text]] = TokenKind.USER_DEFINED
        self.end_ids.update(i for i in (self.eos_id, self.eot_id, self.eom_id) if i is not None)
        self._demote(index)
        lowered = self.name.lower()
        if "phi-3" in lowered or "phi3" in lowered:
            special = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)
            self.stripping = {i for i, kind in enumerate(kinds) if kind in special}
            self.stripping -= {index[t] for t in ("<unk>", "<s>", "<|endoftext|>") if t in index}

    def _demote(self, index: Mapping[str, int]) -> None:
        """Two families use an end token inside an answer."""
        ends = self.end_ids
        has = {t for t in ("<|return|>", "<|call|>", "<|calls|>", "<|flush|>") if index.get(t) in ends}
        middle = index.get("<|end|>")
        if middle in ends and has & {"<|call|>", "<|calls|>"} and has & {"<|return|>", "<|flush|>"}:
            ends.discard(middle)  # gpt-oss and Solar: ends a channel, not the answer
            self.kinds[middle] = TokenKind.USER_DEFINED
        if index.get("<|tool_response>") in ends and index.get("</s>") in ends and index["</s>"] != self.eos_id:
            ends.discard(index["</s>"])  # Gemma 4: ordinary text
            self.kinds[index["</s>"]] = TokenKind.NORMAL

    def text(self, number: int) -> str:
        """The text of a token; an empty one gets a name."""
        return self.tokens[number] or f"[EMPTY_{number}]"

    def index(self) -> dict[str, int]:
        """Token text to id.

        Raises
        ------
        FormatError
            If two tokens have the same text.
        """
        table: dict[str, int] = {}
        for i, text in enumerate(self.tokens):
            text = text or self.text(i)
            first = table.setdefault(text, i)
            if first != i:
                raise FormatError(f"token {text!r} is twice in the vocabulary, as {first} and as {i}", tokens=(first, i))
        return table

    def release(self) -> None:
        """Let the tokens and the scores go, the caller's lists too if they were given away."""
        if self.consume and isinstance(self.tokens, list):
            self.tokens.clear()
        self.tokens, self.scores = (), None

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The merges, split; consumes the list if it is this object's own.

        Raises
        ------
        FormatError
            If an entry is not two tokens with a space between.
        """
        merges, self.merges = self.merges, ()
        for i, text in enumerate(_drain(merges or (), self.consume)):
            parts = text.split(" ") if isinstance(text, str) else ()
            if len(parts) == 2 and parts[0] and parts[1]:
                yield parts[0], parts[1]
            else:
                yield _odd_pair(text, i)


def _odd_pair(text: Any, i: int) -> tuple[str, str]:
    """A merge that is not two words: a token may itself hold a space, though byte-level ones do not."""
    if isinstance(text, bytes):
        text = _decoded(text, MERGES_KEY, i)
    at = text.find(" ", 1) if isinstance(text, str) else -1
    if at < 0 or at + 1 == len(text):
        raise FormatError(f"{MERGES_KEY}[{i}] must be two tokens with a space between, got {text!r:.80}", index=i)
    return text[:at], text[at + 1 :]


def _guess_sentencepiece_kinds(tokens: Sequence[str], kinds: bytearray) -> None:
    """SentencePiece's own numbering, for a file without token types."""
    for i, (text, kind) in enumerate((("<unk>", TokenKind.UNKNOWN), ("<s>", TokenKind.CONTROL), ("</s>", TokenKind.CONTROL))):
        if tokens[i] == text:
            kinds[i] = kind
    for i, text in enumerate(tokens):
        if len(text) == 6 and text.startswith("<0x"):
            kinds[i] = TokenKind.BYTE


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata of a GGUF file through the container reader (see :data:`CONTAINER_READER`)."""
    module, name = CONTAINER_READER
    container = getattr(importlib.import_module(module), name)(path)
    try:
        return dict(container.metadata)
    finally:
        close = getattr(container, "close", None)
        if close is not None:
            close()


def _drain(items: Sequence[Any], owned: bool) -> Iterator[Any]:
    if not (owned and isinstance(items, list)):
        yield from items
        return
    items.reverse()
    while items:
        yield items.pop()


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{key} must be a string, got {type(value).__name__}", key=key)
    return value


def _flag(metadata: Mapping[str, Any], key: str) -> bool | None:
    value = metadata.get(key)
    if value is not None and not isinstance(value, bool):
        raise FormatError(f"{key} must be a bool, got {type(value).__name__}", key=key)
    return value


def _token_id(metadata: Mapping[str, Any], key: str, total: int) -> int | None:
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise FormatError(f"{key} must be an integer, got {type(value).__name__}", key=key)
    token = int(value)
    if token in (-1, _ABSENT_ID):
        return None
    if not 0 <= token < total:
        raise FormatError(f"{key} is {token}, outside the vocabulary of {total} tokens", key=key)
    return token


def _array(metadata: Mapping[str, Any], key: str) -> Any:
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
        raise FormatError(f"{key} must be an array, got {type(value).__name__}", key=key)
    if isinstance(value, (Mapping, set, frozenset)):
        raise FormatError(f"{key} must be an array, got {type(value).__name__}", key=key)
    return value


def _decoded(text: bytes, key: str, i: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{key}[{i}] is not UTF-8: {error}", key=key, index=i) from None


def _tokens(metadata: Mapping[str, Any]) -> Sequence[str]:
    value = _array(metadata, TOKENS_KEY)
    if value is None or len(value) == 0:
        raise FormatError(f"{TOKENS_KEY!r} is missing or empty", key=TOKENS_KEY)
    if not isinstance(value, Sequence):
        value = list(value)
    kinds = set(map(type, value))
    if kinds != {str}:
        if not kinds <= {str, bytes}:
            wrong = next(i for i, x in enumerate(value) if not isinstance(x, (str, bytes)))
            raise FormatError(f"{TOKENS_KEY}[{wrong}] must be a string, got {type(value[wrong]).__name__}", index=wrong)
        value = [x if isinstance(x, str) else _decoded(x, TOKENS_KEY, i) for i, x in enumerate(value)]
    return value


def _merges(metadata: Mapping[str, Any]) -> Sequence[str]:
    value = _array(metadata, MERGES_KEY)
    if value is None:
        raise FormatError(f"a BPE vocabulary needs {MERGES_KEY!r}, which is missing", key=MERGES_KEY)
    return value


def _column(metadata: Mapping[str, Any], key: str, total: int, *, integers: bool) -> Any:
    value = _array(metadata, key)
    if value is None:
        return None
    if len(value) != total:
        raise FormatError(f"{key} has {len(value)} entries for {total} tokens", key=key)
    if not integers and getattr(getattr(value, "dtype", None), "kind", "") == "f" and value.ndim == 1:
        return value  # as it is: a list of so many floats is ten times as large
    column: list[Any] = value.tolist() if hasattr(value, "tolist") else list(value)
    allowed = {int} if integers else {int, float}
    found = set(map(type, column))
    if not found <= allowed:
        names = ", ".join(sorted(t.__name__ for t in found - allowed))
        raise FormatError(f"{key} must hold {'integers' if integers else 'numbers'}, got {names}", key=key)
    return column


def _checked_scores(scores: Sequence[float]) -> Sequence[float]:
    wrong = np.flatnonzero(~np.isfinite(np.asarray(scores, np.float64)))
    if len(wrong):
        i = int(wrong[0])
        raise FormatError(f"{SCORES_KEY}[{i}] is {scores[i]}; scores must be finite", key=SCORES_KEY, index=i)
    return scores


def check_max_tokens(max_tokens: object) -> int | None:
    """None, or an integer of at least 1."""
    if max_tokens is None:
        return None
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise InvalidArgumentError(f"max_tokens must be an integer or None, got {type(max_tokens).__name__}")
    if max_tokens < 1:
        raise InvalidArgumentError(f"max_tokens must be at least 1, got {max_tokens}")
    return max_tokens
