"""Verifying: an adapter is trained again, whole or between checkpoints, and compared bit by bit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minilora.backend import blas_threads, to_numpy
from minilora.hub.bases import base_dtype_of, base_of, open_base, public_name
from minilora.lora import Adapter, Attachment, adapter_state, attach, mark_base
from minilora.lora.adapter import leaves_of
from minilora.lora.peft_format import SIDECAR, provenance_sha256
from minilora.nn import Transformer, quiet_overflow
from minilora.runs.data import read_file, split
from minilora.runs.folder import RunFolder
from minilora.runs.plan import Clock, Reporter, paths_from_texts
from minilora.runs.replay import file_replay, ward_replay
from minilora.storage import atomic_write, read_json, read_safetensors, require_place, sha256_file
from minilora.text import Tokenizer
from minilora.text.packed import PackedExamples
from minilora.training import Batches, TrainingConfig
from minilora.training.adamw import adamw_for
from minilora.training.checkpoint import checkpoints, load_checkpoint, trainable_state
from minilora.training.made_by import made_by
from minilora.training.parallel import Workers
from minilora.training.saved_run import run_settings
from minilora.training.step import Steps


class Verdict(Enum):
    """What a verification says; the value is the exit code of the command."""

    VERIFIED = 0
    REFUTED = 1
    CANT_TELL = 2


@dataclass(frozen=True, kw_only=True)
class VerifyPlan:
    """What is verified, from what.

    data: what the adapter says it was trained on. replay_data: the same of its replay, where it
    names a file. segments: how many stretches between two of the run's checkpoints are trained
    again; None for the whole run. base: None for the one that the adapter names. json_file: where
    the result is written as well.
    """

    adapter: Path
    data: Path
    replay_data: Path | None = None
    segments: int | None = None
    base: str | None = None
    json_file: Path | None = None

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_place("--json", self.json_file)
        if self.segments is not None and self.segments < 1:
            raise ValueError(f"got --segments {self.segments}, expected at least 1")


@dataclass(frozen=True)
class Stretch:
    """Steps that were taken again. first, last: steps behind it before and after.

    difference: the largest of any number of A, B or the optimizer's state; 0 where all bits are
    equal.
    what: what it was compared with.
    """

    first: int
    last: int
    difference: float
    what: str


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    faults: what is not as the adapter says, each in a sentence. others: what made it and is
    another here -> (then, now); "unknown" then for an adapter that does not say.
    """

    plan: VerifyPlan
    faults: Sequence[str]
    others: Mapping[str, tuple]
    stretches: Sequence[Stretch]
    steps: int
    seconds: Mapping[str, float]

    @property
    def verdict(self) -> Verdict:
        """Equal bits are a proof on any machine; unequal ones only where nothing else differs."""
        if self.faults:
            return Verdict.REFUTED
        if all(one.difference == 0 for one in self.stretches):
            return Verdict.VERIFIED
        return Verdict.CANT_TELL if self.others else Verdict.REFUTED

    def to_dict(self) -> dict:
        """JSON-ready."""
        return {
            "adapter": str(self.plan.adapter),
            "verdict": self.verdict.name.lower(),
            "faults": list(self.faults),
            "others": {name: list(pair) for name, pair in self.others.items()},
            "stretches": [asdict(one) for one in self.stretches],
            "steps": self.steps,
        }


def verify(plan: VerifyPlan, reporter: Reporter | None = None) -> Verified:
    """Train again what the adapter says made it, and compare.

    Raises AdapterError for an adapter that is damaged, ValueError for one that does not say how it
    was trained, a run without checkpoints where segments are asked for, or another base; OSError.
    """
    reporter, clock = reporter or Reporter(), Clock()
    adapter = Adapter.read(plan.adapter)
    config, batch_size = training_of(adapter)
    faults = [*_seal_faults(plan.adapter, adapter), *_data_faults(plan, adapter)]
    if faults:
        return _told(Verified(plan, faults, {}, (), 0, clock.laps))
    run = _open(plan, adapter, config, batch_size, reporter)
    others = _others(adapter, run)
    clock.lap("opening")
    saved = checkpoints(RunFolder(plan.adapter).checkpoints)
    if plan.segments is not None and not saved:
        raise ValueError(
            f"got --segments {plan.segments}, but {RunFolder(plan.adapter).checkpoints} has no "
            "checkpoint; expected those that adapt --keep-checkpoints leaves"
        )
    whole = [(None, None)]
    pairs = whole if plan.segments is None else _stretches(saved, plan.segments, config.steps)
    stretches: list[Stretch] = []
    for start, end in pairs:
        try:
            stretches.append(run.stretch(start, end, adapter, reporter.bars))
        except ValueError as error:  # a checkpoint that is of another run
            faults.append(str(error))
            break
    clock.lap("training")
    steps = sum(one.last - one.first for one in stretches)
    return _told(Verified(plan, faults, others, stretches, steps, clock.laps))


