"""Formats: what a data file is, decided by its name and by how it begins."""

from __future__ import annotations

import codecs
import csv
import json
import zipfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from minilora.text.records import DECODER

BEGINNING = 1 << 16
"""Bytes that are looked at."""


class Format(Enum):
    """How the rows of a data file are written."""

    LINES = "JSON, one row a line"
    ARRAY = "one JSON array of rows"
    TABLE = "a table with a heading"
    TEXT = "plain text"


JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv")
DELIMITERS = ",;\t|"

MAGIC = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3\x00": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Word or Excel file",
}
"""What no text begins with."""
PRINTED = {"%PDF-": "a PDF file", "{\\rtf": "a file in rich text format"}
"""Beginnings of files that are text by their bytes, but not to a reader."""
IN_ZIP = {
    "word/document.xml": "a Word file",
    "xl/workbook.xml": "an Excel file",
    "content.xml": "an OpenDocument file",
}
"""What a zip archive is, by a file in it."""


def format_of(path: Path, as_text: bool = False) -> Format:
    """The format of a data file. as_text: whether anything that is text at all is plain text.

    A suffix counts without case, and one before .txt counts, as some editors add that. A file of
    any other name is plain text, unless it begins as JSON, a table or a document does. Raises
    ValueError for such a file, and for one that is empty or no UTF-8 text; OSError.
    """
    with path.open("rb") as file:
        start = file.read(BEGINNING)
    is_whole = len(start) < BEGINNING
    _refuse_bytes(path, start)
    text = _decoded(path, start, is_whole)
    if not text.strip():
        if not is_whole:
            raise ValueError(f"{path} begins with {BEGINNING} blank bytes, expected data")
        got = "holds nothing but blank lines" if text else "is empty"
        raise ValueError(f"{path} {got}, expected data")
    if as_text:
        return Format.TEXT
    suffix = _suffix(path)
    if suffix in JSON_SUFFIXES:
        if _begins_array(text, is_whole):
            return Format.ARRAY
        if "\n" in text.strip() and _begins_long_object(text, is_whole):
            raise ValueError(
                f"{path} begins with a JSON object of several lines, expected one row a line, or "
                "an array of rows"
            )
        return Format.LINES
    if suffix in TABLE_SUFFIXES:
        return Format.TABLE
    got, expected = _other_than_text(text, is_whole)
    if got:
        raise ValueError(
            f"{path} begins like {got}, expected {expected}, or --text to learn it as it is"
        )
    return Format.TEXT


def _suffix(path: Path) -> str:
    *before, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    known = JSON_SUFFIXES + TABLE_SUFFIXES
    return before[-1] if last == ".txt" and before[-1] in known else last


def _refuse_bytes(path: Path, start: bytes) -> None:
    """Raise ValueError for a file that is no text in UTF-8, by what its first bytes say."""
    kind = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)
    if kind is None and b"\x00" in start:
        half = len(start) / 4
        is_wide = start[::2].count(0) > half or start[1::2].count(0) > half
        kind = "UTF-16 text" if is_wide else "a binary file"
    if kind is None:
        return
    if kind == "a zip archive":
        kind = _kind_of_zip(path)
    raise ValueError(f"{path} is {kind}, expected text in UTF-8")


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        inside = set()
    return next((kind for name, kind in IN_ZIP.items() if name in inside), "a zip archive")


def _decoded(path: Path, start: bytes, is_whole: bool) -> str:
    """The text that a file begins with. Raises ValueError where its first line is no UTF-8.

    Of a later line, whoever reads the rows can say which it is.
    """
    body = start.removeprefix(codecs.BOM_UTF8)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        is_cut = not is_whole and error.start > len(body) - 4  # A character has up to four bytes.
        if not is_cut and b"\n" not in body[: error.start]:
            place, byte = len(start) - len(body) + error.start, body[error.start]
            raise ValueError(
                f"{path} is not text in UTF-8 (its byte {place} is {byte:#04x}), expected UTF-8"
            ) from None
        return body.decode(errors="replace")


# -- JSON ------------------------------------------------------------------------------------------


def _begins_array(text: str, is_whole: bool) -> bool:
    """Whether a file of JSON is one array, rather than lines that may be arrays themselves."""
    text = text.lstrip()
    if not text.startswith("["):
        return False
    first, newline, rest = text.partition("\n")
    try:
        DECODER.decode(first)
    except (ValueError, RecursionError):
        return True
    return not rest.strip() and (is_whole or not newline)


def _begins_long_object(text: str, is_whole: bool) -> bool:
    """Whether a text begins with a JSON object that goes on after its first line."""
    first = text.lstrip().partition("\n")[0]
    return not _begins_json(first, True) and _begins_json(text, is_whole)


def _begins_json(text: str, is_whole: bool) -> bool:
    """Whether a text begins with a JSON object, or with an array of objects, as far as it goes."""
    text = text.lstrip()
    if text.startswith("["):
        text = text[1:].lstrip()
    if not text.startswith("{"):
        return False
    try:
        DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        # What is cut off ends inside a string, or where more was expected.
        is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(text) - 8
        return not is_whole and is_cut
    except (ValueError, RecursionError):
        return True
    return True


# -- tables ----------------------------------------------------------------------------------------

COLUMNS = (("prompt", "completion"), ("instruction", "output"), ("text",))
"""Columns that a table's rows can be read by."""
LIKE_A_TABLE = 4
"""Lines that have to look like a table's before a text is taken for one."""


def known_columns(heading: Sequence[str]) -> bool:
    """Whether the cells of a heading name what a row needs."""
    names = {cell.strip().lower() for cell in heading}
    return any(names.issuperset(columns) for columns in COLUMNS)


def delimiter_of(heading: str, suffix: str) -> str:
    """What stands between the cells of a table: that which makes the heading's names known ones."""
    preferred = "\t" if suffix == ".tsv" else ","
    candidates = [preferred, *(one for one in DELIMITERS if one != preferred)]
    for delimiter in candidates:
        if known_columns(_cells(heading, delimiter)):
            return delimiter
    return preferred


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _begins_table(text: str, is_whole: bool) -> bool:
    """Whether a text has a table's heading, or first lines of equally many cells.

    A comma that a space follows is one of a sentence.
    """
    lines = text.split("\n") if is_whole else text.split("\n")[:-1]
    lines = [line for line in lines if line.strip()][:20]
    for delimiter in DELIMITERS if lines else "":
        heading = _cells(lines[0], delimiter)
        if len(heading) < 2 or not all(heading) or _is_spaced([heading]):
            continue
        if known_columns(heading):
            return True
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        widths = {len(row) for row in rows}
        if len(rows) >= LIKE_A_TABLE and len(widths) == 1 and not _is_spaced(rows):
            return True
    return False


def _is_spaced(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a cell begins with a space, as what follows a comma in a sentence does."""
    return any(cell.startswith(" ") for row in rows for cell in row[1:])


# -- text ------------------------------------------------------------------------------------------


def _other_than_text(text: str, is_whole: bool) -> tuple[str, str]:
    """What a file begins like that is no plain text, and what it should be; "" for neither."""
    for mark, kind in PRINTED.items():
        if text.lstrip().startswith(mark):
            return kind, "its text in a file of its own"
    if _begins_json(text, is_whole):
        return "JSON", f"a name that ends in {' or '.join(JSON_SUFFIXES)}"
    if _begins_table(text, is_whole):
        return "a table", f"a name that ends in {' or '.join(TABLE_SUFFIXES)}"
    return "", ""
