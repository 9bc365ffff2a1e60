"""A tiny random base as a Hugging Face folder, and data files in the shapes users bring."""

from __future__ import annotations

import json

import pytest

from minilora.cli.app import main
from minilora.hub import load_pretrained, save_pretrained
from minilora.text import Tokenizer
from tests import tiny

WORDS = [
    "amiodarone",
    "metoprolol",
    "aspirin",
    "furosemide",
    "ramipril",
    "digoxin",
    "heparin",
    "sotalol",
]


def pairs(count, start=0):
    """Prompt/completion records that a tiny model can learn a little of."""
    return [
        {"prompt": f"Dose of {WORDS[i % 7]} no {i}?", "completion": f"{WORDS[i % 7]}: {i % 5} mg."}
        for i in range(start, start + count)
    ]


def write_jsonl(path, records):
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def make_base(folder, seed, width=12, limit=64, vocab=330):
    texts = [f"{r['prompt']} {r['completion']} ärztlich €" for r in pairs(40)]
    tokenizer = Tokenizer.train(texts, vocab)
    return tiny.save(
        folder, tokenizer, seed, "---\nlicense: mit\n---\n# tiny\n\nA tiny base.\n",
        hidden_size=width, intermediate_size=20, num_hidden_layers=2, head_dim=4,
        max_position_embeddings=limit,
    )  # fmt: skip


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("bases") / "tiny", 0)


@pytest.fixture(scope="session")
def other_base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("bases") / "other", 1)


@pytest.fixture
def overflowing_base(base, tmp_path):
    """Weights that are finite, as every file's must be, and logits that are not."""
    model, tokenizer = load_pretrained(base)
    model.model.norm.weight.data[:] = 3e38
    save_pretrained(tmp_path / "overflowing", model, tokenizer)
    return tmp_path / "overflowing"


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory):
    """An adapter made by the command itself, and its data."""
    folder = tmp_path_factory.mktemp("adapter")
    data = write_jsonl(folder / "my.jsonl", pairs(30))
    flags = ["--steps", "6", "--workers", "1", "--lr", "0.02", "--r", "2"]
    out = folder / "out"
    code = main(["adapt", "--data", str(data), "--base", str(base), "--out", str(out), *flags])
    assert code == 0
    return out
