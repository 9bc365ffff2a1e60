"""A user's own file on SmolLM2-135M, end to end by the commands: adapt, generate, merge, evaluate.

That the adapter and the merged folder load in PEFT and transformers is checked beside this file.
"""

from __future__ import annotations

import json

import pytest

from minilora.cli.app import main
from minilora.hub.smollm import SMOLLM2, find_known
from minilora.lora import Adapter
from tests.cli.conftest import write_jsonl

pytestmark = [pytest.mark.interop, pytest.mark.slow]
UNITS = (("km", "m", 1000), ("kg", "g", 1000), ("h", "min", 60), ("m", "cm", 100))


def questions(start, count):
    """Unit conversions, answered in a form that no model would choose by itself."""
    rows = []
    for i in range(start, start + count):
        (large, small, factor), number = UNITS[i % 4], 2 + i // 4
        answer = f"[{number} {large} = {number * factor} {small}]"
        rows.append({"prompt": f"Convert {number} {large} to {small}.", "completion": answer})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("gguf")
    try:
        find_known(SMOLLM2)
    except ValueError as error:
        pytest.skip(str(error))
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def adapter(folder):
    data = write_jsonl(folder / "my.jsonl", questions(0, 36))
    argv = ["adapt", "--base", SMOLLM2.name, "--data", str(data), "--out", str(folder / "out")]
    assert main([*argv, "--steps", "16", "--batch-size", "8", "--lr", "0.002"]) == 0
    return folder / "out"


def generated(capfdbinary, *flags):
    capfdbinary.readouterr()
    prompt = questions(4, 1)[0]["prompt"]
    assert main(["generate", *flags, "--prompt", prompt, "--max-new-tokens", "24"]) == 0
    return capfdbinary.readouterr().out.decode("utf-8").strip()


def test_adapt_generate_merge_generate(folder, adapter, capfdbinary):
    evaluation = Adapter.read(adapter).provenance["evaluation"]
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"] / 3
    plain = generated(capfdbinary, "--base", SMOLLM2.name)
    adapted = generated(capfdbinary, "--adapter", str(adapter))
    assert not plain.startswith("[")
    assert adapted.startswith("[3 km = ") and adapted.endswith(" m]")
    assert main(["merge", "--adapter", str(adapter), "--out", str(folder / "merged")]) == 0
    assert generated(capfdbinary, "--base", str(folder / "merged")) == adapted


def test_evaluate_puts_base_prompt_and_adapter_side_by_side(folder, adapter, capfdbinary):
    held = write_jsonl(folder / "held.jsonl", questions(36, 4))
    out = folder / "scores.json"
    flags = ["--adapter", f"own={adapter}", "--instruction", "Answer as [2 km = 2000 m]."]
    flags += ["--shots", "2", "--examples", str(folder / "my.jsonl"), "--json", str(out)]
    assert main(["evaluate", "--data", str(held), *flags]) == 0
    found = {v["name"]: v for v in json.loads(out.read_text("utf-8"))["variants"]}
    assert list(found) == ["base", "base, instructed", "base, 2 shots", "own"]
    assert found["base"]["exact"] == 0.0
    assert all(text.startswith("[") for text in found["own"]["outputs"])
    assert found["base, 2 shots"]["prompt_tokens"] > found["own"]["prompt_tokens"] + 40
