"""adapt --tokens and --tables: trained, saved, verified, and asked again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minilora.cli.app import main
from minilora.hub import load_pretrained, save_pretrained
from minilora.hub.tokens import add_tokens, ids_of
from minilora.lora import Adapter
from minilora.runs import run
from minilora.runs.verify import Verdict, VerifyPlan, verify
from tests.says import refusal

NEW = ("<dose>", "<test>")


@pytest.fixture
def grown(plan, tmp_path):
    model, words = load_pretrained(plan.base)
    words, _ = add_tokens(model, words, NEW)
    save_pretrained(tmp_path / "grown", model, words)
    return replace(plan, base=str(tmp_path / "grown"), workers=1)


@pytest.mark.parametrize("way", [{"tokens": NEW}, {"tables": ("embed_tokens",)},
                                 {"target_modules": ("q_proj", "embed_tokens")}])  # fmt: skip
def test_it_learns_is_kept_and_verified(grown, way, capsys):
    made = replace(grown, steps=20, keep_checkpoints=True, **way)
    result = run(made)
    assert result.after.loss < result.before.loss
    adapter = Adapter.read(made.out)
    assert adapter.tables and set(adapter.config.tables) == {"model.embed_tokens"}
    again = VerifyPlan(adapter=made.out, data=made.data, base=made.base)
    assert verify(again).verdict is Verdict.VERIFIED
    assert (
        main(["generate", "--adapter", str(made.out), "--prompt", "Hello", "--max-new-tokens", "3"])
        == 0
    )
    assert main(["merge", "--adapter", str(made.out), "--out", str(made.out) + "-merged"]) == 0


def test_only_the_rows_of_the_tokens_move(grown):
    model, words = load_pretrained(grown.base)
    run(replace(grown, steps=3, tokens=NEW))
    config = Adapter.read(grown.out).config
    assert config.trainable_token_indices == {"embed_tokens": ids_of(words, NEW)}
    (rows,) = Adapter.read(grown.out).tables.values()
    table = model.model.embed_tokens.weight.data[list(ids_of(words, NEW))]
    assert rows.shape == table.shape and np.abs(rows - table).max() > 0


def test_what_makes_no_sense_is_refused(grown, plan):
    with refusal(ValueError, "<dose>"):
        run(replace(plan, tokens=NEW))
    for beside in ({"activated": True}, {"vera": True}):
        with refusal(ValueError, "embed_tokens"):
            replace(grown, tokens=NEW, **beside)
    with refusal(ValueError, "norm"):
        replace(grown, tables=("norm",))
