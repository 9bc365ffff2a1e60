"""The prompt that a command line gives: an option, a file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from minilora.cli.options import utf8


def read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """The prompt from the option, the file or standard input, without its last newlines.

    Raises ValueError for both, none, an empty one, or one that is not UTF-8.
    """
    if prompt is not None and prompt_file is not None:
        raise ValueError("got --prompt and --prompt-file, expected one of them")
    if prompt is not None:
        utf8("--prompt", prompt)
    else:
        if prompt_file is None and sys.stdin.isatty():
            raise ValueError("got no prompt, expected --prompt, --prompt-file or standard input")
        raw = sys.stdin.buffer.read() if prompt_file is None else prompt_file.read_bytes()
        source = "standard input" if prompt_file is None else prompt_file
        try:
            prompt = raw.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is not UTF-8 text (byte {error.start})") from None
    if not prompt.strip():
        raise ValueError("got an empty prompt, expected a text")
    return prompt
