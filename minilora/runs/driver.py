"""The one driver of adapt, tour and pretrain: judge, train, judge again, save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minilora.evaluation.judge import Judge, Scores
from minilora.nn import NotFiniteError, Transformer
from minilora.runs.folder import DIVERGED, FINISHED
from minilora.runs.plan import Clock, Plan, Reporter, Result
from minilora.text import Example, Tokenizer
from minilora.training import AdamW, Batches, History, TrainingConfig, fit
from minilora.training.adamw import adamw_for


@dataclass(frozen=True)
class Trained:
    """What the driver hands to a job's `finish`."""

    before: Scores | None
    after: Scores
    history: History


@dataclass(kw_only=True)
class Job(ABC):
    """A plan with everything open: what the driver trains and judges.

    What the model asks gradients for is trained: an adapter where one is attached, else every
    weight. settings: what must be equal to continue a stopped run, JSON-ready. watch: figures for
    the history, taken every `training.eval_every` steps. keeps_run: whether history and
    checkpoints go to the run's folder.
    """

    model: Transformer
    tokenizer: Tokenizer
    examples: Sequence[Example]
    batch_size: int
    training: TrainingConfig
    judge: Judge
    settings: dict
    label: str
    watch: Callable[[int], dict] | None = None
    judges_before: bool = True
    keeps_run: bool = True
    optimizer: AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = adamw_for(self.model, self.training)

    @abstractmethod
    def finish(self, plan: Plan, trained: Trained, clock: Clock) -> Result:
        """Save what was made, and say what came out."""


class OpenPlan(Plan, ABC):
    """A plan that the driver can run."""

    def check(self) -> None:
        """Raise ValueError for what can be refused before anything is opened."""

    @abstractmethod
    def open(self, reporter: Reporter) -> Job:
        """Read data and base, and decide what was left open. Raises ValueError or OSError."""


def run(plan: OpenPlan, reporter: Reporter | None = None) -> Result:
    """Do what the plan says; the numbers, paths and origin of what came out.

    Plan and result can be pickled, so that a run may be another process's. What fails before the
    first step leaves nothing behind. Raises ValueError for what the plan, the data or the base
    does not allow, RunHeldError where another process writes to the same place, NotFiniteError
    where a loss, a logit or a weight is not a finite number, and OSError.
    """
    reporter, clock = reporter or Reporter(), Clock()
    plan.check()
    folder = plan.folder
    with folder.held():
        folder.check(plan.resume)
        job = plan.open(reporter)
        clock.lap("opening")
        if plan.resume:
            folder.check_settings(job.settings)
        before = None
        if job.judges_before:
            before = job.judge(job.model, "before")
            clock.lap("judging before")
        if job.keeps_run and not plan.resume:
            folder.begin(job.settings)
        try:
            history = train(plan, job, reporter.bars)
            clock.lap("training")
            after = job.judge(job.model, "after")
        except NotFiniteError:
            if job.keeps_run:
                folder.mark(DIVERGED)
            raise
        result = job.finish(plan, Trained(before, after, history), clock)
        if job.keeps_run:
            folder.mark(FINISHED, keeps=plan.keep_checkpoints)
    return result


def train(plan: Plan, job: Job, bars: bool) -> History:
    """The steps of a job, in its run's folder where it keeps one."""
    return fit(
        job.model,
        Batches(job.examples, job.batch_size, plan.seed, job.tokenizer.pad_id),
        job.training,
        optimizer=job.optimizer,
        out_dir=plan.folder.path if job.keeps_run else None,
        resume=plan.resume,
        keep=None if plan.keep_checkpoints else 2,
        on_eval=job.watch,
        progress=bars,
        label=job.label,
    )
