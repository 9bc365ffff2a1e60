"""`minilora test`: runs the test suite."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parents[2]
CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def test(ctx: typer.Context) -> None:
    """Run the tests; the rest goes to pytest, and --all adds PyTorch, PEFT and solved chapters."""
    if not (ROOT / "tests").is_dir():
        raise ValueError(f"the tests belong to a checkout of the project; found none in {ROOT}")
    if importlib.util.find_spec("pytest") is None:
        raise ValueError("the tests need the test extra: pip install -e '.[test]'")
    one_thread = dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
        "1",
    )
    command = [sys.executable, "-m", "pytest", "-q", *ctx.args]
    raise typer.Exit(subprocess.call(command, cwd=ROOT, env={**os.environ, **one_thread}))
