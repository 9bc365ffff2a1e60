"""The same model in PyTorch: transformers' LlamaForCausalLM, PEFT's LoRA, eager mode.

The one file of the library that imports torch, but for torch_bank.py. It runs in a process of its
own: in one process, the threads that NumPy's BLAS and torch's OpenMP leave spinning spoil each
other's times.

Four kinds of side: "torch" makes logits at every position, as transformers' own loss does, and
"torch-labelled" only where labels are, as "torch-bf16" does under bfloat16 autocast; in generation
"torch" is a bare loop over torch's functions with a cache allocated once, and "transformers" calls
the model with its DynamicCache.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

import numpy as np
import peft
import torch
import transformers
from torch.nn import functional

from minilora.bench import workloads as w
from minilora.bench.turns import Turns

ATTENTION = ("sdpa", "eager")
LAYER = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
    "mlp.down_proj",
)  # fmt: skip


def build(workload: w.Workload, job: w.Job, folder: str) -> torch.nn.Module:
    """LlamaForCausalLM with the written weights, under PEFT where the job trains an adapter."""
    base, adapter = w.read_weights(folder)
    config = transformers.LlamaConfig(**workload.config.to_dict())
    config.use_cache = False
    model = transformers.LlamaForCausalLM(config).float()
    state = {name: torch.from_numpy(array) for name, array in base.items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state, strict=True)
    if not job.targets:
        return model
    targets = job.targets if isinstance(job.targets, str) else list(job.targets)
    settings = peft.LoraConfig(
        r=w.RANK, lora_alpha=w.ALPHA, target_modules=targets, lora_dropout=0.0, bias="none"
    )
    model = peft.get_peft_model(model, settings)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, array in adapter.items():
            own.pop(f"base_model.model.{name}.default.weight").copy_(torch.from_numpy(array))
    if own:
        raise ValueError(f"PEFT trains {sorted(own)[:3]}, which minilora does not")
    return model


def loss_of(
    model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor, kept: int, half: bool = False
) -> torch.Tensor:
    """Mean cross-entropy in nats a label; logits at each row's last `kept` positions (0: all).

    half: whether torch's autocast makes products in bfloat16.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits.float()
    targets = labels[:, -kept:] if kept else labels
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


