"""Configuration files: entries, the three kinds of text, and every configuration class of the library."""

import dataclasses
import enum
import json
import math
import sys
import typing

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hyperion
from hyperion import ConfigEntry, ConfigType, FormatError, InvalidArgumentError
from hyperion.config import toml
from hyperion.config.text import parse, render

KINDS = ["toml", "json", "conf"]

WORDS = st.from_regex(r"[a-zA-Z_äß-][a-zA-Z0-9_-]{0,5}", fullmatch=True)
KEYS = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
VALUES = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12)
)


def configuration(entries):
    config = hyperion.Config()
    for key, value in entries.items():
        try:
            config.add(key, value)
        except InvalidArgumentError:  # a value where another key has a table
            continue
    return config


# ---- entries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "INT"), (3.5, "FLOAT"), (True, "BOOL"), ("3", "STRING"), (np.int32(3), "INT"), (np.float32(0.5), "FLOAT")]
)
def test_an_entry_knows_its_type(value, kind):
    entry = ConfigEntry(key="a.b", value=value)
    assert entry.type is ConfigType[kind]
    assert entry.value == value
    assert type(entry.value) in (int, float, bool, str)


def test_an_entry_keeps_its_type():
    entry = ConfigEntry(key="x", type=ConfigType.FLOAT, value=1)
    assert type(entry.value) is float
    entry.value = 2
    assert (entry.value, type(entry.value)) == (2.0, float)
    for bad in (True, "2.0", None, [1.0]):
        with pytest.raises(InvalidArgumentError, match="x"):
            entry.value = bad
    assert entry.value == 2.0
    with pytest.raises(InvalidArgumentError, match="INT"):
        entry.type = ConfigType.INT
    entry = ConfigEntry(key="n", value=1)
    entry.type = ConfigType.FLOAT
    assert type(entry.value) is float
    for bad in ({"key": ""}, {"key": "a..b"}, {"key": "a b"}, {"key": 3}, {"type": "INT"}, {"value": 1 << 70}, {"value": 1, "type": ConfigType.BOOL}):
        with pytest.raises(InvalidArgumentError):
            ConfigEntry(**{"key": "k", "value": 1, **bad})
    with pytest.raises(InvalidArgumentError, match="no field"):
        entry.unit = "s"


def test_get_and_set(tmp_path):
    path = tmp_path / "c.conf"
    path.write_text("threads = 2\nname = a model\n[engine]\nratio = 0.5\nfast = true\n")
    config = hyperion.load_config(path)
    assert [(e.key, e.type.name, e.value) for e in config] == [
        ("threads", "INT", 2), ("name", "STRING", "a model"), ("engine.ratio", "FLOAT", 0.5), ("engine.fast", "BOOL", True),
    ]  # fmt: skip
    assert hyperion.get_config_value(config, "engine.ratio") == 0.5
    hyperion.set_config_value(config, "engine.ratio", 1)
    assert hyperion.get_config_value(config, "engine.ratio") == 1.0
    for key, bad in (("threads", 2.0), ("threads", "2"), ("engine.fast", 1), ("name", 3)):
        with pytest.raises(InvalidArgumentError, match=key):
            hyperion.set_config_value(config, key, bad)
    with pytest.raises(InvalidArgumentError, match="thread"):
        hyperion.set_config_value(config, "thread", 3)
    with pytest.raises(InvalidArgumentError, match="engine.ratio"):
        hyperion.get_config_value(config, "nothing")
    assert hyperion.get_config_value(config, "nothing", None) is None
    config.save(path)
    again = hyperion.load_config(path)
    assert again == config
    assert again.get("engine.ratio") == 1.0


def test_a_key_is_a_value_or_a_table():
    config = hyperion.Config([ConfigEntry(key="a.b", value=1)])
    for key in ("a", "a.b", "a.b.c"):
        with pytest.raises(InvalidArgumentError):
            config.add(key, 2)
    config.remove("a")
    assert len(config) == 0
    assert "a" not in config
    config.add("a", 2)
    assert "a" in config


# ---- files ---------------------------------------------------------------------------------------------------


@given(entries=st.dictionaries(KEYS, VALUES, max_size=6), kind=st.sampled_from(["toml", "json", "lines"]))
def test_what_is_rendered_is_parsed(entries, kind):
    config = configuration(entries)
    flat = {e.key: e.value for e in config}
    found = dict(parse(kind, render(kind, flat)))
    assert found == flat
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in flat.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_come_back_as_arrays(tmp_path, kind):
    config = hyperion.Config()
    for key, value in {"s.a.0": 1, "s.a.1.0": 2, "s.a.1.1": "x", "s.t.1": 3, "s.e.0.k": True}.items():
        config.add(key, value)
    config.save(tmp_path / f"c.{kind}")
    again = hyperion.load_config(tmp_path / f"c.{kind}")
    assert again == config
    assert again.section("s") == {"a": [1, [2, "x"]], "t": {"1": 3}, "e": [{"k": True}]}
    assert again.sections == ["s"]


