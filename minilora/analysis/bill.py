"""The bill of memory: what training holds, predicted from a config and counted from live arrays.

Full training in float32 with AdamW holds 16 bytes a number: weight, gradient and two moments. LoRA
holds those 16 for A and B alone and 4 for the frozen base (Hu et al. 2021, Sec. 4.2). That leaves
the base, which fewer bits make smaller (Dettmers et al. 2023), and the activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from minilora.analysis.kept import kept_arrays
from minilora.autograd.attention import attention_blocks
from minilora.autograd.functional import folding_pays
from minilora.autograd.normal_float import SCALES_A_GROUP
from minilora.autograd.stored_array import BLOCKS
from minilora.limits import require_count
from minilora.lora import ALL_LINEAR, LoRAConfig, adapter_state, attach
from minilora.lora.activated import invocation_of
from minilora.lora.targets import names_target
from minilora.nn import BASE_DTYPES, Transformer, TransformerConfig, require_base_dtype
from minilora.training.optim import AdamW, Optimizer
from minilora.training.parallel import Piece, piece_loss, read_prompts

FLOAT = 4
"""Bytes of a float32 number."""
MOMENTS = 2
"""Numbers that AdamW keeps for each one it trains."""

SHAPES = {
    "smollm2-135m": TransformerConfig(49152, 576, 1536, 30, 9, 3),
    "llama-2-7b": TransformerConfig(32000, 4096, 11008, 32, 32, 32, tie_word_embeddings=False),
    "gpt-3": TransformerConfig(50257, 12288, 32768, 96, 96, 96),
}
"""Sizes to predict for. GPT-3's MLP has two matrices of 12,288 x 49,152; three of 32,768 hold as
many numbers (Brown et al. 2020, Table 2.1)."""


@dataclass(frozen=True)
class Method:
    """A way to train: targets of the adapter, None for full training, and how the base is kept.

    activated: the adapter acts on what has labels and the prompts before it are read without it.
    """

    targets: tuple[str, ...] | str | None
    base_dtype: str = "float32"
    activated: bool = False

    def config(self, r: int) -> LoRAConfig | None:
        """Of its adapter, of rank r; None for full training."""
        if self.targets is None:
            return None
        invocation = (0,) if self.activated else None
        return LoRAConfig(r=r, target_modules=self.targets, invocation=invocation)


LEAN = ("q_proj", "v_proj")
METHODS = {
    "full": Method(None),
    "LoRA all": Method(ALL_LINEAR),
    "LoRA q,v": Method(LEAN),
    "activated q,v": Method(LEAN, activated=True),
    **{f"q,v on {dtype}": Method(LEAN, dtype) for dtype in BASE_DTYPES[1:]},
}
"""What the bill is written for; the last ones keep the frozen base in fewer bits."""


@dataclass(frozen=True)
class Bill:
    """Bytes held at the end of a forward pass in training, gradients and moments included."""

    weights: int
    """The base, as it is kept."""
    adapter: int
    """A and B."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    activations: int
    """All that the recorded graph keeps for the backward pass, and for an activated adapter the
    keys and values of the prompts."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(asdict(self).values())

    def to_dict(self) -> dict[str, int]:
        """JSON-ready, with the total."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Batch:
    """rows x time positions, of which the last `labels` of each row have a label.

    An activated adapter's invocation stands where the labels begin.
    """

    rows: int
    time: int
    labels: int

    def __post_init__(self) -> None:
        require_count("rows", self.rows, 1)
        require_count("time", self.time, 1)
        require_count("labels", self.labels, 1, self.time)

    @property
    def positions(self) -> int:
        """All positions."""
        return self.rows * self.time

    @property
    def labelled(self) -> int:
        """Positions with a label."""
        return self.rows * self.labels


