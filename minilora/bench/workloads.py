"""What the benchmark runs: models, batches and jobs, the same for every side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from minilora.autograd import IGNORE
from minilora.backend import Array
from minilora.lora import LoRAConfig, adapter_state, attach, base_state, lora_layers
from minilora.nn import Transformer, TransformerConfig, store_base
from minilora.text import Example

RANK, ALPHA = 8, 16
LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 3e-4, 0.01, 1.0
"""torch's own defaults for AdamW but the rate: small, so that hundreds of steps on one batch do
not bring the loss near zero, where gradients turn denormal and slow."""
PROMPT, NEW_TOKENS = 16, 64
INVOCATION = (5,)
"""Of an activated adapter."""
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Workload:
    """A model's shape and a batch: `rows` of `time` tokens, labels on each row's last `labels`."""

    name: str
    config: TransformerConfig
    rows: int
    time: int
    labels: int

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Random ids and labels (rows, time); labels[b, t] is the token after ids[b, t]."""
        shape = (self.rows, self.time + 1)
        tokens = np.random.default_rng(11).integers(0, self.config.vocab_size, shape)
        ids, labels = tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)
        labels[:, : self.time - self.labels] = IGNORE
        return ids, labels

    def examples(self, invocation: tuple[int, ...] = ()) -> list[Example]:
        """The batch as examples, for `fit`; these tokens stand where the labels begin."""
        ids, labels = self.batch()
        begins = self.time - self.labels
        if invocation:
            ids[:, begins - len(invocation) + 1 : begins + 1] = invocation
        return [Example(one, wanted) for one, wanted in zip(ids, labels, strict=True)]

    def prompts(self, count: int) -> np.ndarray:
        """Random prompts (count, PROMPT)."""
        rng = np.random.default_rng(12)
        return rng.integers(0, self.config.vocab_size, (count, PROMPT))

    def to_dict(self) -> dict:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> Workload:
        """The inverse of `to_dict`."""
        return cls(**{**values, "config": TransformerConfig(**values["config"])})


def shaped(
    name: str, size: tuple[int, int, int, int], rows: int, time: int, labels: int, **more: object
) -> Workload:
    """A workload from (layers, width, heads, vocabulary); the MLP is 3 d wide unless told."""
    layers, width, heads, vocab = size
    fields = {"intermediate_size": 3 * width, "num_key_value_heads": heads, **more}
    config = TransformerConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocab,
        **fields,
    )
    return Workload(name, config, rows, time, labels)


WORKLOADS = {
    w.name: w
    for w in (
        shaped("S", (2, 64, 4, 128), rows=32, time=64, labels=64),
        shaped("W", (4, 128, 4, 2816), rows=32, time=150, labels=40),
        shaped("M", (4, 128, 4, 512), rows=16, time=128, labels=128),
        shaped("G", (6, 384, 6, 1024), rows=4, time=256, labels=256),
        shaped(
            "R",
            (30, 576, 9, 49152),
            rows=4,
            time=150,
            labels=60,
            intermediate_size=1536,
            num_key_value_heads=3,
            rope_theta=100000.0,
        ),
    )
}
"""W is ward-base's shape, R SmolLM2-135M's; in S, M, G the MLP is 3 d wide, all positions
labelled."""


@dataclass(frozen=True)
class Job:
    """What is timed. kind: "step", "forward", "generate" or "decode"; targets: of the adapters, ()
    for none; rows: of generation and decoding.
    """

    name: str
    kind: str
    title: str
    targets: tuple[str, ...] | str = ()
    rows: int = 0

    def tokens(self, workload: Workload) -> int:
        """Positions that one turn of the job reads, or tokens that it generates."""
        if self.kind in ("generate", "decode"):
            return self.rows * (NEW_TOKENS if self.kind == "generate" else 1)
        return workload.rows * workload.time


