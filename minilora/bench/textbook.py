"""A plain textbook autograd and the same Llama-type model on it, with LoRA: the third column.

As such engines are usually written: each op is a chain of primitives, every tensor collects a
gradient whether or not anyone wants it (frozen weights too), nothing works in place, the whole
batch goes through at once and logits are made at every position. It is written with care for what
costs nothing: float32 throughout, no x**3, no Python loop over elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from minilora.nn import TransformerConfig

IGNORE = -100


class Var:
    """A value, its gradient, and how to send the gradient on to what it was made of."""

    def __init__(self, data: np.ndarray, parents: tuple[Var, ...] = ()) -> None:
        self.data = data
        self.grad: np.ndarray | None = None
        self.parents = parents
        self.push: Callable[[np.ndarray], None] = lambda g: None

    def add_grad(self, g: np.ndarray) -> None:
        """Add to the gradient, summed over the axes along which this value was repeated."""
        while g.ndim > self.data.ndim:
            g = g.sum(axis=0)
        for axis, size in enumerate(self.data.shape):
            if size == 1 and g.shape[axis] != 1:
                g = g.sum(axis=axis, keepdims=True)
        self.grad = g if self.grad is None else self.grad + g

    def backward(self) -> None:
        """Gradients of this scalar, in every Var that it was made of."""
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            var, done = stack.pop()
            if done:
                order.append(var)
            elif id(var) not in seen:
                seen.add(id(var))
                stack.append((var, True))
                stack.extend((parent, False) for parent in var.parents)
        self.grad = np.ones_like(self.data)
        for var in reversed(order):
            var.push(var.grad)

    def __add__(self, other: Var) -> Var:
        out = Var(self.data + other.data, (self, other))
        out.push = lambda g: (self.add_grad(g), other.add_grad(g))
        return out

    def __mul__(self, other: Var | float) -> Var:
        other = other if isinstance(other, Var) else Var(np.asarray(other, self.data.dtype))
        out = Var(self.data * other.data, (self, other))
        out.push = lambda g: (self.add_grad(g * other.data), other.add_grad(g * self.data))
        return out

    def __matmul__(self, other: Var) -> Var:
        out = Var(self.data @ other.data, (self, other))

        def push(g: np.ndarray) -> None:
            self.add_grad(g @ other.data.swapaxes(-1, -2))
            other.add_grad(self.data.swapaxes(-1, -2) @ g)

        out.push = push
        return out

    def __getitem__(self, index: object) -> Var:
        out = Var(self.data[index], (self,))

        def push(g: np.ndarray) -> None:
            whole = np.zeros_like(self.data)
            np.add.at(whole, index, g)
            self.add_grad(whole)

        out.push = push
        return out

    def power(self, exponent: float) -> Var:
        """Element by element, of positive numbers."""
        out = Var(self.data**exponent, (self,))
        out.push = lambda g: self.add_grad(g * exponent * self.data ** (exponent - 1))
        return out

    def exp(self) -> Var:
        """e^x."""
        out = Var(np.exp(self.data), (self,))
        out.push = lambda g: self.add_grad(g * out.data)
        return out

    def log(self) -> Var:
        """Natural logarithm."""
        out = Var(np.log(self.data), (self,))
        out.push = lambda g: self.add_grad(g / self.data)
        return out

    def sum(self, axis: int) -> Var:
        """Over one axis, which stays with length 1."""
        out = Var(self.data.sum(axis=axis, keepdims=True), (self,))
        out.push = lambda g: self.add_grad(np.broadcast_to(g, self.data.shape))
        return out

    def reshape(self, *shape: int) -> Var:
        """The same elements in another shape."""
        out = Var(self.data.reshape(shape), (self,))
        out.push = lambda g: self.add_grad(g.reshape(self.data.shape))
        return out

    def transpose(self, *axes: int) -> Var:
        """Axes in another order."""
        out = Var(self.data.transpose(axes), (self,))
        out.push = lambda g: self.add_grad(g.transpose(np.argsort(axes)))
        return out


def join(a: Var, b: Var) -> Var:
    """Concatenated along the last axis."""
    size = a.data.shape[-1]
    out = Var(np.concatenate([a.data, b.data], axis=-1), (a, b))
    out.push = lambda g: (a.add_grad(g[..., :size]), b.add_grad(g[..., size:]))
    return out


class Textbook:
    """The model with named weights ("model.layers.0...", "<module>.lora_A"), LoRA where given."""

    def __init__(
        self,
        config: TransformerConfig,
        base: Mapping[str, np.ndarray],
        adapter: Mapping[str, np.ndarray],
        scaling: float,
    ) -> None:
        self.config, self.scaling = config, scaling
        self.vars = {name: Var(array) for name, array in {**base, **adapter}.items()}
        self.trained = {name: self.vars[name] for name in (adapter or base)}
        self._moments = {n: (v.data * 0, v.data * 0) for n, v in self.trained.items()}
        self._steps = 0

    def _linear(self, x: Var, name: str) -> Var:
        y = x @ self.vars[f"{name}.weight"].transpose(1, 0)
        if f"{name}.lora_A" in self.vars:
            a, b = self.vars[f"{name}.lora_A"], self.vars[f"{name}.lora_B"]
            y = y + x @ a.transpose(1, 0) @ b.transpose(1, 0) * self.scaling
        return y

    def _norm(self, x: Var, name: str) -> Var:
        mean = (x * x).sum(-1) * (1.0 / x.data.shape[-1])
        eps = Var(np.asarray(self.config.rms_norm_eps, x.data.dtype))
        return x * (mean + eps).power(-0.5) * self.vars[f"{name}.weight"]

    def _rope(self, x: Var) -> Var:
        """x (B, H, T, dh), pairs (i, i + dh/2); angles in float32, as the ecosystem has them."""
        time, dim = x.data.shape[2:]
        inverse = 1.0 / self.config.rope_theta ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
        angles = np.arange(time, dtype=np.float32)[:, None] * np.concatenate([inverse, inverse])
        cos, sin = (Var(f(angles).astype(x.data.dtype)) for f in (np.cos, np.sin))
        half = dim // 2
        turned = join(x[..., half:] * -1.0, x[..., :half])
        return x * cos + turned * sin

    def _attention(self, x: Var, name: str) -> Var:
        config, (batch, time, _) = self.config, x.data.shape

        def heads(part: str, count: int) -> Var:
            y = self._linear(x, f"{name}.{part}").reshape(batch, time, count, config.head_dim)
            return y.transpose(0, 2, 1, 3)

        shared, count = config.num_key_value_heads, config.num_attention_heads
        repeat = np.repeat(np.arange(shared), count // shared)
        q = self._rope(heads("q_proj", count))
        k, v = self._rope(heads("k_proj", shared)), heads("v_proj", shared)
        if shared != count:
            k, v = k[:, repeat], v[:, repeat]
        scores = q @ k.transpose(0, 1, 3, 2) * (1.0 / math.sqrt(config.head_dim))
        hidden = np.where(np.tri(time, dtype=bool), 0.0, -1e9).astype(x.data.dtype)
        scores = scores + Var(hidden)
        weights = (scores + Var(-scores.data.max(axis=-1, keepdims=True))).exp()
        mixed = weights * weights.sum(-1).power(-1.0) @ v
        return self._linear(mixed.transpose(0, 2, 1, 3).reshape(batch, time, -1), f"{name}.o_proj")

    def _mlp(self, x: Var, name: str) -> Var:
        gate, up = self._linear(x, f"{name}.gate_proj"), self._linear(x, f"{name}.up_proj")
        one = Var(np.asarray(1.0, x.data.dtype))
        sigmoid = ((gate * -1.0).exp() + one).power(-1.0)
        return self._linear(gate * sigmoid * up, f"{name}.down_proj")

    def loss(self, ids: np.ndarray, labels: np.ndarray) -> Var:
        """Mean cross-entropy over the labels that are not IGNORE."""
        embedding = self.vars["model.embed_tokens.weight"]
        x = embedding[ids]
        for i in range(self.config.num_hidden_layers):
            name = f"model.layers.{i}"
            x = x + self._attention(self._norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
            x = x + self._mlp(self._norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp")
        head = self.vars.get("lm_head.weight", embedding)
        logits = self._norm(x, "model.norm") @ head.transpose(1, 0)
        logits = logits.reshape(-1, self.config.vocab_size)
        logits = logits + Var(-logits.data.max(axis=-1, keepdims=True))
        logp = logits + logits.exp().sum(-1).log() * -1.0
        where = np.flatnonzero(labels.reshape(-1) != IGNORE)
        picked = logp[where, labels.reshape(-1)[where]]
        return picked.sum(0) * (-1.0 / len(where))

    def gradients(self, ids: np.ndarray, labels: np.ndarray) -> float:
        """Leave every gradient in `grad`; the loss."""
        for var in self.vars.values():
            var.grad = None
        loss = self.loss(ids, labels)
        loss.backward()
        return float(loss.data[0])

    def step(
        self, ids: np.ndarray, labels: np.ndarray, lr: float, decay: float, clip: float
    ) -> float:
        """One step of AdamW with clipping; the loss before it."""
        loss = self.gradients(ids, labels)
        self._steps += 1
        norm = math.sqrt(sum(float((v.grad * v.grad).sum()) for v in self.trained.values()))
        scale = min(1.0, clip / norm)
        for name, var in self.trained.items():
            g = var.grad * scale
            m, v = self._moments[name]
            m, v = m * 0.9 + g * 0.1, v * 0.999 + g * g * 0.001
            self._moments[name] = m, v
            m, v = m / (1 - 0.9**self._steps), v / (1 - 0.999**self._steps)
            matrix = decay if var.data.ndim > 1 else 0.0
            var.data = var.data * (1 - lr * matrix) - lr * m / (np.sqrt(v) + 1e-8)
        return loss
