"""Byte-level BPE: the pre-tokenizers that GGUF files name, and the engine made from a vocabulary.

A pre-tokenizer cuts text into words before merges apply; two models with the same merges and different cuts give
different tokens, so a name that is not in :data:`PRETOKENIZERS` is an error. The patterns are those of the models' own
``tokenizer.json`` (Oniguruma syntax); several patterns cut one after the other, each the pieces of the one before. GGUF names no Unicode normalization, so none is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UnsupportedError
from .engine import StreamedPairs, add_special, guarded, library
from .vocabulary import TokenKind, Vocabulary

if TYPE_CHECKING:
    import tokenizers

__all__ = ["BYTE_TO_CHARACTER", "CHARACTER_TO_BYTE", "PRETOKENIZERS", "PreTokenizer", "build_bpe", "pretokenizer"]


@dataclass(frozen=True)
class PreTokenizer:
    """How one family cuts text.

    Attributes
    ----------
    patterns : tuple of str
        Applied in turn; matches and what lies between them become words.
    ignore_merges : bool
        A word that is a token as a whole is that token, whatever its merges.
    add_bos : bool
        Texts begin with the begin token unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


def _ranges(table: str) -> str:
    """Ranges of code points in hexadecimal as the inside of a character class."""
    return "".join("-".join(rf"\x{{{end}}}" for end in entry.split("-")) for entry in table.split())


_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + _SPACES
_LLAMA3 = rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}"
_QWEN2 = rf"{_SUFFIX}|{_WORD}|\p{{N}}|{_SIGNS}"
_QWEN35 = (
    rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
    + _SPACES
)
# o200k: words end where lower case gives way to upper case.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
_SIGNS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|" + _SPACES
_TEKKEN = rf"{_START}{_UPPER}*{_LOWER}+|{_START}{_UPPER}+{_LOWER}*|\p{{N}}|{_SIGNS_SLASH}"
_CASED = rf"{_START}{_UPPER}*{_LOWER}+{_SUFFIX}?|{_START}{_UPPER}+{_LOWER}*{_SUFFIX}?"
_GPT4O = rf"{_CASED}|\p{{N}}{{1,3}}|{_SIGNS_SLASH}"
_NOT_HAN = r"&&[^\p{Han}]]"
_KIMI_UPPER, _KIMI_LOWER = _UPPER[:-1] + _NOT_HAN, _LOWER[:-1] + _NOT_HAN
_KIMI = (
    rf"\p{{Han}}+|{_START}{_KIMI_UPPER}*{_KIMI_LOWER}+{_SUFFIX}?|{_START}{_KIMI_UPPER}+{_KIMI_LOWER}*{_SUFFIX}?|"
    rf"\p{{N}}{{1,3}}|{_SIGNS}"
)
_ASCII_SIGN = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    rf"{_ASCII_SIGN}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}",
)
_SPARK = (
    *_DEEPSEEK3[:2],
    rf"{_ASCII_SIGN}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}",
    r"\p{N}",
)
# DeepSeek LLM lists its letters by code point: the cased scripts (Latin, Greek, Cyrillic, Armenian, Georgian, ...).
_CASED_LETTERS = """
41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c
38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b
1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4
1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113
2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b
2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06
fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df
1e900-1e943
"""
_IDEOGRAPHS = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_ranges(_CASED_LETTERS)}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _IDEOGRAPHS,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, r"\p{N}")
_PHRASES = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_SPACE_RUNS = "|".join(rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")) + r"|\s"
_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|"
    "[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_YOUTU = (
    _YOUTU_SCRIPTS,
    rf"{_CASED}|\p{{N}}|{_SIGNS_SLASH}".replace(_SUFFIX, "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"),
)

def _family(names: str, *patterns: str, **options: bool) -> dict[str, PreTokenizer]:
    made = PreTokenizer(patterns, **options)
    return dict.fromkeys(names.split(), made)


