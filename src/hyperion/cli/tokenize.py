"""``hyperion tokenize``: text to token ids and pieces, or back."""

from __future__ import annotations

import re
from typing import Any

import click

from hyperion.cli.common import argument, as_json, emit, emit_json, model_path, read_text


@click.command("tokenize")
@click.argument("model", required=False)
@click.option("-t", "--text", help="The text, or with --decode the ids.")
@click.option("-f", "--file", metavar="FILE", help='Read it from a file; "-" and the default are standard input.')
@click.option("--decode", is_flag=True, help="The input is token ids, separated by spaces, commas or lines: print their text.")
@click.option("--ids", "only_ids", is_flag=True, help="Print the ids alone, on one line.")
@click.option("--special/--no-special", default=False, show_default=True, help="Add begin and end tokens as the model asks.")
@click.option("--parse-special", is_flag=True, help="Read <|im_end|> and the like as the control tokens they name.")
@as_json
def command(
    model: str | None, text: str | None, file: str | None, decode: bool, only_ids: bool, special: bool, parse_special: bool,
    json_output: bool,
) -> None:  # fmt: skip
    """Print the tokens of a text, one a line: id and piece.

    MODEL is a model of any format, or a vocabulary alone: tokenizer.json, tokenizer.model, vocabulary.txt. Without it, the
    small model that ships in the package. No weights are read.
    """
    from hyperion import Tokenizer

    if text is not None and file is not None:
        raise click.UsageError("--text and --file exclude each other")
    given = argument(text, "the text") if text is not None else read_text(file or "-")
    with model_path(model) as path, Tokenizer.from_file(path) as tokenizer:
        if decode:
            ids = parse_ids(given)
            result = tokenizer.decode(ids, skip_special=not special)
        else:
            ids = tokenizer.encode(given, add_special=special, parse_special=parse_special)
            result = given
        pieces = [tokenizer.id_to_token(i) or "" for i in ids]
    show(result, ids, pieces, decode=decode, only_ids=only_ids, json_output=json_output)


def show(text: str, ids: list[int], pieces: list[str], *, decode: bool, only_ids: bool, json_output: bool) -> None:
    """Print what was asked for."""
    if json_output:
        found: dict[str, Any] = {"text": text, "count": len(ids), "ids": ids, "pieces": pieces}
        emit_json(found)
    elif decode:
        emit(text if text.endswith("\n") else text + "\n")
    elif only_ids:
        emit(" ".join(map(str, ids)) + "\n")
    else:
        emit("".join(f"{i:>7}  {printable(piece)}\n" for i, piece in zip(ids, pieces, strict=True)))


def printable(piece: str) -> str:
    """A piece on one line: what a terminal would act on is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in piece)


def parse_ids(text: str) -> list[int]:
    """Numbers between spaces, commas, line ends or brackets."""
    words = re.split(r"[\s,\[\]]+", text.strip())
    try:
        return [int(word) for word in words if word]
    except ValueError:
        bad = next(word for word in words if word and not re.fullmatch(r"[+-]?\d+", word))
        raise click.BadParameter(f"{bad[:40]!r} is no token id") from None
