"""`minilora export` and `minilora extract`: files for others, and an adapter from two models."""

from __future__ import annotations

import pytest

from minilora.cli.app import main
from minilora.lora import Adapter
from minilora.runs import AdaptPlan, run
from tests.cli.conftest import pairs, write_jsonl
from tests.says import error_line, names


@pytest.fixture
def adapter(base, tmp_path):
    plan = AdaptPlan(
        data=write_jsonl(tmp_path / "my.jsonl", pairs(30)), out=tmp_path / "adapter",
        base=str(base), steps=2, batch_size=4, lr=0.02, r=2, workers=1,
    )  # fmt: skip
    return run(plan).plan.out


def export(base, adapter, to, out):
    return main(["export", "--adapter", str(adapter), "--to", to, "--out", str(out), "--base",
                 str(base)])  # fmt: skip


def test_every_form_is_written(base, adapter, tmp_path):
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    assert export(base, adapter, "gguf", tmp_path / "a.gguf") == 0
    assert export(base, adapter, "mlx", tmp_path / "mlx") == 0
    assert export(base, adapter, "peft", tmp_path / "peft") == 0
    assert (tmp_path / "a.gguf").read_bytes()[:4] == b"GGUF"
    assert Adapter.read(tmp_path / "peft") == Adapter.read(adapter)


def test_what_can_not_be_written_is_refused(base, adapter, tmp_path, capsys):
    assert export(base, adapter, "onnx", tmp_path / "a") == 1
    assert names(capsys.readouterr().err, "onnx", "gguf", "mlx", "peft")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for to in ("gguf", "mlx", "peft"):
        assert export(base, adapter, to, tmp_path / "full") == 1
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["note.txt"]
    assert export("ward-base", adapter, "mlx", tmp_path / "other") == 1
    assert not (tmp_path / "other").exists()


def test_an_adapter_is_extracted_from_a_merged_model(base, adapter, tmp_path, capsys):
    merge = ["merge", "--adapter", str(adapter), "--out", str(tmp_path / "tuned"), "--base"]
    assert main([*merge, str(base)]) == 0
    command = ["extract", "--base", str(base), "--tuned", str(tmp_path / "tuned"), "--r", "2"]
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    again, first = Adapter.read(tmp_path / "again"), Adapter.read(adapter)
    assert again.modules == first.modules and again.config.r == 2
    assert names(capsys.readouterr().out, first.modules[0])
    spaced = [*command, "--targets", "q_proj, v_proj", "--out", str(tmp_path / "spaced")]
    assert main(spaced) == 0  # as adapt takes them
    assert Adapter.read(tmp_path / "spaced").modules == first.modules
    capsys.readouterr()
    gone = ["extract", "--base", str(base), "--tuned", "gone", "--out", str(tmp_path / "none")]
    assert main(gone) == 1
    assert names(error_line(capsys), "--tuned gone")
    assert not (tmp_path / "none").exists()
