"""An adapter is refused on every base but its own, and what changes texts alone is noted."""

from __future__ import annotations

import json
import shutil

import pytest

from minilora.cli.app import main
from minilora.lora import Adapter
from minilora.storage import fingerprint, read_safetensors, write_safetensors
from tests.says import names


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def edit_weights(folder, change):
    arrays, metadata = read_safetensors(folder / "model.safetensors")
    change(arrays)
    write_safetensors(folder / "model.safetensors", arrays, metadata)


def with_another_mlp(folder):
    """As after merging an adapter that changed what this one does not adapt."""
    name = "model.layers.1.mlp.down_proj.weight"
    edit_weights(folder, lambda arrays: arrays.update({name: 2 * arrays[name]}))


def with_rows_reversed(folder):
    name = "model.embed_tokens.weight"
    edit_weights(folder, lambda arrays: arrays.update({name: arrays[name][::-1].copy()}))


def with_another_theta(folder):
    edit_json(folder / "config.json", rope_theta=4000.0)


def with_another_eps(folder):
    edit_json(folder / "config.json", rms_norm_eps=1e-3)


OTHERS = (with_another_mlp, with_rows_reversed, with_another_theta, with_another_eps)


def commands(base, adapter, tmp_path):
    given = ["--base", str(base), "--adapter", str(adapter)]
    return (
        ["generate", *given, "--prompt", "Dose?", "--max-new-tokens", "2"],
        ["generate", *given, "--adapter", "__base__", "--prompt", "Dose?", "--max-new-tokens", "2"],
        ["merge", *given, "--out", str(tmp_path / "merged")],
        ["info", str(adapter), "--base", str(base)],
    )


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_a_base_that_computes_something_else_is_refused(base, adapter, tmp_path, capsys, change):
    other = shutil.copytree(base, tmp_path / "other")
    change(other)
    for argv in commands(other, adapter, tmp_path):
        assert main(argv) == 1, argv
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
        assert str(adapter) in err and str(other) in err
    assert not (tmp_path / "merged").exists()


def with_another_template(folder):
    text = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}<|assistant|>"
    edit_json(folder / "tokenizer_config.json", chat_template=text)


def with_another_ending(folder):
    edit_json(folder / "tokenizer_config.json", eos_token="<|user|>")


@pytest.mark.parametrize(
    ("change", "word"),
    [(with_another_template, "chat template"), (with_another_ending, "tokenizer")],
)
def test_another_way_with_texts_is_noted_once(base, adapter, tmp_path, capsys, change, word):
    other = shutil.copytree(base, tmp_path / "other")
    change(other)
    for argv in commands(other, adapter, tmp_path):
        assert main(argv) == 0, argv
        err = capsys.readouterr().err
        assert err.startswith("note: ") and err.count("\n") == 1 and word in err


def test_a_copy_of_the_base_is_the_base(base, adapter, tmp_path, capsys):
    other = shutil.copytree(base, tmp_path / "other")
    edit_json(other / "config.json", max_position_embeddings=32, initializer_range=0.1)
    for argv in commands(other, adapter, tmp_path):
        assert main(argv) == 0, argv
        assert capsys.readouterr().err == ""


def test_what_an_old_adapter_leaves_unchecked_is_noted(base, adapter, tmp_path, capsys):
    old = shutil.copytree(adapter, tmp_path / "old")
    sidecar = json.loads((old / "minilora.json").read_text("utf-8"))
    kept = {key: sidecar[key] for key in ("base_name", "minilora_version", "scaling", "provenance")}
    edited = {**kept, "format_version": 1, "base_fingerprint": adapted_weights(base, old)}
    (old / "minilora.json").write_text(json.dumps(edited), "utf-8")
    for argv in commands(base, old, tmp_path):
        assert main(argv) == 0, argv
        shown = capsys.readouterr()
        assert shown.err.startswith("note: ") and names(shown.err, old)
        assert shown.err.count("\n") == 1


def adapted_weights(base, adapter):
    arrays, _ = read_safetensors(base / "model.safetensors")
    names = [f"{module}.weight" for module in Adapter.read(adapter).modules]
    return fingerprint({name: arrays[name] for name in names})