def _told(result: Verified) -> Verified:
    if result.plan.json_file is not None:
        text = json.dumps(result.to_dict(), indent=2) + "\n"
        atomic_write(result.plan.json_file, text.encode())
    return result


def training_of(adapter: Adapter) -> tuple[TrainingConfig, int]:
    """Settings and batch size that an adapter says it was trained with. Raises ValueError."""
    told = adapter.provenance.get("training")
    if not isinstance(told, dict) or "batch_size" not in told:
        raise ValueError(
            f"{adapter.source} does not say how it was trained, expected provenance with training "
            f"in {SIDECAR}, as minilora adapt and tour write it"
        )
    if adapter.provenance.get("pissa"):
        raise ValueError(
            f"{adapter.source} was trained with pissa, whose start verify does not make; expected "
            "an adapter that was trained from zero"
        )
    told = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
    batch_size = told.pop("batch_size")
    unknown = sorted(told.keys() - {field.name for field in fields(TrainingConfig)})
    if unknown:
        raise ValueError(f"{adapter.source} got training setting {unknown[0]!r}, which is unknown")
    return TrainingConfig(**told), batch_size


# -- what can be said without training -------------------------------------------------------------


def _seal_faults(folder: Path, adapter: Adapter) -> list[str]:
    """Whether the provenance is as it was written; adapters of earlier versions don't say."""
    sealed = read_json(folder / SIDECAR).get("provenance_sha256")
    got = provenance_sha256(adapter.provenance)
    if sealed in (None, got):
        return []
    return [f"{folder / SIDECAR}: provenance was written as {sealed}, got {got}: it was changed"]


def _data_faults(plan: VerifyPlan, adapter: Adapter) -> list[str]:
    """Files that are not those that the adapter names, by their hash."""
    origin, found = adapter.provenance, []
    replay = origin.get("replay") or {}
    pairs = [("data", plan.data, (origin.get("data") or {}).get("sha256"))]
    if replay.get("sha256"):
        if plan.replay_data is None:
            raise ValueError(f"got no --replay-data, expected {replay.get('of')!r}")
        pairs.append(("replay data", plan.replay_data, replay["sha256"]))
    for what, path, expected in pairs:
        got = sha256_file(path)
        if got != expected:
            found.append(f"{what}: {path} has sha256 {got}, the adapter's had {expected}")
    return found


def _others(adapter: Adapter, run: _Run) -> dict[str, tuple]:
    then, now = adapter.provenance.get("made_by"), run.made_by
    if not isinstance(then, dict):
        return {name: ("unknown", value) for name, value in now.items()}
    return {
        name: (then.get(name, "unknown"), value)
        for name, value in now.items()
        if then.get(name, "unknown") != value
    }


# -- training again --------------------------------------------------------------------------------


@dataclass
class _Run:
    """A run with everything open, before its first step."""

    model: Transformer
    attachment: Attachment
    batches: Batches
    config: TrainingConfig
    workers: int
    threads: int
    made_by: dict

    def stretch(
        self, start: Path | None, end: Path | None, adapter: Adapter, bars: bool
    ) -> Stretch:
        """The steps from a checkpoint (None: the beginning) to another (None: the adapter).

        Raises ValueError for a checkpoint that is not of this run.
        """
        optimizer = adamw_for(self.model, self.config)
        first, last = 0, self.config.steps
        if start is not None:
            settings = run_settings(self.model, self.batches, self.config, optimizer, self.workers)
            first = load_checkpoint(start, self.model, optimizer, settings)
        if end is not None:
            last = int(end.name.removeprefix("step-"))
        steps = Steps(self.batches, self.config, optimizer)
        bar = tqdm(total=last - first, desc="training again", unit="step", disable=not bars)
        self.model.train()
        try:
            pool = Workers(self.model, self.workers)
            with quiet_overflow(), blas_threads(self.threads), bar, pool:
                for step in range(first, last):
                    steps.take(step, pool)
                    bar.update()
        finally:
            self.model.eval()
        if end is None:  # with an A that was frozen, which no checkpoint has
            own = {name: to_numpy(array) for name, array in adapter_state(self.model).items()}
            return Stretch(first, last, _difference(own, _state_of(adapter)), str(adapter.source))
        state, _ = read_safetensors(end / "trainable.safetensors")
        moments, _ = read_safetensors(end / "optimizer.safetensors")
        own = trainable_state(self.model)
        difference = max(_difference(own, state), _difference(optimizer.state_dict(), moments))
        return Stretch(first, last, difference, str(end))


