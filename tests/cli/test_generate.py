"""`minilora generate`: standard output holds the answer, as it comes, and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from minilora.cli import generate as command
from minilora.cli.app import main
from minilora.hub import load_pretrained
from minilora.lora import Adapter, attach
from minilora.nn import generate
from minilora.text import Tokenizer
from minilora.text.answers import raw_ids, stop_ids
from minilora.text.examples import text_ids
from minilora.text.streaming import answer_text
from tests.says import names

PROMPT = "Dose of aspirin?"


def expected(base, adapter=None, tokens=20, **sampling):
    model, tokenizer = load_pretrained(base)
    if adapter is not None:
        attach(model, Adapter.read(adapter))
    stops = stop_ids(model, tokenizer)
    prompts = [tokenizer.encode_prompt(PROMPT)]
    return tokenizer.decode(generate(model, prompts, tokens, stop_ids=stops, **sampling)[0])


@pytest.mark.parametrize("flags", [(), ("--temperature", "1.5", "--top-p", "0.9", "--seed", "4")])
def test_the_stream_equals_generate(base, adapter, capfdbinary, flags):
    argv = ["generate", "--base", str(base), "--prompt", PROMPT, "--max-new-tokens", "20", *flags]
    sampling = {"temperature": 1.5, "top_p": 0.9, "rng": np.random.default_rng(4)} if flags else {}
    outputs = []
    for more in ((), ("--adapter", str(adapter))):
        assert main([*argv, *more]) == 0
        outputs.append(capfdbinary.readouterr().out.decode("utf-8"))
    if flags:
        assert outputs[0] == expected(base, **sampling) + "\n"
        sampling["rng"] = np.random.default_rng(4)
    assert outputs[1] == expected(base, adapter, **sampling) + "\n"
    assert outputs[0] != outputs[1]


def test_tokens_are_written_as_they_come(base, capfdbinary, monkeypatch):
    seen = []
    real = command.Output.add

    def add(self, token):
        real(self, token)
        seen.append(capfdbinary.readouterr().out)

    monkeypatch.setattr(command.Output, "add", add)
    argv = ["generate", "--base", str(base), "--prompt", PROMPT, "--max-new-tokens", "6"]
    assert main(argv) == 0
    assert len(seen) == 6 and sum(map(bool, seen)) > 1
    rest = capfdbinary.readouterr().out
    assert (b"".join(seen) + rest).decode() == expected(base, tokens=6) + "\n"


@pytest.mark.parametrize("text", ["5 € für die Ärztin 💊", "a\ufffd b", "€\ufffd"])
def test_no_half_character_is_written(base, capfdbinary, text):
    _, tokenizer = load_pretrained(base)
    ids, parts = tokenizer.encode(text), []
    stream = command.Output(tokenizer, len(ids) + 1)
    assert len(ids) > 2
    for token in ids:
        stream.add(token)
        parts.append(capfdbinary.readouterr().out)
        parts[-1].decode("utf-8")  # whole characters each time
        assert not parts[-1].endswith("\ufffd".encode())
    stream.end()
    parts.append(capfdbinary.readouterr().out)
    assert b"".join(parts).decode() == text + "\n"


def test_a_raw_prompt_is_continued_as_it_is(base, capfdbinary):
    """As a model is asked that was trained on plain text: without the chat template."""
    argv = ["generate", "--base", str(base), "--prompt", PROMPT, "--max-new-tokens", "12"]
    assert main([*argv, "--raw"]) == 0
    raw = capfdbinary.readouterr().out.decode()
    model, tokenizer = load_pretrained(base)
    ids = tokenizer.encode(PROMPT)
    assert ids != tokenizer.encode_prompt(PROMPT)
    new = generate(model, [ids], 12, stop_ids=stop_ids(model, tokenizer))[0]
    assert raw == answer_text(tokenizer, new, 12) + "\n"
    assert main(argv) == 0
    assert capfdbinary.readouterr().out.decode() != raw


def test_a_raw_prompt_begins_as_a_text_that_is_learned():
    """Where the tokenizer has a token for a beginning; one for an end is not the prompt's."""
    words = {"[B]": 0, "[E]": 1, "a": 2, "b": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = Tokenizer(backend, {"eos_token": "[E]"})
    assert raw_ids(tokenizer, "a b") == [2, 3]
    for template, ids in (("[B] $A", [0, 2, 3]), ("[B] $A [E]", [0, 2, 3]), ("$A [E]", [2, 3])):
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=template, special_tokens=[("[B]", 0), ("[E]", 1)]
        )
        assert raw_ids(tokenizer, "a b") == ids
        learned = np.concatenate(list(text_ids(tokenizer, ["a b"]))).tolist()
        assert learned == [*ids, 1]
        assert raw_ids(tokenizer, "[B] a") == [0, 2]


