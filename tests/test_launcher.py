"""The launcher's decisions, with the installers played by stand-ins; it is also run as a script."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from minilora.hub.smollm import KNOWN
from tests.says import names

SOURCE = Path(__file__).resolve().parents[1] / "minilora" / "__main__.py"


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """The launcher's names, as if in a fresh checkout; `calls` holds the commands it runs."""
    for name in ("MINILORA_INSTALLER", "MINILORA_EXTRAS", "MINILORA_INSIDE"):
        monkeypatch.delenv(name, raising=False)
    names = runpy.run_path(str(SOURCE), run_name="launcher")
    state = names["main"].__globals__
    venv = tmp_path / ".venv"
    python = venv / "bin" / "python"
    state.update(
        ROOT=str(tmp_path), VENV=str(venv), VENV_PYTHON=str(python),
        STAMP=str(venv / ".ready.json"), LOCK=str(tmp_path / ".venv.lock"),
        PACKAGE=str(tmp_path / "minilora"), calls=[], answers={},
        installed_here=lambda: False,
    )  # fmt: skip
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("numpy==2.2.6\n")

    def run(command):
        state["calls"].append(command)
        text = " ".join(command)
        for words, answer in state["answers"].items():
            if words in text:
                return answer
        if "venv" in command:
            python.parent.mkdir(parents=True)
            python.touch()
        if command[0] == str(python) and not python.exists():
            raise FileNotFoundError(command[0])
        return 0, ""

    state["run"] = run
    state["run_in_venv"] = lambda argv: state["calls"].append(["RUN", *argv]) or 0
    monkeypatch.setattr(state["shutil"], "which", lambda name: None)
    return SimpleNamespace(state=state, folder=tmp_path, python=python, **names)


def installs(launcher):
    return [call for call in launcher.state["calls"] if "install" in call]


def stamp(launcher):
    return json.loads((launcher.folder / ".venv" / ".ready.json").read_text())


def test_the_first_run_installs_and_later_ones_do_not(launcher):
    assert launcher.main(["tour", "--fast"]) == 0
    (command,) = installs(launcher)
    assert command[:4] == [str(launcher.python), "-m", "pip", "install"]
    assert command[-4:-1] == ["-c", str(launcher.folder / "constraints.txt"), "-e"]
    assert command[-1] == str(launcher.folder)
    assert launcher.state["calls"][-1] == ["RUN", "tour", "--fast"]
    launcher.state["calls"].clear()
    assert launcher.main(["info"]) == 0
    assert launcher.state["calls"] == [["RUN", "info"]]


@pytest.mark.parametrize(
    ("argv", "variable", "extras"),
    [
        (["test"], "", "[test]"),
        (["test", "--all", "-x"], "", "[gguf,interop,notebooks,test]"),
        (["fetch", "smollm2-135m"], "", "[gguf]"),
        (["adapt", "--base", "smollm2-135m", "--out", "x"], "", "[gguf]"),
        (["adapt", "--base=HuggingFaceTB/SmolLM2-135M-Instruct"], "", "[gguf]"),
        (["generate", "--base", "models/Tiny.GGUF"], "", "[gguf]"),
        (["generate", "--prompt", "what is smollm2-135m?"], "", ""),
        (["info", "gguf"], "", ""),
        (["learn", "1"], "", "[notebooks]"),
        (["learn", "--no-open"], "", ""),
        (["book", "--out", "pages"], "", "[book]"),
        (["serve", "--port", "0"], "", "[serve]"),
        (["info", "test"], "", ""),
        (["tour"], "gpu, notebooks", "[gpu,notebooks]"),
    ],
)
def test_a_command_gets_its_extras(launcher, monkeypatch, argv, variable, extras):
    monkeypatch.setenv("MINILORA_EXTRAS", variable)
    launcher.main(argv)
    assert installs(launcher)[-1][-1] == str(launcher.folder) + extras


def test_every_known_model_is_known_to_the_launcher(launcher):
    """The launcher imports nothing of the package, so it has the names once more."""
    names = [name for model in KNOWN.values() for name in (model.name, model.hub_id)]
    assert [name for name in names if not launcher.names_gguf(name)] == []


