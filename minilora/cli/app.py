"""Runs `minilora COMMAND`: finds the commands and loads the one that is called.

To add a command, add a file: `cli/NAME.py` with a top-level function `NAME`, whose parameters are
typer's and whose docstring is the help, and `GROUP = "..."`, one of GROUPS. Where exit codes 1 and
2 are answers of the command, `NOT_RUN = ...` is the code of every failure. Files without such a
function are no commands. Only the file of the command that is called is imported, which keeps
`minilora --help` quick.
"""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import typer

from minilora import __version__
from minilora.cli.errors import print_error, usage_text, with_plain_errors
from minilora.cli.streams import take_any_text

FOLDER = Path(__file__).parent
GROUPS = ("Course", "Adapt", "Judge", "Serve", "Understand", "Make")
"""What the commands are for, in the order in which the help shows them."""
FIRST = ("learn", "tour", "adapt", "generate", "info", "pretrain")
"""The commands that come first in their group; the others follow by name."""
HELP = "Learn LoRA by building it, and adapt a language model with what you built."


@dataclass(frozen=True)
class Command:
    """What is known of a command without importing its file; group: None where it names none."""

    name: str
    help: str
    group: str | None


def find_commands(folder: Path = FOLDER) -> dict[str, Command]:
    """The commands by name, read from the sources in `folder`, in the order of the help."""
    commands = []
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == path.stem:
                help_text = ast.get_docstring(node) or ""
                commands.append(Command(path.stem, help_text, _group_of(tree)))
    order = [*GROUPS, None]
    rank = {name: position for position, name in enumerate(FIRST)}
    commands.sort(key=lambda c: (order.index(c.group), rank.get(c.name, len(rank)), c.name))
    return {command.name: command for command in commands}


def _group_of(tree: ast.Module) -> str | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "GROUP":
            group = getattr(node.value, "value", None)
            return group if group in GROUPS else None
    return None


def build(argv: list[str], folder: Path = FOLDER) -> typer.Typer:
    """The application for this command line: its command loaded, the others known by their help."""
    app = typer.Typer(help=HELP, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_options)
    called = called_in(argv)
    for name, command in find_commands(folder).items():
        shown, panel = name.replace("_", "-"), command.group
        if shown == called:
            module = importlib.import_module(f"minilora.cli.{name}")
            settings = getattr(module, "CONTEXT_SETTINGS", None)
            function = with_plain_errors(getattr(module, name), getattr(module, "NOT_RUN", 1))
            app.command(shown, context_settings=settings, rich_help_panel=panel)(function)
        else:
            app.command(shown, help=command.help, rich_help_panel=panel)(_not_called)
    return app


def called_in(argv: list[str]) -> str | None:
    """The command that a command line calls, None for none."""
    return next((word for word in argv if not word.startswith("-")), None)


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


def main(argv: list[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    take_any_text(sys.stdout, sys.stderr)
    try:
        # Without standalone mode typer raises what it refuses, which it would draw in a box.
        code = build(argv)(args=argv or ["--help"], prog_name="minilora", standalone_mode=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except typer.Abort:
        print_error("stopped")
        return 130
    except Exception as error:
        module = sys.modules.get(f"minilora.cli.{called_in(argv)}")
        not_run = getattr(module, "NOT_RUN", None)
        if hasattr(error, "format_message"):  # click's, whose module depends on the version
            print_error(usage_text(error))
            return not_run or error.exit_code
        if not_run is None:
            raise
        traceback.print_exc()  # Python's own exit code for it is 1, which is an answer here
        return not_run
    return code if isinstance(code, int) else 0
