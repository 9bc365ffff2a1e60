"""The specification of the model: a small decoder of the Llama family, with Hugging Face's names.

What the model computes is defined here. `nn/decode.py` computes the same for one more token,
faster, and is checked against this file. The ward's small base and SmolLM2-135M both run on it: a
checkpoint loads by name, and an adapter made here names its tensors as PEFT does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from minilora.autograd import Tensor, ops
from minilora.autograd import functional as F
from minilora.backend import Array, get_array_module
from minilora.limits import require_count, require_finite
from minilora.nn.cache import LayerCache
from minilora.nn.layers import Embedding, Linear, RMSNorm
from minilora.nn.module import Module, ModuleList
from minilora.nn.rows import rows_of, seeing

MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
    "max_position_embeddings": 2**31,
}
"""Far beyond any model: a larger number is a broken file, and is refused before memory is asked."""


@dataclass(frozen=True)
class TransformerConfig:
    """The fields of a Llama `config.json` that shape this decoder, under their own names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 0
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None  # several may end a text
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)[:8]):
            if name != "head_dim" or self.head_dim != 0:
                require_count(f"config's {name}", getattr(self, name), 1, MOST[name])
        # JSON, as Python reads it, may say NaN and Infinity.
        for name in ("rms_norm_eps", "initializer_range"):
            require_finite(f"config's {name}", getattr(self, name))
        require_finite("config's rope_theta", self.rope_theta, above=True)
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"config got {self.num_attention_heads} heads and {self.num_key_value_heads} "
                "key/value heads, expected a multiple"
            )
        if self.head_dim % 2 or not self.head_dim:
            raise ValueError(
                f"config got head_dim {self.head_dim}, expected an even number above 0"
            )

    @property
    def parameter_count(self) -> int:
        """How many numbers a Transformer of this config holds, told without building one."""
        width, attention = self.hidden_size, self.num_attention_heads + self.num_key_value_heads
        projections = 2 * width * attention * self.head_dim  # q and o, k and v
        block = projections + 3 * width * self.intermediate_size + 2 * width  # and two norms
        heads = 1 if self.tie_word_embeddings else 2
        return heads * self.vocab_size * width + self.num_hidden_layers * block + width

    @classmethod
    def from_dict(cls, values: dict) -> TransformerConfig:
        """Take the known fields of a parsed config.json; the others are the caller's to judge.

        Raises ValueError naming fields that are missing.
        """
        known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        known.setdefault("num_key_value_heads", known.get("num_attention_heads"))
        missing = [f.name for f in fields(cls)[:6] if known.get(f.name) is None]
        if missing:
            raise ValueError(f"config has no {', '.join(missing)}, expected a Llama config.json")
        return cls(**known)

    def to_dict(self) -> dict:
        """A config.json that `transformers` reads as a LlamaForCausalLM."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "torch_dtype": "float32",
            **asdict(self),
        }


@dataclass(frozen=True)
class Past:
    """What was read before: keys and values (B, P, Hkv, dh) of every layer, which are constants.

    lengths (B,): how many positions each row has; they are the last ones of the P columns.
    """

    layers: Sequence[tuple[Array, Array]]
    lengths: np.ndarray

    @property
    def columns(self) -> int:
        """P, of the longest row."""
        return self.layers[0][0].shape[1]


@dataclass
class Positions:
    """What attention needs to know of the places of a batch: rope tables, padding, what is before.

    caches: the new keys and values go there, and what is seen comes from there. past: as in `Past`.
    """

    cos: Array
    sin: Array
    start: Array | None = None
    caches: list[LayerCache] | None = None
    past: Past | None = None


class Attention(Module):
    """Causal grouped-query self-attention with rotary positions and four separate projections."""

    def __init__(self, config: TransformerConfig, rng: np.random.Generator | None) -> None:
        super().__init__()
        self.config = config
        width, dim = config.hidden_size, config.head_dim
        inner, shared = config.num_attention_heads * dim, config.num_key_value_heads * dim
        std = config.initializer_range
        self.q_proj = Linear(width, inner, rng, std=std)
        self.k_proj = Linear(width, shared, rng, std=std)
        self.v_proj = Linear(width, shared, rng, std=std)
        # Residual writers start smaller, so that depth does not blow up the stream (GPT-2).
        std_out = std / (2 * config.num_hidden_layers) ** 0.5
        self.o_proj = Linear(inner, width, rng, std=std_out)

    def forward(self, x: Tensor, positions: Positions, layer: int) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        batch, time, _ = x.shape
        heads = (batch, time, -1, self.config.head_dim)
        q = F.rope(ops.reshape(self.q_proj(x), heads), positions.cos, positions.sin)
        k, v = self.keys_and_values(x, positions)
        if positions.caches is not None:
            k, v = positions.caches[layer].append(k, v)
        if positions.past is None:
            mixed = F.causal_attention(q, k, v, positions.start)
        else:
            mixed = F.causal_attention(q, k, v, positions.start, positions.past.layers[layer])
        return self.o_proj(ops.reshape(mixed, (batch, time, -1)))

    def keys_and_values(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """x (B, T, C) -> keys, turned by their positions, and values, (B, T, Hkv, dh) each."""
        heads = (*x.shape[:2], -1, self.config.head_dim)
        k = F.rope(ops.reshape(self.k_proj(x), heads), positions.cos, positions.sin)
        return k, ops.reshape(self.v_proj(x), heads)


class MLP(Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig, rng: np.random.Generator | None) -> None:
        super().__init__()
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.gate_proj = Linear(width, inner, rng, std=std)
        self.up_proj = Linear(width, inner, rng, std=std)
        std_out = std / (2 * config.num_hidden_layers) ** 0.5
        self.down_proj = Linear(inner, width, rng, std=std_out)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        return self.down_proj(F.swiglu(self.gate_proj(x), self.up_proj(x)))


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig, rng: np.random.Generator | None) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, rng)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, rng)

    def forward(
        self, x: Tensor, positions: Positions, layer: int, only: Array | None = None
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C); with `only`, indices among the B T positions, (len(only), C).

        Nothing after the attention mixes positions, so the rest is computed at `only` these.
        """
        x = x + self.self_attn(self.input_layernorm(x), positions, layer)
        if only is None:
            return x + self.mlp(self.post_attention_layernorm(x))
        picked = rows_of(x.shape[0]).picked(only, x.shape[1])
        x = F.embedding(ops.reshape(x, (-1, x.shape[-1])), only)
        with seeing(picked):
            return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(Module):
    """Embedding, blocks and the last norm: token ids (B, T) to hidden states (B, T, C)."""

    def __init__(self, config: TransformerConfig, rng: np.random.Generator | None) -> None:
        super().__init__()
        std = config.initializer_range
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, rng, std)
        self.layers = ModuleList([Block(config, rng) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids: Array, positions: Positions, only: Array | None = None) -> Tensor:
        """ids (B, T) -> hidden states (B, T, C), or (len(only), C) of the positions `only`."""
        x = self.embed_tokens(ids)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, positions, i, only if i == last else None)
        return self.norm(x)


