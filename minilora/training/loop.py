"""fit: the training loop, with its progress, evaluations and checkpoints, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from minilora.backend import blas_threads
from minilora.lora.activated import invocation_of
from minilora.nn import NotFiniteError, Transformer, quiet_overflow
from minilora.training.adamw import adamw_for
from minilora.training.batches import Batches
from minilora.training.config import TrainingConfig
from minilora.training.history import History
from minilora.training.made_by import thread_count, worker_count
from minilora.training.optim import Optimizer
from minilora.training.parallel import Workers, accumulate_gradients
from minilora.training.prompts import kept_prompts
from minilora.training.saved_run import SavedRun, run_settings
from minilora.training.step import DivergedError, Steps


def fit(
    model: Transformer,
    batches: Batches,
    config: TrainingConfig,
    *,
    optimizer: Optimizer | None = None,
    out_dir: Path | str | None = None,
    resume: bool = False,
    keep: int | None = 2,
    on_eval: Callable[[int], dict] | None = None,
    progress: bool = True,
    label: str = "training",
) -> History:
    """Train the model's trainable parameters for `config.steps` steps; the history.

    With `out_dir`, writes history.jsonl and checkpoints there; `resume` continues from the newest
    one and ends bit-identical to a run that was never stopped. keep: how many checkpoints stay,
    None for all. `on_eval(step)` returns figures for the history every `eval_every` steps. Raises
    DivergedError naming step and last good checkpoint when loss, gradient or a weight is not
    finite; no such weight is ever saved.
    """
    if optimizer is None:
        optimizer = adamw_for(model, config)
    workers = worker_count(model, config)
    folder = None if out_dir is None else Path(out_dir)
    # The settings hold fingerprints of data and base, which only a folder has a use for.
    settings = run_settings(model, batches, config, optimizer, workers) if folder else {}
    invocation = invocation_of(model)
    steps = Steps(batches, config, optimizer, invocation)
    saved = SavedRun(folder, model, optimizer, settings, keep)
    first = saved.begin(resume)
    threads = thread_count(model, workers)
    bar = tqdm(total=config.steps, initial=first, desc=label, unit="step", disable=not progress)
    model.train()
    try:
        accumulate = accumulation(model, batches, config, invocation)
        pool = Workers(model, workers, accumulate)
        with quiet_overflow(), blas_threads(threads), pool, bar:
            for step in range(first, config.steps):
                record = steps.take(step, pool)
                done = step + 1
                saves = folder is not None and _is_due(done, config.checkpoint_every)
                if saves or done == config.steps:
                    steps.require_finite_state(step)
                if on_eval and _is_due(done, config.eval_every):
                    record.update(on_eval(done))
                    model.train()
                saved.history.add(record)
                if saves:
                    saved.save(done)
                _show(bar, record)
    except NotFiniteError as error:
        last = saved.last_good or "none was written"
        raise DivergedError(f"{error}; last good checkpoint: {last}") from error
    finally:
        model.eval()
    return saved.history


def accumulation(
    model: Transformer,
    batches: Batches,
    config: TrainingConfig,
    invocation: tuple[int, ...] | None,
) -> Callable | None:
    """What `Workers` computes of its pieces: with prompts from what is kept, where any are."""
    if invocation is None:
        return None
    kept = kept_prompts(model, batches, config.steps, invocation, config.prompt_bytes)
    return None if kept is None else partial(accumulate_gradients, model, read=kept.read)


def _is_due(done: int, every: int) -> bool:
    """Whether it is time, after `done` steps, for what is done every so many; 0 means never."""
    return every > 0 and done % every == 0


def _show(bar: tqdm, record: dict) -> None:
    rate = record["tokens"] / max(record["seconds"], 1e-9)
    bar.set_postfix_str(f"loss {record['loss']:.3f}, {rate:,.0f} tokens/s", refresh=False)
    bar.update()
