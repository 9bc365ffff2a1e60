"""The same model in PyTorch: transformers' LlamaForCausalLM, PEFT's LoRA, eager mode.

The one file of the library that imports torch. It runs in a process of its own: in one process,
the threads that NumPy's BLAS and torch's OpenMP leave spinning spoil each other's times.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import peft
import torch
import transformers

from minilora.baselines import workloads as w
from minilora.baselines.turns import Turns

ATTENTION = ("sdpa", "eager")


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
    model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor, kept: int
) -> torch.Tensor:
    """Mean cross-entropy in nats a label; logits at each row's last `kept` positions (0: all)."""
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
    targets = labels[:, -kept:] if kept else labels
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100
    )


class Work:
    """The job on tensors: `once` is a turn of it, `probe` the same without changing weights."""

    def __init__(self, workload: w.Workload, job: w.Job, folder: str, kept: int) -> None:
        self.model, self.job, self.kept = build(workload, job, folder), job, kept
        ids, labels = workload.batch()
        self.ids = torch.from_numpy(ids.astype(np.int64))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.prompts = torch.from_numpy(workload.prompts(max(1, job.rows)))
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train(job.kind == "step")
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=w.LEARNING_RATE, weight_decay=w.WEIGHT_DECAY
        )

    def loss(self) -> float:
        """The loss now, a few rows at a time."""
        with torch.inference_mode():
            parts = zip(self.ids.split(4), self.labels.split(4), strict=True)
            losses = [(loss_of(self.model, i, t, 0).item(), len(i)) for i, t in parts]
        return sum(loss * rows for loss, rows in losses) / len(self.ids)

    def probe(self) -> None:
        """A turn without an update."""
        if self.job.kind == "step":
            loss_of(self.model, self.ids, self.labels, self.kept).backward()
            self.optimizer.zero_grad(set_to_none=True)
        else:
            self.once()

    def once(self) -> None:
        """A turn of the job."""
        if self.job.kind == "step":
            loss_of(self.model, self.ids, self.labels, self.kept).backward()
            torch.nn.utils.clip_grad_norm_(self.trained, w.CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        elif self.job.kind == "forward":
            with torch.inference_mode():
                self.model(input_ids=self.ids, use_cache=False)
        else:
            self.generate()

    def generate(self) -> torch.Tensor:
        """Greedy tokens in a bare loop with transformers' cache: less work than its generate()."""
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


def best_attention(model: torch.nn.Module, probe: Callable[[], None]) -> str:
    """The faster of transformers' two attention kernels here, left switched on."""
    times = {}
    config = getattr(model, "base_model", model).config
    for name in ATTENTION:
        config._attn_implementation = name
        probe()
        began = time.perf_counter()
        for _ in range(3):
            probe()
        times[name] = time.perf_counter() - began
    best = min(times, key=times.get)
    config._attn_implementation = best
    return best


def run(spec: dict, turns: Turns) -> None:
    """torch's side of the race."""
    torch.set_num_threads(spec["threads"])
    workload, job = w.Workload.from_dict(spec["workload"]), w.JOBS[spec["job"]]
    kept = workload.labels if spec.get("torch_logits") == "labelled" else 0
    work = Work(workload, job, spec["folder"], kept)
    attention = best_attention(work.model, work.probe)
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    name = f"torch {torch.__version__} ({blas}, {torch.backends.cpu.get_cpu_capability()})"
    about = {
        "attention": attention,
        "version": f"{name}, transformers {transformers.__version__}, peft {peft.__version__}",
    }
    turns.begin(work.loss, about)
    while True:
        work.once()
        turns.step_done()
