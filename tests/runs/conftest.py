"""A tiny base, data for it, and small settings."""

from __future__ import annotations

import os

import pytest

from minilora.runs import AdaptPlan
from minilora.runs import adapt as adapting
from tests.cli.conftest import base, other_base, pairs, write_jsonl

__all__ = ["base", "other_base"]


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """No waiting for the disk, and no plot, which is slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(adapting, "plot_loss", lambda history, path: None)


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", pairs(30))


@pytest.fixture
def plan(base, data, tmp_path):
    """A run of four steps; `dataclasses.replace` makes others of it."""
    return AdaptPlan(
        data=data, out=tmp_path / "out", base=str(base), steps=4, batch_size=4, lr=0.02, r=2,
        workers=1,
    )  # fmt: skip
