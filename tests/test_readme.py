"""README.md's commands leave a learner's `git status` clean."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
TRACKED = {"data/ward-base"}  # the command that made what the repository holds


def written() -> set[str]:
    """What the commands and the Python of README.md write: after --out, --json, > or in a save.

    `adapt` and `pretrain` write OUT.run as well.
    """
    blocks = "\n".join(re.findall(r"```(?:python)?\n(.*?)```", README, re.DOTALL))
    inline = "\n".join(re.findall(r"`(minilora [^`]+)`", README))
    commands = f"{blocks}\n{inline}"
    named = re.findall(r"(?:--out|--json|>) ([\w./-]+)", commands)
    named += re.findall(r'\.write\("([^"]+)"\)', blocks)
    found = {name for name in named if name != "DIR"}
    runs = re.findall(r"minilora (?:adapt|pretrain) .*--out ([\w./-]+)", commands)
    return found | {f"{name}.run" for name in runs if name != "DIR"}


def test_readme_writes_what_was_looked_for():
    assert {"held.jsonl", "smol", "smol.run", "my-adapter", "growth.png", "gen.json"} <= written()
    assert "data/ward-base.run" in written()


@pytest.mark.processes
@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a git checkout"
)
@pytest.mark.parametrize("name", sorted({"tour", "my-course", *written()} - TRACKED))
def test_what_readme_writes_is_ignored(name):
    """As a file or as a folder, whichever it is."""
    done = subprocess.run(
        ["git", "check-ignore", name, f"{name}/"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{name} is not in .gitignore"
