"""A model whose logits are not finite answers nothing and is given no score: one clear line."""

from __future__ import annotations

import pytest

from minilora.cli.app import main
from tests.cli.conftest import pairs, write_jsonl


@pytest.fixture(params=["generate", "sampled", "evaluate", "texts", "adapt"])
def argv(request, overflowing_base, tmp_path):
    data = write_jsonl(tmp_path / "data.jsonl", pairs(4))
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": "Aspirin 100 mg."}] * 4)
    base = ["--base", str(overflowing_base)]
    return {
        "generate": ["generate", *base, "--prompt", "Dose?"],
        "sampled": ["generate", *base, "--prompt", "Dose?", "--temperature", "1"],
        "evaluate": ["evaluate", *base, "--data", str(data), "--json", str(tmp_path / "scores")],
        "texts": ["evaluate", *base, "--data", str(texts), "--json", str(tmp_path / "scores")],
        "adapt": [
            "adapt",
            *base,
            "--data",
            str(data),
            "--out",
            str(tmp_path / "out"),
            "--r",
            "2",
        ],
    }[request.param]


@pytest.mark.processes
def test_it_is_one_line_and_no_result_is_written(argv, tmp_path, capsys, recwarn):
    before = {p.name for p in tmp_path.iterdir()}
    assert main(argv) == 1
    out, err = capsys.readouterr()
    if argv[0] == "generate":
        assert out == ""
    assert err.splitlines()[-1].startswith("error: ") and "finite" in err.splitlines()[-1]
    assert "Traceback" not in err and "Warning" not in err and not recwarn.list
    # A run that was begun keeps its folder, marked as diverged; an adapter is never written.
    left = {p.name for p in tmp_path.iterdir()} - before
    assert left == ({"out.run"} if argv[0] == "adapt" else set())
