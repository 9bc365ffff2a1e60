"""LoRAConfig: the few numbers that define an adapter, and the one place that scales it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral

from minilora.limits import require_count, require_finite, require_flag
from minilora.lora.expressions import MOST_EXPRESSIONS, check_expression, fits_start

ALL_LINEAR = "all-linear"
"""The target that means every Linear but the output head (PEFT's word for it)."""
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
"""A model's two tables, a row a token."""
MOST_VERA = 2**16
"""VeRA's r may exceed a layer's sizes, but an adapter that holds the seed alone has A and B drawn:
a small file must not ask for all memory."""
WHOLE, ROWS, PRODUCT = "whole", "rows", "product"
"""What may be trained of a table."""
LARGEST_ALPHA = 1e38
"""float32, which multiplies by it, ends at 3.4e38; infinity times a B of 0 would be NaN."""


@dataclass(frozen=True)
class Vera:
    """How VeRA's shared matrices are drawn and kept (Kopiczko et al. 2023); PEFT's names.

    projection_prng_key: the seed that they are drawn from. save_projection: whether an adapter
    holds them too, or the seed alone. d_initial: what each d starts at (b starts at 0).
    Raises ValueError for a key below 0 or beyond 64 bits, and a d_initial that is not finite.
    """

    projection_prng_key: int = 0
    save_projection: bool = True
    d_initial: float = 0.1

    def __post_init__(self) -> None:
        require_count("projection_prng_key", self.projection_prng_key, 0, 2**64 - 1)
        require_finite("d_initial", self.d_initial)
        require_flag("save_projection", self.save_projection)


@dataclass(frozen=True)
class LoRAConfig:
    """Rank, alpha and targets of an adapter; field names and meanings are PEFT's.

    target_modules: suffixes of dotted module names ("q_proj", "self_attn.q_proj", or a whole
    path), or "all-linear". rank_pattern and alpha_pattern: module -> the r or lora_alpha it has in
    place of the common one. A key fits a module as in PEFT, where `(.*\\.)?(key)$` matches its
    dotted name ("q_proj", r"layers\\.[01]\\.mlp\\.up_proj"); of several that fit, the first counts.
    invocation: token ids from whose last occurrence on an activated adapter acts (PEFT's
    alora_invocation_tokens; Greenewald et al. 2025), None for one that acts everywhere.
    use_dora: whether each module also holds the lengths that its rows have (Liu et al. 2024).
    modules_to_save: "embed_tokens", "lm_head": tables that are trained whole.
    trainable_token_indices: "embed_tokens" or "lm_head" -> token ids whose rows are trained in
    place of the base's; in a tied model those of embed_tokens are the head's too. A table that is
    among the targets gets A and B, of which "all-linear" gives it none. A table that is changed
    alone leaves a tied model's other one to the base.
    vera: for an adapter of two trained vectors a module beside shared random matrices; it has no
    alpha, so lora_alpha becomes r, and s is 1.
    Raises ValueError, naming what was got and expected, for a rank below 1, an alpha that is not
    a positive number, a dropout outside [0, 1), targets that are no names, a key that is no
    regular expression, an invocation that is no token ids or beside use_dora, vera beside any of
    use_dora, use_rslora, patterns and an invocation, a table that is to be trained in two ways, or
    beside an invocation or vera, and tables without a Linear.
    """

    r: int = 8
    lora_alpha: float = 16
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    lora_dropout: float = 0.0
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict, hash=False)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict, hash=False)
    invocation: tuple[int, ...] | None = None
    use_dora: bool = False
    vera: Vera | None = None
    modules_to_save: tuple[str, ...] = ()
    trainable_token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        require_finite("lora_dropout", self.lora_dropout, below=1.0)
        for name in ("use_rslora", "use_dora"):
            require_flag(name, getattr(self, name))
        if self.use_dora and self.invocation is not None:
            raise ValueError("got use_dora with an invocation, expected one of the two")
        if self.vera is not None:
            self._check_vera()
            object.__setattr__(self, "lora_alpha", self.r)
        checked = {
            "r": _checked_rank(self.r),
            "lora_alpha": _checked_alpha(self.lora_alpha),
            "lora_dropout": float(self.lora_dropout),
            "target_modules": _checked_targets(self.target_modules),
            "rank_pattern": _checked_pattern("rank_pattern", self.rank_pattern, _checked_rank),
            "alpha_pattern": _checked_pattern("alpha_pattern", self.alpha_pattern, _checked_alpha),
            "invocation": _checked_invocation(self.invocation),
            "modules_to_save": _checked_whole(self.modules_to_save),
            "trainable_token_indices": _checked_rows(self.trainable_token_indices),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_tables()

    def _check_vera(self) -> None:
        if not isinstance(self.vera, Vera):
            raise ValueError(f"got vera {self.vera!r}, expected a Vera, or None for plain LoRA")
        names = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "invocation")
        beside = [name for name in names if getattr(self, name)]
        if beside:
            raise ValueError(f"got vera with {', '.join(beside)}, expected vera alone")
        require_count("r", self.r, 1, MOST_VERA)

    def _check_tables(self) -> None:
        kinds = self._kinds_of_tables()
        for name, found in kinds.items():
            if len(found) > 1:
                raise ValueError(f"got {name} to train as {' and '.join(found)}, expected one way")
        if not self.linear_targets:
            raise ValueError(
                f"got target_modules {self.target_modules!r}, expected a Linear among them"
            )
        beside = [name for name in ("vera", "invocation") if getattr(self, name) is not None]
        products = any(PRODUCT in found for found in kinds.values())
        beside += ["use_dora"] if self.use_dora and products else []
        if kinds and beside:
            raise ValueError(
                f"got {', '.join(kinds)} to train with {beside[0]}, expected one of the two"
            )

    def _kinds_of_tables(self) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for table in (EMBEDDING, HEAD):
            short = table.rpartition(".")[2]
            found = [WHOLE] if short in self.modules_to_save else []
            found += [ROWS] if short in self.trainable_token_indices else []
            targets = () if self.target_modules == ALL_LINEAR else self.target_modules
            found += [PRODUCT] if {table, short} & set(targets) else []
            if found:
                kinds[table] = found
        return kinds

    @property
    def tables(self) -> dict[str, str]:
        """The tables of which something is trained: name -> WHOLE, ROWS or PRODUCT."""
        return {name: found[0] for name, found in self._kinds_of_tables().items()}

    @property
    def linear_targets(self) -> tuple[str, ...] | str:
        """The targets that mean Linears other than the head."""
        if self.target_modules == ALL_LINEAR:
            return ALL_LINEAR
        tables = {EMBEDDING, EMBEDDING.rpartition(".")[2], HEAD}
        return tuple(name for name in self.target_modules if name not in tables)

    @property
    def is_product(self) -> bool:
        """Whether all that it changes is, of Linears, s B A of an A and a B that it holds."""
        return not self.use_dora and self.vera is None and not self.tables

    @property
    def scaling(self) -> float:
        """s in y = W x + s B A x: lora_alpha / r (Hu et al. 2021, Sec. 4.1), or with use_rslora
        lora_alpha / sqrt(r) (Kalajdzievski 2023, Sec. 3), which holds its size as r grows.
        """
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def has_patterns(self) -> bool:
        """Whether some modules may have their own rank or alpha."""
        return bool(self.rank_pattern or self.alpha_pattern)

    def at(self, module: str) -> LoRAConfig:
        """The config of one module (its dotted name): its own r and lora_alpha, no patterns."""
        if not self.has_patterns:
            return self
        return replace(
            self,
            r=next((r for k, r in self.rank_pattern.items() if fits_key(module, k)), self.r),
            lora_alpha=next(
                (a for k, a in self.alpha_pattern.items() if fits_key(module, k)), self.lora_alpha
            ),
            rank_pattern={},
            alpha_pattern={},
        )

    def idle_keys(self, modules: Iterable[str]) -> dict[str, list[str]]:
        """Pattern's name -> its keys that fit none of these modules; {} where all fit one."""
        names = list(modules)
        idle = {
            name: [k for k in getattr(self, name) if not any(fits_key(m, k) for m in names)]
            for name in ("rank_pattern", "alpha_pattern")
        }
        return {name: keys for name, keys in idle.items() if keys}


