"""The run of `minilora adapt`: its folder, its judge, its plot."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.cli.adapt_data import HouseRecords
from minilora.nn import Transformer
from minilora.storage import atomic_write
from minilora.text import Example, Tokenizer
from minilora.text.answers import answers, prompt_ids
from minilora.training import DivergedError, History, evaluate
from minilora.training.checkpoint import checkpoints
from minilora.ward import score_house

RUNNING, DIVERGED, FINISHED = "running", "diverged", "finished"


class RunFolder:
    """`OUT.run`: run.json (settings, state), history.jsonl, loss.png, and checkpoints meanwhile.

    It lies beside the adapter, so that the adapter's folder appears whole and holds only what
    PEFT reads.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(out.name + ".run")
        self.checkpoints = self.path / "checkpoints"
        self._about = self.path / "run.json"

    def read(self) -> dict | None:
        """The run that the folder holds, None without a folder. ValueError for another folder."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        try:
            about = json.loads(self._about.read_text("utf-8"))
            return {"settings": about["settings"], "state": about["state"]}
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.path} is where this run's history goes, and it holds something else; "
                "choose another --out"
            ) from None

    def check(self, resume: bool) -> None:
        """Raise ValueError unless a run may begin here, or with `resume` continue."""
        found = self.read()
        if not resume:
            saved = checkpoints(self.checkpoints)
            if found and found["state"] == RUNNING and saved:
                raise ValueError(
                    f"{self.path} holds a run that was stopped after {saved[-1].name}; continue it "
                    "with --resume, or delete the folder to begin anew"
                )
        elif found is None:
            raise ValueError(f"got --resume, but there is no run to continue in {self.path}")
        elif found["state"] != RUNNING:
            raise ValueError(
                f"got --resume, but the run in {self.path} has {found['state']}; leave --resume "
                "out to begin anew"
            )

    def begin(self, settings: dict, resume: bool) -> None:
        """Make the folder ready. Raises ValueError to resume with other settings."""
        settings = json.loads(json.dumps(settings))
        if resume:
            old = self.read()["settings"]
            odd = sorted(k for k in old.keys() | settings.keys() if old.get(k) != settings.get(k))
            if odd:
                told = ", ".join(f"{k}: {old.get(k)} then, {settings.get(k)} now" for k in odd)
                raise ValueError(f"got --resume with other settings than the run's: {told}")
            return
        if self.read() is not None:  # a run that is over, or stopped before a checkpoint
            for name in ("history.jsonl", "loss.png"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.mark(RUNNING, settings)

    def mark(self, state: str, settings: dict | None = None) -> None:
        """Note the run's state; a finished run keeps no checkpoints."""
        settings = self.read()["settings"] if settings is None else settings
        about = {"format": 1, "state": state, "settings": settings}
        atomic_write(self._about, (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())
        if state == FINISHED:
            shutil.rmtree(self.checkpoints, ignore_errors=True)


@dataclass
class Judge:
    """Evaluates a model the same way before and after: loss, and house scores where asked.

    given: the newest answer to each house prompt, by its token ids.
    """

    tokenizer: Tokenizer
    examples: Sequence[Example]
    houses: Sequence[HouseRecords] = field(default_factory=tuple)
    given: dict[tuple[int, ...], str] = field(default_factory=dict)

    def loss(self, model: Transformer, most: int | None = None) -> float:
        """Mean loss in nats a label over the first `most` examples."""
        with blas_threads(recommended_blas_threads(model.config.hidden_size)):
            return evaluate(model, self.examples[:most], pad_id=self.tokenizer.pad_id)

    def __call__(self, model: Transformer, when: str) -> dict:
        """{"loss": nats a label, "loss_rows", "house": {ward: scores}}, what there is.

        Raises DivergedError for a loss that is not finite.
        """
        result: dict = {}
        if self.examples:
            loss = result["loss"] = self.loss(model)
            result["loss_rows"] = len(self.examples)
            if not math.isfinite(loss):
                raise DivergedError(f"the loss {when} training is {loss}, expected a finite number")
        for house in self.houses:
            prompts = [record["prompt"] for record in house.records]
            given = answers(
                model,
                self.tokenizer,
                prompts,
                house.max_new_tokens,
                progress=f"{house.ward} {when}",
            )
            ids = (tuple(prompt_ids(self.tokenizer, prompt)) for prompt in prompts)
            self.given.update(zip(ids, given, strict=True))
            scores = score_house(house.ward, house.records, given)
            result.setdefault("house", {})[house.ward] = scores.to_dict()
        return result


def plot_loss(history: History, path: Path) -> None:
    """Training loss and, where it was taken, held-out loss by step, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, used once
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*history.series("loss"), linewidth=1, alpha=0.7, label="training batch")
    steps, losses = history.series("eval_loss")
    if steps:
        axes.plot(steps, losses, "o-", label="held-out sample")
    axes.set(xlabel="step", ylabel="loss (nats a token)", title="Adapting")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    atomic_write(path, buffer.getvalue())
