"""The sides of a race that run on NumPy, and the entry of every side's process.

`python -m minilora.bench.sides SPEC`, SPEC a JSON object: kind, threads, job, workload, and
the folder of the weights.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable

import numpy as np

from minilora.autograd import no_grad
from minilora.backend import blas_threads
from minilora.bench import workloads as w
from minilora.bench.matmuls import Bare, piece_rows, products
from minilora.bench.sweep import serve
from minilora.bench.textbook import Textbook
from minilora.bench.turns import Stop, Turns
from minilora.lora import Adapter
from minilora.nn import BASE_DTYPES, Transformer
from minilora.nn.decode import Decoding
from minilora.nn.generate import generate, new_caches
from minilora.serving import AdapterBank
from minilora.text import Example
from minilora.training import Batches, TrainingConfig, evaluate, fit

STEPS = 1_000_000  # more than a race lasts


def minilora(spec: dict, turns: Turns) -> None:
    """Our side. A training step is `fit` itself, stopped between steps by its own callback.

    Its n cores are n workers of one BLAS thread in a step; the kind "blas" has one worker of n, and
    the kinds "float16", "q4" and "nf4" hold the base so. "activated" acts on the labelled positions
    alone: what is before them is read without gradients, in every step; "activated-kept" has read
    it in the step before.
    """
    workload, job = w.Workload.from_dict(spec["workload"]), w.JOBS[spec["job"]]
    dtype = spec["kind"] if spec["kind"] in BASE_DTYPES else "float32"
    begins = spec["kind"].startswith("activated")
    model = w.load_model(workload, job, spec["folder"], dtype, activated=begins)
    rows = workload.examples(w.INVOCATION if begins else ())
    held = sum(p.data.nbytes for p in model.parameters() if not p.requires_grad)
    batch = max(1, 768 // workload.time)
    turns.begin(lambda: evaluate(model, rows, batch_size=batch), {"held": held})
    if job.kind == "step":
        workers = 1 if spec["kind"] == "blas" else spec["threads"]
        kept = 1 << 32 if spec["kind"] == "activated-kept" else 0
        train(model, rows, workers, lambda step: turns.step_done() or {}, prompt_bytes=kept)
        return
    ids, prompts = workload.batch()[0], workload.prompts(job.rows).tolist()
    with blas_threads(spec["threads"]), no_grad():
        while True:
            if job.kind == "forward":
                model(ids)
            else:
                generate(model, prompts, w.NEW_TOKENS)
            turns.step_done()


def train(
    model: Transformer,
    rows: list[Example],
    workers: int,
    on_step: Callable[[int], dict],
    steps: int = STEPS,
    prompt_bytes: int = 0,
) -> None:
    """`fit` on one batch, over and over, with the settings that torch's side has too."""
    config = TrainingConfig(
        steps=steps,
        lr=w.LEARNING_RATE,
        schedule="constant",
        weight_decay=w.WEIGHT_DECAY,
        clip_norm=w.CLIP_NORM,
        workers=workers,
        eval_every=1,
        prompt_bytes=prompt_bytes,
    )
    fit(model, Batches(rows, len(rows), seed=0), config, on_eval=on_step, progress=False)


def textbook(spec: dict, turns: Turns) -> None:
    """The textbook's training step."""
    workload = w.Workload.from_dict(spec["workload"])
    base, adapter = w.read_weights(spec["folder"])
    model = Textbook(workload.config, base, adapter, w.ALPHA / w.RANK)
    ids, labels = workload.batch()
    turns.begin(lambda: float(model.loss(ids, labels).data[0]))
    with blas_threads(spec["threads"]):
        while True:
            model.step(ids, labels, w.LEARNING_RATE, w.WEIGHT_DECAY, w.CLIP_NORM)
            turns.step_done()


def matmul(spec: dict, turns: Turns) -> None:
    """The bound: np.matmul and nothing else. Steps on two cores are two processes, as ours are."""
    workload, job = w.Workload.from_dict(spec["workload"]), w.JOBS[spec["job"]]
    processes = spec["threads"] if job.kind == "step" else 1
    shares = [products(workload, job, rows) for rows in piece_rows(workload, processes)]
    with blas_threads(1 if processes > 1 else spec["threads"]):
        pipes = [_fork(share) for share in shares[1:]]
        own = Bare(shares[0])
        turns.begin(lambda: 0.0)
        while True:
            for pipe in pipes:
                pipe.send(True)
            own.run()
            for pipe in pipes:
                pipe.recv()
            turns.step_done()


def _fork(share: list) -> object:
    """A process that runs its products once for every message."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def serve() -> None:
        ours.close()
        bare = Bare(share)
        while True:
            try:
                theirs.recv()
            except EOFError:
                os._exit(0)
            bare.run()
            theirs.send(True)

    context.Process(target=serve, daemon=True).start()
    theirs.close()
    return ours


def full(spec: dict, turns: Turns) -> None:
    """Our full step, beside our LoRA step in one race: the adapter's weights are left unread."""
    minilora({**spec, "job": "full"}, turns)


def bank(spec: dict, turns: Turns) -> None:
    """Our decoding step: the rows take turns among so many adapters of a bank, or all use one."""
    workload, job = w.Workload.from_dict(spec["workload"]), w.JOBS[spec["job"]]
    base, _ = w.read_weights(spec["folder"])
    model = Transformer(workload.config, None)
    model.load_state_dict(base)
    adapters = AdapterBank(model.eval())
    for number, factors in enumerate(w.bank_factors(workload, job.rows)):
        adapters.add(str(number), Adapter(w.bank_config(), factors, base=adapters.base))
    prompts, count = workload.prompts(job.rows), w.adapters_in(spec["kind"])
    names = [str(row % max(1, count)) for row in range(job.rows)]

    def loss() -> float:
        with adapters.rows([str(row) for row in range(job.rows)]), no_grad():
            return model.loss(prompts[:, :-1], prompts[:, 1:]).item()

    adapters.use("0")
    mixed = adapters.rows(names) if count else contextlib.nullcontext()
    with mixed, no_grad():
        caches = new_caches(model, job.rows, w.PROMPT + 1)
        model.hidden_states(prompts, None, caches)
        decoding = Decoding(model, caches, None)  # goes on with the adapters that it began with
    turns.begin(loss)
    with blas_threads(spec["threads"]), no_grad():
        while True:
            for cache in caches:
                cache.length = w.PROMPT
            decoding.step(prompts[:, 0])
            turns.step_done()


KINDS = {
    "minilora": minilora, "blas": minilora, "full": full, "textbook": textbook, "matmul": matmul,
    "float16": minilora, "q4": minilora, "nf4": minilora, "activated": minilora,
    "activated-kept": minilora,
}  # fmt: skip
IN_TORCH = ("torch", "torch-labelled", "torch-bf16", "transformers")


def side_of(spec: dict) -> Callable[[dict, Turns], None]:
    """The function that runs a side."""
    if spec["kind"] in IN_TORCH:
        return importlib.import_module("minilora.bench.torch_peer").run
    if spec["kind"].startswith("peft"):
        return importlib.import_module("minilora.bench.torch_bank").run
    if w.JOBS[spec.get("job", "forward")].kind == "decode":
        return bank
    return KINDS[spec["kind"]]


def main(argv: list[str]) -> int:
    """Run one side until its input ends."""
    spec = json.loads(argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    run = side_of(spec)
    np.seterr(all="ignore")
    if spec.get("sweep"):
        serve(run, spec, sys.stdin, answers)
        return 0
    try:
        run(spec, Turns(sys.stdin, answers))
    except Stop:
        return 0
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
