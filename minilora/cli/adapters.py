"""Adapters given on a command line by name, and the one base that they take turns on."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from minilora.hub.bases import base_dtype_of, base_of, find_base, public_name
from minilora.lora import Adapter, Attachment, BaseMark, attach, mark_base
from minilora.nn import Transformer
from minilora.text import Tokenizer

BASE = "__base__"
"""The name of "no adapter"."""
PATTERNS = ("rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class NamedAdapter:
    """A name and the adapter's folder, or None for the base itself."""

    name: str
    folder: Path | None


def named_adapters(texts: Sequence[str]) -> list[NamedAdapter]:
    """What `--adapter` was given, in order: NAME=DIR, a DIR by its own name, or `__base__`.

    Nothing given means the base. Raises ValueError for a name that is given twice, is empty or
    unprintable, or is `__base__` for a folder.
    """
    chosen = [_named(text) for text in texts] or [NamedAdapter(BASE, None)]
    first: dict[str, NamedAdapter] = {}
    for one in chosen:
        other = first.setdefault(one.name, one)
        if other is not one:
            raise ValueError(
                f"got --adapter {one.name!r} twice, for {other.folder or 'the base'} and "
                f"{one.folder or 'the base'}; expected a name for each, as in NAME=DIR"
            )
    return chosen


def _named(text: str) -> NamedAdapter:
    if text == BASE:
        return NamedAdapter(BASE, None)
    name, mark, folder = text.partition("=")
    if not mark or Path(text).exists():  # a folder's own name may hold "="
        name, folder = Path(text).resolve().name, text
    if not name or not folder or not name.isprintable():
        raise ValueError(f"got --adapter {text!r}, expected DIR, NAME=DIR or {BASE}")
    if name == BASE:
        raise ValueError(
            f"got --adapter {text!r}, whose name stands for the base without an adapter; "
            "expected another, as in NAME=DIR"
        )
    return NamedAdapter(name, Path(folder).expanduser())  # NAME=~/x is not the shell's to expand


def base_of_all(base: str | None, chosen: Sequence[NamedAdapter]) -> str:
    """The base to open: as asked, else the one that all the adapters name, else ward-base.

    Raises ValueError as `base_of` does, or naming two adapters that name different bases.
    """
    if base is not None:
        return base
    named = [(one, base_of(None, one.folder)) for one in chosen if one.folder is not None]
    if not named:
        return base_of(None, None)
    first, expected = named[0]
    for one, got in named[1:]:
        if got != expected and find_base(got).resolve() != find_base(expected).resolve():
            raise ValueError(
                f"--adapter {first.name} was made for base {expected!r} and {one.name} for "
                f"{got!r}; expected adapters of one base, or --base to say which"
            )
    return expected


def base_dtype_of_all(dtype: str | None, chosen: Sequence[NamedAdapter]) -> str:
    """How to keep the base: as asked, else as it was when all the adapters were trained.

    Raises ValueError naming two adapters that differ in it.
    """
    if dtype is not None:
        return dtype
    kept = {base_dtype_of(one.folder): one.name for one in chosen if one.folder is not None}
    if len(kept) > 1:
        (first, one), (second, other), *_ = kept.items()
        raise ValueError(
            f"--adapter {one} was trained over a base in {first} and {other} over one in {second}; "
            "expected adapters of one base"
        )
    return next(iter(kept), "float32")


def in_turn(
    model: Transformer, tokenizer: Tokenizer, chosen: Sequence[NamedAdapter], base: str
) -> Iterator[NamedAdapter]:
    """Each adapter while it is on the model, and the model plain again after the last.

    Where there are several, all are put on once before the first is given, so that what is wrong
    with one raises before any has answered. base: the model's name. Raises what `open_adapter`
    does.
    """
    several = len(chosen) > 1
    if any(one.folder is not None for one in chosen):
        mark = mark_base(model, public_name(base), tokenizer)
    for one in chosen if several else ():
        if one.folder is not None:
            open_adapter(model, one.folder, mark).detach()
    for one in chosen:
        if one.folder is None:
            yield one
            continue
        if several:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # told above
                handle = attach(model, Adapter.read(one.folder), base=mark)
        else:
            handle = open_adapter(model, one.folder, mark)
        yield one
        handle.detach()


def open_adapter(model: Transformer, folder: Path, base: BaseMark) -> Attachment:
    """Attach a saved adapter to a plain model; what it can't check is noted on stderr.

    base: the model's mark. Raises ValueError naming both bases where the adapter is of another.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle = attach(model, Adapter.read(folder), base=base)
    for warning in caught:
        typer.echo(f"note: {warning.message}", err=True)
    return handle


def scaling_text(scaling: float | Mapping[str, float]) -> str:
    """The scaling that all modules share, or the different ones with how many modules have each."""
    if not isinstance(scaling, Mapping):
        return f"{scaling:g}"
    counts = Counter(scaling.values())
    return ", ".join(
        f"{value:g} ({counts[value]} of {len(scaling)} modules)" for value in sorted(counts)
    )


def pattern_text(pattern: Mapping[str, float]) -> str:
    """`key: number` of each, in the order in which they count."""
    return ", ".join(f"{key}: {value:g}" for key, value in pattern.items())
