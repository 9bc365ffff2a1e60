"""Freeze: a model's parameters kept from training and from writes, and given back as they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from minilora.backend import Array
from minilora.nn.module import Module, Parameter


@dataclass(frozen=True)
class _Before:
    """What a Parameter was before it was frozen."""

    parameter: Parameter
    requires_grad: bool
    writeable: bool


class Freeze:
    """Freezes every parameter of a model, and remembers what to give back.

    While it lasts, the parameters have requires_grad False and no gradient, and their host arrays
    refuse writes (a copy of the frozen model, or one that was pickled, refuses them as well).
    Raises ValueError, before anything changes, for a model that is frozen already: two records of
    one parameter would give back each other's state.
    """

    def __init__(self, model: Module) -> None:
        if is_frozen(model):
            raise ValueError("got a model that is frozen already, expected a plain one")
        self._modes = [(module, module.training) for _, module in model.named_modules()]
        self._before = []
        for parameter in model.parameters():
            writeable = set_writeable(parameter.data, False)
            self._before.append(_Before(parameter, parameter.requires_grad, writeable))
            parameter.requires_grad, parameter.read_only = False, True
            parameter.zero_grad()

    def release(self, others: Iterable[tuple[Parameter, Array]] = ()) -> None:
        """Give back requires_grad and the writeable flags of the parameters' arrays.

        others: (parameter, the array that it held when it was frozen) where it holds another now;
        then that array's flag is given back, and the other one may be written.
        """
        held = {id(parameter): array for parameter, array in others}
        for was in self._before:
            was.parameter.requires_grad, was.parameter.read_only = was.requires_grad, False
            array = was.parameter.data
            before = held.get(id(was.parameter), array)
            if was.writeable and before is not array:
                _make_writeable(before)
            if (was.writeable or before is not array) and not _make_writeable(array):
                was.parameter.data = array.copy()

    def restore_modes(self) -> None:
        """Put every module that was there back into the training mode that it had."""
        for module, mode in self._modes:
            object.__setattr__(module, "training", mode)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        for was in self._before:  # copying and unpickling make writeable arrays
            set_writeable(was.parameter.data, False)


def is_frozen(model: Module) -> bool:
    """Whether a Freeze holds any of the model's parameters."""
    return any(parameter.read_only for parameter in model.parameters())


def _make_writeable(array: Array) -> bool:
    """Whether the array may be written now: in one from a pickle the memory may be a `bytes`."""
    try:
        set_writeable(array, True)
    except ValueError:
        return False
    return True


def set_writeable(array: Array, value: bool) -> bool:
    """Set a host array's writeable flag and return what it was (device arrays have none)."""
    if not isinstance(array, np.ndarray):
        return True
    before = array.flags.writeable
    array.flags.writeable = value
    return before
