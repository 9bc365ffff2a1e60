"""The tour: the main job on real input, from the base's habit to an adapter that lost it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from minilora.evaluation.house import HouseRecords
from minilora.evaluation.judge import Judge, Scores
from minilora.evaluation.merging import MergeCheck, check_merge, checked_unload, logits
from minilora.hub import save_pretrained
from minilora.hub.bases import WARD, open_base
from minilora.lora import Attachment, LoRAConfig, attach, base_fingerprint, trainable_parameters
from minilora.nn import Transformer
from minilora.processes import recommended_workers
from minilora.runs.data import WARD_DATA as DATA
from minilora.runs.driver import Job, OpenPlan, Trained
from minilora.runs.folder import real_place, require_free
from minilora.runs.plan import Clock, Reporter, Result, Sizes
from minilora.runs.plots import plot_tour
from minilora.storage import atomic_write, sha256_file
from minilora.text import Record, encode_records, prompt_messages
from minilora.text.answers import answers
from minilora.training import TrainingConfig
from minilora.training.made_by import made_by
from minilora.ward import HouseScore, house_format, score_house
from minilora.ward.formats import FORM_INSTRUCTIONS, HOUSE_INSTRUCTION

MARK = "tour.json"
FILES = (MARK, "tour.png", "adapter", "merged")
CHECK_ROWS = 120
"""Held-out house examples, and prompts of the base regression suite, that are scored."""
ANSWER_TOKENS = 96


@dataclass(frozen=True, kw_only=True)
class TourPlan(OpenPlan):
    """All that decides a tour. Raises ValueError for a ward without a house format."""

    out: Path = Path("tour")
    ward: str = "cardiology"
    steps: int = 320
    batch_size: int = 16
    lr: float = 0.015

    def __post_init__(self) -> None:
        super().__post_init__()
        house_format(self.ward)
        if self.resume:
            raise ValueError("got resume for a tour, which keeps no checkpoints to continue from")

    def check(self) -> None:
        """Raise ValueError for an `out` that holds anything but an earlier tour."""
        require_free(self.out, MARK, FILES, "an earlier tour to replace")

    def open(self, reporter: Reporter) -> TourJob:
        """Read the ward's data and base, choose the note to show, attach the adapter."""
        train, held_out, suite = read_data(self.ward)
        model, tokenizer = open_base(WARD)
        shown = note_to_show(held_out)
        reporter.asking(shown)
        ids = np.array([tokenizer.encode_prompt(shown["prompt"])])
        records = [
            Record(str(i), messages=prompt_messages(row["prompt"], row["completion"]))
            for i, row in enumerate(train)
        ]
        examples, _ = encode_records(tokenizer, records, model.config.max_position_embeddings)
        base, plain, size = base_fingerprint(model), logits(model, ids), count_numbers(model)
        attachment = attach(model, LoRAConfig(), np.random.default_rng(self.seed))
        return TourJob(
            model=model,
            tokenizer=tokenizer,
            examples=examples,
            batch_size=self.batch_size,
            training=TrainingConfig(
                steps=self.steps,
                lr=self.lr,
                warmup=min(20, self.steps // 10),
                seed=self.seed,
                workers=self.workers,
            ),
            judge=TourJudge(
                tokenizer,
                houses=[HouseRecords(self.ward, held_out, 0, ANSWER_TOKENS)],
                suite=suite,
                bars=reporter.bars,
                workers=self.workers or recommended_workers(),
                reporter=reporter,
                shown=shown,
            ),
            settings={},
            label="adapting",
            keeps_run=False,
            attachment=attachment,
            base_print=base,
            base_size=size,
            ids=ids,
            plain=plain,
        )


def count_numbers(model: Transformer) -> int:
    """Numbers in all the model's weights."""
    return sum(p.size for p in model.parameters())


def read_data(ward: str) -> tuple[list[dict], list[dict], list[dict]]:
    """Training notes, held-out notes, and the base regression suite (a share of each group)."""
    suite = read_examples(DATA / "regression.jsonl")
    held_out = read_examples(DATA / f"{ward}.eval.jsonl")[:CHECK_ROWS]
    step = max(1, len(suite) // CHECK_ROWS)
    return read_examples(DATA / f"{ward}.train.jsonl"), held_out, suite[::step]


def read_examples(path: Path) -> list[dict]:
    """The lines of one of the ward's files. Raises ValueError when it is not there."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; `minilora ward --out {path.parent}` makes it again")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def note_to_show(held_out: list[dict]) -> dict:
    """The first note that has a drug without a dose. Raises ValueError when there is none."""
    for row in held_out:
        if row["facts"]["no_dose"]:
            return row
    raise ValueError(f"none of {len(held_out)} held-out notes lacks a dose")


@dataclass
class TourJudge(Judge):
    """Also asks the base with the best plain prompt, and reports the answer to the note shown.

    The prompt comes before the adapter; what it gets is measured beside it.
    """

    reporter: Reporter = field(default_factory=Reporter)
    shown: Mapping = field(default_factory=dict)
    prompted: HouseScore | None = None

    def __call__(self, model: Transformer, when: str) -> Scores:
        """The scores, and before training also `prompted`."""
        scores = super().__call__(model, when)
        (asked,) = self.houses
        place = asked.records.index(self.shown)
        self.reporter.answered(when, self.shown, scores.outputs[asked.ward][place])
        if when == "before":
            self.prompted = self.ask_by_form(model, asked)
        return scores

    def ask_by_form(self, model: Transformer, asked: HouseRecords) -> HouseScore:
        """The house's score for a prompt that names the house's lines."""
        labels = [label for label, _ in house_format(asked.ward).layout]
        instruction = FORM_INSTRUCTIONS[0].format(", ".join(labels))
        notes = [row["prompt"].removesuffix(HOUSE_INSTRUCTION) for row in asked.records]
        prompts = [note + instruction for note in notes]
        bar = "prompted" if self.bars else ""
        outputs = answers(
            model,
            self.tokenizer,
            prompts,
            asked.max_new_tokens,
            progress=bar,
            workers=self.workers,
        )
        return score_house(asked.ward, asked.records, outputs)


@dataclass(frozen=True, kw_only=True)
class TourResult(Result):
    """Of a tour. prompted: what the base got when it was asked for the house's lines by name."""

    prompted: HouseScore
    merge: MergeCheck


@dataclass(kw_only=True)
class TourJob(Job):
    """A tour with everything open; plain: the base's logits of ids (1, T)."""

    judge: TourJudge
    attachment: Attachment
    base_print: str
    base_size: int
    ids: np.ndarray
    plain: np.ndarray

    def finish(self, plan: TourPlan, trained: Trained, clock: Clock) -> TourResult:
        """Check what was promised, and write adapter, merged model, plot and figures."""
        merge = check_promises(self.attachment, self.ids, self.plain, self.base_print)
        sizes = Sizes(self.base_size, trainable_parameters(self.model), self.optimizer.state_bytes)
        gate = self.judge.gate(trained.before, trained.after)
        figures = {
            "ward": plan.ward,
            "prompted": {"house": self.judge.prompted.to_dict()},
            "before": tour_figures(trained.before),
            "after": tour_figures(trained.after),
            "gate": gate.summary(),
        }
        data = DATA / f"{plan.ward}.train.jsonl"
        provenance = {
            "data": {"file": data.name, "sha256": sha256_file(data)},
            "training": {**asdict(self.training), "batch_size": self.batch_size},
            "made_by": made_by(self.model, self.training),
            "max_length": self.model.config.max_position_embeddings,
            "evaluation": figures,
        }
        out = real_place(plan.out)
        out.mkdir(parents=True, exist_ok=True)
        adapter = self.attachment.adapter(
            base_name=WARD, provenance=provenance, tokenizer=self.tokenizer
        )
        adapter.write(out / "adapter")
        card = f"# ward-base with the tour's {plan.ward} adapter merged in\n"
        checked_unload(self.attachment, self.ids, self.plain)
        save_pretrained(out / "merged", self.model, self.tokenizer, card)
        plot_tour(out / "tour.png", trained.history, figures)
        text = json.dumps(figures, indent=2, sort_keys=True) + "\n"
        atomic_write(out / MARK, text.encode())
        clock.lap("checking and saving")
        return TourResult(
            plan=plan,
            folder=plan.folder.path,
            before=trained.before,
            after=trained.after,
            history=trained.history.records,
            seconds=clock.laps,
            sizes=sizes,
            provenance=adapter.provenance,
            gate=gate,
            prompted=self.judge.prompted,
            merge=merge,
        )


def tour_figures(scores: Scores) -> dict:
    """Scores as tour.json has them."""
    (house,) = scores.house.values()
    return {"house": house.to_dict(), "base": scores.suite.to_dict()}


def check_promises(
    attachment: Attachment, ids: np.ndarray, plain: np.ndarray, base_print: str
) -> MergeCheck:
    """Base bit-identical; merged equals adapted and differs from the base; unmerge restores.

    Raises ValueError when one of them does not hold.
    """
    if base_fingerprint(attachment.model) != base_print:
        raise ValueError("the base's weights changed during training, expected the same bits")
    merge = check_merge(attachment, ids, plain)
    if base_fingerprint(attachment.model) != base_print:
        raise ValueError("unmerge did not give the base back bit for bit")
    return merge
