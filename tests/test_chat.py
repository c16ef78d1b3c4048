"""Conversations: the prompt that a template makes, the cache between turns, and ``hyperion chat``."""

import os
import select
import signal
import subprocess
import sys

import pytest

import hyperion
from hyperion import InvalidArgumentError
from hyperion.cli import main
from hyperion.cli.chat import talk
from hyperion.cli.common import model_path
from hyperion.generation.chat import chat_prompt

TEMPLATE = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}ASSISTANT:"
SETTINGS = {"temperature": 0, "max_length": 16, "template": TEMPLATE}


@pytest.fixture(scope="module")
def model():
    with model_path(None) as path, hyperion.load_model(path, threads=1) as model:
        yield model


def test_chat_continues_the_rendered_conversation(model):
    messages = [{"role": "system", "content": "Thou art a king."}, {"role": "user", "content": "Speak!"}]
    prompt = "SYSTEM: Thou art a king.\nUSER: Speak!\nASSISTANT:"
    ids = model.tokenizer.encode(prompt, add_special=False)
    expected = model.generate(ids, temperature=0, max_length=16)
    assert model.chat(messages, **SETTINGS) == expected
    chunks = list(model.stream_chat(messages, hyperion.GenerationConfig(temperature=0, max_length=16), template=TEMPLATE))
    assert "".join(c.text for c in chunks) == expected
    assert chunks[-1].finish_reason == "length"


def test_the_models_own_template_is_used_and_can_take_variables(model, monkeypatch):
    messages = [{"role": "user", "content": "Speak!"}]
    with pytest.raises(hyperion.InvalidArgumentError, match="no chat template"):
        model.chat(messages)
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ bos_token }}{{ mood }}: {{ messages[0].content }}")
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode("glad: Speak!", add_special=False)]
    expected = model.generate(ids, temperature=0, max_length=9)
    assert model.chat(messages, variables={"mood": "glad"}, temperature=0, max_length=9) == expected


def test_the_plain_template_ends_an_answer_at_a_blank_line(model):
    messages = [{"role": "user", "content": "  Who art thou?  "}]
    free = model.generate("USER:\nWho art thou?\n\nASSISTANT:\n", temperature=0, max_length=60)
    assert "\n\n" in free
    assert model.chat(messages, template="plain", temperature=0, max_length=60) == free.partition("\n\n")[0]


@pytest.mark.parametrize("content", ["a</s>b", "</s>", "<</s>/s>", "a<s></s>", [{"type": "text", "text": "a</s>b"}]])
def test_a_users_control_tokens_are_text(model, content):
    """The template's own are control tokens; those in what a user wrote, however nested, are the characters they look like."""
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.content if m.content is string else m.content[0].text }}{{ eos_token }}{% endfor %}"
    )
    config = hyperion.GenerationConfig()
    ids, _ = chat_prompt(model, [{"role": "user", "content": content}, {"role": "assistant", "content": "x</s>"}], config, template=template)
    assert (ids.count(model.tokenizer.bos_id), ids.count(model.tokenizer.eos_id)) == (1, 3)  # the assistant's is its own
    text = content if isinstance(content, str) else content[0]["text"]
    assert model.tokenizer.decode(ids).replace(" ", "") == f"{text}x"


def test_a_mark_never_eats_a_character_of_the_text(model):
    template = "{{ bos_token }}\ue001{{ messages[0].content }}"
    ids, _ = chat_prompt(model, [{"role": "user", "content": "a \ue000 b</s>"}], hyperion.GenerationConfig(), template=template)
    assert "\ue001a \ue000 b<" in model.tokenizer.decode(ids)


@pytest.mark.parametrize("messages", [[], "hello", [{"content": "x"}], [3]])
def test_bad_messages_are_refused(model, messages):
    with pytest.raises(hyperion.InvalidArgumentError):
        model.chat(messages, template=TEMPLATE)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"messages": "x"}, "list of mappings, got str"),
        ({"messages": 5}, "list of mappings, got int"),
        ({"messages": [5]}, "message 0 must be a mapping"),
        ({"messages": [{"role": "user", "content": b"x"}]}, "content of message 0 is bytes"),
        ({"system": 5}, "content of message 0 is int"),
        ({"room": "x"}, "room is 'x', expected an integer"),
        ({"room": -1}, "room is -1"),
        ({"room": 1.5}, "room is 1.5"),
        ({"variables": 5}, "variables are a mapping"),
        ({"variables": {"messages": []}}, "cannot be given twice"),
        ({"variables": {"template": "x"}}, "cannot be given twice"),
        ({"tools": 5}, "tools are a list"),
        ({"tools": "x"}, "tools are a list"),
    ],
)
def test_what_a_conversation_is_made_of_is_checked(model, settings, says):
    with pytest.raises(InvalidArgumentError, match=says), model.conversation(**{"template": "plain", **settings}) as conversation:
        conversation.ask("x", max_length=1)
    assert not model.open_sessions


def test_no_tools_may_be_said_as_none(model):
    messages = [{"role": "user", "content": "Speak!"}]
    assert model.chat(messages, tools=None, **SETTINGS) == model.chat(messages, **SETTINGS)