def linears_of(config: TransformerConfig) -> Iterator[tuple[str, int, int]]:
    """(dotted name, in, out) of every Linear that can be adapted, in the model's order."""
    width, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.self_attn.q_proj", width, queries
        yield f"{layer}.self_attn.k_proj", width, shared
        yield f"{layer}.self_attn.v_proj", width, shared
        yield f"{layer}.self_attn.o_proj", queries, width
        yield f"{layer}.mlp.gate_proj", width, inner
        yield f"{layer}.mlp.up_proj", width, inner
        yield f"{layer}.mlp.down_proj", inner, width


def matrix_bytes(shape: tuple[int, int], base_dtype: str, *, sensitive: bool = False) -> int:
    """Bytes of a weight (out, in) in a base of this dtype; sensitive: an embedding or the head.

    As `nn.store_base` keeps it. Raises ValueError for a dtype that it does not know.
    """
    require_base_dtype(base_dtype)
    out, inputs = shape
    numbers = out * inputs
    if base_dtype == "float32":
        return FLOAT * numbers
    kind = "q8" if sensitive and base_dtype != "float16" else base_dtype
    if inputs % BLOCKS[kind]:
        kind = "float16"
    blocks = numbers // BLOCKS[kind]
    if kind == "nf4":
        return numbers // 2 + blocks + FLOAT * -(-blocks // SCALES_A_GROUP) + FLOAT
    return {"float16": 2 * numbers, "q8": numbers + 2 * blocks, "q4": numbers // 2 + 4 * blocks}[
        kind
    ]


def base_bytes(config: TransformerConfig, base_dtype: str) -> int:
    """Bytes of all weights of a base that is kept so; norms are float32."""
    table = matrix_bytes((config.vocab_size, config.hidden_size), base_dtype, sensitive=True)
    norms = FLOAT * config.hidden_size * (2 * config.num_hidden_layers + 1)
    linears = sum(matrix_bytes((out, inputs), base_dtype) for _, inputs, out in linears_of(config))
    return (1 if config.tie_word_embeddings else 2) * table + norms + linears


def bill(
    config: TransformerConfig,
    batch: Batch,
    adapter: LoRAConfig | None = None,
    base_dtype: str = "float32",
) -> Bill:
    """What a step of AdamW holds, from sizes alone: no array is made.

    adapter: None for full training, else the LoRA adapter beside a frozen base; an activated one
    as `training` does it, which reads the prompts without gradients first. Raises ValueError for
    full training of a base that is not float32, for an adapter with use_dora, vera or tables,
    for targets that fit no Linear, and for a rank beyond a layer's.
    """
    if adapter is not None and not adapter.is_product:
        raise ValueError("got an adapter with use_dora, vera or tables, expected plain LoRA")
    if adapter is None and base_dtype != "float32":
        raise ValueError(f"got full training of a base in {base_dtype}, expected float32")
    ranks = _ranks(config, adapter)
    trained = sum(ranks[name] * (i + o) for name, i, o in linears_of(config) if name in ranks)
    if adapter is None:
        trained = config.parameter_count
    return Bill(
        weights=base_bytes(config, base_dtype),
        adapter=0 if adapter is None else FLOAT * trained,
        gradients=FLOAT * trained,
        optimizer=MOMENTS * FLOAT * trained,
        activations=_Activations(config, batch, adapter, base_dtype).bytes(),
    )


def bill_of(config: TransformerConfig, batch: Batch, method: str, r: int) -> Bill:
    """The bill of one of METHODS, its adapter of rank r."""
    how = METHODS[method]
    return bill(config, batch, how.config(r), how.base_dtype)


def prepared(model: Transformer, method: Method, r: int, rng: np.random.Generator) -> AdamW:
    """The optimizer of a method, on a plain model kept as it says: its adapter is attached here."""
    adapter = method.config(r)
    if adapter is not None:
        attach(model, adapter, rng)
    return AdamW([(n, p) for n, p in model.named_parameters() if p.requires_grad])


