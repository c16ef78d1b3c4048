"""Chat templates: what models bring, and what an attacker would."""

import subprocess
import sys
from pathlib import Path

import pytest

from hyperion import InvalidArgumentError, UnsupportedError
from hyperion.tokenizer import Tokenizer
from hyperion.tokenizer.chat import render_chat
from tokenizer_data import byte_bpe, gguf_metadata

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi é <b> "},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Tools: " }}{%- for t in tools %}{{- t | tojson(indent=2) }}{%- endfor %}{%- endif %}
{{- "Today: " + date_string + "\\n" }}{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.system = message.content ~ '\n\n' %}{% continue %}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' ~ ns.system ~ message.content.strip() ~ ' [/INST]' }}"
    "{% elif message.role == 'assistant' %}{% generation %}{{ ' ' + message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported, not ' + message.role) }}{% endif %}"
    "{% set ns.system = '' %}{% endfor %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""


def test_chatml():
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi é <b> <|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    )
    assert render_chat(CHATML, CHAT) == expected + "<|im_start|>assistant\n"
    assert render_chat(CHATML, CHAT, add_generation_prompt=False) == expected


def test_llama_3():
    text = render_chat(LLAMA3, CHAT, bos_token="<|begin_of_text|>", tools=[{"name": "é", "args": [1, None]}])
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        'Tools: {\n  "name": "é",\n  "args": [\n    1,\n    null\n  ]\n}'
        "Today: 26 Jul 2024\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi é <b><|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert "Today: Monday\n" in render_chat(LLAMA3, CHAT, date_string="Monday")
    assert "Tools" not in render_chat(LLAMA3, CHAT)


def test_mistral():
    text = render_chat(MISTRAL, CHAT, bos_token="<s>", eos_token="</s>")
    assert text == "<s>[INST] Be brief.\n\nHi é <b> [/INST] Hello.</s>[INST] Bye [/INST]"
    with pytest.raises(InvalidArgumentError, match="refuses.*not tool"):
        render_chat(MISTRAL, [{"role": "tool", "content": "x"}])


def test_zephyr():
    text = render_chat(ZEPHYR, CHAT[2:], eos_token="</s>")
    assert text == "<|assistant|>\nHello.</s>\n<|user|>\nBye</s>\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages|map(attribute='role')|list|join(',') }}", "system,user,assistant,user"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "2"),
        ("{{ messages[-1].content.upper() }}{{ messages[::-1][0].role }}", "BYEuser"),
        ("{{ (messages|last)['content']|replace('B', 'D') }}", "Dye"),
        ("{{ 'a,b'.split(',')[-1] }}{{ '%05.2f|%s' % (3.14159, 'x') }}{{ '{}-{:>3}'.format(1, 2) }}", "b03.14|x1-  2"),
        ("{{ '%s' % 'x' }}{{ '%d%%' % 5 }}{{ '%(a)s' % {'a': 1} }}{{ '%s'|format(7) }}", "x5%17"),
        ("{{ messages[0].get('name', 'none') }}{{ messages[0].keys()|list }}", "none['role', 'content']"),
        ("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=system;content=Be brief.;"),
        ("{{ {'b': 1, 'a': [true, none]}|tojson }}", '{"b": 1, "a": [true, null]}'),
        ("{{ {'b': 1, 'a': 2}|tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":2,"b":1}'),
        ("{{ 'é<>&'|tojson }}{{ 'a\nb'|indent(2) }}", '"é<>&"a\n  b'),
        ("{{ missing }}{{ missing is defined }}{{ none }}{{ true }}{{ 1.5 }}", "FalseNoneTrue1.5"),
        ("{% macro m(x, y=2) %}{{ x * y }}{% endmacro %}{{ m(3) }}{{ m('a', y=3) }}", "6aaa"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ loop.index }}{{ loop.last }}{% endfor %}", "1False2False"),
        ("{% set x %}a{{ 1 + 1 }}{% endset %}{{ x ~ [1, 'b'] ~ {'c': (1,)} }}", "a2[1, 'b']{'c': (1,)}"),
        ("{{ [1, 2] + [3] }}{{ (1, 2)[0] }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ [1] * 3 }}", "[1, 2, 3]131024[1, 1, 1]"),
        ("{{ [3, 1, 2]|sort|first }}{{ [1, 2, 3]|sum }}{{ 2.567|round(1) }}{{ 'x'|string|length }}", "162.61"),
        ("{% filter upper %}ab{% endfilter %}{{ 'ab cd'|title }}{{ ' x '|trim }}", "ABAb Cdx"),
        ("{{ dict(a=1).a }}{{ messages is iterable }}{{ messages[0] is mapping }}{{ 'x' is string }}", "1TrueTrueTrue"),
        ("{{ ', '.join(messages|map(attribute='role')) }}", "system, user, assistant, user"),
        ("{{ strftime_now('%Y')|length }}", "4"),
        ("{{ [[1, 2], [3]]|map('join', '+')|list }}", "['1+2', '3']"),
        ("{{ [1, 2, 3]|batch(2)|list }}{{ ['b', 'a']|unique|list }}", "[[1, 2], [3]]['b', 'a']"),
    ],
)
def test_what_templates_use(template, expected):
    assert render_chat(template, CHAT) == expected


