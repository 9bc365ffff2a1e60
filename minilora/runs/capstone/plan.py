"""The plan of a capstone: what is adapted, from which rows, and into which folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from minilora.hub.bases import WARD, open_base
from minilora.limits import require_count
from minilora.nn import Transformer
from minilora.runs.adapt import AdaptPlan
from minilora.runs.plan import paths_from_texts
from minilora.storage import sha256_file
from minilora.text import Tokenizer

SHOTS = 3
TASK = "task"
"""What the gate calls the held-out rows."""
NOT_COMPARED = ("out", "workers", "title")
"""Settings that may change from one call to the next: they change no figure."""


@dataclass(frozen=True, kw_only=True)
class CapstonePlan:
    """All that decides a capstone.

    data: prompts with their answers, 100 to 300 rows. eval_data: rows to score on; None for a
    third of `data`. base_dtype: how the base is kept, asked and trained over. device: where; the
    check of the merged model and the loading at the end are done on the CPU. instruction: the
    prompt that is to be beaten, at the end of each question; None for worked examples alone. shots:
    how many of these. suite: rows of what the base can do and may not lose; None for the ward's own
    on ward-base. rules: of the gate. title: of the card.
    None for target_modules, steps, batch_size and lr: as `AdaptPlan` chooses them.
    Raises ValueError for what makes no sense.
    """

    data: Path
    out: Path
    eval_data: Path | None = None
    base: str = WARD
    base_dtype: str = "float32"
    device: str = "cpu"
    instruction: str | None = None
    shots: int = SHOTS
    suite: Path | None = None
    rules: Path | None = None
    title: str = ""
    r: int = 8
    lora_alpha: float = 16
    target_modules: tuple[str, ...] | str | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    replay: float = 0.0
    replay_data: Path | None = None
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_count("shots", self.shots, 1, 16)
        if self.instruction is not None and not self.instruction.strip():
            raise ValueError("got an empty instruction, expected a text")
        if not self.out.name:
            raise ValueError(f"got --out {self.out}, expected the name of a folder to make")
        if self.suite is not None and self.suite.stem == TASK:
            raise ValueError(
                f"got --suite {self.suite}, and {TASK!r} is what the gate calls the held-out rows; "
                "expected a file of another name"
            )
        self.adaptation()

    def adaptation(self) -> AdaptPlan:
        """The plan of the adapter's training, on the rows that the capstone writes."""
        return AdaptPlan(
            out=self.out / "adapter",
            data=self.train_file,
            eval_data=self.held_out_file,
            base=self.base,
            base_dtype=self.base_dtype,
            device=self.device,
            r=self.r,
            lora_alpha=self.lora_alpha,
            target_modules=self.target_modules,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            replay=self.replay,
            replay_data=self.replay_data,
            suite=self.suite,
            seed=self.seed,
            workers=self.workers,
        )

    def open_base(self) -> tuple[Transformer, Tokenizer]:
        """The base as it is asked and trained over. Raises ValueError as `hub.bases.open_base`."""
        return open_base(self.base, self.base_dtype, self.device)

    @property
    def train_file(self) -> Path:
        """The rows that are trained on."""
        return self.out / "data" / "train.jsonl"

    @property
    def held_out_file(self) -> Path:
        """The rows that are scored."""
        return self.out / "data" / "heldout.jsonl"

    def settings(self) -> dict:
        """What must be equal to go on with a capstone that was begun, JSON-ready.

        A file is known by its bytes, so that it may lie elsewhere. Raises OSError where one can't
        be read.
        """
        found: dict = {}
        for name, value in vars(self).items():
            if name in NOT_COMPARED:
                continue
            if isinstance(value, Path):
                value = f"sha256:{sha256_file(value)}"
            found[name] = list(value) if isinstance(value, tuple) else value
        return found


def then(settings: Mapping) -> dict:
    """The settings of a capstone that was begun; one that its version did not know was the default.

    settings: as the record of the capstone has them.
    """
    known = {f.name: f.default for f in fields(CapstonePlan) if f.default is not MISSING}
    return {**known, **settings}