class Transformer(Module):
    """The decoder with its output head (the embedding itself where the config ties them).

    `rng` draws the initial weights; None leaves them at zero, for a checkpoint to be loaded.
    """

    def __init__(self, config: TransformerConfig, rng: np.random.Generator | None) -> None:
        super().__init__()
        self.config = config
        self.generations = 0  # that go on now: their caches hold what the present weights made
        self.model = Decoder(config, rng)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(
                config.hidden_size, config.vocab_size, rng, std=config.initializer_range
            )

    @property
    def head_weight(self) -> Tensor:
        """The (V, C) matrix of the output head."""
        return self.model.embed_tokens.head_weight if self.lm_head is None else self.lm_head.weight

    def hidden_states(
        self,
        ids: Array,
        start: Array | None = None,
        caches: list[LayerCache] | None = None,
        only: Array | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """What the last norm gives, (B, T, C), of which the head makes logits.

        start (B,): positions of padding on the left of each row. caches: one a layer, to which
        the new keys and values are added. only: indices among the B T positions at which the
        hidden states are wanted, (len(only), C); the last block's MLP is spared at the others.
        past: what each row read before, in place of start and caches; nothing is added to it.
        Raises ValueError for ids that are not (B, T), or longer than max_position_embeddings.
        """
        cached = caches[0].length if caches else 0
        numbers = np.arange(cached, cached + ids.shape[-1])
        if past is not None:
            cached, numbers = past.columns, past.lengths[:, None] + numbers
            start = cached - past.lengths if (past.lengths != cached).any() else None
        if ids.ndim != 2 or cached + ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"got ids of shape {ids.shape} after {cached} cached positions, expected (B, T) "
                f"with T up to max_position_embeddings = {self.config.max_position_embeddings}"
            )
        cos, sin = self.rope_tables(numbers)
        rows = rows_of(len(ids))
        if rows.said is None and not cached:
            rows = rows.saying(ids, start)
        with seeing(rows.placed(cached, start)):
            return self.model(ids, Positions(cos, sin, start, caches, past), only)

    def rope_tables(self, numbers: np.ndarray) -> tuple[Array, Array]:
        """cos and sin for positions of these numbers, on the weights' device, in their dtype."""
        config, weight = self.config, self.model.norm.weight.data
        heads = max(config.num_attention_heads, config.num_key_value_heads)
        tables = F.rope_tables(numbers, config.head_dim, config.rope_theta, heads)
        xp = get_array_module(weight)
        return tuple(xp.asarray(table, weight.dtype) for table in tables)

    def forward(self, ids: Array) -> Tensor:
        """Token ids (B, T) -> logits (B, T, V)."""
        return F.linear(self.hidden_states(ids), self.head_weight)

    def loss(
        self,
        ids: Array,
        labels: Array,
        normalizer: float | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """Mean cross-entropy in nats over the labels that are not IGNORE.

        labels (B, T): labels[b, t] is the token after ids[b, t]. `normalizer` replaces the number
        of labels, so that micro-batches of one step add up to the step's mean. past: as in
        `hidden_states`.
        """
        if labels.shape != ids.shape:
            raise ValueError(f"got labels of shape {labels.shape}, expected {ids.shape}")
        labelled = F.labelled_positions(labels)
        if 0 < labelled.size < labels.size:
            labels = labels.reshape(-1)[labelled]
        else:
            labelled = None
        hidden = self.hidden_states(ids, only=labelled, past=past)
        return F.linear_cross_entropy(hidden, self.head_weight, labels, normalizer)