def test_long_conversations_are_rendered():
    messages = [{"role": "user", "content": "word " * 2000}] * 300
    assert len(render_chat(CHATML, messages, time_limit=20)) > 3_000_000


S = "{% set ns = namespace(s=['ab']) %}{% for i in range(100) %}{% set ns.s = "
HOSTILE = {
    "long loop": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "loops that do nothing": "{% for i in range(100000) %}{% for j in range(100000) if false %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for i in range(100000) recursive %}{{ loop(range(100000)) }}{% endfor %}",
    "macro that calls itself": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "macro that doubles": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "repeated text": "{{ 'a' * 10**9 }}",
    "repeated list": "{{ [0] * 10**9 }}",
    "huge power": "{{ 10 ** (10 ** 9) }}",
    "number that squares": "{% set ns = namespace(n=3) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "printf width": "{{ '%999999999d' % 1 }}",
    "printf precision": "{{ '%.999999999f' % 1 }}",
    "printf width from value": "{{ '%*d' % (999999999, 1) }}",
    "format width": "{{ '{:>999999999}'.format(1) }}",
    "format width from value": "{{ '{:{w}}'.format(1, w=999999999) }}",
    "format filter": "{{ '%999999999d'|format(1) }}",
    "center": "{{ 'a'.center(10**9) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**9) }}",
    "indent": "{{ 'a\nb'|indent(10**9) }}",
    "JSON indent": "{{ [1]|tojson(indent=10**9) }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000) }}",
    "replace filter": "{{ ('a' * 1000000)|replace('', 'b' * 1000) }}",
    "join": "{{ ('a' * 1000).join(range(100000)|map('string')|list) }}",
    "join filter": "{{ range(100000)|join('a' * 100000) }}",
    "doubling +": S.replace("['ab']", "'ab'") + "ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "doubling ~": S.replace("['ab']", "'ab'") + "ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "doubling block": "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    "doubling list": S + "[ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "doubling tuple as key": S + "(ns.s, ns.s) %}{% endfor %}{{ {ns.s: 1} }}",
    "doubling dict": S + "{'a': ns.s, 'b': ns.s} %}{% endfor %}{{ ns.s|tojson }}",
    "doubling dict call": S + "dict(a=ns.s, b=ns.s) %}{% endfor %}{{ ns.s|string }}",
    "doubling through filters": S + "[ns.s, ns.s]|batch(2)|list %}{% endfor %}{{ ns.s }}",
    "doubling views": "{% set ns = namespace(s={'a': 1}) %}{% for i in range(99) %}{% set ns.s = {'a': ns.s.items(), 'b': ns.s.items()} %}{% endfor %}{{ ns.s }}",
    "sum of lists": "{% set l = range(100000)|list %}{{ [l, l, l]|sum(start=[]) }}",
    "batch fill": "{{ [1]|batch(10**9, 'x')|list }}",
    "slice filter": "{{ [1]|slice(10**9)|list }}",
    "lists kept": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [('ab ' * 200000).split()] %}{% endfor %}",
    "texts kept": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [('ab' * 200000).upper()] %}{% endfor %}",
    "copies": "{% set s = 'ab' * 300000 %}{% for i in range(99999) %}{% set t = s[::-1] %}{% endfor %}",
    "long output": "{% for i in range(100000) %}" + "a" * 100 + "{% endfor %}",
    "filler text": "{{ lipsum(10**9) }}",
    "date width": "{{ strftime_now('%1000000000d') }}",
    "bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "macro globals": "{% macro f() %}{% endmacro %}{{ f.__globals__['x'] }}{{ raise_exception.__globals__.x.y }}",
    "format attributes": "{{ '{0.__class__.__mro__}'.format(messages).x.y }}{{ ''.__class__.x }}",
    "changing messages": "{{ messages.append(1) }}",
    "changing a message": "{{ messages[0].update({}) }}",
    "attr filter": "{{ ''|attr('__class__') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "extends": "{% extends 'x' %}",
    "not Jinja": "{% if %}",
    "never closed": "{{ " * 4000,
    "deep brackets": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "long expression": "{{ " + "1+" * 20000 + "1 }}",
    "missing attribute": "{{ missing.attribute }}",
    "division": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_templates_end_in_an_error(what):
    with pytest.raises(InvalidArgumentError):
        render_chat(HOSTILE[what], CHAT, time_limit=0.3)


