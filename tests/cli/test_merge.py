"""`minilora merge`: the folder equals base + adapter, or is not written."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.hub import load_pretrained
from minilora.lora import (
    Adapter,
    Attachment,
    LoRAConfig,
    adapter_state,
    attach,
    base_fingerprint,
)
from minilora.runs import merge as merging
from minilora.storage import fingerprint
from tests.cli.conftest import make_base, pairs, write_jsonl
from tests.says import error_line, names

IDS = np.array([[3, 14, 15, 92, 65, 35], [89, 79, 32, 3, 84, 6]])


def merge(base, adapter, out):
    return main(["merge", "--base", str(base), "--adapter", str(adapter), "--out", str(out)])


def test_the_folder_equals_base_and_adapter(base, adapter, tmp_path, capsys):
    assert merge(base, adapter, tmp_path / "merged") == 0
    merged, tokenizer = load_pretrained(tmp_path / "merged")
    model, original = load_pretrained(base)
    plain = model(IDS).data
    attach(model, Adapter.read(adapter))
    adapted, got = model(IDS).data, merged(IDS).data
    assert np.abs(adapted - plain).max() > 1e-2
    np.testing.assert_allclose(got, adapted, rtol=0, atol=1e-4)
    assert tokenizer.encode_prompt("ä €") == original.encode_prompt("ä €")
    said = capsys.readouterr().out
    numbers = [float(x) for x in re.findall(r"\d\.\d\de[+-]\d\d", said)]
    assert len(numbers) == 2 and numbers[0] < 1e-4 < 1e-2 < numbers[1]


def test_the_card_says_what_was_merged(base, adapter, tmp_path):
    assert merge(base, adapter, tmp_path / "merged") == 0
    names = sorted(path.name for path in (tmp_path / "merged").iterdir())
    assert names == sorted(merging.FILES)
    card = (tmp_path / "merged" / "README.md").read_text("utf-8")
    merged, _ = load_pretrained(tmp_path / "merged")
    model, _ = load_pretrained(base)
    sidecar = json.loads((adapter / "minilora.json").read_text("utf-8"))
    loss = sidecar["provenance"]["evaluation"]["after"]["loss"]
    for words in (
        f"base_model: {base}", base_fingerprint(model), fingerprint(merged.state_dict()),
        str(loss), "my.jsonl", "q_proj, v_proj", "LoRA r 2",
    ):  # fmt: skip
        assert words in card


def test_an_adapter_with_patterns_is_merged_and_told(base, tmp_path):
    model, _ = load_pretrained(base)
    config = LoRAConfig(r=2, lora_alpha=4, rank_pattern={"q_proj": 3}, alpha_pattern={".*1.*": 9})
    handle = attach(model, config, np.random.default_rng(0))
    for array in adapter_state(model).values():
        array += np.random.default_rng(1).standard_normal(array.shape).astype(np.float32)
    adapted = model(IDS).data
    handle.adapter(base_name=str(base)).write(tmp_path / "a")
    assert merge(base, tmp_path / "a", tmp_path / "merged") == 0
    np.testing.assert_allclose(
        load_pretrained(tmp_path / "merged")[0](IDS).data, adapted, rtol=1e-4, atol=1e-4
    )
    card = (tmp_path / "merged" / "README.md").read_text("utf-8")
    assert names(card, "use_rslora False", "q_proj: 3", ".*1.*: 9", 1.33333, 2, 3, 4.5)


def test_a_merged_model_is_replaced_by_a_new_one(base, adapter, tmp_path):
    assert merge(base, adapter, tmp_path / "merged") == 0
    (tmp_path / "merged" / "README.md").write_text("old")
    assert merge(base, adapter, tmp_path / "merged") == 0
    assert (tmp_path / "merged" / "README.md").read_text("utf-8").startswith("---")


def test_an_adapter_without_a_sidecar_is_merged_with_a_note(base, adapter, tmp_path, capsys):
    bare = shutil.copytree(adapter, tmp_path / "bare")
    (bare / "minilora.json").unlink()
    assert merge(base, bare, tmp_path / "merged") == 0
    errors = capsys.readouterr().err
    assert errors.startswith("note: ") and errors.count("\n") == 1
    for text in (errors, (tmp_path / "merged" / "README.md").read_text("utf-8")):
        assert names(text, "minilora.json")


def refused(capsys, tmp_path, code, *named):
    """The line that says why; nothing was written."""
    message = error_line(capsys)
    assert code == 1 and names(message, *named)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("merged", "."))]
    return message


@pytest.mark.parametrize("width", [12, 24])
def test_another_base_is_refused_by_both_names_wherever_an_adapter_is_given(
    adapter, base, tmp_path, capsys, width
):
    """Whether its shapes fit or not, and before anything is said of them."""
    other = make_base(tmp_path / "other", 1, width=width)
    data = write_jsonl(tmp_path / "my.jsonl", pairs(2))
    given = ["--base", str(other), "--adapter", str(adapter)]
    told = (adapter, repr(str(base)), repr(str(other)))
    for argv in (
        ["merge", *given, "--out", str(tmp_path / "merged")],
        ["generate", *given, "--prompt", "Dose?"],
        ["generate", *given, "--adapter", "__base__", "--prompt", "Dose?"],
        ["evaluate", *given, "--data", str(data)],
    ):
        assert main(argv) == 1
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
        assert names(shown.err, *told) and shown.out == ""
    assert main(["info", str(adapter), "--base", str(other), "--json"]) == 1
    assert names(json.loads(capsys.readouterr().out)[0]["misfit"], *told)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my.jsonl", "other"]


def test_another_base_is_refused(base, other_base, adapter, tmp_path, capsys):
    code = merge(other_base, adapter, tmp_path / "merged")
    refused(capsys, tmp_path, code, base, other_base)


def test_a_damaged_adapter_is_refused(base, adapter, tmp_path, capsys):
    bad = shutil.copytree(adapter, tmp_path / "bad")
    tensors = bad / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    refused(capsys, tmp_path, merge(base, bad, tmp_path / "merged"), tensors)


def test_no_adapter_is_refused(base, tmp_path, capsys):
    code = merge(base, tmp_path / "none", tmp_path / "merged")
    refused(capsys, tmp_path, code, "adapter_config.json")


def test_an_adapter_that_changes_nothing_is_refused(base, tmp_path, capsys):
    model, _ = load_pretrained(base)
    handle = attach(model, LoRAConfig(r=2), np.random.default_rng(0))
    handle.adapter(base_name=str(base)).write(tmp_path / "zero")
    code = merge(base, tmp_path / "zero", tmp_path / "merged")
    refused(capsys, tmp_path, code, "0.00e+00")


def test_a_wrong_merge_is_noticed_before_writing(base, adapter, tmp_path, capsys, monkeypatch):
    def forgets(handle):
        model = merge_rightly(handle)
        model.model.layers._modules["0"].self_attn.q_proj.weight.data[0] += 0.5
        return model

    merge_rightly = Attachment.merge_and_unload
    monkeypatch.setattr(Attachment, "merge_and_unload", forgets)
    code = merge(base, adapter, tmp_path / "merged")
    gap, limit = map(float, re.findall(r"\d\.\d\de[+-]\d\d", refused(capsys, tmp_path, code)))
    assert gap > 1 > limit


def test_nothing_is_left_of_a_merge_that_is_stopped(base, adapter, tmp_path, monkeypatch):
    def stops(*args):
        command_save(*args)
        raise KeyboardInterrupt

    command_save = merging.save_pretrained
    monkeypatch.setattr(merging, "save_pretrained", stops)
    assert merge(base, adapter, tmp_path / "merged") == 130
    assert list(tmp_path.iterdir()) == []


def test_a_base_an_adapter_or_a_folder_of_mine_is_never_replaced(base, adapter, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("mine")
    for out in (base, adapter, tmp_path / "mine", adapter / "minilora.json"):
        assert merge(base, adapter, out) == 1
        assert names(error_line(capsys), "--out", out)
    load_pretrained(base)
