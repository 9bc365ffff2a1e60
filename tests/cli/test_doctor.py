"""`minilora doctor`'s line on the models that are fetched."""

from __future__ import annotations

import json

import pytest

from minilora.cli import doctor
from minilora.hub.smollm import RECORD, SMOLLM2
from tests.says import names


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path))
    folder = tmp_path / SMOLLM2.name
    folder.mkdir()
    return folder


def test_a_model_that_is_not_there_is_told_how_to_get(cache):
    ((name, text),) = doctor.fetched()
    assert name == SMOLLM2.name and names(text, f"`minilora fetch {name}`")


def test_a_fetched_model_is_told_with_size_and_source(cache):
    (cache / RECORD).write_text(json.dumps({"source": "hub"}))
    (cache / "model.safetensors").write_bytes(b"x" * (3 << 20))
    ((_, text),) = doctor.fetched()
    assert text == f"{cache} (3.0 MiB, from the hub)"


def test_a_damaged_one_is_told(cache):
    (cache / RECORD).write_text(json.dumps({"source": "package"}))
    (cache / SMOLLM2.model_file).write_bytes(b"short")
    ((_, text),) = doctor.fetched()
    assert names(text, 5, SMOLLM2.model_bytes, f"minilora fetch {SMOLLM2.name}")


def test_extras_are_those_of_the_distribution():
    rows = dict(doctor.extras())
    assert {"extra notebooks", "extra gguf", "extra test"} <= set(rows)
    assert names(rows["extra test"], "pytest", pytest.__version__)


def test_an_extra_lacks_what_is_not_installed(monkeypatch):
    required = ["numpy>=2.0", 'no-such-thing>=1; extra == "x"', "pytest; extra == 'x'",
                'one-system>=1; sys_platform == "linux" and extra == "x"',
                'minilora[x]; extra == "y"']  # fmt: skip
    assert doctor.packages_by_extra(required) == {"x": ["no-such-thing", "pytest"]}
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: required)
    assert doctor.extras() == [("extra x", "lacks no-such-thing")]
