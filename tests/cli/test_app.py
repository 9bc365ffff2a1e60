from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from minilora import __version__
from minilora.cli import app, doctor, test


@pytest.fixture
def command(monkeypatch):
    """Makes `minilora doctor` do what a test wants instead."""
    monkeypatch.delenv("MINILORA_DEBUG", raising=False)
    return lambda function: monkeypatch.setattr(doctor, "doctor", function)


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("rank must be positive,\n  got 0"), 1, "error: rank must be positive, got 0\n"),
        (FileNotFoundError(2, "No such file", "a.json"), 1, "error: a.json: No such file\n"),
        (FileNotFoundError("no adapter at x"), 1, "error: no adapter at x\n"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C\n"),
    ],
)
def test_expected_errors_are_one_line(command, capfd, error, code, line):
    command(raising(error))
    assert app.main(["doctor"]) == code
    out, err = capfd.readouterr()
    assert (out, err) == ("", line)


def test_debugging_shows_the_traceback(command, monkeypatch):
    command(raising(ValueError("seen")))
    monkeypatch.setenv("MINILORA_DEBUG", "1")
    with pytest.raises(ValueError, match="seen"):
        app.main(["doctor"])


def test_a_mistake_of_ours_is_not_hidden(command):
    command(raising(AssertionError("ours")))
    with pytest.raises(AssertionError, match="ours"):
        app.main(["doctor"])


def test_version_and_help(capfd):
    assert app.main(["--version"]) == 0
    assert capfd.readouterr().out == f"minilora {__version__}\n"
    assert app.main(["--help"]) == 0
    assert "doctor" in capfd.readouterr().out


@pytest.mark.parametrize("name", app.find_commands())
def test_help_ends_with_an_example_that_the_command_takes(name):
    """Parsed, and not run: an option that was renamed would be an error here."""
    shown = app.find_commands()[name].help
    (line,) = re.findall(r"^Example: (minilora .+)$", shown, re.M)
    assert shown.endswith(line)
    _, called, *rest = shlex.split(line)
    assert called == name
    command = typer.main.get_command(app.build([name])).commands[name]
    command.make_context(name, rest)


def test_an_example_with_a_wrong_option_is_found():
    command = typer.main.get_command(app.build(["tour"])).commands["tour"]
    with pytest.raises(Exception, match="--no-such"):
        command.make_context("tour", ["--no-such"])


def test_an_unknown_command_is_named(capfd):
    assert app.main(["docter"]) == 2
    assert "docter" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["adapt", "--data", "a", "--out", "b", "--seed", "-1"], ("--seed", "-1", "0")),
        (["adapt", "--data", "a", "--out", "b", "--r", "nan"], ("--r", "nan", "integer")),
        (["adapt", "--data", "a", "--out", "b", "--lr=much"], ("--lr", "much", "number")),
        (["tour", "--seed", "-1"], ("--seed", "-1", "0")),
        (["generate", "--prompt", "a", "--seed=-1"], ("--seed", "-1", "0")),
        (["gradcheck", "--seed", "1.5"], ("--seed", "1.5", "integer")),
        (["pretrain", "--out", "b", "--hidden-size", "1000000"], ("--hidden-size", "4096")),
        (["bench", "--pairs", "0"], ("--pairs", "0", "1")),
        (["adapt"], ("--data", "minilora adapt --help")),
        (["adapt", "--no-such", "3"], ("--no-such", "minilora adapt --help")),
        (["docter"], ("docter", "minilora --help")),
    ],
)
def test_a_command_line_that_is_wrong_is_one_line_with_what_was_got(argv, words, capfd):
    assert app.main(argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in words)


def test_without_a_command_the_help_is_shown(capfd):
    assert app.main([]) == 0
    assert "doctor" in capfd.readouterr().out


def test_commands_are_files_with_a_function_of_their_name(tmp_path):
    for name, group in (("zeta", "Course"), ("alpha", "Make"), ("adapt", "Make"), ("beta", "?")):
        source = f'GROUP = "{group}"\n\n\ndef {name}():\n    """Does {name}."""\n'
        (tmp_path / f"{name}.py").write_text(source)
    (tmp_path / "shared.py").write_text("def helper():\n    pass\n")
    commands = app.find_commands(tmp_path)
    assert [(c.name, c.group) for c in commands.values()] == [
        ("zeta", "Course"), ("adapt", "Make"), ("alpha", "Make"), ("beta", None),
    ]  # fmt: skip
    assert commands["alpha"] == app.Command("alpha", "Does alpha.", "Make")


def test_every_command_has_a_group_and_every_group_a_command():
    groups = [command.group for command in app.find_commands().values()]
    assert set(groups) == set(app.GROUPS)
    assert sorted(groups, key=app.GROUPS.index) == groups


@pytest.mark.processes
def test_help_imports_no_command():
    code = (
        "import sys; from minilora.cli.app import main; main(['--help']); "
        "print(sorted(m for m in sys.modules if m.startswith('minilora.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == (
        "['minilora.cli.app', 'minilora.cli.errors', 'minilora.cli.streams']"
    )


def test_doctor_tells_what_there_is(capfd):
    assert app.main(["doctor"]) == 0
    out = capfd.readouterr().out
    for word in ("python", "numpy", "BLAS threads now", "recommended", "GPU", "ward-base"):
        assert word in out


@pytest.mark.processes
def test_test_hands_its_arguments_to_pytest(capfd):
    assert app.main(["test", "--collect-only", "tests/cli/test_app.py", "-k", "unknown"]) == 0
    assert "test_an_unknown_command_is_named" in capfd.readouterr().out
    assert app.main(["test", "-n0", "tests/no_such_file.py"]) == 4


@pytest.mark.parametrize(
    ("args", "dist"),
    [
        ("", "worksteal"),
        ("-x --durations=10 --color=yes -k merge tests/lora", "worksteal"),
        ("--all --durations=10", "loadgroup"),
        ("--all --pdb", None),
        ("--pdb tests/lora", None),
        ("tests/lora/test_merge.py::test_x", None),
        ("-s", None),
        ("-n 4", None),
        ("-n0", None),
        ("--numprocesses=3", None),
        ("-p no:xdist", None),
        ("--co", None),
    ],
)
def test_tests_share_two_processes_unless_one_is_asked_for(monkeypatch, args, dist):
    ran = []
    monkeypatch.setattr(test.subprocess, "call", lambda command, **_: ran.extend(command) or 0)
    assert app.main(["test", *args.split()]) == 0
    tail = ran[ran.index("-q") + 1 :]
    assert tail == [*(("-n", "2", "--dist", dist) if dist else ()), *args.split()]


@pytest.mark.processes
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_an_output_that_takes_no_more_is_named():
    code = "import sys; from minilora.cli.app import main; sys.exit(main(['doctor']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0].startswith("error: standard output: ")
