"""The hyperion command: what goes where, exit statuses, one line on bad input, interruption, closed pipes."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from hyperion.cli import main

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes")
RUN = ["run", "-p", "ROMEO:", "--temperature", "0", "--max-length", "12", "--threads", "1"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hyperion", *map(str, arguments)]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command ends with on bad input."""
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hyperion: ")
    assert err.count("\n") == 1
    return err


def test_run_prints_only_the_text_on_standard_output(capsys):
    assert main(RUN) == 0
    first = capsys.readouterr()
    assert first.out
    assert "tokens/s" in first.err
    assert "peak memory" in first.err
    assert main([*RUN, "--quiet"]) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err == ""


def test_run_json_has_the_same_text_and_the_figures(capsys):
    main([*RUN, "--quiet"])
    text = capsys.readouterr().out
    assert main([*RUN, "--json", "--memory-budget", "64MB"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == text
    assert found["tokens"] == 12
    assert found["finish_reason"] == "length"
    assert found["memory_budget"] == 64_000_000
    assert 0 < found["peak_memory"] <= 64_000_000
    assert found["tokens_per_second"] > 0


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell the peak resident set")
@pytest.mark.parametrize("budget", [32_000_000, 64_000_000])
def test_a_new_process_grows_by_no_more_than_the_budget(budget):
    done = subprocess.run(command(*RUN, "--json", "--memory-budget", budget), capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert 0 < found["peak_memory"] <= budget
    assert 0 < found["resident_growth"] <= budget


def test_a_seed_gives_the_same_text_on_one_thread_and_two(capsys):
    texts = []
    for threads in ("1", "2"):
        main(["run", "-p", "To be", "--seed", "7", "--max-length", "20", "--threads", threads, "-q"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0]


def test_prompt_from_a_file_and_from_standard_input(capsys, tmp_path):
    (tmp_path / "prompt.txt").write_text("ROMEO:", encoding="utf-8")
    rest = [*RUN[3:], "--quiet"]
    assert main(["run", "-p", "ROMEO:", *rest]) == 0
    expected = capsys.readouterr().out
    assert main(["run", "-f", str(tmp_path / "prompt.txt"), *rest]) == 0
    assert capsys.readouterr().out == expected
    piped = subprocess.run(command("run", "-p", "-", *rest), input=b"ROMEO:", capture_output=True, check=True)
    assert piped.stdout.decode().replace("\r\n", "\n") == expected


def test_plan_goes_to_standard_error(capsys):
    assert main([*RUN, "--plan"]) == 0
    assert "kv cache" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "no-such-file.gguf", "-p", "x"], "no-such-file.gguf"),
        (["run"], "prompt"),
        (["run", "-p", "x", "--memory-budget", "many"], "many"),
        (["run", "-p", "x", "--temperature", "-1"], "temperature"),
        (["run", "-p", "x", "--top-p", "7"], "top_p"),
        (["run", "-p", "x", "--max-length", "0"], "max_length"),
        (["run", "-p", "x", "--threads", "-1"], "thread"),
        (["run", "-p", "x", "--simd", "mmx"], "mmx"),
        (["run", "-p", "x", "--context-length", "100000"], "context"),
        (["run", "-p", "x" * 5000, "--context-length", "16"], "context"),
        (["run", "-p", "x", "--kv-type", "f8"], "f8"),
        (["run", "-p", "x", "-f", "y"], "prompt"),
        (["run", "-f", "no-such-prompt"], "no-such-prompt"),
        (["inspect", "no-such-file.gguf"], "no-such-file.gguf"),
        (["perplexity", "no-such-file.gguf", __file__], "no-such-file.gguf"),
        (["perplexity", "m.gguf", "no-such-text"], "no-such-text"),
        (["perplexity", "m.gguf"], "FILE"),
        (["dance"], "dance"),
        (["run", "--dance"], "--dance"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_status_2(capsys, arguments, says):
    assert says in refused(capsys, *arguments)


def test_a_file_that_is_no_model_is_one_line(capsys, tmp_path):
    for name, content in (("text.gguf", b"GGUF" + bytes(60)), ("empty.gguf", b""), ("m.bin", b"\x80\x02}q")):
        (tmp_path / name).write_bytes(content)
        for verb in (["inspect"], ["run", "-p", "x"]):
            assert name in refused(capsys, *verb, tmp_path / name)


def test_text_that_is_not_utf_8_is_refused_with_the_offset(capsys, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "byte 3" in refused(capsys, "run", "-f", tmp_path / "latin.txt")


def test_a_budget_that_is_too_small_names_the_smallest(capsys):
    assert main([*RUN, "--memory-budget", "1MB"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hyperion: ")
    assert "smallest" in err
    assert "kv cache" in err


def test_inspect_lists_the_demo_model(capsys):
    assert main(["inspect"]) == 0
    text = capsys.readouterr().out
    for part in ("llama", "Q8_0", "token_embd.weight", "2048", "tokenizer"):
        assert part in text
    assert main(["inspect", "--no-tensors"]) == 0
    assert "token_embd.weight" not in capsys.readouterr().out


def test_inspect_json(capsys):
    assert main(["inspect", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"] == "llama"
    assert found["tokenizer"]["tokens"] == 2048
    assert found["types"]["Q8_0"]["bytes"] > found["types"]["F32"]["bytes"]
    assert sum(t["bytes"] for t in found["tensors"]) == found["bytes"]
    embedding = next(t for t in found["tensors"] if t["name"] == "token_embd.weight")
    assert embedding["shape"] == [2048, 256]
    assert embedding["bytes"] == 2048 * 256 // 32 * 34


def test_inspect_of_a_hugging_face_directory(capsys, shared):
    assert main(["inspect", "--json", str(shared / "models" / "shakespeare" / "hf")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"] == "llama"
    assert found["types"]["F16"]["tensors"] == len([t for t in found["tensors"] if t["type"] == "F16"])


def test_perplexity_of_a_file(capsys, tmp_path):
    from hyperion.cli.common import model_path

    (tmp_path / "t.txt").write_bytes(b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 4)
    with model_path(None) as model:
        assert main(["perplexity", str(model), str(tmp_path / "t.txt"), "--window", "64"]) == 0
        value = float(capsys.readouterr().out)
        assert main(["perplexity", str(model), str(tmp_path / "t.txt"), "--window", "64", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["perplexity"] == pytest.approx(value, abs=1e-6)
    assert 1 < value < 1000


def test_logprobs_are_in_the_json(capsys):
    assert main([*RUN, "--json", "--logprobs", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["logprobs"]) == 12
    for entry in found["logprobs"]:  # greedy: the drawn token is the likeliest
        assert len(entry["top"]) == 3
        assert entry["top"][0] == {key: entry[key] for key in ("token", "piece", "logprob")}
        assert entry["logprob"] < 0


def test_tokenize_and_back(capsys, tmp_path):
    text = "Good morrow,\nRomeo! \u2014 \U0001f339"
    assert main(["tokenize", "--ids", "--text", text]) == 0
    ids = capsys.readouterr().out
    assert main(["tokenize", "--decode", "-t", ids]) == 0
    assert capsys.readouterr().out == text + "\n"
    (tmp_path / "t.txt").write_bytes(text.encode())
    assert main(["tokenize", "--json", "--special", "-f", str(tmp_path / "t.txt")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ids"] == [1, *map(int, ids.split())]
    assert found["count"] == len(found["pieces"]) == len(found["ids"])
    assert main(["tokenize", "--decode", "-t", json.dumps(found["ids"])]) == 0
    assert capsys.readouterr().out == text + "\n"
    assert main(["tokenize", "-t", text]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == found["ids"][1:]
    piped = subprocess.run(command("tokenize", "--ids"), input=text.encode(), capture_output=True, check=True)
    assert piped.stdout.decode().strip() == ids.strip()


@pytest.mark.parametrize(
    ("arguments", "says"), [(["-t", "1 x"], "x"), (["-t", "99999"], "99999"), (["-t", "1", "-f", "y"], "file"), (["-f", "no-such"], "no-such")]
)
def test_tokenize_refuses_what_it_cannot_read(capsys, arguments, says):
    assert says in refused(capsys, "tokenize", "--decode", *arguments)


def test_help_names_every_command_and_no_command_is_status_2(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert {"run", "chat", "plan", "inspect", "tokenize", "convert", "perplexity"} <= set(text.split())
    assert main([]) == 2
    assert "Usage" in capsys.readouterr().err


def test_version(capsys):
    import hyperion

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hyperion {hyperion.__version__}\n"


@POSIX
def test_ctrl_c_ends_with_130_and_no_traceback():
    process = subprocess.Popen(
        command("run", "-p", "ROMEO:", "--max-length", "2000", "--repetition-penalty", "1"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err


@POSIX
def test_a_reader_that_goes_away_ends_the_run_without_a_traceback():
    process = subprocess.Popen(
        command("run", "-p", "ROMEO:", "--max-length", "2000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert err == b""
    process.stderr.close()


@POSIX
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [[*RUN, "--quiet"], ["chat", "-n", "2"], ["run", "-p", "-", "-n", "1"]])
def test_a_process_without_standard_streams_works(closed, arguments):
    line = f"exec {shlex.join(command(*arguments))} {closed}"
    done = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
@pytest.mark.parametrize("arguments", [RUN, [*RUN, "--json"], ["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(*arguments, *["--quiet"][: arguments[0] == "run"]), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@POSIX
def test_ctrl_c_while_modules_are_imported_is_quiet():
    code = "import sys; from hyperion.cli import main; sys.meta_path.insert(0, type('', (), {'find_spec': find})); sys.exit(main([]))"
    find = "def find(*a):\n    raise KeyboardInterrupt\n"
    done = subprocess.run([sys.executable, "-c", find + code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


@POSIX
def test_text_is_utf_8_in_every_locale():
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command("tokenize", "--json", "-t", "caf\u00e9"), env=env, capture_output=True, check=True)
    assert json.loads(done.stdout)["text"] == "caf\u00e9"
    done = subprocess.run([*map(os.fsencode, command("tokenize", "-t")), b"caf\xe9"], env=env, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"the text is not UTF-8 text: byte 3 is 0xe9" in done.stderr
    done = subprocess.run(command("chat", "-n", "2", "--threads", "1"), env=env, capture_output=True, check=True, input=b"\xff\ncaf\xc3\xa9\n")
    assert done.returncode == 0
    assert done.stderr.count(b"hyperion: the message is not UTF-8 text") == 1
    assert done.stdout


def test_output_that_cannot_encode_a_character_goes_on():
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    code = "from hyperion.cli.common import emit; emit('caf\\u00e9 ok')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout == b"caf? ok"


def test_run_takes_its_settings_from_a_file_and_options_win(capsys, tmp_path):
    path = tmp_path / "run.json"
    sections = {
        "load_model": {"threads": 1, "memory_budget": "64MB", "context_length": 64},
        "GenerationConfig": {"temperature": 0, "max_length": 12, "stop": ["never this"]},
        "MemoryOptimizerConfig": {"max_memory_budget": 40_000_000},
        "ProgressiveLoaderConfig": {"prefetch_window": 1},
        "LayerSchedulerConfig": {"memory_speed_tradeoff": 1.0},
        "QuantizationConfig": {"bits": 4},
    }
    path.write_text(json.dumps(sections), encoding="utf-8")
    assert main([*RUN, "--quiet"]) == 0
    expected = capsys.readouterr().out
    assert main(["run", "-p", "ROMEO:", "-c", str(path), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["tokens"]) == (expected, 12)
    assert found["memory_budget"] == 40_000_000
    assert main(["run", "-p", "ROMEO:", "-c", str(path), "--json", "-q", "--max-length", "3", "--memory-budget", "38MB"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 3
    assert expected.startswith(found["text"])
    assert found["memory_budget"] == 38_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[GenerationConfig]\ntemprature = 1", "temprature"), ("[GenerationConfg]\nseed = 1", "GenerationConfg"), ("seed = 1", "seed"),
        ("[load_model]\nbudget = 1", "budget"), ("[load_model]\npath = nowhere.gguf", "nowhere.gguf"), ("[load_model]\npath = 5", "path is 5"), ("what", "line 1"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit_is_refused(capsys, tmp_path, text, said):
    (tmp_path / "c.conf").write_text(text, encoding="utf-8")
    assert said in refused(capsys, *RUN, "--config", tmp_path / "c.conf")


def test_a_configuration_s_memory_is_set_up_before_the_model(tmp_path):
    (tmp_path / "c.conf").write_text("[MemoryConfig]\nmax_pool_size = 1000000\ninitial_pool_size = 0\n", encoding="utf-8")
    done = subprocess.run(command(*RUN, "--config", tmp_path / "c.conf"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "1,000,000 bytes" in done.stderr


def test_bench_measures_what_it_says(capsys):
    small = ["bench", "-p", "8", "-n", "4", "-r", "2", "--threads", "1"]
    assert main([*small, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rounds"] == 2
    assert figures["read_per_token"] == 0
    for name in ("prefill", "decode"):
        low, high = figures[f"{name}_range"]
        assert 0 < low <= figures[name] <= high
    assert main(small) == 0
    assert "MB a decoded token" in capsys.readouterr().out
    assert "do not fit the context" in refused(capsys, "bench", "-p", "600", "--context-length", "128")


def test_run_reports_what_bounds_it(capsys, tmp_path):
    assert main([*RUN, "-q", "--report", str(tmp_path / "r.json")]) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    (record,) = report["records"]
    assert record["label"] == "generation"
    assert record["threads"] == 1
    assert record["weight_bytes"] > 0
    assert record["evidence"] in report["advice"][0]
    assert main([*RUN, "-q"]) == 0
    assert capsys.readouterr().out == text
    assert ".csv" in refused(capsys, *RUN, "--report", tmp_path / "r.csv")


def test_quantize_says_what_it_saves_and_costs(capsys, shared, tmp_path):
    source = shared / "models" / "shakespeare" / "shakespeare-f16.gguf"
    text = tmp_path / "text.txt"
    text.write_text("ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n" * 4)
    target = tmp_path / "small.hyperion"
    assert main(["quantize", str(source), str(target), "--type", "q4_0", "--text", str(text), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["tensor_bytes"] < 0.4 * figures["source_bytes"]
    assert figures["file_bytes"] == target.stat().st_size
    assert figures["after"]["perplexity"] == pytest.approx(figures["before"]["perplexity"], rel=0.1)
    assert figures["after"]["perplexity"] != figures["before"]["perplexity"]
    assert main(["quantize", str(source), str(target), "--method", "mse"]) == 0
    assert "weights:" in capsys.readouterr().out
    assert "exclude each other" in refused(capsys, "quantize", source, target, "--type", "q4_0", "--mixed", "ffn=int4")
