"""`minilora test`: runs the test suite."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from minilora import THREAD_VARIABLES

GROUP = "Make"
ROOT = Path(__file__).resolve().parents[2]
CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
ALONE = re.compile(r"--(pdb|trace|collect-only|co|capture=no|numprocesses|dist)(=.*)?$|-[snp]")
"""Options with which one process runs the tests: a debugger and what is not captured need the
terminal, and whoever gives pytest-xdist's own options has chosen."""


def test(ctx: typer.Context) -> None:
    """Run the tests; the rest goes to pytest, and --all adds PyTorch, PEFT and all chapters.

    Example: minilora test tests/lora -k merge
    """
    if not (ROOT / "tests").is_dir():
        raise ValueError(f"the tests belong to a checkout of the project; found none in {ROOT}")
    if importlib.util.find_spec("pytest") is None:
        raise ValueError("the tests need the test extra: pip install -e '.[test]'")
    one_thread = dict.fromkeys(THREAD_VARIABLES, "1")
    command = [sys.executable, "-m", "pytest", "-q", *side_by_side(ctx.args), *ctx.args]
    raise typer.Exit(subprocess.call(command, cwd=ROOT, env={**os.environ, **one_thread}))


def side_by_side(args: Sequence[str]) -> list[str]:
    """Pytest's options for two processes that share the tests; none where one must run them."""
    alone = any(ALONE.match(arg) or "::" in arg for arg in args)
    if alone or importlib.util.find_spec("xdist") is None:
        return []
    # With --all, tests that load a real model stay together (see tests/conftest.py).
    return ["-n", "2", "--dist", "loadgroup" if "--all" in args else "worksteal"]
