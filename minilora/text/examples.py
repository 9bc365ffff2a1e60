"""Examples: records as token ids and labels, with a loss on the assistant's words only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minilora.autograd import IGNORE
from minilora.limits import require_count
from minilora.text.pieces import encode_pieces
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
    """Token ids with labels on the assistant's messages that are to be learned.

    Prompt and answer are tokenized apart, as they are when the model generates. A plain text is
    learned from its second token to its end (`text_ids`). Raises ValueError when the chat template
    does not keep earlier messages as a prefix.
    """
    if record.text:
        tokens = np.concatenate(list(text_ids(tokenizer, [record.text])))
        return Example(tokens[:-1], tokens[1:], record.source)
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
        segments.append((tokenizer.encode(whole[len(prompt) :]), i not in record.unlearned))
        done = whole
    return example_from_segments(segments, record.source)


def opening_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens with which the chat template opens the assistant's turn.

    Raises ValueError for a template that has none.
    """
    said = [{"role": "user", "content": "x"}]
    asked = tokenizer.apply_chat_template(said, add_generation_prompt=True)
    without = tokenizer.apply_chat_template(said, add_generation_prompt=False)
    opening = asked.removeprefix(without)
    if not opening or opening == asked:
        raise ValueError(
            "got a chat template that opens no turn of the assistant's, expected one with a "
            "generation prompt: from there on an activated adapter acts"
        )
    return tuple(tokenizer.encode(opening))


def one_answer_each(example: Example) -> list[Example]:
    """An example for each answer of a chat, with all that comes before it and its labels alone.

    An answer is a run of labels; a chat with one answer is itself.
    """
    labelled = np.flatnonzero(example.labels != IGNORE)
    runs = np.split(labelled, np.flatnonzero(np.diff(labelled) > 1) + 1)
    if len(runs) == 1:
        return [example]
    rows = []
    for run in runs:
        stop = int(run[-1]) + 1
        labels = np.full(stop, IGNORE, example.labels.dtype)
        labels[run] = example.labels[run]
        rows.append(Example(example.ids[:stop], labels, example.source))
    return rows


def text_ids(tokenizer: Tokenizer, chunks: Iterable[str]) -> Iterator[np.ndarray]:
    """The ids of a plain text, int32 in pieces: its own, and the tokens of its beginning and end.

    The tokenizer's beginning, where it has one, and the end of sequence are added where the text
    does not spell them out itself.
    """
    before, after = tokenizer.text_ends()
    first, last = True, np.empty(0, np.int32)
    for ids in encode_pieces(tokenizer, chunks):
        if first and before and ids[: len(before)].tolist() != before:
            yield np.array(before, np.int32)
        first = False
        yield ids
        last = ids if len(ids) else last
    if after and last[-len(after) :].tolist() != after:
        yield np.array(after, np.int32)


def encode_text(
    tokenizer: Tokenizer, chunks: Iterable[str], max_length: int, source: str
) -> Iterator[Example | Problem]:
    """A plain text, in chunks, as windows of `max_length` positions; only the last one ends it.

    A text of one token, which nothing follows to be learned, is a Problem.
    """
    require_count("max_length", max_length, 1)
    count, rest = 0, np.empty(0, np.int32)
    for ids in text_ids(tokenizer, chunks):
        rest, begin = np.concatenate([rest, ids]), 0
        while (stop := begin + max_length) < len(rest):
            yield Example(rest[begin:stop], rest[begin + 1 : stop + 1], source)
            begin, count = stop, count + 1
        rest = rest[begin:]
    if len(rest) > 1:
        yield Example(rest[:-1], rest[1:], source)
    elif not count:
        yield Problem(source, f"got {len(rest)} token, expected at least 2")


def encode_rows(
    tokenizer: Tokenizer, rows: Iterable[Record | Problem], max_length: int
) -> Iterator[Example | Problem]:
    """Each row as an example of at most `max_length` positions, a longer plain text as several.

    A longer chat, one that the chat template refuses, or a text of one token becomes a Problem.
    """
    require_count("max_length", max_length, 1)
    for row in rows:
        if isinstance(row, Problem):
            yield row
        elif row.text:
            yield from encode_text(tokenizer, [row.text], max_length, row.source)
        else:
            yield _chat_example(tokenizer, row, max_length)


def _chat_example(tokenizer: Tokenizer, record: Record, max_length: int) -> Example | Problem:
    try:
        example = encode_record(tokenizer, record)
    except ValueError as error:
        return Problem(record.source, str(error))
    if len(example) > max_length:
        reason = f"got {len(example)} tokens, expected at most {max_length}"
        return Problem(record.source, reason)
    if not (example.labels != IGNORE).any():
        return Problem(record.source, "got no token to learn after its first, expected one")
    return example


def encode_records(
    tokenizer: Tokenizer, records: Iterable[Record], max_length: int
) -> tuple[list[Example], list[Problem]]:
    """The examples of `encode_rows`, and the records that can't be used."""
    rows = list(encode_rows(tokenizer, records, max_length))
    return (
        [row for row in rows if isinstance(row, Example)],
        [row for row in rows if isinstance(row, Problem)],
    )
