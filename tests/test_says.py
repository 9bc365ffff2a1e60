"""says.py: what counts as named."""

from __future__ import annotations

import sys

import pytest

from tests.says import error_line, names, refusal


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("got r 12, expected 3 to 8", 12),
        ("got r 12, expected 3 to 8.", 8),
        ("1,234,567 bytes", 1234567),
        ("got -1", -1),
        ("up to 70000.0, expected 65504", 70000),
        ("lr 0.5", 0.5),
        ("got nan", float("nan")),
        ("got weight (3, 4), expected (4, 3)", (4, 3)),
        ("dir/config.json: no such field", "config.json"),
        ("got lora_alpha 0", "lora_alpha"),
        ("two\n  words", "two words"),
        ("of ['a', 'b']", ["a", "b"]),
        (ValueError("got 7"), 7),
    ],
)
def test_a_value_is_named(message, value):
    assert names(message, value)


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("got r 12", 1),
        ("got r 12", 2),
        ("got r 1.5", 1),
        ("got r 1.5", 5),
        ("got -1", 1),
        ("1,234", 234),
        ("1,234", 1),
        ("x1 = 3", 1),
        ("got lora_alpha 0", "lora"),
        ("got (3, 4)", (4, 3)),
        ("", "x"),
    ],
)
def test_a_value_is_not_named(message, value):
    assert not names(message, value)


def test_a_refusal_has_its_kind_and_its_values():
    with refusal(ValueError, 3, "x") as caught:
        raise ValueError("got x = 3")
    assert caught.type is ValueError
    with pytest.raises(AssertionError), refusal(ValueError, 4):
        raise ValueError("got x = 3")
    with pytest.raises(OSError), refusal(ValueError, 3):
        raise OSError("got x = 3")
    with pytest.raises(pytest.fail.Exception), refusal(ValueError):
        pass


@pytest.mark.parametrize("text", ["", "two\nerror: lines\n", "error: a\nb\n", "note: a\n"])
def test_an_error_is_one_line(capsys, text):
    print("error: got 3", file=sys.stderr)
    assert error_line(capsys) == "got 3"
    print(text, end="", file=sys.stderr)
    with pytest.raises(AssertionError):
        error_line(capsys)
