"""Adapters in a real git repository: what changed is told, and an older one comes back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minilora.hub.revisions import read_adapter
from minilora.lora import Adapter, AdapterError, LoRAConfig, attach
from tests import tiny
from tests.says import refusal

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]
ROOT = Path(__file__).resolve().parents[2]


def made(seed):
    handle = attach(tiny.model(), LoRAConfig(2, 4), np.random.default_rng(0))
    rng = np.random.default_rng(seed)
    for layer in handle.layers.values():
        layer.lora_B.data = rng.standard_normal(layer.lora_B.shape, dtype=np.float32)
    return handle.adapter(base_name="tiny", provenance={"training": {"seed": seed}})


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two commits of one adapter, in a repository that is set up as the README says."""
    home = tmp_path / "home"
    home.mkdir()
    settings = {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(ROOT), "COLUMNS": "200",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git("init", "-q", "-b", "main")
    git("config", "user.name", "A learner")
    git("config", "user.email", "learner@example.org")
    program = f"'{sys.executable}' -c 'import sys; from minilora.cli.app import main; " \
              "sys.exit(main())'"  # fmt: skip
    git("config", "diff.adapter.textconv", f"{program} diff --text")
    git("config", "difftool.adapter.cmd", f'{program} diff --text "$LOCAL" "$REMOTE"')
    git("config", "difftool.prompt", "false")
    (folder / ".gitattributes").write_text("*.safetensors diff=adapter\n")
    for seed in (1, 2):
        made(seed).write("adapter")
        git("add", ".")
        git("commit", "-q", "-m", f"adapter {seed}")
    return folder


def git(*arguments):
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_git_diff_shows_modules_in_place_of_bytes(repository):
    told = git("diff", "HEAD~1", "--", "adapter")
    assert "Binary files" not in told and '"seed": 2' in told
    removed = [line for line in told.splitlines() if line.startswith("-  B ")]
    added = [line for line in told.splitlines() if line.startswith("+  B ")]
    assert len(removed) == len(added) == 6
    assert not any(line.startswith(("-  A ", "+  A ")) for line in told.splitlines())
    assert git("diff", "HEAD", "--", "adapter") == ""


def test_the_difftool_compares_the_subspaces(repository):
    told = git("difftool", "-t", "adapter", "HEAD~1", "--", "adapter/adapter_model.safetensors")
    assert "layers.0.self_attn.q_proj" in told and "layers.2.self_attn.v_proj" in told


def test_an_adapter_of_a_commit_is_read_beside_the_present_one(repository):
    old, new = read_adapter("HEAD~1:adapter"), read_adapter("adapter")
    assert old == made(1) and new == made(2) and old != new
    assert old.source == "HEAD~1:adapter" and old.provenance["training"]["seed"] == 1
    assert read_adapter("HEAD~1:./adapter/") == old


def test_rollback_gives_the_old_bytes_back(repository):
    before = {path.name: path.read_bytes() for path in Path("adapter").iterdir()}
    git("checkout", "-q", "HEAD~1", "--", "adapter")
    back = Adapter.read("adapter")
    assert back == made(1)
    made(1).write("again")
    for path in Path("adapter").iterdir():
        assert path.read_bytes() == (Path("again") / path.name).read_bytes()
    git("commit", "-q", "-m", "back to adapter 1")
    git("checkout", "-q", "HEAD~1", "--", "adapter")  # and forth
    assert {path.name: path.read_bytes() for path in Path("adapter").iterdir()} == before


def test_a_revision_or_path_that_is_not_there_is_refused(repository):
    for text in ("HEAD~7:adapter", "HEAD:other", "-x:adapter"):
        with refusal(AdapterError, text):
            read_adapter(text)
    with refusal(AdapterError, "nowhere"):
        read_adapter("nowhere")


def test_a_damaged_adapter_of_a_commit_is_refused_by_its_own_name(repository):
    path = Path("adapter/adapter_model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    git("commit", "-q", "-am", "damaged")
    with refusal(AdapterError, "HEAD:adapter"):
        read_adapter("HEAD:adapter")
