"""AdamW, SGD, gradient clipping and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from minilora.backend import Array, get_array_module, to_floats, to_numpy
from minilora.limits import require_count, require_finite
from minilora.nn import Parameter

Schedule = Callable[[int], float]


class Optimizer:
    """Keeps state for the Parameters that require a gradient, and updates them in place.

    parameters: (name, Parameter) pairs; frozen ones are left out, so they cost no state.
    lr_scales: name -> factor on the learning rate (LoRA+ trains B faster than A).
    Raises ValueError when nothing is trainable, a scale names no trainable parameter, or a number
    is out of its range.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        self.parameters = {name: p for name, p in parameters if p.requires_grad}
        if not self.parameters:
            raise ValueError("optimizer got no trainable parameter, expected at least one")
        self.lr_scales = dict(lr_scales or {})
        unknown = sorted(self.lr_scales.keys() - self.parameters.keys())
        if unknown:
            raise ValueError(f"lr_scales got {unknown}, expected names of trainable parameters")
        for name, scale in self.lr_scales.items():
            require_finite(f"lr_scales[{name!r}]", scale)
        self.steps = 0
        self.state: dict[str, dict[str, Array]] = {
            slot: {n: get_array_module(p.data).zeros_like(p.data) for n, p in self._items()}
            for slot in self.slots
        }

    def _items(self) -> Iterable[tuple[str, Parameter]]:
        return self.parameters.items()

    def settings(self) -> dict:
        """What shapes its updates, JSON-ready, so that a resumed run can be compared."""
        return {"kind": type(self).__name__, "lr_scales": self.lr_scales}

    @property
    def state_bytes(self) -> int:
        """Bytes of the arrays kept between steps."""
        return sum(a.nbytes for arrays in self.state.values() for a in arrays.values())

    def step(self, lr: float) -> None:
        """One update from the accumulated gradients; a parameter without one is left alone.

        Raises ValueError, before anything changes, for a rate below 0 or not finite.
        """
        require_finite("lr", lr)
        self.steps += 1
        for name, parameter in self._items():
            if parameter.grad is not None:
                self._update(name, parameter, lr * self.lr_scales.get(name, 1.0))

    def _update(self, name: str, parameter: Parameter, lr: float) -> None:
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def state_dict(self) -> dict[str, np.ndarray]:
        """Flat "slot/name" -> array, and the step count."""
        flat = {f"{s}/{n}": to_numpy(a) for s, d in self.state.items() for n, a in d.items()}
        return {**flat, "steps": np.array(self.steps, dtype=np.int64)}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state_dict` gave. Raises ValueError for other names or shapes."""
        own = self.state_dict()
        if own.keys() != state.keys():
            differing = sorted(own.keys() ^ state.keys())
            raise ValueError(f"optimizer state differs from the model's in {differing[:6]}")
        wrong = [k for k in own if own[k].shape != state[k].shape]
        if wrong:
            raise ValueError(f"optimizer state got other shapes than expected for {wrong[:6]}")
        for slot, arrays in self.state.items():
            for name, array in arrays.items():
                array[...] = get_array_module(array).asarray(state[f"{slot}/{name}"])
        self.steps = int(state["steps"])


class SGD(Optimizer):
    """p -= lr * v,  v = momentum * v + g   (v is g itself, and kept nowhere, at momentum 0)."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        momentum: float = 0.0,
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        require_finite("momentum", momentum, below=1.0)
        self.momentum = momentum
        self.slots = ("velocity",) if momentum else ()
        super().__init__(parameters, lr_scales)

    def settings(self) -> dict:
        """Kind, rates and momentum."""
        return {**super().settings(), "momentum": self.momentum}

    def _update(self, name: str, parameter: Parameter, lr: float) -> None:
        update = parameter.grad
        if self.momentum:
            update = self.state["velocity"][name]
            update *= self.momentum
            update += parameter.grad
        parameter.data -= update * lr


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, Alg. 2).

    m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,
    p -= lr (wd p + m^ / (sqrt(v^) + eps)),  with ^ dividing by 1 - b^t.
    Decay reaches matrices only: norm weights and biases have no size that should shrink.
    """

    slots = ("m", "v")

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        for i, beta in enumerate(betas):
            require_finite(f"betas[{i}]", beta, below=1.0)
        require_finite("eps", eps, above=True)
        require_finite("weight_decay", weight_decay)
        super().__init__(parameters, lr_scales)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        largest = max(self.parameters.values(), key=lambda p: p.size).data
        self._scratch = get_array_module(largest).empty(largest.size, dtype=largest.dtype)

    def settings(self) -> dict:
        """Kind, rates, betas, eps and decay."""
        own = {"betas": list(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}
        return {**super().settings(), **own}

    def _update(self, name: str, parameter: Parameter, lr: float) -> None:
        g, p = parameter.grad, parameter.data
        m, v = self.state["m"][name], self.state["v"][name]
        xp, (b1, b2) = get_array_module(p), self.betas
        t = self._scratch[: p.size].reshape(p.shape)  # one buffer for every pass
        m *= b1
        m += xp.multiply(g, 1 - b1, out=t)
        v *= b2
        xp.multiply(g, g, out=t)
        t *= 1 - b2
        v += t
        xp.sqrt(v, out=t)
        t *= 1.0 / math.sqrt(1 - b2**self.steps)
        t += self.eps
        xp.divide(m, t, out=t)
        t *= lr / (1 - b1**self.steps)
        if self.weight_decay and p.ndim > 1:
            p *= 1.0 - lr * self.weight_decay
        p -= t


def clip_grad_norm_(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients by min(1, max_norm / total norm), in place; the norm before clipping.

    The norm is over all gradients as one vector (Pascanu et al. 2013, Alg. 1); nothing is scaled
    when it is not finite, or where max_norm is infinite. Raises ValueError for max_norm <= 0.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm_ got max_norm {max_norm}, expected a number above 0")
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(to_floats([get_array_module(g).vdot(g, g) for g in grads])))
    if math.isfinite(norm) and norm > max_norm:
        for g in grads:
            g *= max_norm / norm
    return norm


def schedule(name: str, lr: float, steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """step (from 0) -> learning rate: a linear rise over `warmup` steps, then "cosine", "linear"
    or "constant" down to `final` * lr at the last step.

    Raises ValueError for an unknown name, a warm-up that does not fit, or a number out of range.
    """
    curves = {
        "cosine": lambda t: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * t)),
        "linear": lambda t: final + (1 - final) * (1 - t),
        "constant": lambda t: 1.0,
    }
    if name not in curves:
        raise ValueError(f"got schedule {name!r}, expected one of {sorted(curves)}")
    require_finite("lr", lr, above=True)
    require_finite("final", final)
    require_count("warmup", warmup, 0, max(steps, 1) - 1)

    def rate(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / warmup
        return lr * curves[name](min(1.0, (step - warmup) / max(1, steps - 1 - warmup)))

    return rate