def test_extras_gather_and_stay(launcher):
    launcher.main(["test"])
    launcher.main(["tour"])
    assert len(installs(launcher)) == 1
    (launcher.folder / "pyproject.toml").write_text("[project]\nname = 'changed'\n")
    launcher.main(["tour"])
    assert len(installs(launcher)) == 2
    assert installs(launcher)[-1][-1].endswith("[test]")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_installs_again(launcher, name):
    launcher.main(["tour"])
    (launcher.folder / name).write_text("changed\n")
    launcher.main(["tour"])
    assert len(installs(launcher)) == 2


def test_uv_is_used_where_there_is_one(launcher, monkeypatch):
    monkeypatch.setattr(launcher.state["shutil"], "which", lambda name: "/opt/uv")
    launcher.main(["tour"])
    assert [call[0] for call in launcher.state["calls"] if "venv" in call] == ["/opt/uv"]
    assert installs(launcher)[0][:3] == ["/opt/uv", "pip", "install"]


def test_the_installer_can_be_chosen(launcher, monkeypatch, capsys):
    monkeypatch.setattr(launcher.state["shutil"], "which", lambda name: "/opt/uv")
    monkeypatch.setenv("MINILORA_INSTALLER", "pip")
    launcher.main(["tour"])
    assert "/opt/uv" not in [call[0] for call in launcher.state["calls"]]
    monkeypatch.setenv("MINILORA_INSTALLER", "conda")
    assert launcher.main(["test"]) == 1
    assert names(capsys.readouterr().err, "pip", "uv", "'conda'")


def test_without_ensurepip_this_pythons_pip_installs(launcher):
    launcher.state["answers"] = {
        f"-m venv {launcher.folder}": (1, "ensurepip is not available"),
        f"{launcher.python} -m pip --version": (1, "No module named pip"),
    }
    assert launcher.main(["tour"]) == 0
    (command,) = installs(launcher)
    assert command[:6] == [sys.executable, "-m", "pip", "--python", str(launcher.python), "install"]


def test_without_any_pip_the_way_out_is_told(launcher, capsys):
    launcher.state["answers"] = {
        f"-m venv {launcher.folder}": (1, "ensurepip is not available"),
        "--version": (1, "No module named pip"),
    }
    assert launcher.main(["tour"]) == 1
    assert "python3-venv" in capsys.readouterr().err
    assert launcher.state["calls"][-1][0] != "RUN"


def test_without_the_venv_module_the_way_out_is_told(launcher, capsys):
    launcher.state["answers"] = {"-m venv": (1, "python3: No module named venv")}
    assert launcher.main(["tour"]) == 1
    error = capsys.readouterr().err
    assert error.count("No module named venv") == 1
    assert "python3-venv" in error and "uv" in error
    assert launcher.state["calls"][-1][0] != "RUN"


def test_a_clone_that_is_not_ones_own_to_write_is_named(launcher, capsys):
    def no_right(name, *mode):
        raise PermissionError(13, "Permission denied", name)

    launcher.state["open"] = no_right
    launcher.state["is_ready"] = lambda extras: False
    assert launcher.main(["tour"]) == 1
    assert names(capsys.readouterr().err, launcher.folder, ".venv")
    assert launcher.state["calls"] == []


