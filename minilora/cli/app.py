"""Runs `minilora COMMAND`: finds the commands, loads the one that is called, words its errors.

To add a command, add a file: `cli/NAME.py` with a top-level function `NAME`, whose parameters are
typer's and whose docstring is the help. Files without such a function are no commands. Only the
file of the command that is called is imported, which keeps `minilora --help` quick.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from minilora import __version__

FOLDER = Path(__file__).parent
FIRST = ("tour", "adapt", "evaluate", "generate", "merge", "info", "pretrain", "gradcheck", "ward")
HELP = "Learn LoRA by building it, and adapt a language model with what you built."


def find_commands(folder: Path = FOLDER) -> dict[str, str]:
    """Command name -> help text, read from the sources in `folder` without importing them."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == path.stem:
                found[path.stem] = ast.get_docstring(node) or ""
    rank = {name: position for position, name in enumerate(FIRST)}
    return {
        name: found[name] for name in sorted(found, key=lambda name: (rank.get(name, 99), name))
    }


def build(argv: list[str], folder: Path = FOLDER) -> typer.Typer:
    """The application for this command line: its command loaded, the others known by their help."""
    app = typer.Typer(help=HELP, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_options)
    called = next((word for word in argv if not word.startswith("-")), None)
    for name, text in find_commands(folder).items():
        shown = name.replace("_", "-")
        if shown == called:
            module = importlib.import_module(f"minilora.cli.{name}")
            settings = getattr(module, "CONTEXT_SETTINGS", None)
            function = with_plain_errors(getattr(module, name))
            app.command(shown, context_settings=settings)(function)
        else:
            app.command(shown, help=text)(_not_called)
    return app


def _not_called() -> None:
    """Stands for a command that this command line does not call."""


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"minilora {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


def with_plain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with expected errors as one line on stderr and exit code 1, or 130 for Ctrl-C.

    MINILORA_DEBUG=1 shows the traceback instead.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError) as error:
            if isinstance(error, BrokenPipeError) or os.environ.get("MINILORA_DEBUG") == "1":
                raise
            print_error(describe(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            if os.environ.get("MINILORA_DEBUG") == "1":
                raise
            print_error("stopped by Ctrl-C")
            raise typer.Exit(130) from None

    return wrapped


def describe(error: BaseException) -> str:
    """One line for an error, with the file name where the operating system gave one."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def print_error(text: str) -> None:
    """`error: text` on stderr, in red on a terminal."""
    typer.secho(f"error: {text}", fg="red", err=True)


def usage_text(error: Any) -> str:
    """One line for a command line that typer refused: what was got and what was expected.

    Typer's own text leaves out the value where pydantic judged it; pydantic's error has it.
    """
    text = " ".join(error.format_message().split())
    cause, parameter = error.__cause__, getattr(error, "param", None)
    if parameter is None or not hasattr(cause, "errors"):
        where = getattr(getattr(error, "ctx", None), "command_path", "minilora")
        return f"{text.rstrip('.')} (see `{where} --help`)"
    found = cause.errors()[0]
    expected = found["msg"].removeprefix("Input should be ").partition(",")[0]
    expected = f"a number {expected}" if expected.startswith(("greater", "less")) else expected
    option = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
    return f"got {option} {found['input']}, expected {expected}"


def main(argv: list[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        # Without standalone mode typer raises what it refuses, which it would draw in a box.
        code = build(argv)(args=argv or ["--help"], prog_name="minilora", standalone_mode=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except typer.Abort:
        print_error("stopped")
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's, whose module depends on the version
            raise
        print_error(usage_text(error))
        return error.exit_code
    return code if isinstance(code, int) else 0
