"""find_spectra(plan): adapters and further trained models, alone and side by side."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from minilora.hub import load_pretrained, save_pretrained
from minilora.lora import Adapter, BaseMismatchError
from minilora.runs import run
from minilora.runs.merge import merge_adapter
from minilora.runs.spectrum import SpectrumPlan, find_spectra
from tests.says import refusal


@pytest.fixture
def spectrum_plan(plan):
    run(plan)
    return SpectrumPlan(a=plan.out, base=plan.base)


def test_an_adapter_s_modules_have_its_rank_and_norm(spectrum_plan, tmp_path):
    found = find_spectra(replace(spectrum_plan, json_file=tmp_path / "s.json"))
    adapter = Adapter.read(spectrum_plan.a)
    assert {one.module for one in found.spectra} == set(adapter.modules)
    for one in found.spectra:
        assert len(one.s) == 2
        norm = np.linalg.norm(adapter.delta(one.module).astype(float))
        assert one.norm == pytest.approx(norm, rel=1e-5)
    told = json.loads((tmp_path / "s.json").read_text())
    assert told == json.loads(json.dumps(found.to_dict())) and told["overlaps"] == []


def test_a_merged_model_is_the_adapter_to_within_rounding(spectrum_plan, tmp_path):
    merge_adapter(spectrum_plan.a, tmp_path / "merged", spectrum_plan.base)
    merged = replace(spectrum_plan, a=tmp_path / "merged")
    for one, other in zip(
        find_spectra(spectrum_plan).spectra, find_spectra(merged).spectra, strict=True
    ):
        assert one.module == other.module
        np.testing.assert_allclose(other.s, one.s, rtol=1e-3)
    both = find_spectra(replace(spectrum_plan, b=tmp_path / "merged"))
    for one in both.overlaps:
        assert one.reads[-1, -1] == pytest.approx(1, abs=1e-3)
        assert one.writes[0, 0] == pytest.approx(1, abs=1e-3)


def test_the_base_is_kept_as_the_adapter_was_trained(plan):
    run(replace(plan, base_dtype="float16"))
    found = find_spectra(SpectrumPlan(a=plan.out, base=plan.base, r=1))
    assert len(found.spectra) == 4 and {one.amplified.r for one in found.spectra} == {1}
    with refusal(ValueError, plan.base, "float16"):  # its difference would be the rounding too
        find_spectra(SpectrumPlan(a=plan.out, b=plan.base, base=plan.base))


def test_an_adapter_of_another_base_is_refused(spectrum_plan, other_base):
    with pytest.raises(BaseMismatchError):
        find_spectra(replace(spectrum_plan, base=str(other_base)))


def test_plots_are_drawn(spectrum_plan, tmp_path):
    for name, changes in (("s.png", {}), ("o.png", {"b": spectrum_plan.a})):
        path = tmp_path / name
        find_spectra(replace(spectrum_plan, plot_file=path, **changes))
        assert path.read_bytes().startswith(b"\x89PNG")


def test_what_is_neither_or_changes_nothing_is_refused(spectrum_plan, tmp_path):
    with refusal(ValueError, tmp_path):
        find_spectra(replace(spectrum_plan, b=tmp_path))
    model, tokenizer = load_pretrained(spectrum_plan.base)
    same = tmp_path / "same"
    save_pretrained(same, model, tokenizer)
    with refusal(ValueError, same):
        find_spectra(replace(spectrum_plan, a=same))
    model.model.layers[0].mlp.up_proj.weight.data *= 1.5
    save_pretrained(tmp_path / "other", model, tokenizer)
    with refusal(ValueError, spectrum_plan.a, tmp_path / "other"):
        find_spectra(replace(spectrum_plan, b=tmp_path / "other"))
    for name, value in (("r", 0), ("top", 0), ("threshold", 2.0)):
        with refusal(ValueError, name, value):
            replace(spectrum_plan, **{name: value})