def _ranks(config: TransformerConfig, adapter: LoRAConfig | None) -> dict[str, int]:
    """Adapted module -> its rank."""
    if adapter is None:
        return {}
    names = [name for name, _, _ in linears_of(config)]
    chosen = [name for name in names if names_target(adapter.target_modules, name)]
    if not chosen:
        raise ValueError(
            f"got targets {adapter.target_modules}, expected some of q_proj, k_proj, v_proj, "
            "o_proj, gate_proj, up_proj, down_proj"
        )
    for name, inputs, out in linears_of(config):
        if name in chosen and adapter.at(name).r > min(inputs, out):
            raise ValueError(
                f"got r {adapter.at(name).r} for {name} with weight ({out}, {inputs}), expected at "
                f"most {min(inputs, out)}"
            )
    return {name: adapter.at(name).r for name in chosen}


class _Activations:
    """Walks through the model as the forward pass does, and adds up what each op keeps.

    An op keeps an array only for a vjp that will be called: what leads to a trained number. So the
    walk carries whether the present stream needs a gradient.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: Batch,
        adapter: LoRAConfig | None,
        base_dtype: str,
    ) -> None:
        self.config, self.full = config, adapter is None
        activated = adapter is not None and adapter.invocation is not None
        self.before = batch.time - batch.labels if activated else 0
        self.batch = Batch(batch.rows, batch.labels, batch.labels) if activated else batch
        self.activated = activated
        self.ranks = _ranks(config, adapter)
        self.dropout = 0.0 if adapter is None else adapter.lora_dropout
        self.dense = base_dtype == "float32"
        self.shapes = {name: (inputs, out) for name, inputs, out in linears_of(config)}

    def bytes(self) -> int:
        """All of them."""
        config, batch, needs = self.config, self.batch, self.full
        self.numbers, self.other_bytes, self.turned = 0, 0, False
        if self.full:
            self.other_bytes += 4 * batch.positions  # the ids, int32, for the embedding's gradient
        for i in range(config.num_hidden_layers):
            needs = self._block(i, needs)
        count = self._positions_of(config.num_hidden_layers - 1)
        if needs:
            self._norm(count)
        shared = config.num_key_value_heads * config.head_dim  # the prompts' keys and values:
        self.numbers += 2 * config.num_hidden_layers * batch.rows * self.before * shared
        labelled = batch.labelled
        self.numbers += labelled * (config.vocab_size + config.hidden_size)
        self.other_bytes += 8 * labelled  # positions, int64
        if self.turned:
            heads = max(config.num_attention_heads, config.num_key_value_heads)
            tables = batch.rows if self.activated else 1  # prompts differ in length, row by row
            self.numbers += 2 * tables * batch.time * heads * config.head_dim  # cos, sin
        return FLOAT * self.numbers + self.other_bytes

    def _positions_of(self, layer: int) -> int:
        """Positions at which a block's MLP is computed: in the last one the labelled alone."""
        last = layer == self.config.num_hidden_layers - 1
        return self.batch.labelled if last else self.batch.positions

    def _norm(self, positions: int) -> None:
        self.numbers += positions * (self.config.hidden_size + 1)  # x and 1/rms

    def _linear(self, name: str, positions: int, needs: bool) -> bool:
        """Add what one Linear keeps beside its input; whether its output needs a gradient."""
        if name not in self.ranks:
            return needs or self.full
        (inputs, out), r = self.shapes[name], self.ranks[name]
        self.numbers += out * r  # s B
        if self.dropout:
            self.numbers += (1 + needs) * positions * inputs  # x masked, and the mask for gx
        elif needs and self.dense and folding_pays(positions, inputs, out):
            self.numbers += inputs * out  # W + s B A
        return True

    def _keeps_input(self, *names: str) -> bool:
        """Whether any of these Linears keeps its input as it is."""
        return self.full or (not self.dropout and any(name in self.ranks for name in names))

    def _block(self, i: int, needs: bool) -> bool:
        config, batch = self.config, self.batch
        positions, width = batch.positions, config.hidden_size
        q, k, v, o = (f"model.layers.{i}.self_attn.{leaf}_proj" for leaf in "qkvo")
        gate, up, down = (f"model.layers.{i}.mlp.{x}_proj" for x in ("gate", "up", "down"))
        if needs:
            self._norm(positions)
        if self._keeps_input(q, k, v):
            self.numbers += positions * width
        needs_q, needs_k, needs_v = (self._linear(name, positions, needs) for name in (q, k, v))
        self.turned = self.turned or needs_q or needs_k
        if needs_q or needs_k or needs_v:
            self._attention(needs_q, needs_k)
        attended = needs_q or needs_k or needs_v
        if self._keeps_input(o) and not attended:
            self.numbers += positions * self.shapes[o][0]
        needs = self._linear(o, positions, attended) or needs
        count = self._positions_of(i)
        if (
            count < positions and needs
        ):  # picked out of the stream, which the vjp holds for its shape
            self.numbers += positions * width
            self.other_bytes += 8 * count
        if needs:
            self._norm(count)
        if self._keeps_input(gate, up):
            self.numbers += count * width
        needs_gate, needs_up = (self._linear(name, count, needs) for name in (gate, up))
        self.numbers += count * config.intermediate_size * (needs_gate + needs_up)
        if self._keeps_input(down):
            self.numbers += count * config.intermediate_size
        return self._linear(down, count, needs_gate or needs_up) or needs

    def _attention(self, needs_q: bool, needs_k: bool) -> None:
        config, batch = self.config, self.batch
        heads, time, seen = config.num_attention_heads, batch.time, self.before + batch.time
        own, shared = heads * config.head_dim, config.num_key_value_heads * config.head_dim
        scores = sum(
            (block.queries.stop - block.queries.start) * block.keys.stop
            for block in attention_blocks(time, seen)
        )
        self.numbers += batch.rows * heads * (scores + time)  # E and its row sums
        self.numbers += batch.positions * own + batch.rows * seen * shared  # o and v
        # q, and k with that of the prompt before it
        self.numbers += batch.positions * own * needs_k + batch.rows * seen * shared * needs_q


