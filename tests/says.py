"""What a message must name, whatever its words: the value that was got, what was expected, where.

A test gives values, not sentences: numbers, shapes, the name of an argument, a field, a file or an
option, or a text that the user gave. So words can improve, and a message that forgets the value
still fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def names(message: object, *values: object) -> bool:
    """Whether the message (an error, a text) names each value.

    A number counts only whole, with or without commas between thousands: 1 is not named by 12 or
    1.5. A text counts where it is part of the message, or, if it is one word, where it is a word.
    """
    text = str(message.value) if isinstance(message, pytest.ExceptionInfo) else str(message)
    text = " ".join(text.split())
    return all(_is_named(value, text) for value in values)


def _is_named(value: object, text: str) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        spellings = {str(value), f"{value:g}", f"{value:,}", str(float(value))}
        number = "|".join(map(re.escape, spellings))
        return re.search(rf"(?<![\w.,-])(?:{number})(?![\w]|[.,]\d)", text) is not None
    wanted = " ".join(str(value).split())
    if re.fullmatch(r"\w+", wanted):
        return re.search(rf"(?<!\w){wanted}(?!\w)", text) is not None
    return wanted in text


@contextmanager
def refusal(
    kind: type[BaseException] | tuple[type[BaseException], ...], *values: object
) -> Iterator[pytest.ExceptionInfo]:
    """The body raises an error of this kind that names these values."""
    with pytest.raises(kind) as caught:
        yield caught
    assert names(caught, *values), f"{caught.value!r} does not name all of {values}"


def error_line(capsys: pytest.CaptureFixture) -> str:
    """The one line that a refused command leaves on stderr, without `error:`."""
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), (out, err)
    return err.removeprefix("error: ").rstrip("\n")
