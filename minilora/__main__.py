#!/usr/bin/env python3
"""`python3 minilora COMMAND ...`: makes .venv beside the package on first use, then runs there.

Needs a Python >= 3.10 and its standard library, nothing else. `python -m minilora`, inside an
environment that has minilora installed, just runs the command.

MINILORA_INSTALLER=pip|uv chooses the installer, MINILORA_EXTRAS=gpu,notebooks adds extras.

The file keeps to syntax that Python 2.7 and 3.6 can read, so that they too can say what is wrong.
"""

import sys

if __name__ == "__main__" and not __package__ and sys.path:
    sys.path.pop(0)  # the package folder itself: its modules must not hide the standard library's

import hashlib
import importlib
import json
import os
import shutil
import subprocess

PACKAGE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(PACKAGE)
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".ready.json")
LOCK = os.path.join(ROOT, ".venv.lock")
VENV_PYTHON = os.path.join(
    VENV, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python"))
)
INSIDE = "MINILORA_INSIDE"  # set for the process that runs in .venv, so that it never sets up again
KNOWN_GGUF = ("smollm2-135m", "huggingfacetb/smollm2-135m-instruct")  # hub/smollm.py's names
INSTALLING = "installing"  # in the stamp, while an installer is at work
NETWORK_WORDS = (
    "name resolution",
    "name or service not known",
    "network is unreachable",
    "connection broken",
    "connection refused",
    "connection reset",
    "max retries",
    "dns error",
    "error sending request",
    "timed out",
    "proxyerror",
    "sslerror",
    "certificate verify failed",
)


FRAMES = ("note: This ", "[end of output]", "\u00d7 ", "\u2502 ", "\u2570\u2500>", "|", "x pip")
"""How pip's own frame around what went wrong begins."""
HOW_TO_GET_ONE = (
    "  Debian, Ubuntu:  sudo apt install python3-venv\n"
    "  anywhere:        https://docs.astral.sh/uv/getting-started/installation/"
)


class SetupError(Exception):
    """Set-up cannot go on; the text is the whole message."""


def say(text):
    sys.stderr.write("[minilora] " + text + "\n")
    sys.stderr.flush()


def require_python():
    if sys.version_info < (3, 10):
        found = ".".join(str(part) for part in sys.version_info[:3])
        raise SetupError(
            "minilora needs Python 3.10 or newer; this is Python " + found + " (" + sys.executable
            + ").\nStart it with a newer one, for example: python3.12 minilora tour"
        )  # fmt: skip


def installed_here():
    """Whether this interpreter has this very package installed, with what it needs."""
    import importlib.util

    spec = importlib.util.find_spec("minilora")
    if spec is None or not spec.origin or os.path.dirname(os.path.abspath(spec.origin)) != PACKAGE:
        return False
    return all(importlib.util.find_spec(name) for name in ("numpy", "typer", "tokenizers"))


def wanted_extras(argv):
    """The extras a command needs: none for most, so that the first run stays small."""
    extras = set(filter(None, os.environ.get("MINILORA_EXTRAS", "").replace(" ", "").split(",")))
    if argv[:1] == ["test"]:
        extras.add("test")
        if "--all" in argv:
            extras.update(("gguf", "interop", "notebooks"))
    if argv[:1] == ["learn"] and "--no-open" not in argv:
        extras.add("notebooks")
    if argv[:1] == ["book"]:
        extras.add("book")
    if argv[:1] == ["serve"]:
        extras.add("serve")
    if argv[:1] == ["fetch"] or any(names_gguf(word) for word in argv[1:]):
        extras.add("gguf")
    return extras


def names_gguf(word):
    """Whether an argument names a GGUF file, or the known model that comes as one."""
    value = word.rpartition("=")[2].lower()
    return value.endswith(".gguf") or value in KNOWN_GGUF


