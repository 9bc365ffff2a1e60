"""Several adapters of one base, by name, which take turns on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minilora.hub.bases import base_dtype_of, base_of, find_base, public_name
from minilora.lora import Adapter, attach, mark_base
from minilora.lora.exchange import wearing
from minilora.nn import Transformer
from minilora.nn.generate import Reading, read_ahead, shared_columns
from minilora.text import Tokenizer

BASE = "__base__"
"""The name of "no adapter"."""


@dataclass(frozen=True)
class NamedAdapter:
    """A name and the adapter's folder, or None for the base itself."""

    name: str
    folder: Path | None = None


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
                f"adapter {first.name} was made for base {expected!r} and {one.name} for "
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
            f"adapter {one} was trained over a base in {first} and {other} over one in {second}; "
            "expected adapters of one base"
        )
    return next(iter(kept), "float32")


def read_for_all(
    model: Transformer, chosen: Sequence[NamedAdapter], prompts: Sequence[Sequence[int]]
) -> Reading | None:
    """The prompts as the plain model reads them up to where the first of these adapters acts.

    Each of them can go on from it (`generate(..., reading=...)`). None where there is nothing to
    share: one adapter alone, a plain one among them, or one that acts from the first token on.
    """
    folders = [one.folder for one in chosen if one.folder is not None]
    invocations = [Adapter.read(folder).config.invocation for folder in folders]
    if len(chosen) < 2 or not invocations or None in invocations:
        return None
    columns = shared_columns(prompts, invocations)
    return read_ahead(model, prompts, columns) if columns > 0 else None


def in_turn(
    model: Transformer, tokenizer: Tokenizer, chosen: Sequence[NamedAdapter], base: str
) -> Iterator[NamedAdapter]:
    """Each adapter while it is on the model, and the model plain again after the last.

    All are put on once before the first is given, so that what is wrong with one raises before any
    has answered. base: the model's name. Raises what `Adapter.read` and `attach` do, and warns as
    they do, once an adapter.
    """
    adapters = {one: Adapter.read(one.folder) for one in chosen if one.folder is not None}
    mark = mark_base(model, public_name(base), tokenizer, quick=True) if adapters else None
    for adapter in adapters.values():
        attach(model, adapter, base=mark).detach()
    for one in chosen:
        with wearing(model, adapters.get(one), mark):  # what is to be warned of was said above
            yield one
