"""`minilora adapt --base-dtype`: what is kept, said and saved, and how the adapter is used."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.hub import load_pretrained
from minilora.hub.bases import base_dtype_of
from minilora.lora import Adapter, BaseMismatchError, attach
from minilora.nn import bytes_by_format
from minilora.runs import adapt as adapting
from minilora.runs import driver
from tests.cli.conftest import make_base, pairs, write_jsonl
from tests.says import error_line, names

FLAGS = ("--steps", "4", "--workers", "1", "--r", "2", "--batch-size", "4", "--lr", "0.02")
STORED = ("float16", "q4", "nf4")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(adapting, "plot_loss", lambda history, path: None)


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory):
    """Inputs in blocks of 32, as q4 needs them."""
    return make_base(tmp_path_factory.mktemp("bases") / "wide", 0, width=32)


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "my.jsonl", pairs(30))


def adapt(base, data, out, *flags):
    argv = ["adapt", "--data", str(data), "--base", str(base), "--out", str(out), *FLAGS, *flags]
    return main(argv)


@pytest.mark.parametrize("dtype", ["float32", *STORED])
def test_the_adapter_says_how_its_base_was_kept_and_fits_that_base(
    wide_base, data, tmp_path, dtype, capsys
):
    out = tmp_path / "out"
    assert adapt(wide_base, data, out, "--base-dtype", dtype) == 0
    said = capsys.readouterr().out
    assert names(said, dtype) and names(said, "float32")  # what it takes, or would take
    assert Adapter.read(out).provenance["base_dtype"] == base_dtype_of(out) == dtype
    adapter = Adapter.read(out)
    attach(load_pretrained(wide_base, dtype)[0], adapter)
    for other in {"float32", *STORED} - {dtype}:
        with pytest.raises(BaseMismatchError):
            attach(load_pretrained(wide_base, other)[0], adapter)


def test_the_size_that_is_said_is_the_size_that_is_held(wide_base, data, tmp_path, capsys):
    assert adapt(wide_base, data, tmp_path / "out", "--base-dtype", "q4") == 0
    held = bytes_by_format(load_pretrained(wide_base, "q4")[0])
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"{sum(taken for _, taken in held.values()) / 1024:.1f} KiB" in said
    for kind, (numbers, _) in held.items():
        assert f"{numbers:,} in {kind}" in said


def test_without_the_option_the_base_is_float32(wide_base, data, tmp_path):
    assert adapt(wide_base, data, tmp_path / "a") == 0
    assert adapt(wide_base, data, tmp_path / "b", "--base-dtype", "float32") == 0
    files = [tmp_path / x / "adapter_model.safetensors" for x in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert base_dtype_of(None) == "float32"


def test_a_dtype_that_is_not_there_is_refused_first(wide_base, data, tmp_path, capsys):
    assert adapt(wide_base, data, tmp_path / "out", "--base-dtype", "int4") == 1
    assert names(error_line(capsys), "'int4'", "float32", *STORED)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.run").exists()


def test_a_run_is_not_resumed_with_another_dtype(wide_base, data, tmp_path, capsys, monkeypatch):
    out, real = tmp_path / "out", driver.fit

    def stopped(*args, **more):
        def on_eval(step):
            raise KeyboardInterrupt

        return real(*args, **{**more, "on_eval": on_eval})

    monkeypatch.setattr(driver, "fit", stopped)
    assert adapt(wide_base, data, out, "--base-dtype", "q4", "--steps", "30") == 130
    monkeypatch.setattr(driver, "fit", real)
    assert adapt(wide_base, data, out, "--resume", "--steps", "30") == 1
    assert names(capsys.readouterr().err, "base_dtype", "q4", "float32")
    assert adapt(wide_base, data, out, "--base-dtype", "q4", "--resume", "--steps", "30") == 0
    assert adapt(wide_base, data, tmp_path / "whole", "--base-dtype", "q4", "--steps", "30") == 0
    found, whole = (p / "adapter_model.safetensors" for p in (out, tmp_path / "whole"))
    assert found.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("dtype", STORED)
def test_merging_opens_the_base_as_the_adapter_knew_it(wide_base, data, tmp_path, dtype):
    out, merged = tmp_path / "out", tmp_path / "merged"
    assert adapt(wide_base, data, out, "--base-dtype", dtype) == 0
    assert main(["merge", "--adapter", str(out), "--out", str(merged)]) == 0
    adapted = attach(load_pretrained(wide_base, dtype)[0], Adapter.read(out)).model
    model, _ = load_pretrained(merged)
    assert set(bytes_by_format(model)) == {"float32"}
    ids = np.array([[5, 9, 2, 25]])
    np.testing.assert_allclose(model(ids).data, adapted(ids).data, rtol=1e-3, atol=1e-4)


def test_generate_opens_the_base_as_the_adapter_knew_it(wide_base, data, tmp_path, capsysbinary):
    assert adapt(wide_base, data, tmp_path / "out", "--base-dtype", "q4") == 0
    capsysbinary.readouterr()
    ask = ["generate", "--adapter", str(tmp_path / "out"), "--prompt", "Dose of aspirin no 2?"]
    assert main([*ask, "--max-new-tokens", "4"]) == 0
    assert capsysbinary.readouterr().out.strip()
