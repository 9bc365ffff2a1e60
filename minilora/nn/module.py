"""Module and Parameter: named, nested layers whose dotted names are the checkpoint's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from minilora.autograd import Tensor
from minilora.autograd.products import is_stored
from minilora.backend import Array, get_array_module, to_device, to_numpy


class Parameter(Tensor):
    """A leaf Tensor that belongs to a Module and is trained unless frozen.

    `read_only`: whether its array refuses writes while it is on the host (a device array can't).
    """

    __slots__ = ("read_only",)

    def __init__(self, data: Array, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)
        self.read_only = False


class Module:
    """A layer: Parameters and Modules set as attributes are found in the order they were set.

    Names are dotted paths of attributes, as in `model.layers.0.self_attn.q_proj.weight`.
    """

    def __init__(self) -> None:
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "training", True)

    def __setattr__(self, name: str, value: object) -> None:
        for held, kind in ((self._parameters, Parameter), (self._modules, Module)):
            if isinstance(value, kind):
                held[name] = value  # a name that is there already keeps its place in the order
            else:
                held.pop(name, None)
        object.__setattr__(self, name, value)

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        return self.forward(*args, **kwargs)

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """The layer's function; each layer writes its own."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    # -- walking ---------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) for this module (name "") and everything below it, in order."""
        yield prefix, self
        for name, module in self._modules.items():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, Parameter), each Parameter once, under the first name that reaches it."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{prefix}.{name}" if prefix else name), parameter

    def parameters(self) -> Iterator[Parameter]:
        """Every Parameter once, in order."""
        for _, parameter in self.named_parameters():
            yield parameter

    def get_submodule(self, name: str) -> Module:
        """The module at a dotted path. Raises ValueError naming the part that is not there."""
        module: Module = self
        for part in name.split(".") if name else ():
            if part not in module._modules:
                raise ValueError(
                    f"got module name {name!r}, but {type(module).__name__} has no {part!r}; "
                    f"expected one of {list(module._modules)}"
                )
            module = module._modules[part]
        return module

    def set_submodule(self, name: str, module: Module) -> None:
        """Put `module` in place of the module at a dotted path; the order stays.

        Raises ValueError for a path that is not there, or for the module itself (an empty one).
        """
        if not name:
            raise ValueError("set_submodule got an empty name, expected the path of a submodule")
        self.get_submodule(name)
        parent, _, child = name.rpartition(".")
        holder = self.get_submodule(parent)
        setattr(holder, child, module)

    # -- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name -> NumPy array of every Parameter (the arrays themselves when on the CPU).

        Weights of a stored base come as new float32 arrays.
        """
        return {name: to_numpy(p.data) for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy arrays in by name. All is checked before anything changes.

        Raises ValueError naming missing and unexpected names, and shapes that differ, and for
        weights that are stored in fewer bits.
        """
        own = dict(self.named_parameters())
        stored = [name for name, p in own.items() if is_stored(p.data)]
        if stored:
            raise ValueError(
                f"load_state_dict got a model with {len(stored)} stored weights ({stored[0]}, ...),"
                " expected a float32 one; load first, then store_base"
            )
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            raise ValueError(
                f"state dict: missing {missing or 'none'}, unexpected {extra or 'none'}"
            )
        wrong = [
            f"{name} got {tuple(state[name].shape)}, expected {p.shape}"
            for name, p in own.items()
            if tuple(state[name].shape) != p.shape
        ]
        if wrong:
            raise ValueError("state dict: " + "; ".join(wrong))
        for name, parameter in own.items():
            xp = get_array_module(parameter.data)
            parameter.data = xp.array(state[name], dtype=parameter.dtype)

    # -- devices ---------------------------------------------------------------------------

    def to(self, device: str) -> Module:
        """Move every Parameter and its gradient to "cpu" or "gpu", in place; returns the module.

        Make optimizers afterwards: their state stays where it is. Raises ValueError for another
        name, or for "gpu" where there is none, before anything changes.
        """
        for _, module in self.named_modules():
            module._move(device)
        return self

    def _move(self, device: str) -> None:
        """Move what this module itself holds; a layer that keeps more than Parameters adds it."""
        for parameter in self._parameters.values():
            parameter.data = to_device(parameter.data, device)
            if parameter.grad is not None:
                parameter.grad = to_device(parameter.grad, device)
            if parameter.read_only and isinstance(parameter.data, np.ndarray):
                parameter.data.flags.writeable = False

    # -- modes -----------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Set training mode here and below (it switches dropout, and nothing else)."""
        for _, module in self.named_modules():
            object.__setattr__(module, "training", bool(mode))
        return self

    def eval(self) -> Module:
        """Leave training mode."""
        return self.train(False)

    def requires_grad_(self, value: bool) -> Module:
        """Freeze (False) or thaw (True) every Parameter here and below."""
        for parameter in self.parameters():
            parameter.requires_grad = value
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.zero_grad()


class ModuleList(Module):
    """Modules in a row, named by their index."""

    def __init__(self, modules: list[Module]) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int) -> Module:
        return list(self._modules.values())[index]