def fingerprint():
    """Changes whenever the environment has to be installed again."""
    digest = hashlib.sha256(ROOT.encode("utf-8"))
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def read_stamp():
    """The stamp of the last finished install, or an empty one."""
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
        return {"fingerprint": str(stamp["fingerprint"]), "extras": sorted(stamp["extras"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"fingerprint": "", "extras": []}


def is_ready(extras):
    stamp = read_stamp()
    fresh = os.path.exists(VENV_PYTHON) and stamp["fingerprint"] == fingerprint()
    return fresh and extras <= set(stamp["extras"])


def hold_lock():
    """An open file that is locked until it is closed or the process dies."""
    try:
        file = open(LOCK, "a+")  # noqa: SIM115
    except PermissionError:
        raise SetupError(
            "got no right to write into " + ROOT + ", where .venv is to be made.\n"
            "Let its owner run any command once, or work in a copy of your own."
        )
    try:
        lock_file(file, wait=False)
    except OSError:
        say("another minilora is setting up .venv; waiting for it")
        lock_file(file, wait=True)
    return file


def lock_file(file, wait):
    if os.name == "nt":
        msvcrt = importlib.import_module("msvcrt")
        while True:  # LK_LOCK gives up after ten seconds
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    raise
    fcntl = importlib.import_module("fcntl")
    return fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def run(command):
    """(exit code, output) of a command."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    output = process.communicate()[0]
    return process.returncode, output


def works(*command):
    try:
        return run(list(command))[0] == 0
    except OSError:
        return False


def find_uv():
    choice = os.environ.get("MINILORA_INSTALLER", "")
    if choice not in ("", "pip", "uv"):
        raise SetupError("MINILORA_INSTALLER must be pip or uv, got " + repr(choice))
    uv = None if choice == "pip" else shutil.which("uv")
    if choice == "uv" and uv is None:
        raise SetupError("MINILORA_INSTALLER=uv, but no uv is on the PATH")
    return uv


def make_venv(uv):
    """Leave a .venv whose Python starts; one that was left half-made is replaced."""
    if works(VENV_PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"):
        return
    if os.path.isdir(VENV):
        say("replacing a .venv that does not work")
        shutil.rmtree(VENV)
    if uv:
        code, output = run([uv, "venv", "--quiet", "--python", sys.executable, VENV])
        if code:
            raise SetupError("uv could not make .venv:\n" + output.strip())
        return
    code, output = run([sys.executable, "-m", "venv", VENV])
    if code:  # Debian without python3-venv: no ensurepip; this Python's own pip can still do it
        shutil.rmtree(VENV, ignore_errors=True)
        bare, bare_output = run([sys.executable, "-m", "venv", "--without-pip", VENV])
        if bare:
            raise SetupError(
                "could not make .venv:\n" + last_lines(output + "\n" + bare_output)
                + "if this Python has no venv, install one of these and run this again:\n"
                + HOW_TO_GET_ONE
            )  # fmt: skip


def installer(uv):
    """The start of an install command into .venv."""
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", VENV_PYTHON]
    quiet = ["install", "--quiet", "--retries", "3", "--disable-pip-version-check"]
    if works(VENV_PYTHON, "-m", "pip", "--version"):
        return [VENV_PYTHON, "-m", "pip"] + quiet
    if works(sys.executable, "-m", "pip", "--python", VENV_PYTHON, "--version"):
        return [sys.executable, "-m", "pip", "--python", VENV_PYTHON] + quiet
    raise SetupError(
        "this Python has neither uv nor a way to pip: install one of them and run this again.\n"
        + HOW_TO_GET_ONE
    )


def last_lines(output):
    """The last things an installer said, each once, indented."""
    lines = []
    for line in output.strip().splitlines():
        frame = line.strip().startswith(FRAMES) or "WARNING: " in line
        if line.strip() and line not in lines and not frame:
            lines.append(line)
    return "".join("  " + line[:200] + "\n" for line in lines[-6:])


def install_error(output):
    tail = last_lines(output)
    if any(word in output.lower() for word in NETWORK_WORDS):
        reason = "the package index could not be reached; check the network or the proxy settings"
    else:
        reason = "the installer stopped; its last words are above"
    return SetupError(
        "could not install:\n" + tail + reason + ", then run the same command again"
    )  # fmt: skip


def write_stamp(mark, extras):
    with open(STAMP + ".new", "w") as file:
        json.dump({"fingerprint": mark, "extras": sorted(extras)}, file)
    os.replace(STAMP + ".new", STAMP)


def install(extras):
    """Make or renew .venv with these extras and those it already had."""
    uv = find_uv()
    stamp = read_stamp()
    extras = sorted(extras | set(stamp["extras"]))
    target = ROOT + ("[" + ",".join(extras) + "]" if extras else "")
    tool = "uv" if uv else "pip"
    what = "minilora" + (" with " + ", ".join(extras) if extras else "")
    say("setting up " + what + " in .venv with " + tool + "; a minute or two, only this once")
    if stamp["fingerprint"] == INSTALLING:
        say("the last set-up was interrupted; starting .venv afresh")
        shutil.rmtree(VENV)
    make_venv(uv)
    command = installer(uv) + ["-c", os.path.join(ROOT, "constraints.txt"), "-e", target]
    write_stamp(INSTALLING, extras)
    code, output = run(command)
    if code:  # the installer has cleaned up after itself
        write_stamp("", stamp["extras"])
        raise install_error(output)
    write_stamp(fingerprint(), extras)


def set_up(extras):
    if is_ready(extras):
        return
    lock = hold_lock()
    try:
        if not is_ready(extras):  # the process we waited for may have done it
            install(extras)
    finally:
        lock.close()


def run_in_venv(argv):
    environment = dict(os.environ, **{INSIDE: "1"})
    command = [VENV_PYTHON, os.path.abspath(__file__)] + argv
    if os.name == "nt":
        return subprocess.call(command, env=environment)
    sys.stdout.flush()
    os.execve(VENV_PYTHON, command, environment)


def main(argv):
    inside = os.environ.pop(INSIDE, "") == "1"
    own_venv = os.path.realpath(sys.prefix) == os.path.realpath(VENV) and os.path.exists(STAMP)
    try:
        require_python()
        here = inside or (not own_venv and installed_here())
        if not here:
            set_up(wanted_extras(argv))
            return run_in_venv(argv)
    except KeyboardInterrupt:
        say("stopped; run the same command again to go on")
        return 130
    except (SetupError, OSError) as error:
        say(str(error))
        return 1
    from minilora.cli.app import main as run_cli

    return run_cli(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