def counted_bill(model: Transformer, batch: Batch, optimizer: Optimizer) -> Bill:
    """The same, counted from live arrays: one step of `optimizer` on a random batch, rate 0.

    Trained numbers stay as they are, but for weight decay, which should be 0. Raises ValueError for
    more tokens in a row than the model has positions for.
    """
    limit = model.config.max_position_embeddings
    if batch.time > limit:
        raise ValueError(f"got time {batch.time} to count, expected up to the base's {limit}")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.config.vocab_size, (batch.rows, batch.time + 1))
    ids, labels = tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)
    labels[:, : batch.time - batch.labels] = -100
    parameters = list(model.parameters())
    if invocation_of(model) is None:
        past, loss = [], model.loss(ids, labels)
    else:
        before = batch.time - batch.labels
        piece = Piece(ids[:, before:], labels[:, before:], (), prompts=tuple(ids[:, :before]))
        read = read_prompts(model, piece)
        past = [array for pair in read.layers for array in pair]
        loss = piece_loss(model, piece, batch.labelled, read)
    kept = sum(a.nbytes for a in kept_arrays(loss, [*past, *(p.data for p in parameters)]))
    kept += sum(array.nbytes for array in past)
    loss.backward()
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    optimizer.step(0.0)
    moments = sum(a.nbytes for slot in optimizer.state.values() for a in slot.values())
    model.zero_grad()
    adapter = sum(array.nbytes for array in adapter_state(model).values())
    return Bill(
        weights=sum(p.data.nbytes for p in parameters) - adapter,
        adapter=adapter,
        gradients=gradients,
        optimizer=moments,
        activations=kept,
    )