def test_the_context_bounds_the_default_length(base, capfdbinary):
    long = ["generate", "--base", str(base), "--prompt", "x " * 25]
    assert main(long) == 0
    assert main([*long, "--max-new-tokens", "60"]) == 1
    assert names(capfdbinary.readouterr().err.decode(), 64)


def test_prompt_from_a_file(base, tmp_path, capfdbinary):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf" + PROMPT.encode() + b"\r\n")
    argv = ["generate", "--base", str(base), "--prompt-file", str(tmp_path / "p.txt")]
    assert main([*argv, "--max-new-tokens", "20"]) == 0
    assert capfdbinary.readouterr().out.decode() == expected(base) + "\n"


@pytest.mark.processes
def test_prompt_from_standard_input_in_a_process(base):
    code = "import sys; from minilora.cli.app import main; sys.exit(main())"
    argv = ["generate", "--base", str(base), "--max-new-tokens", "20"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}  # the answer is UTF-8 all the same
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], input=PROMPT.encode(), capture_output=True,
        env=environment, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("utf-8") == expected(base) + "\n"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--prompt", " "), ("prompt",)),
        (
            ("--prompt", "a", "--prompt-file", "b"),
            (
                "--prompt",
                "--prompt-file",
            ),
        ),
        (("--prompt", "caf\udce9"), ("UTF-8",)),  # what Python makes of a byte of Latin-1
        (("--prompt-file", "none.txt"), ("none.txt",)),
        (("--prompt", "x " * 90), (64,)),
        (
            ("--prompt", "a", "--max-new-tokens", "0"),
            (
                "max_new_tokens",
                0,
            ),
        ),
        (
            ("--prompt", "a", "--temperature", "-1"),
            (
                "temperature",
                -1,
            ),
        ),
        (
            ("--prompt", "a", "--top-p", "0"),
            (
                "top_p",
                0,
            ),
        ),
        (("--prompt", "a", "--adapter", "nowhere"), ("nowhere",)),
        (("--prompt", "a", "--base", "nowhere"), ("nowhere",)),
    ],
)
def test_mistakes_are_one_line(base, capsys, flags, named):
    assert main(["generate", "--base", str(base), *flags]) == 1
    shown = capsys.readouterr()
    assert names(shown.err, *named)
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert shown.out == ""


class Input:
    def __init__(self, data, tty):
        self.buffer, self.isatty = io.BytesIO(data), lambda: tty


@pytest.mark.parametrize(
    ("data", "tty", "words"), [(b"", True, "got no prompt"), (b"\xff", False, "not UTF-8")]
)
def test_odd_standard_input_is_refused(base, capsys, monkeypatch, data, tty, words):
    monkeypatch.setattr(sys, "stdin", Input(data, tty))
    assert main(["generate", "--base", str(base)]) == 1
    assert words in capsys.readouterr().err


def test_an_adapter_of_another_base_is_refused(other_base, adapter, capsys):
    argv = ["generate", "--base", str(other_base), "--adapter", str(adapter), "--prompt", "a"]
    assert main(argv) == 1
    assert "was made for base" in capsys.readouterr().err


def test_the_adapter_names_its_base(base, adapter, capfdbinary):
    argv = ["generate", "--adapter", str(adapter), "--prompt", PROMPT, "--max-new-tokens", "20"]
    assert main(argv) == 0
    assert capfdbinary.readouterr().out.decode() == expected(base, adapter) + "\n"
