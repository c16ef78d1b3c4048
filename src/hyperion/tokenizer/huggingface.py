"""Hugging Face directories: ``tokenizer.json``, and what the files beside it say of begin, end and chat."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import FormatError, HyperionIOError
from .codec import LibraryCodec, decoder_style
from .engine import estimate_bytes, guarded, library
from .vocabulary import ENDS, TokenKind, Vocabulary

__all__ = ["Sidecar", "load_json", "read_bytes"]

#: No vocabulary is this large; larger files are something else.
MAX_FILE_BYTES = 1 << 29


@dataclass
class Sidecar:
    """What ``tokenizer_config.json``, ``generation_config.json``, ``config.json`` and ``chat_template.jinja`` say.

    Attributes
    ----------
    bos, eos, unk : str or None
        Special tokens by text.
    add_bos, add_eos : bool or None
        Whether a text is put between them.
    end_ids : set of int
        ``eos_token_id``, one or several.
    bos_id : int or None
        ``bos_token_id``.
    legacy : bool
        Every stretch of text between special tokens gets a space before it.
    chat_template : str or None
    added : mapping of int to mapping
        ``added_tokens_decoder``: tokens beyond a ``.model`` file's, or of another type than there.
    """

    bos: str | None = None
    eos: str | None = None
    unk: str | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None
    bos_id: int | None = None
    end_ids: set[int] = field(default_factory=set)
    legacy: bool = False
    chat_template: str | None = None
    added: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def beside(cls, directory: Path) -> Sidecar:
        """Read the files of a directory; those that are not there say nothing."""
        self = cls()
        for name in ("config.json", "generation_config.json"):
            values = _object(directory / name)
            begin, end = values.get("bos_token_id"), values.get("eos_token_id")
            if _is_id(begin):
                self.bos_id = begin
            if isinstance(end, list) or _is_id(end):
                self.end_ids.update(i for i in (end if isinstance(end, list) else [end]) if _is_id(i))
        values = _object(directory / "tokenizer_config.json")
        self.legacy = bool(values) and values.get("legacy") is not False
        self.bos, self.eos, self.unk = (_content(values.get(f"{n}_token")) for n in ("bos", "eos", "unk"))
        self.add_bos, self.add_eos = (
            v if isinstance(v, bool) else None for v in (values.get("add_bos_token"), values.get("add_eos_token"))
        )
        added = values.get("added_tokens_decoder")
        if isinstance(added, dict):
            self.added = {
                int(k): v for k, v in added.items() if k.isdecimal() and isinstance(v, dict) and _content(v) is not None
            }
        self.chat_template = _template(values.get("chat_template"))
        separate = directory / "chat_template.jinja"
        if separate.is_file():
            self.chat_template = _utf8(read_bytes(separate), separate)
        return self

    def apply(self, vocabulary: Vocabulary) -> None:
        """Give a ``.model`` file's vocabulary what the directory adds to it.

        Raises
        ------
        FormatError
            If added tokens leave a gap.
        """
        tokens, scores = list(vocabulary.tokens), list(vocabulary.scores or ())
        for number, token in sorted(self.added.items()):
            text = token["content"]
            kind = TokenKind.CONTROL if token.get("special") is True else TokenKind.USER_DEFINED
            if number < len(tokens):
                if tokens[number] == text and vocabulary.kinds[number] == TokenKind.NORMAL:
                    vocabulary.kinds[number] = kind
            elif not vocabulary.cut:
                if number > len(tokens):
                    raise FormatError(f"added token {text!r} has id {number}, but the vocabulary ends at {len(tokens)}")
                tokens.append(text)
                scores.append(0.0)
                vocabulary.kinds.append(kind)
            if token.get("rstrip") is True and number < len(tokens):
                vocabulary.stripping.add(number)
        vocabulary.tokens, vocabulary.scores = tokens, scores
        vocabulary.prefix_once &= not self.legacy
        for name, text in (("bos_id", self.bos), ("eos_id", self.eos)):
            if text is not None and text in tokens:
                setattr(vocabulary, name, tokens.index(text))
        vocabulary.add_bos = vocabulary.bos_id is not None if self.add_bos is None else self.add_bos
        vocabulary.add_eos = bool(self.add_eos)
        vocabulary.end_ids.update(i for i in self.end_ids if i < len(tokens))
        vocabulary.chat_template = self.chat_template


@dataclass
class Loaded:
    """An engine and the special tokens that belong to it."""

    codec: LibraryCodec
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    end_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def load_json(path: Path, max_tokens: int | None = None) -> Loaded:
    """Open a ``tokenizer.json`` and what lies beside it.

    Parameters
    ----------
    path : Path
    max_tokens : int, optional
        Keep only tokens with smaller ids, and the merges among them.

    Raises
    ------
    FormatError
        If the file is not what the `tokenizers` package can read.
    HyperionIOError
        If it cannot be read at all.
    """
    data = read_bytes(path)
    if max_tokens is not None:
        data = _cut(data, path, max_tokens)
    with guarded(f"read {path}", building=True):
        engine = library().Tokenizer.from_buffer(data)
        engine.no_truncation()
        engine.no_padding()
        style, strips = decoder_style(engine)
        added = engine.get_added_tokens_decoder()
    size = max([engine.get_vocab_size(with_added_tokens=True), *(i + 1 for i in added if i < 1 << 24)])
    kinds: dict[int, int] = {}
    if style == "spaces":
        bytes_ = (engine.token_to_id(f"<0x{b:02X}>") for b in range(256))
        kinds = {i: TokenKind.BYTE for i in bytes_ if i is not None}
    for number, token in added.items():
        kinds[number] = TokenKind.CONTROL if token.special else TokenKind.USER_DEFINED
    side = Sidecar.beside(path.parent)
    unknown = getattr(engine.model, "unk_token", None) or side.unk
    bos_id, eos_id, unk_id = (None if t is None else engine.token_to_id(t) for t in (side.bos, side.eos, unknown))
    if unk_id is not None:
        kinds[unk_id] = TokenKind.UNKNOWN
    with guarded(f"try {path}", building=True):
        around = engine.encode("", add_special_tokens=True).ids
    if bos_id is None:
        bos_id = side.bos_id if side.bos_id is not None else (around[0] if around else None)
    ends = {i for i in side.end_ids if i < size}
    if eos_id is None and ends:
        eos_id = min(ends)
    ends.update(i for i in (engine.token_to_id(text) for text in ENDS) if i is not None and kinds.get(i) == TokenKind.CONTROL)
    if eos_id is not None:
        ends.add(eos_id)
    add_bos = bool(around) and around[0] == bos_id
    add_eos = len(around) > add_bos and around[-1] == eos_id
    # A template in the file decides; where there is none, the configuration's flags do.
    put_bos = not around and side.add_bos is True
    put_eos = not around and side.add_eos is True
    codec = LibraryCodec(
        engine,
        kinds,
        style,
        size=size,
        memory_bytes=estimate_bytes(size, 2 * size),
        bos=bos_id if put_bos else None,
        eos=eos_id if put_eos else None,
        strips_prefix=strips,
    )
    return Loaded(
        codec, bos_id, eos_id, unk_id, frozenset(ends), add_bos or put_bos, add_eos or put_eos, side.chat_template
    )


def read_bytes(path: Path) -> bytes:
    """The whole of a vocabulary file.

    Raises
    ------
    HyperionIOError
        If it cannot be read.
    FormatError
        If it is larger than any vocabulary.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise FormatError(f"{path}: {size} bytes is more than any vocabulary has (at most {MAX_FILE_BYTES})")
            return file.read()
    except OSError as error:
        if isinstance(error, HyperionIOError):
            raise
        raise HyperionIOError(f"cannot read {path}: {error.strerror or error}", path=str(path)) from error


