"""Records: what a row of data says, before any tokenizer: chat messages, or plain text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SHAPES = {
    "messages": "messages as they are",
    "conversations": "ShareGPT: from human and gpt -> user and assistant, value -> content",
    "prompt": "prompt -> user, completion -> assistant",
    "instruction": "Alpaca: instruction, then input -> user, output -> assistant",
    "text": "text, all of it learned",
}
"""The shapes of a row, by the key that each is known by, and how each is read. The first that a row
has counts."""

ROLES = ("system", "user", "assistant")
SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
"""ShareGPT's names of the roles."""

ROW_KEYS = (
    "tools", "functions", "documents", "history", "image", "images", "audio", "audios", "video",
    "videos",
)  # fmt: skip
"""Keys of a row that say more than its texts do, so that its texts alone would be another row."""
MESSAGE_KEYS = (
    "tool_calls", "function_call", "tool_call_id", "name", "image", "images", "audio", "refusal",
    "reasoning_content", "thinking",
)  # fmt: skip
"""Keys of a message that say more than its content does."""

LONGEST_SHOWN = 40


@dataclass(frozen=True)
class Record:
    """One training text: chat messages, or plain text, and where it stood.

    unlearned: the places of assistant messages that are read and not learned. shape: the key of
    SHAPES that it was read by. row: the object that it was read from, as it stood in the file.
    """

    source: str
    messages: tuple[dict, ...] = ()
    text: str = ""
    unlearned: frozenset[int] = frozenset()
    shape: str = field(default="", compare=False)
    row: Mapping = field(default_factory=dict, compare=False, repr=False)

    @property
    def last_answer(self) -> int:
        """The place of the last message to be learned. Raises ValueError where there is none."""
        answers = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        learned = [i for i in answers if i not in self.unlearned]
        if not learned:
            raise ValueError("no message of the role 'assistant' is to be learned, expected one")
        return learned[-1]


@dataclass(frozen=True)
class Problem:
    """One row of a data file that can't be used, and why."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def prompt_messages(prompt: str, completion: str | None = None) -> tuple[dict, ...]:
    """One user message, and the assistant's answer where it is given."""
    messages = ({"role": "user", "content": prompt},)
    if completion is None:
        return messages
    return (*messages, {"role": "assistant", "content": completion})


# -- JSON ------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, object]]) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:LONGEST_SHOWN]!r} stands twice, expected it once")
    return value


