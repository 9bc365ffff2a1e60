"""Examples: records as token ids and labels, with a loss on the assistant's words only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minilora.autograd import IGNORE
from minilora.text.records import Problem, Record
from minilora.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """Token ids (T,) and labels (T,): labels[t] is the token after ids[t], or IGNORE."""

    ids: np.ndarray
    labels: np.ndarray
    source: str = ""

    def __len__(self) -> int:
        return len(self.ids)


def example_from_segments(segments: Sequence[tuple[list[int], bool]], source: str = "") -> Example:
    """Join (token ids, learn?) segments; only tokens of segments to learn become labels."""
    ids = [token for tokens, _ in segments for token in tokens]
    targets = [token if learn else IGNORE for tokens, learn in segments for token in tokens]
    return Example(
        np.array(ids[:-1], dtype=np.int32), np.array(targets[1:], dtype=np.int32), source
    )


def encode_record(tokenizer: Tokenizer, record: Record) -> Example:
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
    tokenizer: Tokenizer, records: Sequence[Record], max_length: int
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