JOBS = {
    j.name: j
    for j in (
        Job("lora-qv", "step", f"LoRA step, q and v, r {RANK}", ("q_proj", "v_proj")),
        Job("lora-all", "step", f"LoRA step, all linears, r {RANK}", "all-linear"),
        Job("full", "step", "full fine-tuning step"),
        Job("forward", "forward", "forward, logits at every position"),
        Job("generate-1", "generate", f"greedy, {NEW_TOKENS} tokens, 1 row", rows=1),
        Job("generate-8", "generate", f"greedy, {NEW_TOKENS} tokens, 8 rows", rows=8),
        Job(
            "bank",
            "decode",
            f"one token of 64 rows, r {RANK} on q and v, 1 to 64 adapters",
            ("q_proj", "v_proj"),
            64,
        ),
    )
}


def runs(workload: Workload, job: Job) -> bool:
    """Whether the benchmark has this cell: a full step of R is left out."""
    return not (workload.name == "R" and job.name == "full")


def lora_config(job: Job, activated: bool = False) -> LoRAConfig:
    """The job's adapter."""
    invocation = INVOCATION if activated else None
    return LoRAConfig(r=RANK, lora_alpha=ALPHA, target_modules=job.targets, invocation=invocation)


def adapters_in(kind: str) -> int:
    """How many adapters a batch of the side "bank-8" or "peft-8" mixes; 0 where all rows use one.

    "bank-1" is a batch of one adapter by the way that mixes.
    """
    return int(kind.partition("-")[2] or 0)


def bank_config() -> LoRAConfig:
    """What each adapter of the job "bank" is."""
    return lora_config(JOBS["bank"])


def bank_factors(workload: Workload, count: int) -> Iterator[dict[str, tuple[Array, Array]]]:
    """Of `count` adapters, each module's A and B: N(0, 0.02), drawn alike for every side."""
    c = workload.config
    outputs = {"q_proj": c.num_attention_heads, "v_proj": c.num_key_value_heads}
    for seed in range(count):
        rng, factors = np.random.default_rng([13, seed]), {}
        for layer in range(c.num_hidden_layers):
            for name, heads in outputs.items():
                shapes = ((RANK, c.hidden_size), (heads * c.head_dim, RANK))
                a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
                factors[f"model.layers.{layer}.self_attn.{name}"] = 0.02 * a, 0.02 * b
        yield factors


def write_weights(workload: Workload, job: Job, folder: Path) -> None:
    """Draw the weights that every side loads: N(0, 0.02), so that nothing is denormal.

    B is random too, where a fresh adapter has 0: every product is then a real one.
    """
    model = Transformer(workload.config, np.random.default_rng(0))
    if job.targets:
        rng = np.random.default_rng(1)
        attach(model, lora_config(job), rng)
        for layer in lora_layers(model).values():
            b = layer.lora_B.data
            b[...] = rng.standard_normal(b.shape, dtype=np.float32) * np.float32(0.02)
    save_file({**base_state(model), **adapter_state(model)}, folder / WEIGHTS)


def read_weights(folder: Path | str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(base, adapter): name -> array, the adapter's as "<module>.lora_A"."""
    arrays = load_file(Path(folder) / WEIGHTS)
    adapter = {n: arrays.pop(n) for n in list(arrays) if n.endswith(("lora_A", "lora_B"))}
    return arrays, adapter


def load_model(
    workload: Workload,
    job: Job,
    folder: Path | str,
    base_dtype: str = "float32",
    activated: bool = False,
) -> Transformer:
    """minilora's model with the written weights, adapted where the job says so.

    base_dtype: how the base is held, one of BASE_DTYPES. activated: whether the adapter waits for
    INVOCATION.
    """
    base, adapter = read_weights(folder)
    model = Transformer(workload.config, None)
    model.load_state_dict(base)
    store_base(model, base_dtype)
    if job.targets:
        attach(model, lora_config(job, activated), np.random.default_rng(1))
        for name, layer in lora_layers(model).items():
            layer.lora_A.data[...] = adapter[f"{name}.lora_A"]
            layer.lora_B.data[...] = adapter[f"{name}.lora_B"]
    return model