def _open(
    plan: VerifyPlan, adapter: Adapter, config: TrainingConfig, batch_size: int, reporter: Reporter
) -> _Run:
    origin = adapter.provenance
    name, device = base_of(plan.base, plan.adapter), origin.get("device", "cpu")
    model, tokenizer = open_base(name, base_dtype_of(plan.adapter), device)
    mark = mark_base(model, public_name(name), tokenizer, quick=True)
    attach(model, adapter, base=mark).detach()  # whether this is its base
    examples = _examples(plan, origin, config, tokenizer, model, reporter)
    then = origin.get("made_by") or {}
    now = made_by(model, config)
    workers = then.get("workers", now["workers"])
    threads = then.get("threads", now["threads"])
    now |= {"workers": workers, "threads": threads}  # these can be had anywhere
    attachment = attach(model, adapter.config, np.random.default_rng(config.seed))
    if origin.get("freeze_a"):
        attachment.freeze_A()
    batches = Batches(examples, batch_size, config.seed, tokenizer.pad_id)
    return _Run(model, attachment, batches, config, workers, threads, now)


def _examples(
    plan: VerifyPlan,
    origin: Mapping,
    config: TrainingConfig,
    tokenizer: Tokenizer,
    model: Transformer,
    reporter: Reporter,
) -> PackedExamples:
    """What the run was trained on, in its order."""
    length = origin.get("max_length") or model.config.max_position_embeddings
    as_text = bool(origin.get("as_text"))
    examples = read_file(plan.data, tokenizer, length, as_text, reporter.bars).examples
    if origin.get("held_out"):
        examples, _ = split(examples, config.seed)
    replay = origin.get("replay")
    if replay:
        if replay.get("sha256"):
            file = read_file(plan.replay_data, tokenizer, length, as_text, reporter.bars)
            source = file_replay(replay["share"], file)
        else:
            source = ward_replay(replay["share"], tokenizer, length)
        examples = source.mixed(examples, config.seed)
    return examples


def _stretches(
    saved: Sequence[Path], count: int, steps: int
) -> list[tuple[Path | None, Path | None]]:
    """`count` stretches of the run in order, the last among them, the others evenly spread.

    The first begins where the seed alone decides; the last ends in the adapter.
    """
    inner = [path for path in saved if int(path.name.removeprefix("step-")) < steps]
    ends = [None, *inner, None]
    stretches = list(itertools.pairwise(ends))
    places = np.linspace(0, len(stretches) - 1, min(count, len(stretches))).round().astype(int)
    return [stretches[i] for i in (places if count > 1 else [len(stretches) - 1])]


def _state_of(adapter: Adapter) -> dict[str, np.ndarray]:
    state = {
        f"{module}.{leaf}": array
        for module in adapter.modules
        for leaf, array in zip(leaves_of(adapter.config), adapter.arrays(module), strict=True)
    }
    return {**state, **adapter.tables}


def _difference(own: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> float:
    """The largest difference of two numbers of one name; 0.0 only where all bits are equal."""
    if own.keys() != others.keys():
        return float("inf")
    largest = 0.0
    for name, array in own.items():
        other = others[name]
        if (array.dtype, array.shape) != (other.dtype, other.shape):
            return float("inf")
        if array.tobytes() != other.tobytes():
            gap = np.abs(array.astype(np.float64) - other.astype(np.float64))
            largest = max(largest, float(gap.max()), np.finfo(np.float64).tiny)
    return largest
