"""What a request asks, read from its JSON and refused field by field.

The fields are those of OpenAI's chat and text completions. One that would change the answer and is
not known here is refused, so that nobody believes that it acted.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from minilora.limits import require_count, require_finite
from minilora.serving.engine import Request
from minilora.text import Tokenizer
from minilora.text.answers import prompt_ids, raw_ids
from minilora.text.records import MESSAGE_KEYS, parse_json, shown

NEUTRAL: Mapping[str, tuple] = {
    "best_of": (1,), "echo": (False,), "frequency_penalty": (0,), "function_call": ("none",),
    "functions": ([],), "logit_bias": ({},), "logprobs": (False,), "modalities": (["text"],),
    "parallel_tool_calls": (True, False), "presence_penalty": (0,),
    "response_format": ({"type": "text"},), "suffix": ("",), "tool_choice": ("none", "auto"),
    "tools": ([],), "top_logprobs": (0,),
}  # fmt: skip
"""Fields that this server does not do, with the values under which they ask for nothing."""

BOOKKEEPING = (
    "metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user",
)  # fmt: skip
"""Fields that change no answer."""

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
STOPS, STOP_LENGTH = 4, 256
MOST_MESSAGES = 1000
LARGEST_SEED = 2**64


class Refused(ValueError):
    """A request that is not answered: HTTP's status, the field, and a short name of the reason."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        field: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.field, self.code, self.retry_after = status, field, code, retry_after


@dataclass(frozen=True)
class Limits:
    """How much a request may ask for.

    body: bytes. prompt: tokens, None for what the context has room for. new: tokens of an answer,
    and usual where a request names no number. together: answers to one request. seconds: from a
    request's arrival to the end of its answer. Raises ValueError for what leaves no room for any.
    """

    body: int = 1 << 20
    prompt: int | None = None
    new: int = 1024
    usual: int = 256
    together: int = 16
    seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in ("body", "new", "usual", "together"):
            require_count(name, getattr(self, name), 1)
        if self.prompt is not None:
            require_count("prompt", self.prompt, 1)
        require_finite("seconds", self.seconds, above=True)


@dataclass(frozen=True)
class Asked:
    """What one HTTP request asks: prompts of models, and how they are to be answered.

    models: one, or several that answer the same prompts. prompts: messages, texts or token ids.
    count: answers to each.
    """

    models: tuple[str, ...]
    prompts: tuple[Any, ...]
    count: int = 1
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    stream: bool = False
    with_usage: bool = False

    def requests(
        self, prompts: Sequence[Sequence[int]], limits: Limits, longest: int, stop_ids: Sequence
    ) -> list[Request]:
        """The engine's requests for these prompts as token ids, prompt by prompt.

        longest: positions of a prompt with its answer. Raises Refused for a prompt or an answer
        that is too long.
        """
        most = min(limits.prompt or longest, longest - 1)
        made = []
        for ids in prompts:
            if not 1 <= len(ids) <= most:
                refuse(
                    f"got a prompt of {len(ids)} tokens, expected 1 to {most}",
                    "prompt", code="context_length_exceeded",
                )  # fmt: skip
            room = min(limits.new, longest - len(ids))
            new = min(limits.usual, room) if self.max_tokens is None else self.max_tokens
            if new > room:
                refuse(
                    f"got max_tokens {new} beside a prompt of {len(ids)} tokens, expected at most "
                    f"{room}",
                    "max_tokens", code="context_length_exceeded",
                )  # fmt: skip
            seed = secrets.randbits(63) if self.seed is None else self.seed
            for name in self.models:
                one = Request(ids, name, new, self.temperature, self.top_p, seed, stop_ids=stop_ids)
                made += [replace(one, seed=(seed + i) % LARGEST_SEED) for i in range(self.count)]
        return made


def refuse(message: str, field: str | None = None, **details: Any) -> NoReturn:
    """Raise Refused."""
    raise Refused(message, field=field, **details)


def read_object(body: bytes) -> dict:
    """The JSON object of a body. Raises Refused for anything else."""
    try:
        value = parse_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        refuse(f"got a body that is not UTF-8 (byte {error.start}), expected JSON")
    except (ValueError, RecursionError) as error:
        refuse(f"got a body that is no JSON, expected an object: {error}")
    if not isinstance(value, dict):
        refuse(f"got {shown(value)}, expected an object")
    return value


def read_chat(body: Mapping, limits: Limits) -> Asked:
    """A request of /v1/chat/completions. Raises Refused."""
    common = _common(body, limits, {"messages"})
    return Asked((_model(body),), (_messages(body),), **common)


def read_completion(body: Mapping, limits: Limits) -> Asked:
    """A request of /v1/completions. Raises Refused."""
    common = _common(body, limits, {"prompt"})
    prompts = _prompts(body.get("prompt"))
    if len(prompts) * common["count"] > limits.together:
        refuse(
            f"got {len(prompts)} prompts and n {common['count']}, expected at most "
            f"{limits.together} answers to one request", "prompt",
        )  # fmt: skip
    return Asked((_model(body),), prompts, **common)


def read_comparison(body: Mapping, limits: Limits) -> Asked:
    """A request of /v1/compare: chat messages, and `models` that all answer. Raises Refused."""
    common = _common({**body, "n": None}, limits, {"messages", "models"})
    models = body.get("models")
    good = isinstance(models, list) and 1 <= len(models) <= limits.together
    if not good or not all(isinstance(one, str) for one in models):
        most = limits.together
        refuse(f"got models {shown(models)}, expected a list of 1 to {most} names", "models")
    return Asked(tuple(models), (_messages(body),), **common)


