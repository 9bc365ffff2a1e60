"""fit: the training loop. One step, its schedule, progress, history, checkpoints and resuming."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minilora.autograd import IGNORE, no_grad
from minilora.backend import blas_threads, get_array_module, recommended_blas_threads, to_floats
from minilora.limits import require_count, require_finite
from minilora.nn import Transformer
from minilora.storage import atomic_write, fingerprint
from minilora.text.examples import Example
from minilora.training.batches import Batch, Batches, pad_examples
from minilora.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from minilora.training.optim import AdamW, Optimizer, clip_grad_norm_, schedule
from minilora.training.parallel import MOST_WORKERS, Piece, Workers, recommended_workers

PIECE_TOKENS = 1024
"""Positions worked on at a time. Each piece costs Python's share of a step once more, and a large
one more memory; data/bench/README.md compares sizes."""


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def _quiet() -> np.errstate:
    """What overflows shows in losses, gradients and weights, which are checked; NumPy's warnings
    would tell it again, for each line of this library that it passes.
    """
    return np.errstate(over="ignore", invalid="ignore")


class DivergedError(ValueError):
    """The loss, the gradient or a weight stopped being a finite number."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run; `workers` 0 means the recommended number of processes.

    micro_batches: pieces that each worker cuts its rows into (the same gradient in less memory);
    0 cuts them to about PIECE_TOKENS positions.
    clip_norm 0 and checkpoint_every, eval_every 0 switch those off. Raises ValueError naming the
    first setting that makes no sense.
    """

    steps: int
    lr: float
    schedule: str = "cosine"
    warmup: int = 0
    final_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    micro_batches: int = 0
    workers: int = 0
    seed: int = 0
    eval_every: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        require_count("steps", self.steps, 1)
        require_finite("lr", self.lr, above=True)
        require_finite("final_lr", self.final_lr)
        for i, beta in enumerate(self.betas):
            require_finite(f"betas[{i}]", beta, below=1.0)
        require_finite("weight_decay", self.weight_decay)
        require_finite("clip_norm", self.clip_norm)
        require_count("workers", self.workers, 0, MOST_WORKERS)
        for name in ("warmup", "micro_batches", "seed", "eval_every", "checkpoint_every"):
            require_count(name, getattr(self, name), 0)


@dataclass
class History:
    """One record a step (step, loss, lr, grad_norm, tokens, seconds), evaluations among them."""

    records: list[dict] = field(default_factory=list)
    path: Path | None = None

    def add(self, record: dict) -> None:
        """Append, and write the line through to the file where there is one.

        Raises OSError naming the file, also where the system names none, as for a full disk.
        """
        self.records.append(record)
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise

    def rewind(self, step: int) -> None:
        """Keep what happened up to `step` of the file's records (the rest will be lived again)."""
        if self.path is None or not self.path.exists():
            return
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break  # a line cut short by a kill; everything after it is newer than `step`
        self.records = [r for r in records if r["step"] <= step]
        atomic_write(self.path, "".join(json.dumps(r) + "\n" for r in self.records).encode())

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """(steps, values) of the records that have `key`, for plots."""
        having = [r for r in self.records if key in r]
        return [r["step"] for r in having], [r[key] for r in having]


def split_batch(batch: Batch, pieces: int, seed: tuple[int, ...]) -> list[Piece]:
    """Cut a batch into pieces of nearly equal rows, each without columns of nothing but padding."""
    result = []
    for i, rows in enumerate(np.array_split(np.arange(len(batch.ids)), pieces)):
        if len(rows) == 0:
            continue
        ids, labels = batch.ids[rows], batch.labels[rows]
        used = np.flatnonzero((labels != IGNORE).any(axis=0))
        stop = int(used[-1]) + 1 if len(used) else 1  # nothing after the last label matters
        result.append(Piece(ids[:, :stop], labels[:, :stop], (*seed, i)))
    return result


