"""Errors and warnings of the library as one line each on stderr."""

from __future__ import annotations

import contextlib
import functools
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import typer

WRITERS = ("typer", "click", "rich")
"""Libraries that write what a command shows; the system names no file where that fails."""


def with_plain_errors(function: Callable[..., Any], code: int = 1) -> Callable[..., Any]:
    """`function`, with expected errors as one line on stderr and exit code `code`, 130 for Ctrl-C.

    What the library warns of is a note of one line. MINILORA_DEBUG=1 shows an error's traceback.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = _show_warning
                return function(*args, **kwargs)
        except (ValueError, OSError, MemoryError) as error:
            if isinstance(error, BrokenPipeError) or os.environ.get("MINILORA_DEBUG") == "1":
                raise
            print_error(describe(error))
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            if os.environ.get("MINILORA_DEBUG") == "1":
                raise
            print_error("stopped by Ctrl-C")
            raise typer.Exit(130) from None

    return wrapped


@contextlib.contextmanager
def kept_in(out: Path) -> Iterator[None]:
    """Ctrl-C inside says that what was done lies in `out`, from where the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if out.is_dir():
            typer.echo(
                f"\nwhat was done is in {out}; the same command goes on from there", err=True
            )
        raise


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as warnings.showwarning gets it; other kinds than the library's in full."""
    if category is UserWarning:
        text = f"note: {' '.join(str(message).split())}"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line).rstrip()
    typer.echo(text, err=True)


def describe(error: BaseException) -> str:
    """One line for an error; the system's own begin with the file that they are about."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename or ("standard output" if _from_output(error) else None)
        text = f"{name}: {error.strerror}" if name else error.strerror
    elif isinstance(error, MemoryError):
        text = f"not enough memory: {error}" if str(error) else "not enough memory"
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def _from_output(error: BaseException) -> bool:
    """Whether it was raised where texts and tables are written to standard output."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals["__name__"].split(".")[0] in WRITERS


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
    refusal = cause.errors()[0]
    expected = refusal["msg"].removeprefix("Input should be ").partition(",")[0]
    expected = f"a number {expected}" if expected.startswith(("greater", "less")) else expected
    option = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
    return f"got {option} {refusal['input']}, expected {expected}"
