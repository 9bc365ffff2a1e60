"""Rows of a data file, one at a time, so that a file of any size takes the memory of a row."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from minilora.text.formats import COLUMNS, Format, delimiter_of, format_of, known_columns
from minilora.text.records import (
    DECODER,
    Problem,
    Record,
    key_names,
    parse_json,
    parse_record,
    shown,
)

LONGEST_ROW = 32 << 20
"""Bytes of a row; a longer text belongs into a file of its own, where it is read in pieces."""
CHUNK = 1 << 20

OnRead = Callable[[int], object]
"""Is told how many bytes more were read."""


def _silent(count: int) -> None:
    """Tells nobody."""


def read_records(path: Path | str, as_text: bool = False) -> tuple[list[Record], list[Problem]]:
    """All that `iter_records` gives: the records, and the rows that can't be used."""
    rows = list(iter_records(Path(path), as_text))
    return (
        [row for row in rows if isinstance(row, Record)],
        [row for row in rows if isinstance(row, Problem)],
    )


def iter_records(path: Path, as_text: bool = False) -> Iterator[Record | Problem]:
    """The rows of a data file, each as a record or as the problem that it has.

    A file of plain text is one record. Formats and errors: `format_of` and `read_rows`.
    """
    kind = format_of(path, as_text)
    if kind is Format.TEXT:
        yield Record(str(path), text="".join(read_text(path)), shape="text")
    else:
        yield from read_rows(path, kind)


def read_rows(path: Path, kind: Format, on_read: OnRead = _silent) -> Iterator[Record | Problem]:
    """Each row of a file of this format, as a record or as the problem that it has.

    A row's source is "path:line", or "path, item 3" in an array. Raises ValueError for a table
    whose heading names no columns that can be read, or for Format.TEXT, which has no rows.
    """
    readers = {Format.LINES: _lines, Format.ARRAY: _items, Format.TABLE: _table}
    if kind not in readers:
        raise ValueError(f"{path} is {kind.value}, expected rows")
    return readers[kind](path, on_read)


def read_text(path: Path, on_read: OnRead = _silent) -> Iterator[str]:
    """A UTF-8 text in chunks, without a mark at its beginning and with every line's end as \\n.

    Raises ValueError naming the first byte that is none of UTF-8.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), True)
    done, is_last = 0, False
    with path.open("rb") as file:
        while not is_last:
            chunk = file.read(CHUNK)
            is_last = not chunk
            done += len(chunk)
            try:
                text = decoder.decode(chunk, final=is_last)
            except UnicodeDecodeError as error:
                # The decoder was given this chunk and what it had kept of the one before.
                place, byte = done - len(error.object) + error.start, error.object[error.start]
                raise ValueError(
                    f"{path} is not text in UTF-8 (its byte {place} is {byte:#04x}), expected UTF-8"
                ) from None
            on_read(len(chunk))
            if text:
                yield text


def row_number(source: str) -> int:
    """The line or item that a source ends with, 0 where it names none."""
    digits = re.search(r"(?::|, item )(\d+)$", source)
    return int(digits[1]) if digits else 0


# -- lines -----------------------------------------------------------------------------------------


def _lines(path: Path, on_read: OnRead) -> Iterator[Record | Problem]:
    """The rows of JSON lines. Blank lines are none, and only a line's end divides them: JSON may
    hold U+2028 and its like inside a text."""
    with path.open("rb") as file:
        for number, line in enumerate(_raw_lines(file, on_read), 1):
            source = f"{path}:{number}"
            if line is None:
                reason = f"the line is longer than {LONGEST_ROW} bytes, expected shorter rows"
                yield Problem(source, reason)
                continue
            try:
                text = line.decode().removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                reason = f"not UTF-8: its byte {error.start} is {byte:#04x}"
                yield Problem(source, reason)
                continue
            if text.strip():
                yield _record_of(text, source)


def _raw_lines(file: io.BufferedIOBase, on_read: OnRead) -> Iterator[bytes | None]:
    """Each line's bytes without its end, None for one that is longer than LONGEST_ROW."""
    while line := file.readline(LONGEST_ROW + 1):
        on_read(len(line))
        if len(line) > LONGEST_ROW and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(CHUNK)
                on_read(len(line))
            yield None
        else:
            # A carriage return ends a line as well: it may not stand in JSON's texts.
            yield from line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")


def _record_of(text: str, source: str) -> Record | Problem:
    try:
        return parse_record(parse_json(text), source)
    except ValueError as error:
        return Problem(source, str(error))


# -- arrays ----------------------------------------------------------------------------------------


