"""Standard output and errors that take every character, whatever the system's code page."""

from __future__ import annotations

import codecs
from typing import Any


def take_any_text(*streams: Any) -> None:
    """Let text streams take Δ and ○ where their encoding has none, as in Windows' code pages.

    A terminal shows a question mark for what it can't show. A file or a pipe gets UTF-8, as
    Python 3.15 does by itself, for there an answer must not lose a character.
    """
    for stream in streams:
        encoding = getattr(stream, "encoding", None)
        if encoding is None or codecs.lookup(encoding).name.startswith("utf"):
            continue
        if stream.isatty():
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8")