def test_a_conversation_answers_as_chat_does_and_evaluates_only_what_is_new(model):
    with model.conversation(system="Thou art a king.", **SETTINGS) as conversation:
        earlier = 0
        for question in ["Speak!", "And then?", "Farewell."]:
            answer = conversation.ask(question)
            history = conversation.messages
            assert history[-2:] == [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            assert answer == model.chat(history[:-1], **SETTINGS)
            rendered = model.tokenizer.render_chat(history[:-1], template=TEMPLATE)
            total = len(model.tokenizer.encode(rendered, add_special=False, parse_special=True))
            assert 0 < conversation.evaluated <= total - earlier  # what came before the last answer is in the cache
            earlier = total


def test_an_answer_that_is_broken_off_stays_as_far_as_it_came(model):
    with model.conversation(**SETTINGS) as conversation:
        answer = conversation.send("Speak!")
        said = next(answer).text + next(answer).text
        answer.close()
        assert conversation.messages[-1] == {"role": "assistant", "content": said}
        follow_up = conversation.ask("And then?")
        assert follow_up == model.chat(conversation.messages[:-1], **SETTINGS)
        conversation.send("never read")  # an answer that was not begun leaves no message
        assert conversation.ask("Farewell.") == model.chat(conversation.messages[:-1], **SETTINGS)
        assert "never read" not in str(conversation.messages)


def test_the_oldest_turns_are_forgotten_when_the_context_is_full():
    with model_path(None) as path, hyperion.load_model(path, threads=1, context_length=96) as model:
        with model.conversation(system="Thou art a king.", room=40, **SETTINGS) as conversation:
            for i in range(8):
                conversation.ask(f"Speak of thing {i}!")
            assert conversation.forgotten > 0
            assert conversation.forgotten % 2 == 0
            assert conversation.messages[0]["role"] == "system"
            assert conversation.messages[1]["role"] == "user"
            assert conversation.messages[-2]["content"] == "Speak of thing 7!"
        with model.conversation(**SETTINGS) as conversation, pytest.raises(hyperion.InvalidArgumentError, match="context"):
            for _ in range(8):
                conversation.ask("Speak of this and that and everything!")


def test_a_conversation_gives_its_memory_back(model):
    before = model.memory_stats.current_usage
    conversation = model.conversation(**SETTINGS)
    conversation.ask("Speak!")
    conversation.close()
    conversation.close()
    assert model.memory_stats.current_usage == before


# ---- the command


def run_chat(*arguments, text, tmp_path):
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    options = ["--template", str(tmp_path / "t.jinja"), "--temperature", "0", "-n", "16", "--threads", "1", *arguments]
    command = [sys.executable, "-m", "hyperion", "chat", *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", check=False)


def test_piped_lines_are_messages_of_one_conversation(model, tmp_path):
    done = run_chat(text="Speak!\n\nAnd then?\n/reset\nSpeak!\n/exit\nnever\n", tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    with model.conversation(**SETTINGS) as conversation:
        first, second = conversation.ask("Speak!"), conversation.ask("And then?")
    assert done.stdout == f"{first}\n{second}\n{first}\n"
    assert done.stderr == ""


def test_a_message_that_is_too_long_is_one_line_and_the_chat_goes_on(tmp_path):
    done = run_chat("--context-length", "64", text="long " * 200 + "\nSpeak!\n", tmp_path=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("hyperion: ")
    assert "context" in done.stderr
    assert done.stdout


def test_without_a_template_the_transcript_is_named(capsys, monkeypatch):
    monkeypatch.setattr("hyperion.cli.chat.talk", lambda conversation: conversation.ask("Speak!", max_length=2))
    assert main(["chat", "--threads", "1"]) == 0
    assert "no chat template" in capsys.readouterr().err
    assert main(["chat", "--template", "no-such-file"]) == 2


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(model, monkeypatch, capsys):
    """Interrupted at a known place: after the third piece."""
    lines = iter(["Speak!", "And then?", None])
    monkeypatch.setattr("hyperion.cli.chat.read_message", lambda: next(lines))
    pieces = []

    def emit(text):
        pieces.append(text)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("hyperion.cli.chat.emit", emit)
    with model.conversation(**SETTINGS) as conversation:
        talk(conversation)
        history = conversation.messages
    assert "[stopped]" in capsys.readouterr().err
    assert [m["content"] for m in history if m["role"] == "user"] == ["Speak!", "And then?"]
    assert history[1]["content"] == "".join(pieces[:3])
    assert history[3]["content"] == model.chat(history[:3], **SETTINGS)


UNHURRIED = """
import sys, time
from hyperion.cli import chat, main
emit = chat.emit
chat.emit = lambda text: (emit(text), time.sleep(0.1))  # no answer is over before Ctrl-C comes
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_ends(tmp_path):
    import pty

    (tmp_path / "t.jinja").write_text(TEMPLATE)
    command = [sys.executable, "-c", UNHURRIED, "chat", "--template", str(tmp_path / "t.jinja"), "-n", "400", "--threads", "1"]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    seen = b""

    def wait_for(text, after=0, press=b""):
        nonlocal seen
        os.write(terminal, press)
        presses = 1
        while text not in seen[after:]:
            if not select.select([terminal], [], [], 5 if press else 120)[0]:
                if not press or presses == 24:
                    pytest.fail(f"no {text!r}: {seen!r}")
                os.write(terminal, press)  # again: Python's input() loses an interrupt that comes just before it waits
                presses += 1
                continue
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # Linux: the other end is closed
                pytest.fail(f"ended before {text!r}: {seen!r}")
        return seen.index(text, after) + len(text)

    try:
        at = wait_for(b"> ")
        os.write(terminal, b"Speak!\n")
        at = wait_for(b"Speak!\r\n", at)
        at = wait_for(b" ", at)  # the answer has begun
        os.write(terminal, b"\x03")
        at = wait_for(b"[stopped]", at)
        at = wait_for(b"> ", at)
        at = wait_for(b"> ", at, press=b"\x03")  # with no answer to stop: a new prompt
        os.write(terminal, b"\x04")
        _, status = os.waitpid(child, 0)
        child = 0
        assert os.waitstatus_to_exitcode(status) == 0
        assert b"Traceback" not in seen
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)
