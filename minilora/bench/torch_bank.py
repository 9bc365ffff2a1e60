"""The decoding step of many adapters in PyTorch: PEFT's `adapter_names`, eager mode.

"peft" has one active adapter
for all rows, the others name an adapter for each row.
"""

from __future__ import annotations

import peft
import torch
import transformers
from torch.nn import functional

from minilora.bench import workloads as w
from minilora.bench.torch_peer import best_attention, build, versions
from minilora.bench.turns import Turns


def with_adapters(model: torch.nn.Module, workload: w.Workload, job: w.Job) -> peft.PeftModel:
    """The model under PEFT with the job's adapters, named "0", "1", ..."""
    settings = peft.LoraConfig(
        r=w.RANK, lora_alpha=w.ALPHA, target_modules=list(job.targets), lora_dropout=0.0
    )
    for number, factors in enumerate(w.bank_factors(workload, job.rows)):
        if number == 0:
            model = peft.get_peft_model(model, settings, adapter_name="0")
            layers = dict(model.base_model.model.named_modules())
        else:
            model.add_adapter(str(number), settings)
        with torch.no_grad():
            for name, (a, b) in factors.items():
                layers[name].lora_A[str(number)].weight.copy_(torch.from_numpy(a))
                layers[name].lora_B[str(number)].weight.copy_(torch.from_numpy(b))
    model.set_adapter("0")
    return model.eval()


def run(spec: dict, turns: Turns) -> None:
    """PEFT's side of the race."""
    torch.set_num_threads(spec["threads"])
    torch.set_flush_denormal(True)
    workload, job = w.Workload.from_dict(spec["workload"]), w.JOBS[spec["job"]]
    model = with_adapters(build(workload, w.JOBS["forward"], spec["folder"]), workload, job)
    count, prompts = w.adapters_in(spec["kind"]), torch.from_numpy(workload.prompts(job.rows))
    mixed = {"adapter_names": [str(row % count) for row in range(job.rows)]} if count else {}
    cache, feed = transformers.DynamicCache(), prompts[:, :1]

    def loss() -> float:
        names = [str(row) for row in range(job.rows)]
        with torch.inference_mode():
            logits = model(prompts[:, :-1], adapter_names=names, use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), prompts[:, 1:].flatten()).item()

    def step() -> None:
        with torch.inference_mode():
            model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1, **mixed)
            cache.crop(-1)  # the next step is at the same position

    with torch.inference_mode():
        model(prompts, past_key_values=cache, use_cache=True, logits_to_keep=1, **mixed)
    how = best_attention(model, step)
    turns.begin(loss, {"attention": how, "version": versions()})
    while True:
        step()
        turns.step_done()
