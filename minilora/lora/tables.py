"""The two tables of a model, its embedding and its output head, changed beside an adapter.

A table is W (V, C), a row a token. One of three things is trained of it: all of it, the rows of
some tokens, or a product of rank r. Whoever reads a table takes `weight`, so the change is in one
place: the table as it is now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from minilora.autograd import Tensor, is_grad_enabled, ops
from minilora.autograd import functional as F
from minilora.autograd.products import dense
from minilora.backend import Array, get_array_module
from minilora.lora.config import EMBEDDING, HEAD, ROWS, WHOLE, LoRAConfig
from minilora.lora.layer import initial_lora_A
from minilora.nn import Embedding, Linear, Module, Parameter


class TableChange(Module):
    """What is trained of one table. Its Parameters' names are the leaves of an adapter's arrays."""

    def of(self, table: Tensor) -> Tensor:
        """The table (V, C) with the change in it; `table` is the base's, as numbers."""
        raise NotImplementedError

    def rows(self, table: Tensor, ids: Array) -> Tensor:
        """Rows of it, (*ids.shape, C)."""
        return F.embedding(self.of(table), ids)


class WholeTable(TableChange):
    """A table that is trained whole (PEFT's modules_to_save); it starts as the base's."""

    def __init__(self, table: Array) -> None:
        super().__init__()
        self.weight = Parameter(table.copy())

    def of(self, table: Tensor) -> Tensor:
        """The trained one."""
        return self.weight


class TableRows(TableChange):
    """The rows of some tokens, trained in place of the base's (PEFT's trainable_token_indices).

    `trainable_tokens_delta` (k, C) holds the rows themselves, whatever its name says.
    """

    def __init__(self, table: Array, ids: tuple[int, ...]) -> None:
        super().__init__()
        self.ids = np.array(ids)
        xp = get_array_module(table)
        self.trainable_tokens_delta = Parameter(table[xp.asarray(self.ids)])

    def of(self, table: Tensor) -> Tensor:
        """The table with the trained rows in their places."""
        return F.put_rows(table, self.trainable_tokens_delta, self.ids)


class TableProduct(TableChange):
    """W + s (B A)^T of the embedding, W + s B A of the head: LoRA on a table.

    Of the embedding `lora_embedding_A` (r, V) starts at 0 and `lora_embedding_B` (C, r) as N(0, 1);
    of the head `lora_A` (r, C) and `lora_B` (V, r) start as a LoRALinear's. Both are PEFT's. There
    is no dropout before them.
    """

    def __init__(
        self, table: Array, name: str, config: LoRAConfig, rng: np.random.Generator
    ) -> None:
        super().__init__()
        (vocab, width), xp, r = table.shape, get_array_module(table), config.r
        self.scaling, self.of_embedding = config.scaling, name == EMBEDDING
        if self.of_embedding:
            self.lora_embedding_A = Parameter(xp.zeros((r, vocab), dtype=table.dtype))
            start = rng.standard_normal((width, r), dtype=np.float32)
            self.lora_embedding_B = Parameter(xp.asarray(start, dtype=table.dtype))
        else:
            start = initial_lora_A(r, width, rng)
            self.lora_A = Parameter(xp.asarray(start, dtype=table.dtype))
            self.lora_B = Parameter(xp.zeros((vocab, r), dtype=table.dtype))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(V, r) and (r, C), whose product is the change over s."""
        if self.of_embedding:
            a, b = self.lora_embedding_A, self.lora_embedding_B
            return ops.swapaxes(a, 0, 1), ops.swapaxes(b, 0, 1)
        return self.lora_B, self.lora_A

    def of(self, table: Tensor) -> Tensor:
        """The table with the product added."""
        tall, wide = self._factors()
        return table + ops.matmul(tall, wide) * self.scaling

    def rows(self, table: Tensor, ids: Array) -> Tensor:
        """Only the rows that are asked for are multiplied out."""
        tall, wide = self._factors()
        return F.embedding(table, ids) + ops.matmul(F.embedding(tall, ids), wide) * self.scaling


class _Changed:
    """A table that is as its change makes it, read again only where something may have trained."""

    def __init__(self, base: Module, change: TableChange) -> None:
        self.base, self.change = base, change
        self._kept: Tensor | None = None

    def now(self) -> Tensor:
        """The table (V, C)."""
        if is_grad_enabled() or any(p.requires_grad for p in self.change.parameters()):
            self._kept = None
            return self.change.of(self.plain())
        if self._kept is None:
            self._kept = self.change.of(self.plain())
        return self._kept

    def plain(self) -> Tensor:
        """The base's table as numbers, which no gradient reaches."""
        return Tensor(dense(self.base.weight.data))


