"""`minilora generate` with several adapters: each answers in turn, over one base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from minilora.cli import generate as command
from minilora.cli.adapters import named_adapters
from minilora.cli.app import main
from minilora.hub import load_pretrained
from minilora.hub.several import NamedAdapter, base_of_all, in_turn
from minilora.lora import (
    LoRAConfig,
    adapter_state,
    attach,
    base_fingerprint,
    is_adapted,
)
from tests.says import names, refusal

PROMPT = ["--prompt", "Dose of aspirin?", "--max-new-tokens", "12"]


def make_adapter(base, folder, seed, dtype="float32", **settings):
    model, _ = load_pretrained(base, dtype)
    config = LoRAConfig(**{"r": 2, **settings})
    handle = attach(model, config, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    for array in adapter_state(model).values():
        array += 0.6 * rng.standard_normal(array.shape).astype(np.float32)
    made = handle.adapter(base_name=str(base), provenance={"base_dtype": dtype})
    return made.write(folder)


@pytest.fixture(scope="module")
def peds(base, tmp_path_factory):
    """A second adapter of the base, on other modules and with patterns."""
    out = tmp_path_factory.mktemp("adapters") / "peds"
    targets = ("o_proj", "up_proj")
    return make_adapter(base, out, 5, target_modules=targets, rank_pattern={"up_proj": 3})


@pytest.fixture(scope="module")
def foreign(other_base, tmp_path_factory):
    return make_adapter(other_base, tmp_path_factory.mktemp("adapters") / "foreign", 6)


def run(capfdbinary, *flags, code=0):
    assert main(["generate", *PROMPT, *map(str, flags)]) == code
    shown = capfdbinary.readouterr()
    return shown.out.decode(), shown.err.decode()


def failed(capfdbinary, *flags):
    """The one line of a refusal, with nothing on standard output."""
    out, err = run(capfdbinary, *flags, code=1)
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("sampling", [(), ("--temperature", "1.2", "--seed", "3")])
def test_each_answers_as_it_does_alone(base, adapter, peds, capfdbinary, sampling):
    flags = ("--base", base, *sampling)
    alone = [run(capfdbinary, *flags, *more)[0]
             for more in (("--adapter", adapter), ("--adapter", peds), ())]  # fmt: skip
    assert len(set(alone)) == 3
    names = ("--adapter", f"cardio={adapter}", "--adapter", peds, "--adapter", "__base__")
    out, err = run(capfdbinary, *flags, *names)
    assert out == f"== cardio ==\n{alone[0]}\n== peds ==\n{alone[1]}\n== __base__ ==\n{alone[2]}"
    assert err == ""
    # In another order: what one leaves behind would show in the next.
    names = ("--adapter", "__base__", "--adapter", peds, "--adapter", f"ä b={adapter}")
    out, _ = run(capfdbinary, *flags, *names)
    assert out == f"== __base__ ==\n{alone[2]}\n== peds ==\n{alone[1]}\n== ä b ==\n{alone[0]}"


def test_one_has_no_heading_named_or_not(base, adapter, capfdbinary):
    plain = run(capfdbinary, "--base", base, "--adapter", adapter)
    assert run(capfdbinary, "--base", base, "--adapter", f"cardio={adapter}") == plain
    bare = run(capfdbinary, "--base", base)
    assert run(capfdbinary, "--base", base, "--adapter", "__base__") == bare != plain


def test_the_base_is_opened_once_and_named_by_the_adapters(
    base, adapter, peds, capfdbinary, monkeypatch
):
    opened, real = [], command.open_base
    monkeypatch.setattr(
        command, "open_base", lambda name, *more: opened.append(name) or real(name, *more)
    )
    out, _ = run(capfdbinary, "--adapter", adapter, "--adapter", f"b={peds}")
    assert opened == [str(base)] and out.startswith("== out ==\n") and "\n\n== b ==\n" in out


def test_a_heading_comes_with_the_first_token_and_an_empty_answer_has_one(
    base, adapter, capfdbinary, monkeypatch
):
    _, tokenizer = load_pretrained(base)
    stream = command.Output(tokenizer, 9, "== a ==\n")
    assert capfdbinary.readouterr().out == b""
    stream.add(tokenizer.encode("x")[0])
    assert capfdbinary.readouterr().out == b"== a ==\nx"
    stream.add(tokenizer.encode("x")[0])
    assert capfdbinary.readouterr().out == b"x"
    command.Output(tokenizer, 9, "== b ==\n").end()
    assert capfdbinary.readouterr().out == b"== b ==\n\n"


def test_the_base_is_kept_as_when_the_adapters_were_trained(base, adapter, tmp_path, capfdbinary):
    half = make_adapter(base, tmp_path / "half", 7, dtype="float16")
    out, _ = run(capfdbinary, "--adapter", half, "--adapter", "__base__")
    assert out.startswith("== half ==\n")
    assert run(capfdbinary, "--base-dtype", "float16", "--adapter", half)[0] == (
        out.partition("\n\n== ")[0].removeprefix("== half ==\n") + "\n"
    )
    err = failed(capfdbinary, "--base-dtype", "float32", "--adapter", half)
    assert names(err, half)
    err = failed(capfdbinary, "--adapter", f"a={adapter}", "--adapter", half)
    assert names(err, "a", "float32", "half", "float16")
    err = failed(capfdbinary, "--base", base, "--base-dtype", "int3")
    assert names(err, "'int3'", "float32")


# ----------------------------------------------------------------------------------------- mistakes


def test_two_of_one_name_are_refused_with_both_folders(base, adapter, peds, capfdbinary):
    err = failed(capfdbinary, "--base", base, "--adapter", f"a={adapter}", "--adapter", f"a={peds}")
    assert names(err, "'a'", adapter, peds)
    err = failed(capfdbinary, "--adapter", peds, "--adapter", peds.parent / "x" / ".." / "peds")
    assert names(err, "'peds'")
    err = failed(capfdbinary, "--adapter", "__base__", "--adapter", "__base__")
    assert names(err, "__base__")


@pytest.mark.parametrize("last", ["b=nowhere/at-all", "nowhere/at-all"])
@pytest.mark.parametrize("named", [True, False])
def test_a_missing_folder_is_told_before_any_answer(base, adapter, capfdbinary, last, named):
    flags = ("--base", base) if named else ()
    assert "nowhere/at-all" in failed(capfdbinary, *flags, "--adapter", adapter, "--adapter", last)


def test_adapters_of_two_bases_are_refused_with_both_named(
    base, other_base, adapter, foreign, capfdbinary
):
    err = failed(capfdbinary, "--adapter", f"a={adapter}", "--adapter", f"b={foreign}")
    assert names(err, "a", repr(str(base)), "b", repr(str(other_base)))


def test_another_spelling_of_the_same_base_is_no_conflict(
    base, adapter, peds, tmp_path, capfdbinary
):
    moved = shutil.copytree(peds, tmp_path / "moved")
    path = moved / "adapter_config.json"
    other = f"{base.parent}/../{base.parent.name}/{base.name}"
    options = {**json.loads(path.read_text()), "base_model_name_or_path": other}
    path.write_text(json.dumps(options))
    out, _ = run(capfdbinary, "--adapter", adapter, "--adapter", moved)
    assert "== moved ==" in out


def test_a_wrong_fingerprint_is_told_before_any_answer(base, adapter, foreign, capfdbinary):
    err = failed(
        capfdbinary, "--base", base, "--adapter", "__base__", "--adapter", adapter,
        "--adapter", foreign,
    )  # fmt: skip
    assert names(err, "foreign", "sha256:")


@pytest.mark.parametrize("flags", [("--max-new-tokens", "0"), ("--temperature", "-1")])
def test_a_wrong_setting_is_told_before_any_heading(base, adapter, capfdbinary, flags):
    failed(capfdbinary, "--base", base, "--adapter", "__base__", "--adapter", adapter, *flags)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("=x", ("NAME=DIR",)),
        ("a=", ("NAME=DIR",)),
        ("", ("NAME=DIR",)),
        ("a\nb=x", ("NAME=DIR",)),
        ("__base__=x", ("__base__",)),
        ("some/__base__", ("__base__",)),
    ],
)
def test_names_that_say_nothing_are_refused(text, named):
    with refusal(ValueError, repr(text), *named):
        named_adapters([text])


def test_names_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "r=8").mkdir()
    texts = ["a=b/c", "b/c/", "d=e=f", "r=8", "__base__", "h=~/h", "."]
    assert named_adapters(texts) == [
        NamedAdapter("a", Path("b/c")),
        NamedAdapter("c", Path("b/c")),
        NamedAdapter("d", Path("e=f")),
        NamedAdapter("r=8", Path("r=8")),
        NamedAdapter("__base__", None),
        NamedAdapter("h", Path("/home/me/h")),
        NamedAdapter(tmp_path.name, Path(".")),
    ]
    assert named_adapters([]) == [NamedAdapter("__base__", None)]


def test_the_base_option_wins_and_ward_base_is_the_default(adapter, foreign):
    chosen = named_adapters([f"a={adapter}", f"b={foreign}"])
    assert base_of_all("this one", chosen) == "this one"
    assert base_of_all(None, named_adapters(["__base__"])) == "ward-base"


def test_a_warning_comes_once_and_the_model_is_left_plain(base, adapter, peds, tmp_path):
    silent = shutil.copytree(peds, tmp_path / "silent")
    (silent / "minilora.json").unlink()
    model, tokenizer = load_pretrained(base)
    before = base_fingerprint(model)
    seen, chosen = [], named_adapters([str(silent), "__base__", str(adapter)])
    with pytest.warns(UserWarning, match="silent") as warned:
        for one in in_turn(model, tokenizer, chosen, str(base)):
            seen.append((one.name, is_adapted(model)))
    assert len(warned) == 1
    assert seen == [("silent", True), ("__base__", False), ("out", True)]
    assert not is_adapted(model) and base_fingerprint(model) == before


def test_a_warning_is_a_note_of_one_line(base, peds, tmp_path, capfdbinary):
    silent = shutil.copytree(peds, tmp_path / "silent")
    (silent / "minilora.json").unlink()
    _, err = run(capfdbinary, "--base", base, "--adapter", silent, "--adapter", "__base__")
    assert err.startswith("note: ") and err.count("\n") == 1 and names(err, "silent")
