"""Adapting: a LoRA adapter on the user's data, judged before and after, saved as PEFT's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from minilora.backend import require_device
from minilora.evaluation.cases import Case
from minilora.evaluation.gate import Gate
from minilora.evaluation.house import house_records, read_house
from minilora.evaluation.judge import REGRESSION, Judge
from minilora.hub.bases import WARD, open_base, public_name
from minilora.hub.tokens import ids_of
from minilora.limits import require_count, require_finite
from minilora.lora import (
    Attachment,
    LoRAConfig,
    Vera,
    attach,
    base_fingerprint,
    trainable_parameters,
)
from minilora.lora.peft_format import CONFIG, SIDECAR, TENSORS
from minilora.lora.pissa import require_pissa
from minilora.nn import Transformer, bytes_by_format, require_base_dtype
from minilora.runs import defaults
from minilora.runs.data import WARD_DATA, File, UnusableDataError, one_answer_a_row, read_file
from minilora.runs.decide import Decided, decide
from minilora.runs.driver import Job, OpenPlan, Trained
from minilora.runs.folder import require_free
from minilora.runs.gate import askable
from minilora.runs.plan import Clock, Reporter, Result, Sizes
from minilora.runs.plots import plot_loss
from minilora.runs.replay import Replay, file_replay, require_replay, ward_replay
from minilora.runs.samples import Sample, answer_samples, pick_samples
from minilora.text import Problem, Tokenizer
from minilora.text.answers import prompt_ids
from minilora.text.examples import opening_ids
from minilora.training import TrainingConfig
from minilora.training.made_by import made_by, worker_count

LONGEST = 1024
"""Tokens of an example at most, where the base could read more."""


@dataclass(frozen=True, kw_only=True)
class AdaptPlan(OpenPlan):
    """All that decides an adaptation.

    as_text: whether `data` and `eval_data` are plain text, whatever they look like. eval_data:
    judged on; None for a tenth of `data`, held out. eval_rows: how many of these are judged.
    target_modules: names, or "all-linear". activated: whether the adapter acts from the tokens on
    that open the assistant's turn, and leaves the prompt to the base. use_dora: whether it also
    holds the lengths of the rows (DoRA). loraplus_lr_ratio: how many
    times A's rate is B's, whose own is lr (LoRA+). freeze_a: whether A stays as it was drawn, and
    B alone is trained (LoRA-FA). vera: whether two vectors a module are trained around random
    matrices that all share (VeRA). tokens: texts of tokens whose rows of embedding and head are
    trained too; tables: "embed_tokens", "lm_head", trained whole. pissa: whether A and B start at
    the weight's largest directions;
    the adapter then has rank 2 r. max_length: tokens of an
    example. replay: share of what is trained on that is of the base's own tasks; replay_data: rows
    of these, the ward's where it is None. gate: whether base and adapter are compared on the
    house's rows and on those of `suite`, which the base could answer; None for the ward's own on
    ward-base. None for max_length, target_modules, steps, batch_size and lr: chosen from the data
    and the base, see `defaults`.
    """

    data: Path
    as_text: bool = False
    eval_data: Path | None = None
    eval_rows: int | None = None
    base: str = WARD
    base_dtype: str = "float32"
    device: str = "cpu"
    r: int = 8
    lora_alpha: float = 16
    target_modules: tuple[str, ...] | str | None = None
    lora_dropout: float = 0.0
    use_rslora: bool = False
    activated: bool = False
    use_dora: bool = False
    loraplus_lr_ratio: float = 1.0
    freeze_a: bool = False
    pissa: bool = False
    vera: bool = False
    tokens: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    max_length: int | None = None
    replay: float = 0.0
    replay_data: Path | None = None
    suite: Path | None = None
    gate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_device(self.device)
        require_base_dtype(self.base_dtype)
        for name in ("tokens", "tables"):
            _require_texts(name, getattr(self, name))
        for name in ("eval_rows", "max_length"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 1)
        rows = {"embed_tokens": (0,)} if self.tokens and "embed_tokens" not in self.tables else {}
        self.lora(0, (0,) if self.activated else None, rows)
        require_replay(self.replay, self.replay_data, self.base)
        if self.suite is not None and not self.gate:
            raise ValueError(f"got --suite {self.suite} without a gate, which alone asks it")
        require_finite("loraplus_lr_ratio", self.loraplus_lr_ratio, above=True)
        if self.pissa:
            require_pissa(self.lora(0, (0,) if self.activated else None))
        if self.vera and (self.freeze_a or self.loraplus_lr_ratio != 1.0):
            raise ValueError(
                f"got vera with freeze_a {self.freeze_a} and loraplus_lr_ratio "
                f"{self.loraplus_lr_ratio:g}, expected False and 1: it trains no A and no B"
            )
        if self.freeze_a and self.loraplus_lr_ratio != 1.0:
            raise ValueError(
                f"got loraplus_lr_ratio {self.loraplus_lr_ratio:g} with freeze_a, which trains no "
                "A for B to be faster than; expected one of the two"
            )

    def lora(
        self,
        width: int,
        invocation: tuple[int, ...] | None = None,
        rows: Mapping[str, tuple[int, ...]] | None = None,
    ) -> LoRAConfig:
        """The adapter's config on a base of this width, which may choose the targets.

        rows: of `tokens`, by table.
        """
        targets = self.target_modules
        if targets is None:
            targets = defaults.default_targets(width)
        return LoRAConfig(
            self.r, self.lora_alpha, targets, self.lora_dropout, self.use_rslora,
            invocation=invocation, use_dora=self.use_dora, vera=Vera() if self.vera else None,
            modules_to_save=self.tables, trainable_token_indices=rows or {},
        )  # fmt: skip

    def rows(self, model: Transformer, tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
        """Table -> ids of `tokens`; a head that is a table of its own has their rows too."""
        if not self.tokens:
            return {}
        ids = ids_of(tokenizer, self.tokens)
        tables = ("embed_tokens",) if model.lm_head is None else ("embed_tokens", "lm_head")
        return {name: ids for name in tables if name not in self.tables}

    def check(self) -> None:
        """Raise ValueError for an `out` that holds anything but an adapter of minilora's."""
        files = (CONFIG, TENSORS, SIDECAR)
        require_free(self.out, CONFIG, files, "an adapter of minilora's to replace")

    def open(self, reporter: Reporter) -> AdaptJob:
        """Read base and data, fill in the defaults, attach the adapter."""
        model, tokenizer = open_base(self.base, self.base_dtype, self.device)
        length = self.longest(model)
        invocation = opening_ids(tokenizer) if self.activated else None
        how = (tokenizer, length, self.as_text, reporter, invocation)
        data = read_reported(self.data, *how)
        eval_data, house_lines = None, []
        if self.eval_data is not None:
            eval_data = read_reported(self.eval_data, *how)
            house_lines, unscorable = read_house(self.eval_data, self.as_text)
            eval_data = without(eval_data, unscorable, reporter)
        replay = self.open_replay(tokenizer, length, reporter)
        way = {"freeze_a": self.freeze_a, "vera": self.vera, "pissa": self.pissa}
        decided = decide(
            self, model, data, eval_data, self.eval_rows, replay, self.loraplus_lr_ratio, way
        )
        judged = [line for line in house_lines if line.number <= decided.lines]
        houses = house_records(judged, tokenizer, model.config.max_position_embeddings)
        rows = len(decided.held_out)
        if houses:
            rows = defaults.loss_rows(decided.size, decided.held_out)
        kept, room = self.open_suite(model, tokenizer, decided.size, reporter)
        judge = Judge(
            tokenizer,
            decided.held_out[:rows],
            houses,
            kept=kept,
            room=room,
            bars=reporter.bars,
            workers=worker_count(model, decided.training),
        )
        lora = self.lora(model.config.hidden_size, invocation, self.rows(model, tokenizer))
        settings = self.settings(lora, decided, base_fingerprint(model), length)
        held = bytes_by_format(model)
        # Attached before judging, as that checks the targets; B = 0 leaves every output as it was.
        attachment = attach(model, lora, np.random.default_rng(self.seed), pissa=self.pissa)
        if self.freeze_a:
            attachment.freeze_A()
        watched = defaults.watched_rows(decided.training.steps, decided.batch_size)
        job = AdaptJob(
            model=model,
            tokenizer=tokenizer,
            examples=decided.train,
            batch_size=decided.batch_size,
            training=decided.training,
            judge=judge,
            settings=settings,
            label="adapting",
            watch=lambda step: {"eval_loss": judge.loss(model, watched)},
            attachment=attachment,
            decided=decided,
            max_length=length,
        )
        reporter.planned(job.planned(self, held))
        return job

    def open_replay(self, tokenizer: Tokenizer, length: int, reporter: Reporter) -> Replay | None:
        """What is trained again of the base's own tasks, None where nothing is."""
        if not self.replay:
            return None
        if self.replay_data is None:
            return ward_replay(self.replay, tokenizer, length)
        invocation = opening_ids(tokenizer) if self.activated else None
        how = (tokenizer, length, self.as_text, reporter, invocation)
        file = read_reported(self.replay_data, *how)
        return file_replay(self.replay, file)

    def open_suite(
        self, model: Transformer, tokenizer: Tokenizer, size: int, reporter: Reporter
    ) -> tuple[dict[str, list[Case]], int]:
        """Rows for the gate by their file's name, none where nothing is known, and their room."""
        path = self.suite
        if path is None and self.gate and self.base == WARD:
            path = WARD_DATA / f"{REGRESSION}.jsonl"
        if path is None:
            return {}, 1
        cases, room = askable(path, None, tokenizer, model.config.max_position_embeddings, reporter)
        tokens = sum(len(prompt_ids(tokenizer, list(case.messages))) + room for case in cases)
        most = defaults.suite_rows(size, tokens, len(cases), self.suite is None)
        return {path.stem: cases[:: -(-len(cases) // most)]}, room

    def longest(self, model: Transformer) -> int:
        """The longest example in tokens. Raises ValueError beyond what the base can read."""
        limit = model.config.max_position_embeddings
        if self.max_length is None:
            return min(limit, LONGEST)
        if self.max_length > limit:
            raise ValueError(
                f"got max_length {self.max_length}, expected 1 to the base's limit {limit}"
            )
        return self.max_length

    def variant(self) -> dict:
        """How A and B are trained, where that is not the plain way."""
        ratio, frozen = self.loraplus_lr_ratio, self.freeze_a
        return {
            **({"loraplus_lr_ratio": ratio} if ratio != 1.0 else {}),
            **({"freeze_a": True} if frozen else {}),
            **({"pissa": True} if self.pissa else {}),
        }

    def settings(self, lora: LoRAConfig, decided: Decided, base: str, length: int) -> dict:
        """What must be equal to continue a stopped run, JSON-ready."""
        training = decided.training
        return {
            "base_fingerprint": base,
            "base_dtype": self.base_dtype,
            "device": self.device,
            "data_sha256": decided.data.sha256,
            "eval_sha256": decided.eval_data.sha256 if decided.eval_data else None,
            **asdict(lora),
            **{k: getattr(training, k) for k in ("steps", "lr", "seed", "warmup")},
            "batch_size": decided.batch_size,
            "max_length": length,
            **self.variant(),
            **({"as_text": True} if self.as_text else {}),
            **({"replay": decided.replay_about()} if decided.replay else {}),
        }


def _require_texts(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(
            f"got {name} {value!r}, expected a tuple of texts (in a sweep file: a list)"
        )


def read_reported(
    path: Path,
    tokenizer: Tokenizer,
    length: int,
    as_text: bool,
    reporter: Reporter,
    invocation: tuple[int, ...] | None = None,
) -> File:
    """A data file; what in it can't be used goes to the reporter, also where too much can't.

    invocation: of an activated adapter, which learns each answer of a chat as a row of its own.
    """
    try:
        file = read_file(path, tokenizer, length, as_text, reporter.bars)
        if invocation is not None:
            file = one_answer_a_row(file, invocation)
    except UnusableDataError as error:
        reporter.left_out(error.path, error.problems)
        raise
    if file.problems:
        reporter.left_out(path, file.problems)
    return file


def without(file: File, unscorable: Sequence[Problem], reporter: Reporter) -> File:
    """The file without these lines, which go to the reporter. Raises ValueError if none is left."""
    if not unscorable:
        return file
    reporter.left_out(file.path, unscorable)
    sources = {problem.source for problem in unscorable}
    examples = file.examples.without(sources)
    if not examples:
        raise ValueError(f"{file.path}: no example can be judged; the first is {unscorable[0]}")
    for problem in unscorable:
        file.problems.add(problem)
    return replace(file, examples=examples)


@dataclass(frozen=True)
class Counts:
    """Examples, their tokens, and the tokens that a loss is taken at."""

    examples: int
    tokens: int
    learnt: int


@dataclass(frozen=True)
class Planned:
    """An adaptation as it is about to begin, in numbers.

    held: how the base is kept: format -> (numbers, bytes). passes: over the training data.
    shapes: by key of `text.records.SHAPES`, how many rows of the data were read so.
    replay: as the adapter's provenance says it, None without.
    house: by ward, how many answers are scored, and how many records are too long for it.
    """

    plan: AdaptPlan
    lora: LoRAConfig
    training: TrainingConfig
    batch_size: int
    passes: float
    held: Mapping[str, tuple[int, int]]
    layers: int
    adapter_bytes: int
    sizes: Sizes
    train: Counts
    replay: Mapping | None
    shapes: Mapping[str, int]
    judged_on: str
    house: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class AdaptResult(Result):
    """Of an adaptation. samples: some of what was judged on, with the adapted model's answers."""

    judged_on: str
    samples: Sequence[tuple[Sample, str]]


@dataclass(kw_only=True)
class AdaptJob(Job):
    """An adaptation with everything open."""

    attachment: Attachment
    decided: Decided
    max_length: int

    @property
    def sizes(self) -> Sizes:
        """Of base, adapter and optimizer."""
        trained = trainable_parameters(self.model)
        return Sizes(self.decided.size, trained, self.optimizer.state_bytes)

    def planned(self, plan: AdaptPlan, held: Mapping[str, tuple[int, int]]) -> Planned:
        """The job in numbers."""
        train = self.decided.train
        return Planned(
            plan=plan,
            lora=self.attachment.config,
            training=self.training,
            batch_size=self.batch_size,
            passes=self.training.steps * self.batch_size / len(train),
            held=held,
            layers=len(self.attachment.layers),
            adapter_bytes=sum(p.data.nbytes for p in self.model.parameters() if p.requires_grad),
            sizes=self.sizes,
            train=Counts(len(train), int(train.lengths.sum()), int(train.label_counts.sum())),
            replay=self.decided.replay_about() if self.decided.replay else None,
            shapes=self.decided.data.shapes,
            judged_on=self.decided.judged_on,
            house={h.ward: (len(h.records), h.too_long) for h in self.judge.houses},
        )

    def finish(self, plan: AdaptPlan, trained: Trained, clock: Clock) -> AdaptResult:
        """Answer samples, draw the loss, and write the adapter."""
        decided, limit = self.decided, self.model.config.max_position_embeddings
        file = decided.eval_data or decided.data
        examples = decided.held_out or decided.train
        samples = pick_samples(self.tokenizer, examples, file, limit)
        answered = answer_samples(self.model, self.tokenizer, samples, self.judge.newest)
        plot_loss(trained.history, plan.folder.path / "loss.png")
        gate = self.judge.gate(trained.before, trained.after) if plan.gate else None
        provenance = self.provenance(plan, trained, gate)
        adapter = self.attachment.adapter(
            base_name=public_name(plan.base), provenance=provenance, tokenizer=self.tokenizer
        )
        adapter.write(plan.out)
        clock.lap("judging after and saving")
        return AdaptResult(
            plan=plan,
            folder=plan.folder.path,
            before=trained.before,
            after=trained.after,
            history=trained.history.records,
            seconds=clock.laps,
            sizes=self.sizes,
            provenance=adapter.provenance,
            gate=gate,
            judged_on=decided.judged_on,
            samples=answered,
        )

    def provenance(self, plan: AdaptPlan, trained: Trained, gate: Gate | None) -> dict:
        """What the adapter's sidecar says of its making."""
        decided = self.decided
        return {
            "base_dtype": plan.base_dtype,
            "device": plan.device,
            "data": decided.data.about(),
            "eval": decided.eval_data.about() if decided.eval_data else None,
            "held_out": decided.held_out_of if decided.eval_data is None else 0,
            "judged": len(decided.held_out),
            "training": {**asdict(self.training), "batch_size": self.batch_size},
            "made_by": made_by(self.model, self.training),
            "max_length": self.max_length,
            **({"freeze_a": True} if plan.freeze_a else {}),
            **({"pissa": True} if plan.pissa else {}),
            **({"as_text": True} if plan.as_text else {}),
            **({"replay": decided.replay_about()} if decided.replay else {}),
            "evaluation": {
                "before": trained.before.to_dict(),
                "after": trained.after.to_dict(),
                "on": decided.judged_on,
                **({"gate": gate.summary()} if gate else {}),
            },
        }
