"""select_linears: which Linears `target_modules` means, or an error that helps to fix it."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping

from minilora.lora.config import ALL_LINEAR, HEAD
from minilora.lora.expressions import ends_after, fits_whole
from minilora.nn import Linear, Module

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


class TargetError(ValueError):
    """`target_modules` names something that is not there or cannot be adapted."""


def select_linears(model: Module, targets: tuple[str, ...] | str) -> dict[str, Linear]:
    """Dotted name -> Linear for every Linear named by `targets`, in the model's order.

    A target fits a name that equals it or ends with "." + target; "all-linear" takes every Linear
    but lm_head, which the loss reads as a matrix and never calls. Raises TargetError for each
    target that fits nothing, with the nearest names and what there is.
    """
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.rpartition(".")[2] != HEAD
    }
    if targets == ALL_LINEAR:
        chosen, unmatched = linears, [] if linears else [ALL_LINEAR]
    else:
        chosen = {n: m for n, m in linears.items() if names_target(targets, n)}
        unmatched = [t for t in targets if not any(_fits(name, t) for name in linears)]
    if unmatched:
        raise TargetError(_unmatched_message(model, unmatched, linears))
    _refuse_tied(model, chosen)
    return chosen


def names_target(targets: tuple[str, ...] | str, name: str) -> bool:
    """Whether `targets`, as LoRAConfig takes them, mean the module of this name."""
    return targets == ALL_LINEAR or any(_fits(name, target) for target in targets)


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def linears_by_rule(model: Module, options: Mapping) -> tuple[str, ...]:
    """Names of the Linears that PEFT's options choose, in the model's order; () where none.

    options: target_modules (names, or one regular expression for whole names), exclude_modules
    (likewise, and stronger), layers_to_transform (numbers of layers), layers_pattern (what stands
    before the number). Rules of peft 0.21, tuners_utils.check_target_module_exists.
    """
    return tuple(name for name in select_linears(model, ALL_LINEAR) if is_chosen(name, options))


def is_chosen(name: str, options: Mapping) -> bool:
    """Whether PEFT's options choose the Linear of this name (see `linears_by_rule`)."""
    targets, exclude = options["target_modules"], options.get("exclude_modules")
    if exclude and _named(name, exclude):
        return False
    if targets == ALL_LINEAR:
        return True
    layers = options.get("layers_to_transform")
    # PEFT looks at the layer only where a suffix chose the module, not its whole name.
    if layers in (None, []) or isinstance(targets, str) or name in targets:
        return _named(name, targets)
    layer = _layer_of(name, options.get("layers_pattern") or "[^.]*")
    return _named(name, targets) and layer in ([layers] if isinstance(layers, int) else layers)


def _named(name: str, names: str | list[str]) -> bool:
    if isinstance(names, str):
        return fits_whole(names, name)
    return any(_fits(name, one) for one in names)


def _layer_of(name: str, patterns: str | list[str]) -> int | None:
    """The number in the name that follows one of the patterns, with dots around both.

    PEFT takes the pattern from as far left as it fits. Raises ValueError where from there it
    fits before several numbers: then how `re` tries them decides.
    """
    numbers = {match.start(): int(match[0]) for match in _LAYER.finditer(name)}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for start in (0, *(i + 1 for i, char in enumerate(name) if char == ".")):
            ends = ends_after(pattern, name, start)
            found = [numbers[end + 1] for end in ends if end + 1 in numbers]
            if len(found) > 1:
                raise ValueError(
                    f"got layers_pattern {pattern!r}, which fits before the numbers {found} of "
                    f"{name}; expected one that fits before one"
                )
            if found:
                return found[0]
    return None


def _unmatched_message(model: Module, unmatched: list[str], linears: Mapping) -> str:
    counts = Counter(name.rpartition(".")[2] for name in linears)
    modules = {name: type(module).__name__ for name, module in model.named_modules() if name}
    told = []
    for target in unmatched:
        kinds = {kind for name, kind in modules.items() if _fits(name, target)}
        near = difflib.get_close_matches(target, [*counts, *linears], n=3)
        if kinds:
            told.append(f"{target!r} ({', '.join(sorted(kinds))}, not a Linear)")
        else:
            told.append(f"{target!r}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
    available = ", ".join(f"{name} ({count})" for name, count in counts.items()) or "no Linear"
    return (
        f"target_modules got {', '.join(told)}, which fit no Linear; "
        f"expected names out of: {available}, or {ALL_LINEAR!r}"
    )


def _refuse_tied(model: Module, chosen: Mapping[str, Linear]) -> None:
    """Merging into a weight that another module shares would change that module too."""
    uses = Counter(id(p) for _, m in model.named_modules() for p in m._parameters.values())
    tied = [name for name, linear in chosen.items() if uses[id(linear.weight)] > 1]
    if tied:
        raise TargetError(f"target_modules got {tied}, whose weight another module shares")