def _utf8(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 at byte {error.start}", path=str(path), offset=error.start) from None


def _parse(data: bytes, path: Path) -> Any:
    try:
        return json.loads(_utf8(data, path))
    except RecursionError:
        raise FormatError(f"{path}: nested too deeply", path=str(path)) from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}: not JSON at character {error.pos}: {error.msg}", offset=error.pos) from None


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = _parse(read_bytes(path), path)
    if not isinstance(value, dict):
        raise FormatError(f"{path}: an object was expected, not a {type(value).__name__}", path=str(path))
    return value


def _content(value: Any) -> str | None:
    """The text of a token, which stands alone or in an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _template(value: Any) -> str | None:
    """One template, or the one called "default" of several."""
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _cut(data: bytes, path: Path, max_tokens: int) -> bytes:
    """The same file with only the first tokens of its vocabulary."""
    content = _parse(data, path)
    model: Any = content.get("model") if isinstance(content, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    kept: Any
    if isinstance(vocab, dict) and all(_is_id(i) for i in vocab.values()):
        kept = {t: i for t, i in vocab.items() if i < max_tokens}
    elif isinstance(vocab, list):
        kept = vocab[:max_tokens]
    else:
        raise FormatError(f"{path}: the model has no vocabulary", path=str(path))
    model["vocab"] = kept
    if isinstance(kept, dict) and isinstance(model.get("merges"), list):
        model["merges"] = [m for m in model["merges"] if _is_kept(m, kept)]
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        raise FormatError(f"{path}: added_tokens must be a list, not a {type(added).__name__}", path=str(path))
    content["added_tokens"] = [t for t in added if isinstance(t, dict) and _is_id(t.get("id")) and t["id"] < max_tokens]
    if len(content["added_tokens"]) < len(added):
        content["post_processor"] = None  # it names tokens that may be gone
    return json.dumps(content).encode()


def _is_kept(merge: Any, kept: Mapping[str, int]) -> bool:
    """Whether a merge, "left right" or a list of both, is among the tokens that are kept."""
    pair = merge.split(" ", 1) if isinstance(merge, str) else merge
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
        return False
    return pair[0] in kept and pair[1] in kept and pair[0] + pair[1] in kept