def test_a_clone_that_its_owner_has_set_up_serves_others(launcher):
    launcher.main(["tour"])
    launcher.state["calls"].clear()
    launcher.state["hold_lock"] = lambda: pytest.fail("took the lock, which is a file to write")
    assert launcher.main(["doctor"]) == 0
    assert launcher.state["calls"] == [["RUN", "doctor"]]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("error: dns error", "the package index could not be reached"),
        ("ERROR: No space left on device", "the installer stopped"),
    ],
)
def test_a_failed_install_is_one_message_and_is_tried_again(launcher, capsys, output, message):
    launcher.state["answers"] = {"constraints.txt": (1, output)}
    assert launcher.main(["tour"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert output in error
    launcher.state["answers"] = {}
    assert launcher.main(["tour"]) == 0
    assert len(installs(launcher)) == 2


def test_what_went_wrong_is_shown_and_not_pips_frame_around_it(launcher, capsys):
    output = (
        "  ERROR: No matching distribution found for hatchling>=1.25\n  [end of output]\n\n"
        "  note: This error originates from a subprocess.\n× pip did not run successfully.\n"
        "│ exit code: 1\n╰─> See above for output.\n"
    )
    launcher.state["answers"] = {"constraints.txt": (1, output)}
    assert launcher.main(["tour"]) == 1
    error = capsys.readouterr().err
    assert "hatchling>=1.25" in error
    assert not any(words in error for words in ("[end", "subprocess", "successfully", "exit code"))


def test_an_interrupted_install_starts_afresh(launcher):
    def stop(command):
        raise KeyboardInterrupt

    whole = launcher.state["run"]
    launcher.state["run"] = lambda command: (stop if "install" in command else whole)(command)
    assert launcher.main(["tour"]) == 130
    half = launcher.folder / ".venv" / "half-made"
    half.touch()
    launcher.state["run"] = whole
    assert launcher.main(["tour"]) == 0
    assert not half.exists()
    assert stamp(launcher)["fingerprint"] == launcher.fingerprint()


def test_a_venv_whose_python_is_gone_is_replaced(launcher):
    launcher.main(["tour"])
    launcher.python.unlink()
    (launcher.folder / ".venv" / "rest").touch()
    assert launcher.main(["tour"]) == 0
    assert not (launcher.folder / ".venv" / "rest").exists()
    assert launcher.python.exists()


def test_a_venv_made_by_hand_is_kept(launcher):
    launcher.python.parent.mkdir(parents=True)
    launcher.python.touch()
    assert launcher.main(["tour"]) == 0
    assert [call for call in launcher.state["calls"] if "venv" in call] == []
    assert len(installs(launcher)) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"extras": 3}', '{"fingerprint": 1, "extras": 2}']
)
def test_a_damaged_stamp_means_not_ready(launcher, text):
    launcher.main(["tour"])
    (launcher.folder / ".venv" / ".ready.json").write_text(text)
    assert not launcher.is_ready(set())


def test_two_at_once_install_once(launcher):
    both = threading.Barrier(2)
    whole = launcher.state["run"]
    ready = launcher.state["is_ready"]
    first = threading.local()

    def is_ready(extras):  # lets neither go on before both have seen that there is work
        answer = ready(extras)
        if not getattr(first, "seen", False):
            first.seen = True
            both.wait(timeout=20)
        return answer

    def slow(command):  # long enough for the other to overtake, were there no lock
        if "install" in command:
            time.sleep(0.2)
        return whole(command)

    launcher.state["is_ready"] = is_ready
    launcher.state["run"] = slow
    threads = [threading.Thread(target=launcher.main, args=(["tour"],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(installs(launcher)) == 1
    assert launcher.state["calls"].count(["RUN", "tour"]) == 2


def test_an_old_python_is_told_so(launcher, monkeypatch, capsys):
    old = SimpleNamespace(version_info=(3, 9, 18), executable="/usr/bin/python3.9", prefix="/usr")
    old.stderr = sys.stderr
    monkeypatch.setitem(launcher.state, "sys", old)
    assert launcher.main(["tour"]) == 1
    assert names(capsys.readouterr().err, "Python 3.10", "Python 3.9.18")
    assert launcher.state["calls"] == []


def test_old_pythons_can_read_the_launcher():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 7))
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, new)] == []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 10
    for function in functions:
        assert function.returns is None
        assert not function.args.kwonlyargs
        assert all(argument.annotation is None for argument in function.args.args)


@pytest.mark.processes
def test_inside_an_installation_it_just_runs(tmp_path):
    """No network, no .venv: this interpreter has the package, wherever the command is given."""
    (tmp_path / "random.py").write_text("raise SystemExit('shadowed')")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parents[1])}
    for start in ([str(SOURCE.parent)], ["-m", "minilora"]):
        folder = tmp_path if start[0] != "-m" else SOURCE.parents[1]
        done = subprocess.run(
            [sys.executable, *start, "--version"], cwd=folder, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("minilora ")


@pytest.mark.processes
def test_the_packages_own_files_do_not_hide_the_standard_library(tmp_path):
    package = tmp_path / "minilora"
    package.mkdir()
    shutil.copy(SOURCE, package)
    (package / "json.py").write_text("raise SystemExit('shadowed')")
    environment = {**os.environ, "MINILORA_INSTALLER": "none"}  # stops it before it installs
    done = subprocess.run(
        [sys.executable, str(package)], cwd="/", env=environment, capture_output=True, text=True
    )
    assert "shadowed" not in done.stderr
    assert names(done.stderr, "pip", "uv", "'none'")
