"""What made a run: processes, threads, BLAS and the code that its numbers come from."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import minilora
from minilora.processes import recommended_workers
from minilora.training import TrainingConfig, made_by
from tests import tiny


def test_processes_and_threads_are_those_that_train(monkeypatch):
    monkeypatch.setenv("MINILORA_THREADS", "3")
    asked, free = (TrainingConfig(steps=1, lr=0.1, workers=workers) for workers in (2, 0))
    told = made_by.made_by(tiny.model(), asked)
    assert (told["workers"], told["threads"]) == (2, 1)
    assert made_by.made_by(tiny.model(), free)["workers"] == recommended_workers()
    alone = TrainingConfig(steps=1, lr=0.1, workers=1)
    assert made_by.made_by(tiny.model(), alone)["threads"] == 3


def test_the_blas_is_numpys_own(monkeypatch):
    libraries = [
        {"internal_api": "openblas", "version": "1", "architecture": "A", "filepath": "scipy.libs"},
        {"internal_api": "openblas", "version": "2", "architecture": "B", "filepath": "numpy.libs"},
    ]
    monkeypatch.setattr(made_by, "blas_libraries", lambda: libraries)
    assert made_by.blas_kernel() == {"blas": "openblas 2", "kernel": "B"}
    monkeypatch.setattr(made_by, "blas_libraries", list)
    assert made_by.blas_kernel() == {"blas": "unknown unknown", "kernel": "unknown"}


@pytest.mark.parametrize(
    ("file", "counts"),
    [("training/optim.py", True), ("lora/layer.py", True), ("cli/app.py", False)],
)
def test_the_code_is_that_of_the_rooms_that_compute(file, counts, tmp_path, monkeypatch):
    package = tmp_path / "minilora"
    sources = Path(minilora.__file__).parent
    shutil.copytree(sources, package, ignore=shutil.ignore_patterns("__pycache__", "course"))
    monkeypatch.setattr(made_by, "minilora", SimpleNamespace(__file__=str(package / "__init__.py")))
    fingerprint = made_by.code_fingerprint.__wrapped__
    assert fingerprint() == made_by.code_fingerprint.__wrapped__()
    before, text = fingerprint(), (package / file).read_bytes()
    (package / file).write_bytes(text.replace(b"\n", b"\r\n"))
    assert fingerprint() == before
    (package / file).write_bytes(text + b"\n")
    assert (fingerprint() != before) == counts
