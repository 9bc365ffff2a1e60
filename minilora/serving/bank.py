"""AdapterBank: any number of adapters over one frozen base, swapped, or mixed in one batch."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minilora.backend import get_array_module
from minilora.hub.several import BASE
from minilora.limits import require_count
from minilora.lora import ALL_LINEAR, Adapter, AdapterError, BaseMark, LoRAConfig, mark_base
from minilora.lora.fitting import AttachError, fitting_config, require_plain
from minilora.lora.targets import select_linears
from minilora.nn import Transformer
from minilora.nn.freeze import Freeze
from minilora.serving.mixing import BankLinear, Chosen, Factors, Loaded, Mix


@dataclass
class _Entry:
    """An adapter that the bank holds, in memory (`adapter` and `loaded`) or in its folder alone."""

    config: LoRAConfig
    fingerprint: str
    folder: Path | None
    adapter: Adapter | None = None
    loaded: Loaded | None = None


class AdapterBank:
    """Named adapters over one base in one set of memory; each row of a batch may use another.

        bank = AdapterBank(model)
        bank.add("cardiology", "adapters/cardiology")
        bank.use("cardiology")                       # for every row, until the next `use`
        with bank.rows(["cardiology", "__base__"]):  # for a batch of two
            generate(model, prompts, 64)

    The adapters may differ in ranks, alphas, targets, rsLoRA and patterns, and may be activated:
    such a one acts from its invocation on. The model stays the caller's, and goes through the same
    calls; its Linears, which keep their parameters, add what is chosen. Nothing of the base is
    copied, hashed or written at a swap: it is marked once, here, and every adapter is held against
    that mark when it is added.

    model: a plain one, on its device already. It is frozen while the bank is on it. base:
    `mark_base` of the model where it is known, or where its tokenizer is to be compared too.
    most_resident: how many adapters lie in memory at most, None for all of them. Beyond it those
    that were used longest ago are left to their folders, and read again when they are named; the
    file is mapped, and an adapter that has changed there is refused.

    For one thread. Raises AttachError for a model that carries an adapter, merged or not, or is in
    a bank already.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        base: BaseMark | None = None,
        most_resident: int | None = None,
    ) -> None:
        if most_resident is not None:
            require_count("most_resident", most_resident, 1)
        require_plain(model)
        self.model, self.most_resident = model, most_resident
        self.base = mark_base(model, quick=True) if base is None else base
        self._linears = select_linears(model, ALL_LINEAR)
        self.chosen, self._using = Chosen(), BASE
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the last used comes last
        self._held: Counter[str] = Counter()  # how often each adapter is in use now
        self._freeze = Freeze(model)
        for name, linear in self._linears.items():
            model.set_submodule(name, BankLinear(linear, name, self.chosen))

    # -- what it holds -----------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names, sorted."""
        return tuple(sorted(self._entries))

    @property
    def resident(self) -> tuple[str, ...]:
        """The names of those in memory, from the one that was used longest ago."""
        return tuple(name for name, one in self._entries.items() if one.adapter is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of A and B of the adapters in memory."""
        return sum(
            array.nbytes
            for one in self._entries.values()
            if one.loaded is not None
            for factors in one.loaded.factors.values()
            for array in factors[:2]
        )

    def adapter(self, name: str) -> Adapter:
        """The adapter of a name, as a value. Raises ValueError for a name that is not there."""
        entry = self._entry(name)
        return entry.adapter or self._read_again(name, entry)

    def add(self, name: str, what: Adapter | str | Path) -> None:
        """Add an adapter under a new name: a value, which stays in memory, or its folder.

        All is checked before anything changes. Raises BaseMismatchError, AdapterError and
        TargetError as `attach` does for one that does not fit the base; ValueError for a name that
        is taken, or for a value where `most_resident` values are held already.
        """
        self._require_open("add")
        if not isinstance(name, str) or not name or name == BASE or name in self._entries:
            raise ValueError(
                f"add got the name {name!r}, expected a text other than {BASE} and the "
                f"{len(self._entries)} names in the bank"
            )
        folder = None if isinstance(what, Adapter) else Path(what)
        adapter = what if folder is None else Adapter.read(folder)
        values = sum(one.folder is None for one in self._entries.values())
        if folder is None and self.most_resident is not None and values >= self.most_resident:
            raise ValueError(
                f"add got {name!r} as a value where {values} are held already and most_resident is "
                f"{self.most_resident}; expected a folder, from which it can be read again"
            )
        fitting_config(self.model, adapter, "", self.base)
        loaded = self._loaded(adapter)
        self._entries[name] = _Entry(adapter.config, adapter.fingerprint, folder, adapter, loaded)
        self._leave_to_disk()

    def remove(self, name: str) -> None:
        """Forget an adapter. Raises ValueError for one that is not there, or that is in use."""
        self._require_open("remove")
        self._entry(name)
        if self._held[name]:
            raise ValueError(
                f"remove got {name!r}, which is in use, expected one that no row uses; "
                f"use({BASE!r}) or another first"
            )
        del self._entries[name]

    # -- choosing ----------------------------------------------------------------------------

    @property
    def using(self) -> str:
        """The name of the adapter that every row uses; "__base__" where it is none."""
        return self._using

    def use(self, name: str) -> None:
        """Every row uses this adapter from now on; "__base__" for the base as it is.

        Raises ValueError for a name that is not there, inside `rows`, and while the model is
        generating: the keys and values in its caches are those of the adapter that it began with.
        """
        self.require_free("use")
        before, self._using = self._using, BASE
        self.let_go(before)
        try:
            self.chosen.alone = self.hold(name)
        except BaseException:
            self.hold(before)
            self._using = before
            raise
        self._using = name

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[None]:
        """In the `with`, row i of every batch uses the adapter names[i], "__base__" for none.

        A batch has exactly these rows; wherever it is cut, sorted or flattened on its way, each row
        keeps its adapter. While it runs, the factors of its adapters are held once more, laid side
        by side. Afterwards all rows use again what they did before. Raises ValueError as
        `use` does, and for more different adapters than may lie in memory.
        """
        self.require_free("rows")
        if isinstance(names, str) or not names:
            raise ValueError(f"rows got {names!r}, expected a name for each row")
        distinct = sorted({name for name in names if name != BASE})
        held = []
        try:
            for name in distinct:
                held.append((name, self.hold(name)))
            number = {BASE: -1, **{name: i for i, name in enumerate(distinct)}}
            self.chosen.mix = Mix([loaded for _, loaded in held], [number[n] for n in names])
            yield
        finally:
            self.chosen.mix = None
            for name, _ in held:
                self.let_go(name)

    def hold(self, name: str) -> Loaded | None:
        """The adapter in memory, where it stays until `let_go`; None for "__base__".

        Raises ValueError for a name that is not there, or where `most_resident` others are held.
        """
        if name == BASE:
            return None
        entry = self._entry(name)
        if not self.has_room_for(name):
            raise ValueError(
                f"got {name!r} beside {len(+self._held)} adapters in use, expected at most "
                f"most_resident = {self.most_resident} at a time"
            )
        if entry.loaded is None:
            adapter = self._read_again(name, entry)
            entry.adapter, entry.loaded = adapter, self._loaded(adapter)
        self._held[name] += 1
        self._entries.move_to_end(name)
        self._leave_to_disk()
        return entry.loaded

    def has_room_for(self, name: str) -> bool:
        """Whether `hold` would find room in memory for the adapter of this name."""
        held = +self._held
        return self.most_resident is None or name in held or len(held) < self.most_resident

    def let_go(self, name: str) -> None:
        """End one `hold` of this name."""
        if name != BASE:
            self._held[name] -= 1

    def close(self) -> Transformer:
        """Give the base back as it was before the bank, in place; returns the model.

        Raises ValueError as `use` does.
        """
        self.require_free("close")
        for name, linear in self._linears.items():
            self.model.set_submodule(name, linear)
        self._freeze.release()
        self._freeze.restore_modes()
        self._freeze = None
        self._entries.clear()
        self._held.clear()
        return self.model

    # -- memory ------------------------------------------------------------------------------

    def _loaded(self, adapter: Adapter) -> Loaded:
        """The adapter's arrays beside the base: its own where device and dtype are the base's."""
        factors = {}
        for name in adapter.modules:
            weight = self._linears[name].weight
            xp = get_array_module(weight.data)
            arrays = (xp.asarray(x, dtype=weight.dtype) for x in adapter.factors(name))
            factors[name] = Factors(*arrays, adapter.scaling(name))
        return Loaded(factors, adapter.config.invocation)

    def _read_again(self, name: str, entry: _Entry) -> Adapter:
        adapter = Adapter.read(entry.folder)
        if (adapter.fingerprint, adapter.config) != (entry.fingerprint, entry.config):
            raise AdapterError(
                f"{entry.folder}: got other tensors or settings than when {name!r} was added, "
                "expected the same; remove it and add it again"
            )
        return adapter

    def _leave_to_disk(self) -> None:
        """Forget those that were used longest ago, but of none that is held, down to the bound."""
        if self.most_resident is None:
            return
        resident = self.resident
        can_go = [name for name in resident if not self._held[name]]
        can_go = [name for name in can_go if self._entries[name].folder is not None]
        for name in can_go[: max(0, len(resident) - self.most_resident)]:
            self._entries[name].adapter = self._entries[name].loaded = None

    # -- refusals ----------------------------------------------------------------------------

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise ValueError(
                f"got adapter {name!r}, expected one of {len(self._entries)} in the bank "
                f"({', '.join(self.names[:8])}{', ...' if len(self._entries) > 8 else ''})"
            )
        return self._entries[name]

    def _require_open(self, verb: str) -> None:
        if self._freeze is None:
            raise AttachError(f"{verb} got a bank that is closed, expected one on its model")

    def require_free(self, verb: str) -> None:
        """Raise ValueError inside `rows`, and while the model is generating."""
        self._require_open(verb)
        if self.model.generations:
            raise ValueError(
                f"{verb} got a model that is generating, expected one that has finished: its "
                "caches hold what the adapters in use made"
            )
        if self.chosen.mix is not None:
            raise ValueError(f"{verb} got a bank inside `rows`, expected one after its end")
