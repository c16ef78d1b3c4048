"""The public class: one face over every kind of vocabulary."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FormatError, HyperionIOError, InvalidArgumentError
from .building import codec_from_vocabulary, estimate_metadata
from .codec import Codec, Stream, check_text
from .engine import release_memory
from .huggingface import Sidecar, load_json, read_bytes
from .plain import open_plain
from .sentencepiece import parse_model
from .vocabulary import Vocabulary, check_max_tokens, read_metadata

__all__ = ["Tokenizer", "TokenizerConfig"]

PathLike = str | os.PathLike[str]


def _number(token: Any) -> int:
    try:
        return operator.index(token)
    except TypeError:
        raise InvalidArgumentError(f"a token id must be an integer, got {type(token).__name__}") from None


@dataclass(kw_only=True)
class TokenizerConfig:
    """Where a vocabulary is, and how it is read.

    Values are checked when the object is made and whenever a field is set.

    Parameters
    ----------
    vocabulary_path : str or PathLike
        A ``.gguf``, ``tokenizer.json``, SentencePiece ``.model`` or plain ``vocabulary.txt`` file, or a directory with
        one of them.
    max_tokens : int, optional
        Read only the first so many tokens of the vocabulary; None reads all.
    case_sensitive : bool
        If not, texts are taken in lower case (a plain vocabulary's tokens, too).

    Raises
    ------
    InvalidArgumentError
        If a value does not fit.
    """

    vocabulary_path: PathLike
    max_tokens: int | None = None
    case_sensitive: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "vocabulary_path":
            if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
                raise InvalidArgumentError(f"vocabulary_path must be a path, got {value!r}")
        elif name == "max_tokens":
            value = check_max_tokens(value)
        elif name == "case_sensitive":
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"case_sensitive must be a bool, got {type(value).__name__}")
        else:
            raise InvalidArgumentError(f"TokenizerConfig has no field {name!r}")
        super().__setattr__(name, value)


class Tokenizer:
    """Text to token ids and back.

    Parameters
    ----------
    config : TokenizerConfig
        Which vocabulary, and how. :meth:`from_file`, :meth:`from_gguf` and :meth:`from_metadata` are shorter.

    Attributes
    ----------
    bos_id, eos_id, unk_id : int or None
        Begin of text, end of text, unknown.
    eot_id, eom_id : int or None
        End of turn and end of message, where a chat model has them.
    end_ids : frozenset of int
        All tokens after which an answer is over.
    add_bos, add_eos : bool
        Whether the model wants a text to begin and end with them.
    chat_template : str or None
        The model's Jinja template.

    Notes
    -----
    Encoding is safe from several threads. Vocabularies run on the `tokenizers` package and give llama.cpp's ids for the
    same file, with two deliberate differences: control tokens never arise from plain text, and pre-tokenizer patterns
    are those of the models (upper and lower case outside ASCII included), not approximations of them.
    """

    _codec: Codec | None

    def __init__(self, config: TokenizerConfig) -> None:
        if not isinstance(config, TokenizerConfig):
            raise InvalidArgumentError(f"a Tokenizer is made from a TokenizerConfig, not from {type(config).__name__}")
        self._open(Path(config.vocabulary_path), config.max_tokens, config.case_sensitive)

    @classmethod
    def from_file(cls, path: PathLike, *, max_tokens: int | None = None) -> Tokenizer:
        """Open ``tokenizer.json``, a SentencePiece ``.model``, ``vocabulary.txt``, a GGUF file, or a directory of one.

        Raises
        ------
        HyperionIOError
            If the file cannot be read.
        FormatError
            If it is not what its name or its first bytes say.
        UnsupportedError
            If it holds a kind of vocabulary that Hyperion does not know.
        InvalidArgumentError
            If it is none of those files.
        """
        return cls(TokenizerConfig(vocabulary_path=path, max_tokens=max_tokens))

    @classmethod
    def from_gguf(cls, path: PathLike) -> Tokenizer:
        """Open the tokenizer in a GGUF or ``.hyperion`` file; one with a vocabulary alone will do.

        Raises
        ------
        HyperionIOError, FormatError, UnsupportedError
            As :meth:`from_file`.
        """
        config = TokenizerConfig(vocabulary_path=path)
        self = cls.__new__(cls)
        self._case_sensitive = True
        self._from_vocabulary(Vocabulary.from_metadata(read_metadata(config.vocabulary_path), consume=True))
        return self

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], *, consume: bool = False) -> Tokenizer:
        """Make the tokenizer that GGUF keys and values describe.

        Parameters
        ----------
        metadata : mapping
            ``tokenizer.*`` and ``general.name``; other keys are ignored.
        consume : bool
            The lists in the mapping may be taken apart, which saves their memory while the tokenizer is made.

        Raises
        ------
        FormatError
            If a key is missing, or its value is of the wrong type, length or range.
        UnsupportedError
            If the vocabulary's model or its pre-tokenizer is not known.
        """
        if not isinstance(metadata, Mapping):
            raise InvalidArgumentError(f"metadata must be a mapping, got {type(metadata).__name__}")
        self = cls.__new__(cls)
        self._case_sensitive = True
        self._from_vocabulary(Vocabulary.from_metadata(metadata, consume=consume))
        return self

    @staticmethod
    def estimate_memory(metadata: Mapping[str, Any], *, building: bool = True) -> int:
        """Bytes that the tokenizer will occupy, with `building` at its peak while it is made: from the sizes of the
        arrays alone."""
        return estimate_metadata(metadata, building=building)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a tokenizer is neither copied nor pickled: open it where it is used, or share it between threads")

    # --- what it is

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are smaller."""
        return self._live.size

    @property
    def memory_bytes(self) -> int:
        """Estimate of what the vocabulary occupies, for a memory budget."""
        return self._live.memory_bytes if self._codec is not None else 0

    def is_end(self, token: int) -> bool:
        """Whether an answer is over with this token."""
        return token in self.end_ids

    def is_special(self, token: int) -> bool:
        """Whether a token is markup (control or unknown) that :meth:`decode` skips."""
        return self._live.is_special(self._id(token))

    def id_to_token(self, token: int) -> str | None:
        """The text of a token as the vocabulary writes it; None if there is no such token."""
        number = _number(token)
        return self._live.token(number) if 0 <= number < 1 << 32 else None

    def token_to_id(self, text: str) -> int | None:
        """The id of a token that the vocabulary writes so; None if there is none."""
        return self._live.number(check_text(text))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of text that a token stands for, perhaps part of a character.

        Raises
        ------
        InvalidArgumentError
            If the vocabulary has no such token.
        """
        return self._live.piece(self._id(token), False)

    # --- what it does

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Turn text into token ids.

        Parameters
        ----------
        text : str
        add_special : bool
            Put the begin and end tokens around it as the model asks.
        parse_special : bool
            Read ``<|im_end|>`` and the like as the control tokens they name. Leave it False for text that a user wrote.

        Returns
        -------
        list of int

        Raises
        ------
        InvalidArgumentError
            If the text is not a str, has lone surrogates, or has a character that the vocabulary cannot express.
        """
        text = check_text(text)
        if not self._case_sensitive:
            text = text.lower()
        return self._live.encode(text, add_special=add_special, parse_special=parse_special)

    def decode(self, ids: Iterable[int], skip_special: bool = True, *, continuation: bool = False) -> str:
        """Turn token ids into text.

        Parameters
        ----------
        ids : iterable of int
        skip_special : bool
            Leave control tokens out.
        continuation : bool
            The text goes on after other text. SentencePiece models write a text with a space before it, which is taken
            off again at its start; in a continuation that space is part of the text.

        Returns
        -------
        str
            Bytes that are no UTF-8 come out as U+FFFD.

        Raises
        ------
        InvalidArgumentError
            If the vocabulary has no such token.
        """
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            raise InvalidArgumentError(f"ids must be an iterable of integers, got {type(ids).__name__}")
        return self._live.decode(map(self._id, ids), skip_special=skip_special, continuation=continuation)

    def stream(self, skip_special: bool = True, *, continuation: bool = False) -> TokenStream:
        """Decode tokens one at a time; what is pushed and flushed adds up to :meth:`decode`.

        Returns
        -------
        TokenStream
            ``push(token)`` returns the text complete with it, never half a character; ``flush()`` the rest.
        """
        return TokenStream(self, self._live.stream(skip_special=skip_special, continuation=continuation))

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text alone, nothing added."""
        return self.encode(text, add_special=False)

    def detokenize(self, tokens: Iterable[int]) -> str:
        """The text of tokens."""
        return self.decode(tokens)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] = (),
        add_generation_prompt: bool = True,
        template: str | None = None,
        **extra: Any,
    ) -> str:
        """Write a conversation the way the model was trained on it.

        Encode the result with ``add_special=False, parse_special=True``: templates write the begin token themselves.

        Parameters
        ----------
        messages : sequence of mapping
            ``{"role": ..., "content": ...}`` each.
        tools, add_generation_prompt, **extra
            As :func:`hyperion.tokenizer.chat.render_chat`.
        template : str, optional
            Instead of the model's own.

        Raises
        ------
        InvalidArgumentError
            If the model has no template, or the template refuses the conversation.
        """
        from .chat import render_chat

        template = self.chat_template if template is None else template
        if template is None:
            raise InvalidArgumentError("this model has no chat template; pass one as template=")
        return render_chat(
            template,
            messages,
            bos_token=self._name(self.bos_id),
            eos_token=self._name(self.eos_id),
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            **extra,
        )

    def close(self) -> None:
        """Give the memory back; the object is of no use afterwards."""
        if self._codec is not None:
            self._codec.close()
            self._codec = None
            release_memory()

    def __enter__(self) -> Tokenizer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._codec is None else f"{self.vocab_size} tokens"
        return f"<Tokenizer {state}>"

    # --- how it is made

    @property
    def _live(self) -> Codec:
        if self._codec is None:
            raise InvalidArgumentError("this tokenizer is closed")
        return self._codec

    def _id(self, token: Any) -> int:
        number = _number(token)
        if not 0 <= number < 1 << 32:
            raise InvalidArgumentError(f"token {number} is not in the vocabulary of {self.vocab_size} tokens", token=number)
        return number

    def _name(self, token: int | None) -> str:
        return "" if token is None else self.id_to_token(token) or ""

    def _open(self, path: Path, max_tokens: int | None, case_sensitive: bool) -> None:
        self._case_sensitive = True
        if path.is_dir():
            names = ("tokenizer.json", "tokenizer.model", "vocabulary.txt", "vocab.txt")
            found = next((path / n for n in names if (path / n).is_file()), None)
            if found is None:
                raise HyperionIOError(f"{path} has none of {', '.join(names)}", path=str(path))
            path = found
        kind = _kind(path)
        if kind == "plain":
            codec = open_plain(path, max_tokens=max_tokens, case_sensitive=case_sensitive)
            self._adopt(codec, unk_id=codec.unknown)
            return
        self._case_sensitive = case_sensitive
        if kind == "gguf":
            metadata = read_metadata(path)
            self._from_vocabulary(Vocabulary.from_metadata(metadata, max_tokens=max_tokens, consume=True))
        elif kind == "json":
            loaded = load_json(path, max_tokens)
            self._adopt(
                loaded.codec,
                bos_id=loaded.bos_id,
                eos_id=loaded.eos_id,
                unk_id=loaded.unk_id,
                end_ids=loaded.end_ids,
                add_bos=loaded.add_bos,
                add_eos=loaded.add_eos,
                chat_template=loaded.chat_template,
            )
        else:
            vocabulary = parse_model(read_bytes(path), max_tokens=max_tokens)
            Sidecar.beside(path.parent).apply(vocabulary)
            self._from_vocabulary(vocabulary)

    def _from_vocabulary(self, vocabulary: Vocabulary) -> None:
        codec = codec_from_vocabulary(vocabulary)
        self._adopt(
            codec,
            bos_id=vocabulary.bos_id,
            eos_id=vocabulary.eos_id,
            eot_id=vocabulary.eot_id,
            eom_id=vocabulary.eom_id,
            unk_id=vocabulary.unk_id,
            end_ids=frozenset(vocabulary.end_ids),
            add_bos=bool(vocabulary.add_bos),
            add_eos=bool(vocabulary.add_eos),
            chat_template=vocabulary.chat_template,
        )

    def _adopt(
        self,
        codec: Codec,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        eot_id: int | None = None,
        eom_id: int | None = None,
        unk_id: int | None = None,
        end_ids: frozenset[int] = frozenset(),
        add_bos: bool = False,
        add_eos: bool = False,
        chat_template: str | None = None,
    ) -> None:
        self._codec = codec
        self.bos_id, self.eos_id, self.eot_id, self.eom_id, self.unk_id = bos_id, eos_id, eot_id, eom_id, unk_id
        self.end_ids, self.add_bos, self.add_eos, self.chat_template = end_ids, add_bos, add_eos, chat_template
        release_memory()


class TokenStream:
    """Text from tokens that come one at a time; made by :meth:`Tokenizer.stream`."""

    def __init__(self, tokenizer: Tokenizer, inner: Stream) -> None:
        self._tokenizer, self._inner = tokenizer, inner

    def push(self, token: int) -> str:
        """Take one token and return the text that is complete with it, perhaps none; never half a character.

        Raises
        ------
        InvalidArgumentError
            If the vocabulary has no such token.
        """
        return self._inner.push(self._tokenizer._id(token))

    def flush(self) -> str:
        """End the text: what is left of an incomplete character comes out as U+FFFD."""
        return self._inner.flush()


def _kind(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise HyperionIOError(f"cannot read {path}: {error.strerror or error}", path=str(path)) from error
    suffix = path.suffix.lower()
    if head == b"GGUF" or suffix == ".gguf":
        return "gguf"
    kinds = {".json": "json", ".model": "sentencepiece", ".txt": "plain"}
    if suffix not in kinds:
        raise InvalidArgumentError(
            f"{path} is no vocabulary: a GGUF file, or a name that ends in .json, .model or .txt, was expected"
        )
    if not head:
        raise FormatError(f"{path} is empty", path=str(path), offset=0)
    return kinds[suffix]


