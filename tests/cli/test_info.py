"""`minilora info`: adapters, models, merged models, and what is none of these."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.cli.info import rows_of
from minilora.hub import load_pretrained
from minilora.hub.describe import about
from minilora.lora import Adapter, LoRAConfig, Vera, attach
from minilora.storage import fingerprint
from tests import tiny
from tests.says import error_line, names


@pytest.fixture(scope="module")
def merged(base, adapter, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "merged"
    code = main(["merge", "--base", str(base), "--adapter", str(adapter), "--out", str(out)])
    assert code == 0
    return out


def as_json(capsys, *argv, code=0):
    assert main(["info", "--json", *map(str, argv)]) == code
    return json.loads(capsys.readouterr().out)


def test_an_adapter(base, adapter, capsys):
    assert main(["info", str(adapter), "--base", str(base)]) == 0
    said = capsys.readouterr().out
    found = Adapter.read(adapter)
    for words in (
        "adapter (PEFT)", "q_proj, v_proj", "160", "640 B", str(base), "my.jsonl", "fits",
        found.fingerprint, found.base_fingerprint, "4: model.layers.0",
    ):  # fmt: skip
        assert words in said


def test_an_adapter_with_patterns(base, tmp_path, capsys):
    model, _ = load_pretrained(base)
    patterns = dict(rank_pattern={r"layers\.0\..*": 3}, alpha_pattern={"q_proj": 6, "v_proj": 0.5})
    config = LoRAConfig(r=2, lora_alpha=4, **patterns)
    handle = attach(model, config, np.random.default_rng(0))
    folder = handle.adapter(base_name=str(base)).write(tmp_path / "a")
    (one,) = as_json(capsys, folder, "--base", base)
    assert one["fits"] and {name: one[name] for name in patterns} == patterns
    scalings = [0.5 / 3, 0.5 / 2, 6 / 3, 6 / 2]
    assert sorted(one["scaling"].values()) == scalings and len(one["modules"]) == 4
    assert main(["info", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        r"r 2 lora_alpha 4 rank_pattern layers\.0\..*: 3 alpha_pattern q_proj: 6, v_proj: 0.5",
        "scaling 0.166667 (1 of 4 modules), 0.25 (1 of 4 modules), 2 (1 of 4 modules)",
    ):
        assert words in said


def test_a_base(base, capsys):
    assert main(["info", str(base)]) == 0
    said = capsys.readouterr().out
    model, _ = load_pretrained(base)
    state = model.state_dict()
    for words in (
        f"{sum(a.size for a in state.values()):,}", fingerprint(state), "hidden_size", "A tiny base"
    ):  # fmt: skip
        assert words in said
    assert "license" not in said


def test_json_for_several(base, adapter, merged, capsys):
    told = as_json(capsys, adapter, base, merged)
    assert [one["kind"] for one in told] == ["adapter", "model", "merged model"]
    assert told[0]["r"] == 2 and told[0]["parameters"] == 160 and "fits" not in told[0]
    assert told[1]["config"]["hidden_size"] == 12
    assert told[2]["merge"]["adapter_fingerprint"] == told[0]["fingerprint"]
    assert told[2]["merge"]["base_fingerprint"] == told[1]["fingerprint"]
    assert told[2]["unchanged_since_merge"] is True


def test_a_merged_model_that_was_edited_is_told(merged, base, tmp_path, capsys):
    edited = shutil.copytree(merged, tmp_path / "edited")
    shutil.copy(base / "model.safetensors", edited)
    assert as_json(capsys, edited)[0]["unchanged_since_merge"] is False


def test_a_base_that_does_not_fit_is_told_and_fails(base, other_base, adapter, capsys):
    (one,) = as_json(capsys, adapter, "--base", other_base, code=1)
    assert one["fits"] is False and names(one["misfit"], base, other_base)


def test_what_is_neither_is_refused_and_the_rest_shown(base, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["info", str(tmp_path / "empty"), str(base), str(tmp_path / "none")]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert names(shown.err, tmp_path / "empty", "adapter_config.json", "config.json")
    assert names(shown.err, tmp_path / "none") and "hidden_size" in shown.out


def test_a_damaged_model_is_refused(base, tmp_path, capsys):
    bad = shutil.copytree(base, tmp_path / "bad")
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert main(["info", str(bad)]) == 1
    assert names(error_line(capsys), weights)


def test_what_an_adapter_holds_beside_a_and_b_is_said(tmp_path):
    for config, said in (
        (LoRAConfig(4, vera=Vera(5)), {"VeRA": "projection_prng_key 5"}),
        (LoRAConfig(2, use_dora=True), {"DoRA": "yes"}),
        (LoRAConfig(2, modules_to_save=("lm_head",)), {"tables": "lm_head whole"}),
        (LoRAConfig(2), {}),
    ):
        handle = attach(tiny.model(), config, np.random.default_rng(0))
        handle.adapter().write(tmp_path / "a")
        rows = dict(rows_of(about(tmp_path / "a", None)))
        assert {k for k in ("VeRA", "DoRA", "tables") if k in rows} == said.keys()
        assert all(text in rows[key] for key, text in said.items())