#: Every pre-tokenizer by the names that files give it.
PRETOKENIZERS: Mapping[str, PreTokenizer] = {
    **_family("default", r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    **_family(
        "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum modern-bert jina-es jina-de "
        "jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe",
        _GPT2,
    ),
    **_family("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", r"\p{N}", _GPT2),
    **_family("falcon", r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    **_family(
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        _LLAMA3,
        ignore_merges=True,
        add_bos=True,
    ),
    **_family("dbrx smaug-bpe chatglm-bpe glm4", _LLAMA3),
    **_family("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", _QWEN2),
    **_family("qwen35", _QWEN35),
    **_family("ufakzeka", rf"{_WORD}|\p{{N}}|{_SIGNS}"),
    **_family("laguna", r"[^\n]+|[\n]+", _QWEN2),
    **_family("minicpm5", r"\p{N}{1,3}", rf"{_SUFFIX}|{_WORD}|\p{{N}}+|{_SIGNS}", ignore_merges=True),
    **_family("jais-2", rf"{_SUFFIX}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACE_RUNS}"),
    **_family("seed-coder", rf"{_SUFFIX}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|{_SPACES}"),
    **_family(
        "bailingmoe bailingmoe2 llada-moe",
        rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|{_SPACES}",
    ),
    **_family(
        "exaone-moe",
        rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|"
        rf"\s*[\r\n]|{_SPACES}",
    ),
    **_family("deepseek-llm", *_DEEPSEEK_LLM),
    **_family("deepseek-coder", *_DEEPSEEK_CODER),
    **_family("deepseek-v3 hunyuan-dense joyai-llm hy_v4", *_DEEPSEEK3),
    **_family("spark2_5", *_SPARK),
    **_family("youtu", *_YOUTU, ignore_merges=True),
    **_family("poro-chat bloom gpt3-finnish", _PHRASES),
    **_family("viking", _PHRASES, r"\p{N}"),
    **_family("tekken", _TEKKEN, ignore_merges=True, add_bos=True),
    **_family("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O),
    **_family("kimi-k2", _KIMI),
    **_family("superbpe", r"\p{N}+", r"(?=(?>(?:\d{3})+)(?!\d))"),
    **_family(
        "chameleon", "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]", _GPT2, add_bos=True,
    ),
}  # fmt: skip


def _byte_characters() -> dict[int, str]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes move behind U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {b: chr(b) for b in plain}
    others = (b for b in range(256) if b not in table)
    table.update({b: chr(0x100 + i) for i, b in enumerate(others)})
    return table


BYTE_TO_CHARACTER: Mapping[int, str] = _byte_characters()
CHARACTER_TO_BYTE: Mapping[str, int] = {c: b for b, c in BYTE_TO_CHARACTER.items()}


def pretokenizer(name: str) -> PreTokenizer:
    """Look a pre-tokenizer up.

    Raises
    ------
    UnsupportedError
        If the name is not known; the message lists those that are.
    """
    try:
        return PRETOKENIZERS[name]
    except KeyError:
        known = ", ".join(sorted(PRETOKENIZERS))
        raise UnsupportedError(f"pre-tokenizer {name!r} is not supported; supported are {known}") from None


def build_bpe(vocabulary: Vocabulary) -> tuple[tokenizers.Tokenizer, frozenset[int]]:
    """Make the engine of a byte-level BPE vocabulary, which is consumed.

    Returns
    -------
    engine : tokenizers.Tokenizer
    missing : frozenset of int
        Bytes that the vocabulary has no token for (none in a sound one).

    Raises
    ------
    FormatError
        If tokens repeat or merges do not fit them.
    UnsupportedError
        If the pre-tokenizer is not known.
    """
    if not vocabulary.pre:
        warnings.warn("the file names no pre-tokenizer ('tokenizer.ggml.pre'); 'default' is used", stacklevel=4)
    style = pretokenizer(vocabulary.pre or "default")
    lib = library()
    index = vocabulary.index()
    vocabulary.promote(index)
    if vocabulary.add_bos is None:
        vocabulary.add_bos = style.add_bos and vocabulary.bos_id is not None
    special = special_tokens(vocabulary)
    missing = frozenset(b for b, character in BYTE_TO_CHARACTER.items() if character not in index)
    count = len(vocabulary.merges or ())
    pairs: Iterable[tuple[str, str]] = vocabulary.pairs()
    if vocabulary.cut:
        pairs = [(a, b) for a, b in pairs if a in index and b in index and a + b in index]

    def release() -> None:
        index.clear()
        vocabulary.release()

    with guarded("build the tokenizer", building=True):
        model = lib.models.BPE(index, StreamedPairs(count, pairs, release), ignore_merges=style.ignore_merges)
        engine = lib.Tokenizer(model)
        cuts = [lib.pre_tokenizers.Split(lib.Regex(p), "isolated") for p in style.patterns]
        alphabet = lib.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        engine.pre_tokenizer = lib.pre_tokenizers.Sequence([*cuts, alphabet])
        add_special(engine, special)
    return engine, missing


def special_tokens(vocabulary: Vocabulary) -> list[tuple[int, str, bool, bool]]:
    """The tokens that are found in raw text: control and unknown on request, user-defined always."""
    wanted = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)
    return [
        (i, vocabulary.text(i), kind != TokenKind.USER_DEFINED, i in vocabulary.stripping)
        for i, kind in enumerate(vocabulary.kinds)
        if kind in wanted
    ]