class _Window:
    """The part of a text that is being read: `text` from `at` on is still to come."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self.chunks, self.text, self.at = chunks, "", 0

    def more(self) -> bool:
        """Add to what is still to come at least as much again; False where there is no more."""
        parts, wanted = [self.text[self.at :]], len(self.text) - self.at
        added = 0
        while added <= wanted and (chunk := next(self.chunks, "")):
            parts.append(chunk)
            added += len(chunk)
        self.text, self.at = "".join(parts), 0
        return added > 0

    def skip_blanks(self) -> str:
        """The next character that is no blank, "" at the end."""
        while True:
            self.at = _BLANKS.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""


_BLANKS = re.compile(r"[ \t\n\r]*")
_ANY_JSON = json.JSONDecoder()
_NEAR_THE_END = 16
"""Characters from an error to the end of what was read within which it may be the cut's fault."""


class _LostError(ValueError):
    """A value of which no end can be found."""


def _items(path: Path, on_read: OnRead) -> Iterator[Record | Problem]:
    """The rows of a JSON array. Where its commas or brackets are wrong, no row follows."""
    window = _Window(read_text(path, on_read))
    window.skip_blanks()
    window.at += 1  # The opening bracket, by which the file was known for an array.
    for number in itertools.count(1):
        source = f"{path}, item {number}"
        if number == 1 and window.skip_blanks() == "]":
            break
        window.skip_blanks()
        try:
            value, problem = _next_value(window)
        except _LostError as error:
            yield Problem(source, f"{error}; nothing after it can be read")
            return
        if problem is None:
            try:
                yield parse_record(value, source)
            except ValueError as error:
                problem = str(error)
        if problem is not None:
            yield Problem(source, problem)
        after = window.skip_blanks()
        if after == "]":
            break
        if after != ",":
            got = repr(after) if after else "the end of the file"
            yield Problem(source, f"got {got} after it, expected ',' or ']'")
            return
        window.at += 1
    window.at += 1
    if after := window.skip_blanks():
        yield Problem(f"{path}, after the array", f"got {after!r}, expected the end of the file")


def _next_value(window: _Window) -> tuple[object, str | None]:
    """The value at the window's place, which moves behind it, or what is wrong with the value.

    Raises _LostError where no end of it can be found.
    """
    while True:
        problem = None
        try:
            try:
                value, end = DECODER.raw_decode(window.text, window.at)
            except json.JSONDecodeError:
                raise
            except ValueError as error:  # A key twice, or a NaN: its end can still be found.
                value, problem = None, str(error)
                _, end = _ANY_JSON.raw_decode(window.text, window.at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or (
                error.pos >= len(window.text) - _NEAR_THE_END
            )
            if cut and len(window.text) - window.at <= LONGEST_ROW and window.more():
                continue
            raise _LostError(f"not JSON: {error.msg.removesuffix(' at')}") from None
        except RecursionError:
            raise _LostError("not JSON that can be read: it is nested too deeply") from None
        if end == len(window.text) and window.more():
            continue  # A number may go on.
        window.at = end
        return value, problem


# -- tables ----------------------------------------------------------------------------------------


def _table(path: Path, on_read: OnRead) -> Iterator[Record | Problem]:
    """The rows of a table, by its heading's names; those of COLUMNS count without case."""
    lines = _text_lines(read_text(path, on_read))
    first, heading = 0, ""
    while not heading.strip():
        first, heading = first + 1, next(lines)
    delimiter = delimiter_of(heading, path.suffix.lower())
    csv.field_size_limit(LONGEST_ROW)
    rows = csv.reader(itertools.chain([heading], lines), delimiter=delimiter, strict=True)
    names = _names(path, rows)
    while True:
        source = f"{path}:{first + rows.line_num}"
        try:
            cells = next(rows, None)
        except csv.Error as error:
            yield Problem(source, f"not a row of a table: {error}")
            continue
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield _row_of(names, cells, source)


def _names(path: Path, rows: Iterator[list[str]]) -> list[str]:
    """The heading's names. Raises ValueError where they name no row that can be read."""
    try:
        heading = next(rows)
    except csv.Error as error:
        raise ValueError(f"{path} has no heading that can be read: {error}") from None
    known = {name for columns in COLUMNS for name in columns} | {"input", "system"}
    plain = [name.strip().lower() for name in heading]
    names = [p if p in known else name.strip() for p, name in zip(plain, heading, strict=True)]
    if not known_columns(heading):
        raise ValueError(
            f"{path} has the columns {key_names(names)}, expected prompt and completion, or "
            "instruction and output, or text; or --text to learn it as it is"
        )
    twice, count = Counter(filter(None, names)).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path} has the column {shown(twice)} {count} times, expected it once")
    return names


def _row_of(names: list[str], cells: list[str], source: str) -> Record | Problem:
    if any(cells[len(names) :]):
        return Problem(source, f"got {len(cells)} cells, expected the heading's {len(names)}")
    try:
        return parse_record(dict(zip(names, cells, strict=False)), source)
    except ValueError as error:
        return Problem(source, str(error))


def _text_lines(chunks: Iterator[str]) -> Iterator[str]:
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            yield line + "\n"
    if rest:
        yield rest
