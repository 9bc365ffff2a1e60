"""A case: a function, the numbers on which its gradients are checked, and how it is called.

The same cases serve the gradient check, the slow twins, the planted mistakes and the comparison of
devices. `cases.py` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from minilora.autograd.tensor import Tensor
from minilora.gradients.gradcheck import Report, check_gradients
from minilora.nn.module import Module


@dataclass(frozen=True)
class Case:
    """target(**inputs, **constants), or target(module, **inputs, **constants) with a module.

    Gradients are checked for the inputs (float64 arrays) and for the trained Parameters of the
    module, which are moved where they stand. Constants are everything else that the target takes.
    elementwise: as in `check_gradients`.
    """

    op: str
    variant: str
    target: Callable[..., Tensor]
    inputs: Mapping[str, np.ndarray]
    constants: Mapping[str, object] = field(default_factory=dict)
    module: Module | None = None
    elementwise: int | None = None

    @property
    def name(self) -> str:
        """Op and variant, as shown in tables and test names."""
        return f"{self.op} ({self.variant})" if self.variant else self.op

    @property
    def checked(self) -> dict[str, np.ndarray | Tensor]:
        """Everything that gets a gradient, by name: inputs, and trained Parameters."""
        return {**self.inputs, **self._trained()}

    def _trained(self) -> dict[str, Tensor]:
        parameters = () if self.module is None else self.module.named_parameters()
        return {name: p for name, p in parameters if p.requires_grad}

    def leaves(self) -> dict[str, Tensor]:
        """`checked` as Tensors: a new leaf for each input, and the Parameters themselves."""
        new = {name: Tensor(x, requires_grad=True) for name, x in self.inputs.items()}
        return {**new, **self._trained()}

    def fn(self, target: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
        """The case as a function of `leaves()`; `target` replaces the function under test."""
        function = target or self.target
        module = () if self.module is None else (self.module,)

        def call(**leaves: Tensor) -> Tensor:
            inputs = {name: leaves[name] for name in self.inputs}
            return function(*module, **inputs, **self.constants)

        return call

    def check(self, rng: np.random.Generator) -> Report:
        """Run `check_gradients` on this case."""
        return check_gradients(
            self.fn(), self.checked, rng=rng, elementwise=self.elementwise, name=self.name
        )