def test_time_limit_is_kept():
    with pytest.raises(InvalidArgumentError, match="more than 0.05 s"):  # and not for its size; it would run for hours
        render_chat(HOSTILE["nested loops"], CHAT, time_limit=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="needs resource limits on memory")
def test_memory_stays_small():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import resource, test_tokenizer_chat as t; from hyperion.tokenizer.chat import render_chat\n"
        "render_chat(t.CHATML, t.CHAT); resource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2)\n"
        "for what in ('repeated text', 'doubling list', 'lists kept', 'texts kept', 'bytes', 'huge power', 'join'):\n"
        "    try: render_chat(t.HOSTILE[what], t.CHAT)\n"
        "    except t.InvalidArgumentError as error: assert 'MemoryError' not in str(error), what\n"
        "    else: raise SystemExit(what)\n"
        "import re; print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) >> 10)"
    )
    folder = str(Path(__file__).parent)
    out = subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True)
    assert int(out.stdout) < 400


@pytest.mark.parametrize(
    "messages",
    ["hi", {"role": "user"}, [1], [{"content": "x"}], [{"role": 3, "content": "x"}], None, [{"role": "user", "content": object()}]],
)
def test_bad_messages(messages):
    with pytest.raises(InvalidArgumentError):
        render_chat(CHATML, messages)


def test_bad_arguments():
    with pytest.raises(InvalidArgumentError):
        render_chat(None, CHAT)
    with pytest.raises(InvalidArgumentError):
        render_chat(CHATML, CHAT, time_limit=0)
    with pytest.raises(UnsupportedError):
        render_chat("x" * 70_000, CHAT)
    loop = []
    loop.append(loop)
    with pytest.raises(InvalidArgumentError):
        render_chat(CHATML, CHAT, documents=loop)


def test_tokenizer_renders_its_own_template(shared):
    tokenizer = Tokenizer.from_metadata(gguf_metadata(shared / "vocab/ggml-vocab-qwen2.gguf"))
    text = tokenizer.render_chat([{"role": "user", "content": "Hi"}])
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    assert ids.count(tokenizer.token_to_id("<|im_start|>")) == 3
    assert tokenizer.decode(ids, skip_special=False) == text


def test_tokenizer_without_template():
    tokenizer = Tokenizer.from_metadata(byte_bpe())
    with pytest.raises(InvalidArgumentError, match="no chat template"):
        tokenizer.render_chat(CHAT)
    text = tokenizer.render_chat(CHAT[:1], template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    assert text == "<s>Be brief.</s>"
