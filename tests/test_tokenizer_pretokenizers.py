"""Every family of pre-tokenizers cuts a text as its model does (recorded where llama.cpp gives the same tokens)."""

import pytest

from hyperion import FormatError, UnsupportedError
from hyperion.tokenizer import Tokenizer
from hyperion.tokenizer.bpe import PRETOKENIZERS
from tokenizer_data import byte_bpe

TEXT = "I'VE he's 12345 (x=10.5)  \n  été,McDonald 漢字かな e\u0301 <sentinel:7>\t "
CUTS = {
    'default': "I|'|VE| he|'|s| |123|45| |(|x|=|10|.|5|)|  \n | été|,|McDonald| 漢字かな| e|́| |<|sentinel|:|7|>|\t ",
    'gpt-2': "I|'|VE| he|'s| 12345| (|x|=|10|.|5|)|  \n | été|,|McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'starcoder': "I|'|VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n | été|,|McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'falcon': "I|'|VE| he|'|s| |123|45| |(|x|=|10|.|5|)|  \n | été|,|McDonald| 漢字かな| e|́| |<|sentinel|:|7|>|\t ",
    'llama3': "I|'VE| he|'s| |123|45| (|x|=|10|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'dbrx': "I|'VE| he|'s| |123|45| (|x|=|10|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'qwen2': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'qwen35': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,McDonald| 漢字かな| é| <|sentinel|:|7|>|\t ",
    'ufakzeka': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'laguna': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  |\n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'minicpm5': "I|'VE| he|'s| |123|45| (|x|=|10|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'jais-2': "I|'VE| he|'s| |123|45| (|x|=|10|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'seed-coder': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'bailingmoe': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,McDonald| 漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'exaone-moe': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,McDonald 漢字かな é| <|sentinel|:|7|>|\t ",
    'deepseek-llm': "I|'|VE| he|'|s| |12345| (|x|=|10|.|5|)|  |\n| | é|t|é|,|McDonald| |漢字かな| e|́| <|sentinel|:|7|>|\t ",
    'deepseek-coder': "I|'|VE| he|'|s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  |\n| | été|,|McDonald| |漢字かな| e|́ <|sentinel|:|7|>\t ",
    'deepseek-v3': "I|'VE| he|'s| |123|45| (|x|=|10|.|5|)|  \n| | été|,McDonald| |漢字かな| é| <|sentinel|:|7|>|\t ",
    'spark2_5': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n | été|,McDonald| |漢字かな| é| <|sentinel|:|7|>|\t ",
    'youtu': "I'VE| he's| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,Mc|Donald| |漢字かな| é| <|sentinel|:|7|>|\t ",
    'poro-chat': "I'VE| he's| 12345| (|x=10|.|5|)  \n | été|,|McDonald| 漢字かな| é| <sentinel:7>|\t ",
    'viking': "I'VE| he's| |1|2|3|4|5| (|x=|1|0|.|5|)  \n | été|,|McDonald| 漢字かな| é| <sentinel:|7|>|\t ",
    'tekken': "I|'VE| he|'s| |1|2|3|4|5| (|x|=|1|0|.|5|)|  \n| | été|,Mc|Donald| 漢字かな| é| <|sentinel|:|7|>|\t ",
    'gpt-4o': "I'VE| he's| |123|45| (|x|=|10|.|5|)|  \n| | été|,Mc|Donald| 漢字かな| é| <|sentinel|:|7|>|\t ",
    'kimi-k2': "I'VE| he's| |123|45| (|x|=|10|.|5|)|  \n| | été|,Mc|Donald| |漢字|かな| é| <|sentinel|:|7|>|\t ",
    'superbpe': "I'VE he's |12|345| (x=|10|.|5|)  \n  été,McDonald 漢字かな é <sentinel:|7|>\t ",
    'chameleon': "I|'|VE| he|'|s| |1|2|3|4|5| |(|x|=|1|0|.|5|)|  |\n|  |été|,|McDonald| 漢字かな| e|́| |<|sentinel|:|7|>|\t| ",
}


@pytest.mark.parametrize("name", CUTS)
def test_family_cuts_text_as_recorded(name):
    tokenizer = Tokenizer.from_metadata(byte_bpe(pre=name))
    pieces = tokenizer._codec._engine.pre_tokenizer.pre_tokenize_str(TEXT)
    assert "|".join(TEXT[start:end] for _, (start, end) in pieces) == CUTS[name]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_every_family_is_recorded():
    assert {PRETOKENIZERS[name] for name in CUTS} == set(PRETOKENIZERS.values())


@pytest.mark.parametrize("name", sorted(PRETOKENIZERS))
def test_every_name_loses_nothing(name):
    text = "\r\n \n\tNaïve ﬀ ǅ \u00a0\u3000\u2028 ½Ⅷ 😀👩\u200d🚀 \ud55c\uad6d\uc5b4 'LL ''s --- 1234567 \x00 end  "
    tokenizer = Tokenizer.from_metadata(byte_bpe(("the", "Na"), pre=name))
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_merges_stop_at_cuts():
    tokenizer = Tokenizer.from_metadata(byte_bpe(("ab", "12"), pre="qwen2"))
    texts = [tokenizer.id_to_token(i) for i in tokenizer.encode("abab 1212", add_special=False)]
    assert texts == ["ab", "ab", "Ġ", "1", "2", "1", "2"]
    tokenizer = Tokenizer.from_metadata(byte_bpe(("ab", "12"), pre="gpt-2"))
    texts = [tokenizer.id_to_token(i) for i in tokenizer.encode("abab 1212", add_special=False)]
    assert texts == ["ab", "ab", "Ġ", "12", "12"]


def test_llama3_takes_whole_words_without_merges():
    for pre, expected in (("llama-bpe", ["xyz"]), ("gpt-2", ["x", "y", "z"])):
        metadata = byte_bpe(pre=pre)
        metadata["tokenizer.ggml.tokens"].append("xyz")
        metadata["tokenizer.ggml.token_type"].append(1)
        tokenizer = Tokenizer.from_metadata(metadata)
        assert [tokenizer.id_to_token(i) for i in tokenizer.encode("xyz", add_special=False)] == expected


def test_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(UnsupportedError, match=r"'martian'.*llama-bpe.*qwen2"):
        Tokenizer.from_metadata(byte_bpe(pre="martian"))


def test_missing_name_warns():
    metadata = byte_bpe()
    del metadata["tokenizer.ggml.pre"]
    with pytest.warns(UserWarning, match="pre-tokenizer"):
        Tokenizer.from_metadata(metadata)


@pytest.mark.parametrize(
    "merge", ["a", "a ", " ", "", "a b c", "a zz", 7, b"\xff\xff \xff"], ids=["one", "empty", "space", "none", "three", "unknown", "number", "bytes"]
)
def test_bad_merges_are_format_errors(merge):
    metadata = byte_bpe(("ab",))
    metadata["tokenizer.ggml.merges"].append(merge)
    with pytest.raises(FormatError):
        Tokenizer.from_metadata(metadata)