def test_lines():
    text = """
    # comment
    ; comment
    a=1
    b =  -2.5e3   # comment
    c = no#comment
    d = "quoted # \\n \\u00e9"  ; comment
    e = TRUE
    f =
    g = 1_000
    h = .5
    i = a = b
    [x.y]   # section
    j.k = inf
    """
    assert dict(parse("lines", text)) == {
        "a": 1, "b": -2500.0, "c": "no#comment", "d": "quoted # \n é", "e": True, "f": "", "g": "1_000", "h": 0.5, "i": "a = b",
        "x.y.j.k": math.inf,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("conf", "a"), ("conf", "= 3"), ("conf", "[a"), ("conf", "[]"), ("conf", 'a = "x'), ("conf", 'a = "x" y'), ("conf", "a b = 3"),
        ("conf", "a = 1\na = 2"), ("conf", "a = 1\na.b = 2"), ("conf", "a = " + "9" * 6000), ("conf", "a = " + "9" * 40),
        ("conf", ".".join("a" * 100) + " = 1"), ("json", "[]"), ("json", "3"), ("json", "{"), ("json", '{"a": 1, "a": 2}'), ("json", '{"a": NaN}'),
        ("json", '{"": {"a": 1}}'), ("json", '{"a b": 1}'), ("json", '{"a": ' + "[" * 100 + "1" + "]" * 100 + "}"),
        ("json", '{"a": ' + "[" * 100000), ("json", '{"a.b": 1, "a": {"b": 1}}'), ("toml", "a = "), ("toml", "a = 1\na = 2"),
        ("toml", "a = 2020-01-01"), ("toml", '"a b" = 1'), ("toml", "a = " + "[" * 5000), ("conf", b"a = \xff"), ("json", b"\xff\xfe"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_configuration_is_refused(tmp_path, kind, text):
    path = tmp_path / f"bad.{kind}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=r"bad\."):
        hyperion.load_config(path)


def test_files_that_do_not_serve(tmp_path, monkeypatch):
    with pytest.raises(InvalidArgumentError, match=r"\.yaml"):
        hyperion.load_config(tmp_path / "a.yaml")
    with pytest.raises(hyperion.HyperionIOError):
        hyperion.load_config(tmp_path / "no.conf")
    large = tmp_path / "model.conf"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="at most"):
        hyperion.load_config(large)
    config = hyperion.Config([ConfigEntry(key="a", value=math.inf)])
    with pytest.raises(InvalidArgumentError, match="cannot hold"):
        config.save(tmp_path / "a.json")
    monkeypatch.setitem(sys.modules, "tomllib", None)  # as before Python 3.11
    (tmp_path / "a.toml").write_text("a = 1")
    assert hyperion.load_config(tmp_path / "a.toml").get("a") == 1
    (tmp_path / "a.toml").write_text('a = """\nx"""')
    with pytest.raises(hyperion.UnsupportedError, match=r"3\.11"):
        hyperion.load_config(tmp_path / "a.toml")
    assert hyperion.list_dir(tmp_path) == ["a.toml", "model.conf"]


def test_a_file_with_a_byte_order_mark_and_nulls(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": None, "b": [], "c": {"d": 1}}).encode())
    assert [(e.key, e.value) for e in hyperion.load_config(tmp_path / "a.json")] == [("c.d", 1)]


# ---- TOML before Python 3.11 ---------------------------------------------------------------------------------

PLAIN = """
# plain
a = 1 # one
"quoted key" = 0x1F
'b' . c = [1, 2.5, [ "x", 'y\\z' ],
  # in between
  {k = true, "l.m" = {}, n.o = 1_000},
]
[t]
f = 6.02e23
g = -inf
s = "\\u00e9 \\U0001F600 \\t \\" \\\\"
[t.u."v w"]
x = []
[t.u]
y = 0.5
"""

TOML_WORDS = ["a", "b", '"a"', "'c d'", ".", "=", "[", "]", "{", "}", ",", "\n", "\n", " ", "1", "-0", "+1_0", "01", "1.", "0xf", "0b12", "1e5",
              "1e+1_0", "true", "True", "inf", "-nan", '"x\\n"', '"\\q"', '"\\ud800"', "'", '"', "#", "[[", "]]", "a=1", "a.b=2", "[a]", "[a.b]", "\r\n",
              "\x00", "é", "1979-05-27", "_"]  # fmt: skip


def test_plain_toml_is_read_as_others_read_it():
    tomllib = pytest.importorskip("tomllib")
    assert toml.loads(PLAIN) == tomllib.loads(PLAIN)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(TOML_WORDS), max_size=14).map("".join))
@example("a.b=1\n[a]\n")
@example("[a]\n[a]\n")
@example("[a.b]\n[a]\nb.c=1")
@example("a={b=1}\na.c=1\n")
@example("a={b=1}\n[a]\n")
@example("a=[{b=1}]\n[a.b]\n")
@example("[a]\nb.c=1\n[a.b]\n")
@example("[a.b.c]\n[a]\nb.d=1\n")
@example("a={b.c=1,b.d=2}")
@example("a={b=1,}")
@example("a=1 b=2")
def test_any_toml_is_read_or_refused_as_others_do(text):
    tomllib = pytest.importorskip("tomllib")
    try:
        expected = tomllib.loads(text)
    except ValueError:
        expected = None
    try:
        found = toml.loads(text)
    except hyperion.UnsupportedError:
        return
    except ValueError:
        found = None
    assert repr(found) == repr(expected)