def encode(asked: Asked, tokenizer: Tokenizer, vocabulary: int) -> list[list[int]]:
    """The prompts as token ids. Raises Refused for ids that are none, and what has no encoding."""
    made = []
    for one in asked.prompts:
        if isinstance(one, tuple):
            bad = [i for i in one if isinstance(i, bool) or not 0 <= i < vocabulary]
            if bad:
                refuse(f"got token {bad[0]}, expected ids below {vocabulary}", "prompt")
            made.append(list(one))
            continue
        try:
            text = isinstance(one, str)
            made.append(raw_ids(tokenizer, one) if text else prompt_ids(tokenizer, one))
        except ValueError as error:
            refuse(str(error), "prompt" if isinstance(one, str) else "messages")
    return made


# ------------------------------------------------------------------------------------- the fields


def _model(body: Mapping) -> str:
    name = body.get("model")
    if not isinstance(name, str) or not name:
        refuse(f"got model {shown(name)}, expected the name of a model", "model")
    return name


def _common(body: Mapping, limits: Limits, own: set[str]) -> dict[str, Any]:
    """The fields that all three kinds of requests have, as Asked names them."""
    given = {name: value for name, value in body.items() if value is not None}
    stream_options = given.get("stream_options", {})
    if not isinstance(stream_options, dict):
        refuse(f"got {shown(stream_options)}, expected an object", "stream_options")
    known = {
        "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop",
        "stream", "stream_options", "n", *own, *BOOKKEEPING,
    }  # fmt: skip
    for name, value in given.items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                refuse(f"got {name} {shown(value)}, which this server does not do", name)
        elif name not in known:
            refuse(f"got the field {name!r}, which this server does not know", name)
    most = given.get("max_completion_tokens", given.get("max_tokens"))
    return {
        "count": _whole(given, "n", 1, limits.together, 1),
        "max_tokens": None if most is None else _whole({"max_tokens": most}, "max_tokens", 1),
        "temperature": _number(given, "temperature", 0.0, 0.0, 2.0),
        "top_p": _number(given, "top_p", 1.0, 0.0, 1.0, above=True),
        "seed": _whole(given, "seed", -(2**63), 2**64 - 1, None, LARGEST_SEED),
        "stops": _stops(given.get("stop", [])),
        "stream": _flag(given, "stream"),
        "with_usage": _flag(stream_options, "include_usage"),
    }


def _whole(
    given: Mapping, name: str, least: int, most: int | None = None,
    usual: int | None = None, modulo: int | None = None,
) -> Any:  # fmt: skip
    value = given.get(name, usual)
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        refuse(f"got {name} {shown(value)}, expected a whole number {span}", name)
    return value if modulo is None else value % modulo


def _number(
    given: Mapping, name: str, usual: float, least: float, most: float, above: bool = False
) -> float:
    value = given.get(name, usual)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        refuse(f"got {name} {shown(value)}, expected a number from {least:g} to {most:g}", name)
    if above and value == least:
        refuse(f"got {name} {shown(value)}, expected a number above {least:g}", name)
    return float(value)


def _flag(given: Mapping, name: str) -> bool:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        refuse(f"got {name} {shown(value)}, expected true or false", name)
    return bool(value)


def _stops(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    good = isinstance(stops, list) and len(stops) <= STOPS
    if not good or not all(isinstance(s, str) and 0 < len(s) <= STOP_LENGTH for s in stops):
        refuse(
            f"got stop {shown(value)}, expected up to {STOPS} texts of 1 to {STOP_LENGTH} "
            "characters", "stop",
        )  # fmt: skip
    return tuple(stops)


def _messages(body: Mapping) -> list[dict]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MOST_MESSAGES:
        refuse(f"got messages {shown(messages)}, expected a list of 1 to {MOST_MESSAGES}",
               "messages")  # fmt: skip
    return [_message(i, one) for i, one in enumerate(messages)]


def _message(index: int, message: object) -> dict:
    field = f"messages[{index}]"
    if not isinstance(message, dict):
        refuse(f"got {field} {shown(message)}, expected an object", field)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        refuse(f"got role {shown(role)}, expected one of {', '.join(ROLES)}", f"{field}.role")
    for name in MESSAGE_KEYS:
        if message.get(name):
            refuse(f"got {name} in {field}, which this server does not do", f"{field}.{name}")
    if isinstance(content, list):
        texts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
        whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
        content = "".join(texts) if whole else content
    if not isinstance(content, str):
        refuse(f"got content {shown(content)}, expected a text", f"{field}.content")
    return {"role": ROLES[role], "content": content}


def _prompts(value: object) -> tuple[Any, ...]:
    """Texts, and tuples of token ids."""
    several = value if isinstance(value, list) else [value]
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        several = [value]
    made = []
    for one in several:
        if isinstance(one, list) and one and all(isinstance(i, int) for i in one):
            made.append(tuple(one))
        elif isinstance(one, str) and one:
            made.append(one)
        else:
            refuse(f"got prompt {shown(value)}, expected texts, or lists of token ids", "prompt")
    if not made:
        refuse(f"got prompt {shown(value)}, expected a text", "prompt")
    return tuple(made)
