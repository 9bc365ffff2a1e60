"""Examples, loss masks, JSONL files and batches that are a pure function of (seed, step)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from minilora.autograd import IGNORE
from minilora.training.limits import require_count


class ChatTokenizer(Protocol):
    """What encoding needs of a tokenizer: text to ids, and the model's chat template."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool) -> str:
        """The messages as one text, as the model was trained to read them."""


@dataclass(frozen=True)
class Record:
    """One training text: chat messages, or plain text, and where it stood."""

    source: str
    messages: tuple[dict, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Example:
    """Token ids (T,) and labels (T,): labels[t] is the token after ids[t], or IGNORE."""

    ids: np.ndarray
    labels: np.ndarray
    source: str = ""

    def __len__(self) -> int:
        return len(self.ids)


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


# -- tokens and masks --------------------------------------------------------------------------


def example_from_segments(segments: Sequence[tuple[list[int], bool]], source: str = "") -> Example:
    """Join (token ids, learn?) segments; only tokens of segments to learn become labels."""
    ids = [token for tokens, _ in segments for token in tokens]
    targets = [token if learn else IGNORE for tokens, learn in segments for token in tokens]
    return Example(
        np.array(ids[:-1], dtype=np.int32), np.array(targets[1:], dtype=np.int32), source
    )


def encode_record(tokenizer: ChatTokenizer, record: Record) -> Example:
    """Token ids with labels on the assistant's messages only (plain text: on everything).

    Prompt and answer are tokenized apart, as they are when the model generates.
    Raises ValueError when the chat template does not keep earlier messages as a prefix.
    """
    if record.text:
        return example_from_segments([(tokenizer.encode(record.text), True)], record.source)
    segments, done = [], ""
    messages = list(record.messages)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages[: i + 1], add_generation_prompt=False)
        if not (prompt.startswith(done) and whole.startswith(prompt)):
            raise ValueError("the chat template rewrites earlier messages; expected a prefix")
        segments.append((tokenizer.encode(prompt[len(done) :]), False))
        segments.append((tokenizer.encode(whole[len(prompt) :]), True))
        done = whole
    return example_from_segments(segments, record.source)


def encode_records(
    tokenizer: ChatTokenizer, records: Sequence[Record], max_length: int
) -> tuple[list[Example], list[Problem]]:
    """Examples of at most `max_length` positions; longer chats become Problems.

    Plain text is cut into windows of max_length instead. A record that the chat template refuses,
    or of one token (nothing follows it to learn), becomes a Problem too.
    """
    if max_length < 1:
        raise ValueError(f"got max_length {max_length}, expected at least 1")
    examples, problems = [], []
    for record in records:
        try:
            example = encode_record(tokenizer, record)
        except ValueError as error:
            problems.append(Problem(record.source, str(error)))
            continue
        if len(example) == 0:
            problems.append(Problem(record.source, "got a single token, expected at least 2"))
        elif record.text:
            windows = range(0, len(example), max_length)
            examples += [_window(example, i, max_length) for i in windows]
        elif len(example) > max_length:
            reason = f"got {len(example)} tokens, expected at most {max_length}"
            problems.append(Problem(record.source, reason))
        else:
            examples.append(example)
    return examples, problems


def _window(example: Example, start: int, length: int) -> Example:
    stop = start + length
    return Example(example.ids[start:stop], example.labels[start:stop], example.source)


# -- batches -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Padded ids and labels (B, T), and which examples they are."""

    ids: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    @property
    def tokens(self) -> int:
        """Labelled positions, the ones that a loss is taken at."""
        return int((self.labels != IGNORE).sum())


def pad_examples(examples: Sequence[Example], indices: np.ndarray, pad_id: int = 0) -> Batch:
    """Examples padded on the right (attention is causal: padding there changes nothing)."""
    time = max(len(e) for e in examples)
    ids = np.full((len(examples), time), pad_id, dtype=np.int32)
    labels = np.full((len(examples), time), IGNORE, dtype=np.int32)
    for i, example in enumerate(examples):
        ids[i, : len(example)] = example.ids
        labels[i, : len(example)] = example.labels
    return Batch(ids, labels, np.asarray(indices))


class Batches:
    """Shuffled batches of examples; `batch(step)` depends on (seed, step) and nothing else.

    That is what makes a resumed run equal an unbroken one. Each epoch is a permutation from
    `default_rng([seed, epoch])`; runs of `bucket` batches are sorted by length, so that examples
    of one length meet and little is padded, and the batches are shuffled again.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        seed: int,
        pad_id: int = 0,
        bucket: int = 16,
    ) -> None:
        if not examples:
            raise ValueError("got 0 examples, expected at least 1")
        require_count("batch_size", batch_size, 1)
        require_count("seed", seed, 0)
        require_count("bucket", bucket, 1)
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.pad_id, self.bucket = pad_id, bucket
        self.lengths = np.array([len(e) for e in examples])
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.examples) // self.batch_size)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        if self._plan[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(len(self.examples))
            size = self.batch_size * self.bucket
            runs = [order[i : i + size] for i in range(0, len(order), size)]
            runs = [run[np.argsort(self.lengths[run], kind="stable")] for run in runs]
            order = np.concatenate(runs)
            cuts = range(0, len(order), self.batch_size)
            batches = [order[i : i + self.batch_size] for i in cuts]
            self._plan = (epoch, [batches[i] for i in rng.permutation(len(batches))])
        return self._plan[1]

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        epoch, i = divmod(step, len(self))
        indices = self._epoch(epoch)[i]
        return pad_examples([self.examples[int(j)] for j in indices], indices, self.pad_id)