def _constant(name: str) -> None:
    raise ValueError(f"got {name}, which is no JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
"""Reads JSON as the standard has it: a key once, and neither NaN nor an infinity."""


def parse_json(text: str) -> object:
    """The value of a JSON text. Raises ValueError, in one line, where it is none."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")  # json's own words may end so
        place = f"line {error.lineno}, column" if error.lineno > 1 else "column"
        raise ValueError(f"not JSON: {reason} at {place} {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: it is nested too deeply") from None


def shown(value: object) -> str:
    """A JSON value in a few words, for errors: what it is, and itself where it is short.

    A text is shown as Python writes it, so that whatever it holds fits on a line and a terminal.
    """
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return "a JSON object" if isinstance(value, dict) else "a JSON array"
    if isinstance(value, str):
        return f"the text {_short(repr(value[:LONGEST_SHOWN]), len(value))}"
    return _short(json.dumps(value), 0)


def _short(text: str, length: int) -> str:
    longer = max(len(text), length) > LONGEST_SHOWN
    return f"{text[:LONGEST_SHOWN]}…" if longer else text


def key_names(keys: Iterable[str]) -> str:
    """The first keys of an object, in order of the alphabet."""
    return "[" + ", ".join(repr(key[:LONGEST_SHOWN]) for key in sorted(keys)[:5]) + "]"


# -- rows ------------------------------------------------------------------------------------------


def parse_record(row: object, source: str) -> Record:
    """A Record from a row of one of SHAPES; a key whose value is null counts as absent.

    A `system` text beside a chat becomes its first message. Raises ValueError saying what was got
    and expected, also for a key that would change what the row means (ROW_KEYS, MESSAGE_KEYS);
    other keys are ignored.
    """
    if not isinstance(row, dict):
        raise ValueError(f"got {shown(row)}, expected an object")
    shape = next((key for key in SHAPES if row.get(key) is not None), None)
    if shape is None and row.get("completion") is not None:
        shape = "prompt"
    if shape is None:
        shape = next((key for key in SHAPES if key in row), None)
    if shape is None:
        raise ValueError(
            f"got the keys {key_names(row)}, expected prompt and completion, or messages, or "
            "conversations, or instruction and output, or text"
        )
    _refuse_keys(row, ROW_KEYS, "the row")
    if shape == "text":
        if row.get("system"):
            raise ValueError("got 'system' beside 'text', expected one of them")
        return Record(source, text=_text(row, "text"), shape=shape, row=row)
    messages, unlearned = _CHATS[shape](row)
    if row.get("system"):
        if messages[0]["role"] == "system":
            raise ValueError("got 'system' and a system message, expected one of them")
        first = {"role": "system", "content": _text(row, "system")}
        messages, unlearned = (first, *messages), frozenset(i + 1 for i in unlearned)
    record = Record(source, messages, unlearned=unlearned, shape=shape, row=row)
    _ = record.last_answer  # A chat without one teaches nothing.
    return record


def _refuse_keys(value: Mapping, keys: tuple[str, ...], where: str) -> None:
    """Raise ValueError for the first of `keys` that is there and not empty."""
    for key in keys:
        if value.get(key) not in (None, "", [], {}):
            raise ValueError(f"{where} has {key!r}, which can't be learned; expected texts alone")


def _text(row: Mapping, key: str) -> str:
    return _checked(row.get(key), repr(key), key in row)


def _checked(value: object, name: str, there: bool = True) -> str:
    """`value` if it is a text that a tokenizer can read. Raises ValueError naming what was got."""
    if not there:
        raise ValueError(f"{name} is missing, expected a text")
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, expected a text")
    if not value.strip():
        raise ValueError(f"{name} is empty, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell it, and no tokenizer can read it.
        raise ValueError(f"{name} has half of a surrogate pair, expected a text") from None
    return value


def _prompt(row: Mapping) -> tuple[tuple[dict, ...], frozenset[int]]:
    return prompt_messages(_text(row, "prompt"), _text(row, "completion")), frozenset()


def _alpaca(row: Mapping) -> tuple[tuple[dict, ...], frozenset[int]]:
    asked = _text(row, "instruction")
    if row.get("input") not in (None, ""):
        asked = f"{asked}\n\n{_text(row, 'input')}"
    return prompt_messages(asked, _text(row, "output")), frozenset()


def _messages(row: Mapping) -> tuple[tuple[dict, ...], frozenset[int]]:
    return _chat(row["messages"], "messages")


def _conversations(row: Mapping) -> tuple[tuple[dict, ...], frozenset[int]]:
    return _chat(row["conversations"], "conversations")


_CHATS = {
    "messages": _messages,
    "conversations": _conversations,
    "prompt": _prompt,
    "instruction": _alpaca,
}


def _chat(messages: object, name: str) -> tuple[tuple[dict, ...], frozenset[int]]:
    """The messages of a chat, each with role and content alone, and those not to be learned."""
    if not isinstance(messages, list):
        raise ValueError(f"{name!r} is {shown(messages)}, expected a list of messages")
    if not messages:
        raise ValueError(f"{name!r} is an empty list, expected messages")
    read, unlearned = [], set()
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"a message is {shown(message)}, expected an object")
        role = _role(message)
        _refuse_keys(message, MESSAGE_KEYS, f"the {role} message")
        read.append({"role": role, "content": _content(message, role)})
        weight = message.get("weight")
        if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
            raise ValueError(f"the {role} message has the weight {shown(weight)}, expected 0 or 1")
        if weight == 0 and role == "assistant":
            unlearned.add(place)
    return tuple(read), frozenset(unlearned)


def _role(message: Mapping) -> str:
    """Who says a message, by OpenAI's key `role` or by ShareGPT's `from`."""
    key = "from" if message.get("role") is None and message.get("from") is not None else "role"
    if message.get(key) is None:
        raise ValueError("a message has no 'role', expected one")
    names = SPEAKERS if key == "from" else dict(zip(ROLES, ROLES, strict=True))
    name = message[key]
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"a message has for {key!r} {shown(name)}, expected one of {[*names]}")
    return names[name]


def _content(message: Mapping, role: str) -> str:
    """The text of a message: its content, or value; of a list of parts, the texts joined."""
    key = "value" if "content" not in message and "value" in message else "content"
    content, name = message.get(key), f"the {role} message's {key}"
    if not isinstance(content, list):
        return _checked(content, name, key in message)
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            kind = "an object without a type" if isinstance(part, dict) else shown(part)
            raise ValueError(f"{name} has a part that is {kind}, expected parts of type 'text'")
        if part["type"] != "text":
            raise ValueError(
                f"{name} has a part of type {part['type'][:LONGEST_SHOWN]!r}, expected 'text' alone"
            )
    return _checked("".join(_checked_part(part, name) for part in content), name)


def _checked_part(part: Mapping, name: str) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError(f"{name} has a part whose 'text' is {shown(text)}, expected a text")
    return text