# ---- every configuration class --------------------------------------------------------------------------------


def config_classes():
    named = {name: getattr(hyperion, name) for name in hyperion.__all__ if name.endswith("Config")}
    return sorted({c for c in named.values() if dataclasses.is_dataclass(c)}, key=lambda c: c.__name__)


def variants(cls, field, hint, base):
    """Values of a field that are not its default, as its type suggests them; those that the class takes."""
    current = getattr(base, field.name)
    members = [m for kind in [hint, *typing.get_args(hint)] if isinstance(kind, type) and issubclass(kind, enum.Enum) for m in kind]
    numbers = [0, 1, 2, 3, 4, 8, 64, 128, 4096, 3 << 20, 0.0, 0.125, 0.7, 1.0]
    candidates = [*members, True, False, *numbers, "mse", "hqq", "text # with = all\n\"kinds\" ", ["a", "b"], np.array([0.1, 2.5], np.float32), [print]]
    for value in candidates:
        try:
            changed = dataclasses.replace(base, **{field.name: value})
        except (hyperion.HyperionError, TypeError, ValueError):
            continue
        if not same(getattr(changed, field.name), current):
            yield changed


def same(a, b):
    return type(a) is type(b) and (np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b)


def base_of(cls):
    required = [f for f in dataclasses.fields(cls) if (f.default, f.default_factory) == (dataclasses.MISSING,) * 2]
    return cls(**{f.name: "some/path" for f in required})


def test_the_classes_are_found():
    assert {hyperion.GenerationConfig, hyperion.MemoryConfig, hyperion.QuantizationConfig} <= set(config_classes())


@pytest.mark.parametrize("cls", config_classes(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_config_class_survives_a_file(tmp_path, cls, kind):
    path, hints, base = tmp_path / f"c.{kind}", typing.get_type_hints(cls), base_of(cls)
    found = [base]
    for field in dataclasses.fields(cls):
        changed = list(variants(cls, field, hints[field.name], base))
        only = field.name == "zero_point" or field.name == "method" and len(hyperion.PruneMethod) == 1  # others contradict the defaults
        assert changed or only, f"no other value of {cls.__name__}.{field.name} was found"
        found += changed
    if cls is hyperion.QuantizationConfig:
        found.append(cls(symmetric=False, scale=np.full((2, 3), 0.1, np.float32), zero_point=np.zeros((2, 3)), group_size=4))
    for config in found:
        file = hyperion.Config()
        if getattr(config, "logit_processors", None):  # functions cannot be in a file
            with pytest.raises(InvalidArgumentError, match="logit_processors"):
                file.put(config)
            continue
        file.put(config)
        file.save(path)
        again = hyperion.load_config(path).make(cls)
        for field in dataclasses.fields(cls):
            assert same(getattr(again, field.name), getattr(config, field.name)), (field.name, config, again)


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_holds_them_all(tmp_path, kind):
    file = hyperion.Config()
    for cls in config_classes():
        file.put(base_of(cls))
        file.put(base_of(cls))  # takes the first one's place
    file.save(tmp_path / f"c.{kind}")
    again = hyperion.load_config(tmp_path / f"c.{kind}")
    assert again == file
    for cls in config_classes():
        for field in dataclasses.fields(cls):
            assert same(getattr(again.make(cls), field.name), getattr(base_of(cls), field.name))


def test_sections_that_do_not_fit():
    file = hyperion.Config()
    file.add("GenerationConfig.temprature", 0.5)
    with pytest.raises(InvalidArgumentError, match=r"temprature.*temperature"):
        file.make(hyperion.GenerationConfig)
    file.remove("GenerationConfig")
    file.add("GenerationConfig.temperature", "hot")
    with pytest.raises(InvalidArgumentError, match="hot"):
        file.make(hyperion.GenerationConfig)
    with pytest.raises(InvalidArgumentError, match="vocabulary_path"):
        file.make(hyperion.TokenizerConfig)
    for bad in (3, hyperion.GenerationConfig, {}):
        with pytest.raises(InvalidArgumentError):
            file.put(bad)
    for bad in (3, int, hyperion.GenerationConfig()):
        with pytest.raises(InvalidArgumentError):
            file.make(bad)

    @dataclasses.dataclass
    class WithNone:
        size: int | None = 3
        of: object = None

    for value in (WithNone(size=None), WithNone(of=b"bytes"), WithNone(of={1})):
        with pytest.raises(InvalidArgumentError, match="WithNone"):
            file.put(value)
    assert file.section("WithNone") == {}
    file.put(WithNone(4))
    assert file.make(WithNone) == WithNone(4)
