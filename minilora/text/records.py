"""Records: what a data file holds, before any tokenizer: chat messages or plain text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One training text: chat messages, or plain text, and where it stood."""

    source: str
    messages: tuple[dict, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Problem:
    """One line of a data file that can't be used, and why."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def _nonempty_text(value: object) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell it; no tokenizer can read it
        raise ValueError("got half of a surrogate pair, expected a text") from None
    return True


def parse_record(value: object, source: str) -> Record:
    """A Record from {"prompt", "completion"}, {"messages": [...]} or {"text"}.

    Raises ValueError saying what was got and expected; other keys are ignored.
    """
    if not isinstance(value, dict):
        raise ValueError(f"got a JSON {type(value).__name__}, expected an object")
    if "messages" in value:
        return Record(source, messages=_parse_messages(value["messages"]))
    if "prompt" in value or "completion" in value:
        for key in ("prompt", "completion"):
            if not _nonempty_text(value.get(key)):
                raise ValueError(f"{key!r} is missing or empty, expected a text")
        return Record(source, messages=prompt_messages(value["prompt"], value["completion"]))
    if "text" in value:
        if not _nonempty_text(value["text"]):
            raise ValueError("'text' is empty, expected a text")
        return Record(source, text=value["text"])
    raise ValueError(
        f"got keys {sorted(value)[:5]}, expected prompt and completion, or messages, or text"
    )


def _parse_messages(messages: object) -> tuple[dict, ...]:
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' is not a list of messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError("a message has no 'role'")
        if not _nonempty_text(message.get("content")):
            raise ValueError(f"the {message['role']} message is empty, expected a text")
    if not any(m["role"] == "assistant" for m in messages):
        raise ValueError("no message has the role 'assistant': there is nothing to learn")
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def prompt_messages(prompt: str, completion: str | None = None) -> tuple[dict, ...]:
    """One user message, and the assistant's answer where it is given."""
    messages = ({"role": "user", "content": prompt},)
    if completion is None:
        return messages
    return (*messages, {"role": "assistant", "content": completion})


def read_records(path: Path | str) -> tuple[list[Record], list[Problem]]:
    """Records of a JSONL file, or of a plain text file (any other suffix: one record).

    A line that can't be used becomes a Problem with file and line number. Raises
    FileNotFoundError, or ValueError for a file that is not UTF-8 text or holds no text.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")  # Windows editors write a mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}), expected JSONL") from None
    is_jsonl = path.suffix in {".jsonl", ".json", ".ndjson"}
    if not content.strip():
        got = "holds nothing but blank lines" if content else "is empty"
        expected = "JSON with an example on each line" if is_jsonl else "a text"
        raise ValueError(f"{path} {got}, expected {expected}")
    if not is_jsonl:
        return [Record(str(path), text=content)], []
    records, problems = [], []
    # Not splitlines(): JSON may hold U+2028 and its like inside a text.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            records.append(parse_record(json.loads(line), source))
        except json.JSONDecodeError as error:
            reason = error.msg.removesuffix(" at")  # json's own words may end so
            problems.append(Problem(source, f"not JSON: {reason} at column {error.colno}"))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(source, str(error)))
    return records, problems