class AdaptedEmbedding(Module):
    """An embedding, and in a tied model its head, at least one of which is changed.

    base_layer: the embedding that was there. table, head: what is trained of the two, None for
    nothing. shared: whether the head goes with the embedding's change, as trained rows do in a tied
    model; elsewhere a change of the embedding alone leaves the head to the base (as PEFT does).
    """

    def __init__(
        self, base_layer: Embedding, table: TableChange | None, head: TableChange | None
    ) -> None:
        super().__init__()
        self.base_layer, self.table, self.head = base_layer, table, head
        self.shared = isinstance(table, TableRows) and head is None
        self._table = None if table is None else _Changed(base_layer, table)
        self._head = None if head is None else _Changed(base_layer, head)
        self.train(base_layer.training)

    @property
    def weight(self) -> Tensor:
        """The embedding's table now, (V, C)."""
        return self.base_layer.weight if self._table is None else self._table.now()

    @property
    def head_weight(self) -> Tensor:
        """The head's table now, (V, C)."""
        if self._head is not None:
            return self._head.now()
        return self.weight if self.shared else self.base_layer.weight

    def forward(self, ids: Array) -> Tensor:
        """ids (B, T) integers -> (B, T, C)."""
        if self._table is None:
            return self.base_layer(ids)
        return self.table.rows(self._table.plain(), ids)

    def _move(self, device: str) -> None:
        super()._move(device)
        for changed in (self._table, self._head):
            if changed is not None:
                changed._kept = None


class AdaptedHead(Module):
    """The output head of a model that is not tied, changed. base_layer: the Linear that it was."""

    def __init__(self, base_layer: Linear, table: TableChange) -> None:
        super().__init__()
        self.base_layer, self.table = base_layer, table
        self._table = _Changed(base_layer, table)
        self.train(base_layer.training)

    @property
    def weight(self) -> Tensor:
        """The head's table now, (V, C)."""
        return self._table.now()

    def _move(self, device: str) -> None:
        super()._move(device)
        self._table._kept = None


AdaptedTable = AdaptedEmbedding | AdaptedHead


def changes_of(
    model: Module, config: LoRAConfig, rng: np.random.Generator
) -> dict[str, TableChange]:
    """Table's name -> its change at the start, the embedding's first; for a config that fits."""
    made: dict[str, TableChange] = {}
    for name, kind in config.tables.items():
        table = dense(table_of(model, name).weight.data)
        if kind == WHOLE:
            made[name] = WholeTable(table)
        elif kind == ROWS:
            made[name] = TableRows(table, config.trainable_token_indices[name.rpartition(".")[2]])
        else:
            made[name] = TableProduct(table, name, config.at(name), rng)
    return made


def table_of(model: Module, name: str) -> Module:
    """The module of a plain model that holds this table. Raises ValueError where there is none."""
    tied = name == HEAD and getattr(model, "lm_head", None) is None
    return model.get_submodule(EMBEDDING if tied else name)


def with_changes(model: Module, changes: Mapping[str, TableChange]) -> dict[str, AdaptedTable]:
    """Module's name -> what stands in its place; nothing is put there yet."""
    wrapped: dict[str, AdaptedTable] = {}
    tied = getattr(model, "lm_head", None) is None
    table, head = changes.get(EMBEDDING), changes.get(HEAD)
    if table is not None or (tied and head is not None):
        base = model.get_submodule(EMBEDDING)
        wrapped[EMBEDDING] = AdaptedEmbedding(base, table, head if tied else None)
    if head is not None and not tied:
        wrapped[HEAD] = AdaptedHead(model.get_submodule(HEAD), head)
    return wrapped


def put_in(model: Module, modules: Mapping[str, AdaptedTable]) -> list[tuple[Parameter, Array]]:
    """Give a plain model the tables as they are changed; (parameter, the array it held before).

    A tied model whose head is another table than its embedding from now on is tied no more.
    """
    before = []
    for name, module in modules.items():
        parameter, table = module.base_layer.weight, module.weight.data
        if name == EMBEDDING and not module.shared and model.lm_head is None:
            head = Linear(table.shape[1], table.shape[0], None)
            head.weight.data = dense(module.head_weight.data).copy()
            model.lm_head = head
            model.config = replace(model.config, tie_word_embeddings=False)
        if table is not parameter.data:
            before.append((parameter, parameter.data))
            parameter.data = table.copy()
    return before


def changes_on(modules: Mapping[str, AdaptedTable]) -> dict[str, TableChange]:
    """Table's name -> its change, of what `with_changes` made."""
    found = {name: module.table for name, module in modules.items() if module.table is not None}
    embedding = modules.get(EMBEDDING)
    if embedding is not None and embedding.head is not None:
        found[HEAD] = embedding.head
    return found