def fits_key(module: str, key: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern means this module (PEFT's get_pattern_key)."""
    return fits_start(_key_rule(key), module)


def _key_rule(key: str) -> str:
    return rf"(.*\.)?({key})$"


def _checked_rank(r: object, name: str = "r") -> int:
    require_count(name, r, 1)
    return int(r)


def _checked_alpha(alpha: object, name: str = "lora_alpha") -> int | float:
    require_finite(name, alpha, above=True, below=LARGEST_ALPHA)
    return (int if isinstance(alpha, Integral) else float)(alpha)


def _checked_invocation(tokens: object) -> tuple[int, ...] | None:
    if tokens is None:
        return None
    expected = f"got invocation {tokens!r}, expected token ids, or None for an adapter without one"
    if isinstance(tokens, (str, bytes, Mapping)) or not isinstance(tokens, Iterable):
        raise ValueError(expected)
    ids = tuple(tokens)
    if not ids or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in ids):
        raise ValueError(expected)
    if min(ids) < 0:
        raise ValueError(expected)
    return tuple(int(i) for i in ids)


def _checked_whole(names: object) -> tuple[str, ...]:
    known = [EMBEDDING.rpartition(".")[2], HEAD]
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f"got modules_to_save {names!r}, expected some of {known}")
    found = tuple(dict.fromkeys(names))
    if not set(found) <= set(known):
        raise ValueError(f"got modules_to_save {list(found)}, expected some of {known}")
    return tuple(name for name in known if name in found)


