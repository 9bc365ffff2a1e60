"""The container file that the docs show: short, of files that are there, built where it can be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHOWN = re.search(
    r"```dockerfile\n(.*?)```", (ROOT / "minilora/README.md").read_text("utf-8"), re.DOTALL
)[1]


def docker_runs() -> bool:
    """Whether there is a docker whose daemon answers."""
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def test_it_has_ten_lines_and_copies_what_is_there():
    assert len(SHOWN.splitlines()) <= 10
    copied = [
        name for line in re.findall(r"^COPY (.+)$", SHOWN, re.M) for name in line.split()[:-1]
    ]
    assert {"minilora", "data", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(not docker_runs(), reason="needs docker")
def test_it_is_built_and_runs(tmp_path):
    """With the network that the set-up needs."""
    file = tmp_path / "Dockerfile"
    file.write_text(SHOWN)
    build = ["docker", "build", "-q", "-t", "minilora-test", "-f", str(file), str(ROOT)]
    subprocess.run(build, check=True, timeout=1200)
    run = ["docker", "run", "--rm", "--network", "none", "minilora-test", "doctor"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=300)
    assert "numpy" in done.stdout
