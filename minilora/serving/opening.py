"""Opening what a server serves: a base, its adapters, an engine that fits the memory, a router."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minilora.hub.bases import open_base, public_name
from minilora.hub.several import NamedAdapter, base_dtype_of_all, base_of_all
from minilora.limits import require_count
from minilora.lora import mark_base
from minilora.machine import total_memory
from minilora.nn import TransformerConfig
from minilora.nn.base_dtype import unpack_base
from minilora.serving.asked import bank_of
from minilora.serving.bank import AdapterBank
from minilora.serving.centres import Centres
from minilora.serving.engine import Engine
from minilora.serving.router import Choice, RuleRouter
from minilora.text import Tokenizer

ROWS, CONTEXT, KEPT = 64, 2048, 4096
"""Requests at a time, positions of one with its answer, and positions of prompts that are kept, at
most and where nobody says otherwise."""
READ = 256
"""Tokens of new prompts that a step reads, the work of four steps of 64 rows: where many come at
once, those that stream go on between them."""
CACHE_SHARE = 4
"""Keys and values may take the memory's part by this number."""
UNKNOWN_MEMORY = 8 << 30
"""Taken for the machine's memory where the system does not say."""

Route = Callable[[Sequence[int]], Choice]


@dataclass(frozen=True)
class Opened:
    """A base that is served: its engine and tokenizer, and what it is called."""

    engine: Engine
    tokenizer: Tokenizer
    name: str


def open_engine(
    chosen: Sequence[NamedAdapter],
    base: str | None = None,
    dtype: str | None = None,
    *,
    packed: bool = False,
    rows: int | None = None,
    context: int | None = None,
    kept: int = KEPT,
) -> Opened:
    """An engine over a bank of these adapters, on the base that they name.

    dtype: how the base was rounded. Its numbers are then unpacked into float32 once, unless
    `packed`: that saves their memory and makes them anew for every token. rows, context: by default
    ROWS and CONTEXT, or what the model and the memory have room for. Raises what `open_base` and
    `AdapterBank.add` do, and ValueError for more rows than fit into memory.
    """
    rounded, name = base_dtype_of_all(dtype, chosen), base_of_all(base, chosen)
    model, tokenizer = open_base(name, rounded)
    mark = mark_base(model, public_name(name), tokenizer)
    if not packed:
        unpack_base(model)
    bank = bank_of(model.eval(), chosen, mark)
    return Opened(engine_in_memory(bank, rows, context, kept), tokenizer, called(name))


def called(name: str) -> str:
    """What clients call a base: its public name, or the last part of a path."""
    public = public_name(name)
    return Path(public).name if Path(public).exists() else public


def engine_in_memory(
    bank: AdapterBank,
    rows: int | None = None,
    context: int | None = None,
    kept: int = KEPT,
    memory: int | None = None,
) -> Engine:
    """An engine whose keys and values take at most the memory's CACHE_SHARE-th part.

    memory: bytes, by default the machine's. Raises ValueError for rows or a context that were named
    and don't fit.
    """
    config = bank.model.config
    if rows is not None:
        require_count("rows", rows, 1)
    longest = min(CONTEXT, config.max_position_embeddings) if context is None else context
    require_count("context", longest, 2, config.max_position_embeddings)
    each = position_bytes(config)
    room = (memory or total_memory() or UNKNOWN_MEMORY) // CACHE_SHARE
    fitting = room // (each * longest)
    if (ROWS if rows is None else rows) > fitting and (rows is not None or not fitting):
        raise ValueError(
            f"got {rows or ROWS} rows of {longest} positions, whose keys and values take "
            f"{(rows or ROWS) * longest * each / 2**30:.1f} GiB, expected at most "
            f"{room / 2**30:.1f}: a {CACHE_SHARE}th of the memory; ask for fewer rows or a shorter "
            "context"
        )
    most = min(ROWS, fitting) if rows is None else rows
    return Engine(bank, most, kept_positions=kept, longest=longest, most_read=READ)


def position_bytes(config: TransformerConfig) -> int:
    """Bytes of keys and values of one position in float32."""
    return 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def open_router(path: Path, engine: Engine, tokenizer: Tokenizer) -> Route:
    """A router for an engine: centres (safetensors), or rules (a JSON object of expressions).

    Raises ValueError for a file that holds neither, or names who is not in the bank.
    """
    if path.suffix == ".json":
        try:
            rules = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from None
        if not isinstance(rules, dict):
            raise ValueError(f"{path} holds no object, expected a regular expression a name")
        by_rule = RuleRouter(rules)
        _require_all(path, by_rule.rules, engine)
        return lambda prompt: by_rule.route(tokenizer.decode(prompt))
    centres = Centres.read(path)
    _require_all(path, centres.names, engine)
    width = engine.bank.model.config.hidden_size
    if centres.centres.shape[1] != width:
        raise ValueError(
            f"{path} has centres of {centres.centres.shape[1]} numbers, expected {width}: they are "
            "another base's"
        )
    return partial(centres.route_between_steps, engine)


def _require_all(path: Path, names: Sequence[str], engine: Engine) -> None:
    missing = sorted(set(names) - set(engine.bank.names))
    if missing:
        raise ValueError(f"{path} names {', '.join(missing)}, expected adapters that are served")