def _checked_rows(indices: object) -> dict[str, tuple[int, ...]]:
    known = [EMBEDDING.rpartition(".")[2], HEAD]
    expected = f"got trainable_token_indices {indices!r}, expected some of {known} -> token ids"
    if not isinstance(indices, Mapping) or not set(indices) <= set(known):
        raise ValueError(expected)
    checked = {}
    for name in sorted(indices):
        ids = indices[name]
        if isinstance(ids, (str, Mapping)) or not isinstance(ids, Iterable):
            raise ValueError(expected)
        ids = tuple(ids)
        if not ids or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in ids):
            raise ValueError(expected)
        if min(ids) < 0 or len(set(ids)) < len(ids):
            raise ValueError(expected)
        checked[name] = tuple(int(i) for i in ids)
    return _Pattern(checked)


def _checked_pattern(name: str, pattern: object, checked: Callable) -> dict:
    if not isinstance(pattern, Mapping):
        raise ValueError(f"got {name} {pattern!r}, expected module name -> number")
    require_count(f"number of keys in {name}", len(pattern), 0, MOST_EXPRESSIONS)
    for key in pattern:
        expected = f"got {name} key {key!r}, expected a module's name or a regular expression"
        if not isinstance(key, str) or not key:
            raise ValueError(expected)
        try:
            check_expression(_key_rule(key))
        except ValueError as error:
            raise ValueError(f"{expected} ({error})") from None
    return _Pattern({key: checked(value, f"{name}[{key!r}]") for key, value in pattern.items()})


class _Pattern(dict):
    """A pattern of a LoRAConfig: a dict that stays as it was made."""

    def _refuse(self, *_: object, **__: object) -> None:
        raise TypeError("got a change to a pattern of a LoRAConfig, which is a value; make another")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple:
        return _Pattern, (dict(self),)


def _checked_targets(targets: object) -> tuple[str, ...] | str:
    if targets == ALL_LINEAR:
        return ALL_LINEAR
    expected = f"expected names of modules, as in ('q_proj', 'v_proj'), or {ALL_LINEAR!r}"
    if not isinstance(targets, (list, tuple, set, frozenset)):
        raise ValueError(f"got target_modules {targets!r}, {expected}")
    if not targets or not all(isinstance(name, str) and name for name in targets):
        raise ValueError(f"got target_modules {targets!r}, {expected}")
    ordered = sorted(targets) if isinstance(targets, (set, frozenset)) else targets
    return tuple(dict.fromkeys(ordered))  # each once