def evaluate(
    model: Transformer,
    examples: Sequence[Example],
    batch_size: int = 32,
    pad_id: int = 0,
    progress: str = "",
) -> float:
    """Mean cross-entropy in nats a label over all examples, without gradients.

    progress: the name of a bar over the examples, "" for none. Raises ValueError for no examples
    or none with a label, DivergedError for a loss that is not finite.
    """
    if not examples:
        raise ValueError("evaluate got no examples, expected at least one")
    total, count, was_training = 0.0, 0, model.training
    model.eval()
    bar = tqdm(total=len(examples), desc=progress, unit="example", disable=not progress)
    try:
        with no_grad(), _quiet(), bar:
            for i in range(0, len(examples), batch_size):
                batch = pad_examples(examples[i : i + batch_size], np.arange(0), pad_id)
                if batch.tokens:
                    total += model.loss(batch.ids, batch.labels, normalizer=1.0).item()
                    count += batch.tokens
                bar.update(len(batch.ids))
    finally:
        model.train(was_training)
    if count == 0:
        raise ValueError("evaluate got examples without any label")
    if not math.isfinite(total):
        raise DivergedError(
            f"evaluate got a loss of {total}, expected a finite number: the weights of the model "
            "or of its adapter are broken"
        )
    return total / count


class _Run:
    """One call of `fit`: what its steps share."""

    def __init__(self, model, batches, config, optimizer, out_dir) -> None:
        self.model, self.batches, self.config = model, batches, config
        self.optimizer = optimizer
        self.folder = None if out_dir is None else Path(out_dir)
        self.workers = config.workers or recommended_workers()
        if get_array_module(model.head_weight.data) is not np:
            self.workers = 1
        self.rate = schedule(
            config.schedule, config.lr, config.steps, config.warmup, config.final_lr
        )
        self.last_good: Path | None = None
        self.settings = {} if self.folder is None else self._settings()

    def _settings(self) -> dict:
        """What must be equal for a checkpoint to continue this run; JSON-ready."""
        batches, model = self.batches, self.model
        frozen = {n: p.data for n, p in model.named_parameters() if not p.requires_grad}
        parts = ("ids", "labels")
        data = {k: np.concatenate([getattr(e, k) for e in batches.examples]) for k in parts}
        adapted = [m for _, m in model.named_modules() if hasattr(m, "dropout_rng")]
        return {
            **asdict(self.config),
            "workers": self.workers,
            "examples": len(batches.examples),
            "batch_size": batches.batch_size,
            "bucket": batches.bucket,
            "data_seed": batches.seed,
            "data": fingerprint({**data, "lengths": batches.lengths}),
            "frozen": fingerprint(frozen),
            "adapter": sorted({repr(getattr(m, "config", None)) for m in adapted}),
            "optimizer": self.optimizer.settings(),
        }

    def step(self, pool: Workers, step: int) -> dict:
        """One update; the record for the history."""
        began = time.perf_counter()
        batch = self.batches.batch(step)
        if batch.tokens == 0:
            raise ValueError(f"step {step}: the batch {batch.indices.tolist()} has no label")
        share = self.config.micro_batches or ceil_div(batch.ids.size, self.workers * PIECE_TOKENS)
        pieces = split_batch(batch, self.workers * share, (self.config.seed, step))
        loss = pool.gradients(pieces, float(batch.tokens))
        norm = clip_grad_norm_(self.optimizer.parameters.values(), self.config.clip_norm or 1e30)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"step {step}: loss {loss}, gradient norm {norm}, expected finite numbers; batch "
                f"of examples {batch.indices.tolist()}; {self._last_good()}"
            )
        lr = self.rate(step)
        self.optimizer.step(lr)
        tokens = sum(piece.ids.size for piece in pieces)
        seconds = time.perf_counter() - began
        record = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm}
        return {**record, "tokens": tokens, "seconds": round(seconds, 4)}

    def _last_good(self) -> str:
        return f"last good checkpoint: {self.last_good or 'none was written'}"

    def require_finite_state(self, step: int) -> None:
        """Raise DivergedError where the update before `step` left a number that is not finite.

        The next step's loss would tell of a weight as well, but a checkpoint, or the end, may come
        first; and a moment that overflowed holds its weight still without any sign.
        """
        arrays = {name: p.data for name, p in self.optimizer.parameters.items()}
        for slot, moments in self.optimizer.state.items():
            arrays |= {f"{slot} of {name}": array for name, array in moments.items()}
        finite = to_floats([get_array_module(a).isfinite(a).all() for a in arrays.values()])
        odd = [name for name, ok in zip(arrays, finite, strict=True) if not ok]
        if odd:
            raise DivergedError(
                f"step {step - 1}: its update left NaN or infinity in {odd[0]}, expected finite "
                f"numbers; {self._last_good()}"
            )

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint with `step` steps behind it is due; never without a folder."""
        every = self.config.checkpoint_every
        return self.folder is not None and bool(every) and step % every == 0

    def checkpoint(self, step: int) -> None:
        """Write a checkpoint with `step` steps behind it."""
        folder = self.folder / "checkpoints"
        self.last_good = save_checkpoint(
            folder, self.model, self.optimizer, self.settings, step=step
        )


def fit(
    model: Transformer,
    batches: Batches,
    config: TrainingConfig,
    *,
    optimizer: Optimizer | None = None,
    out_dir: Path | str | None = None,
    resume: bool = False,
    on_eval: Callable[[int], dict] | None = None,
    progress: bool = True,
    label: str = "training",
) -> History:
    """Train the model's trainable parameters for `config.steps` steps; the history.

    With `out_dir`, writes history.jsonl and checkpoints there; `resume` continues from the newest
    one and ends bit-identical to a run that was never stopped. `on_eval(step)` returns figures
    for the history every `eval_every` steps. Raises DivergedError naming step and last good
    checkpoint when loss, gradient or a weight is not finite; no such weight is ever saved.
    """
    if optimizer is None:
        optimizer = AdamW(
            model.named_parameters(), betas=config.betas, weight_decay=config.weight_decay
        )
    run = _Run(model, batches, config, optimizer, out_dir)
    history, start = _begin(run, resume)
    model.train()
    threads = 1 if run.workers > 1 else recommended_blas_threads(model.config.hidden_size)
    bar = tqdm(total=config.steps, initial=start, desc=label, unit="step", disable=not progress)
    try:
        with _quiet(), blas_threads(threads), Workers(model, run.workers) as pool, bar:
            for step in range(start, config.steps):
                record = run.step(pool, step)
                saves = run.saves_after(step + 1)
                if saves or step + 1 == config.steps:
                    run.require_finite_state(step + 1)
                if on_eval and config.eval_every and (step + 1) % config.eval_every == 0:
                    record.update(on_eval(step + 1))
                    model.train()
                history.add(record)
                if saves:
                    run.checkpoint(step + 1)
                rate = record["tokens"] / max(record["seconds"], 1e-9)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {rate:,.0f} tokens/s", False)
                bar.update()
    finally:
        model.eval()
    return history


def _begin(run: _Run, resume: bool) -> tuple[History, int]:
    """The history to add to and the first step; refuses to mix two runs in one folder."""
    if run.folder is None:
        if resume:
            raise ValueError("resume got no out_dir, expected the folder of the run to continue")
        return History(), 0
    history = History(path=run.folder / "history.jsonl")
    saved = checkpoints(run.folder / "checkpoints")
    if not resume:
        if saved or history.path.exists():
            raise ValueError(
                f"{run.folder} holds a run already; resume it or choose another folder"
            )
        run.folder.mkdir(parents=True, exist_ok=True)
        return history, 0
    start = 0
    if saved:
        run.last_good = saved[-1]
        start = load_checkpoint(saved[-1], run.model, run.optimizer, run.settings)
    run.folder.mkdir(parents=True, exist_ok=True)
    history.rewind(start)
    return history, start