class Work:
    """The job on tensors: `once` is a turn of it, `probe` the same without changing weights."""

    def __init__(
        self,
        workload: w.Workload,
        job: w.Job,
        folder: str,
        kept: int,
        bare: bool = True,
        half: bool = False,
    ) -> None:
        self.half = half
        self.model, self.job, self.kept = build(workload, job, folder), job, kept
        ids, labels = workload.batch()
        self.ids = torch.from_numpy(ids.astype(np.int64))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.prompts = torch.from_numpy(workload.prompts(max(1, job.rows)))
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train(job.kind == "step")
        self.decoder = (
            Decoder(self.model, workload.config.rope_theta)
            if bare and job.kind == "generate"
            else None
        )
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=w.LEARNING_RATE, weight_decay=w.WEIGHT_DECAY
        )

    def loss(self) -> float:
        """The loss now, a few rows at a time."""
        with torch.inference_mode():
            parts = zip(self.ids.split(4), self.labels.split(4), strict=True)
            losses = [(loss_of(self.model, i, t, 0).item(), len(i)) for i, t in parts]
        return sum(loss * rows for loss, rows in losses) / len(self.ids)

    def to(self, device: str) -> Work:
        """The same on a device of torch's; the optimizer's parameters stay the same objects."""
        self.model.to(device)
        for name in ("ids", "labels", "prompts"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def probe(self) -> None:
        """A turn without an update."""
        if self.job.kind == "step":
            loss_of(self.model, self.ids, self.labels, self.kept, self.half).backward()
            self.optimizer.zero_grad(set_to_none=True)
        else:
            self.once()

    def once(self) -> None:
        """A turn of the job."""
        if self.job.kind == "step":
            loss_of(self.model, self.ids, self.labels, self.kept, self.half).backward()
            torch.nn.utils.clip_grad_norm_(self.trained, w.CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        elif self.job.kind == "forward":
            with torch.inference_mode():
                self.model(input_ids=self.ids, use_cache=False)
        else:
            self.generate()

    def generate(self) -> torch.Tensor:
        """Greedy tokens (rows, NEW_TOKENS)."""
        if self.decoder is not None:
            return self.decoder.generate(self.prompts, w.NEW_TOKENS)
        new, feed = [], self.prompts
        cache = transformers.DynamicCache()
        with torch.inference_mode():
            for _ in range(w.NEW_TOKENS):
                out = self.model(
                    input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                feed = out.logits[:, -1].argmax(-1, keepdim=True)
                new.append(feed)
        return torch.cat(new, dim=1)


class Decoder:
    """Cached greedy decoding with as little around torch's functions as we know how to have.

    No module is called, keys and values go into arrays made once, q, k, v are one product, as are
    gate and up; nothing is masked after the prompt, and logits are made at the last position.
    """

    def __init__(self, model: torch.nn.Module, theta: float) -> None:
        self.theta = theta
        self.config, state = model.config, {n: t.detach() for n, t in model.state_dict().items()}
        self.embedding, self.head = state["model.embed_tokens.weight"], state["lm_head.weight"]
        self.norm = state["model.norm.weight"]
        self.layers = []
        for i in range(self.config.num_hidden_layers):
            own = {n: state[f"model.layers.{i}.{n}.weight"] for n in LAYER}
            qkv = torch.cat([own[f"self_attn.{n}_proj"] for n in "qkv"])
            gate_up = torch.cat([own["mlp.gate_proj"], own["mlp.up_proj"]])
            before, after = own["input_layernorm"], own["post_attention_layernorm"]
            out, down = own["self_attn.o_proj"], own["mlp.down_proj"]
            self.layers.append((before, qkv, out, after, gate_up, down))

    def angles(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (length, dh) of the rotary positions, the two halves alike."""
        dim, theta = self.config.head_dim, self.theta
        inverse = 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim)
        turns = torch.arange(length).float()[:, None] * torch.cat([inverse, inverse])
        return turns.cos(), turns.sin()

    def generate(self, prompts: torch.Tensor, count: int) -> torch.Tensor:
        """`count` greedy tokens a row."""
        c, (rows, time_) = self.config, prompts.shape
        heads, shared, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        with torch.inference_mode():
            cos, sin = self.angles(time_ + count)
            shape = (len(self.layers), 2, rows, shared, time_ + count, dim)
            cache, feed, at, new = torch.empty(shape), prompts, 0, []
            for _ in range(count):
                x, to = functional.embedding(feed, self.embedding), at + feed.shape[1]
                place = (cache, at, to, cos[at:to], sin[at:to])
                for i in range(len(self.layers)):
                    x = self.layer(i, x, place, (heads, shared, dim))
                x = functional.rms_norm(x[:, -1], self.norm.shape, self.norm, c.rms_norm_eps)
                feed = functional.linear(x, self.head).argmax(-1, keepdim=True)
                new.append(feed)
                at = to
        return torch.cat(new, dim=1)

    def layer(
        self, i: int, x: torch.Tensor, place: tuple, sizes: tuple[int, int, int]
    ) -> torch.Tensor:
        """One block on new positions x (rows, new, width), whose k and v go to the cache."""
        (cache, at, to, cos, sin), (heads, shared, dim) = place, sizes
        before, qkv, out, after, gate_up, down = self.layers[i]
        eps, (rows, new) = self.config.rms_norm_eps, x.shape[:2]
        y = functional.linear(functional.rms_norm(x, before.shape, before, eps), qkv)
        y = y.view(rows, new, heads + 2 * shared, dim).transpose(1, 2)
        turned, v = y[:, : heads + shared], y[:, heads + shared :]
        half = dim // 2
        back = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
        turned = turned * cos + back * sin
        cache[i, 0, :, :, at:to], cache[i, 1, :, :, at:to] = turned[:, heads:], v
        mixed = functional.scaled_dot_product_attention(
            turned[:, :heads], cache[i, 0, :, :, :to], cache[i, 1, :, :, :to],
            is_causal=new > 1, scale=1 / math.sqrt(dim), enable_gqa=heads != shared,
        )  # fmt: skip
        x = x + functional.linear(mixed.transpose(1, 2).reshape(rows, new, -1), out)
        y = functional.linear(functional.rms_norm(x, after.shape, after, eps), gate_up)
        gate, up = y.chunk(2, dim=-1)
        return x + functional.linear(functional.silu(gate) * up, down)


def best_attention(model: torch.nn.Module, probe: Callable[[], None]) -> str:
    """The faster of transformers' two attention kernels here, left switched on.

    By the best of four probes, or of two where a probe takes longer than a second.
    """
    times = dict.fromkeys(ATTENTION, math.inf)
    config = getattr(model, "base_model", model).config
    for again in range(2):
        for name in ATTENTION:
            if again and min(times.values()) > 1.0:
                break
            config._attn_implementation = name
            probe()
            for _ in range(2):
                began = time.perf_counter()
                probe()
                times[name] = min(times[name], time.perf_counter() - began)
    best = min(times, key=times.get)
    config._attn_implementation = best
    return best


def versions() -> str:
    """torch with its BLAS and instructions, transformers and PEFT."""
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    name = f"torch {torch.__version__} ({blas}, {torch.backends.cpu.get_cpu_capability()})"
    return f"{name}, transformers {transformers.__version__}, peft {peft.__version__}"


def cuda_seconds(
    workload: w.Workload, job: w.Job, folder: str, count: int
) -> tuple[list[float], str]:
    """Seconds of each of `count` turns on the CUDA device, by its events, and torch's versions.

    Logits where labels are, as ours. Raises ValueError for a torch without CUDA.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            f"got torch {torch.__version__}, which sees no CUDA device; expected one that does, "
            "or --no-torch"
        )
    kept = 0 if workload.labels == workload.time else workload.labels
    work = Work(workload, job, folder, kept).to("cuda")
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work.once()
        mark.record()
    torch.cuda.synchronize()
    pairs = itertools.pairwise(marks)
    return [one.elapsed_time(other) / 1000 for one, other in pairs], versions()


def run(spec: dict, turns: Turns) -> None:
    """torch's side of the race."""
    torch.set_num_threads(spec["threads"])
    torch.set_flush_denormal(True)  # no number near zero may slow it down
    workload, job, kind = w.Workload.from_dict(spec["workload"]), w.JOBS[spec["job"]], spec["kind"]
    half = kind == "torch-bf16"
    kept = workload.labels % workload.time if kind == "torch-labelled" or half else 0
    work = Work(workload, job, spec["folder"], kept, bare=kind != "transformers", half=half)
    how = "sdpa, bare loop" if work.decoder else best_attention(work.model, work.probe)
    turns.begin(work.loss, {"attention": how, "version": versions()})
    while True:
        work.once()
        turns.step_done()
