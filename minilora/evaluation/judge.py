"""Judge: the same questions to a model before and after training, and the scores of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.evaluation.cases import Case, ward_case
from minilora.evaluation.gate import Gate, Sheet, judge_sheets
from minilora.evaluation.house import HouseRecords
from minilora.evaluation.rules import Rules
from minilora.nn import Transformer
from minilora.text import Example, Tokenizer
from minilora.text.answers import answers, prompt_ids
from minilora.training import evaluate
from minilora.ward import HouseScore, RegressionScore, score_house, score_regression
from minilora.ward.corpus import Example as WardExample

REGRESSION = "regression"
"""What a gate calls the regression suite: its file's name in the ward's data."""


@dataclass(frozen=True)
class Scores:
    """What a model got; a part is there where its questions were asked.

    loss: mean over the labels of `loss_rows` examples, in nats a label. house: by ward.
    suite: what the base could do before. outputs: the answers by ward, in the records' order.
    suite_outputs, kept_outputs: those to the suite, and to each file of `Judge.kept`.
    """

    loss: float | None = None
    loss_rows: int = 0
    house: Mapping[str, HouseScore] = field(default_factory=dict)
    suite: RegressionScore | None = None
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    suite_outputs: Sequence[str] = ()
    kept_outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Loss and house scores as an adapter's provenance has them, JSON-ready."""
        parts: dict = {}
        if self.loss is not None:
            parts |= {"loss": self.loss, "loss_rows": self.loss_rows}
        if self.house:
            parts["house"] = {ward: score.to_dict() for ward, score in self.house.items()}
        return parts


@dataclass
class Judge:
    """Asks the same of a model whenever it is called.

    examples: their loss is taken. houses: records of wards, whose answers are scored. suite:
    prompts of the regression suite, as examples or JSONL records. kept: rows of files by their
    name, which a gate compares and nothing else scores; room: tokens of an answer to them. bars:
    whether progress is shown. workers: processes that write the answers.
    newest: the newest answer to each house prompt, by its token ids.
    """

    tokenizer: Tokenizer
    examples: Sequence[Example] = ()
    houses: Sequence[HouseRecords] = ()
    suite: Sequence[WardExample | Mapping] = ()
    kept: Mapping[str, Sequence[Case]] = field(default_factory=dict)
    room: int = 1
    bars: bool = False
    workers: int = 1
    newest: dict[tuple[int, ...], str] = field(default_factory=dict)

    def loss(self, model: Transformer, most: int | None = None, progress: str = "") -> float:
        """Mean loss in nats a label over the first `most` examples; `progress` names a bar."""
        with blas_threads(recommended_blas_threads(model.config.hidden_size)):
            return evaluate(
                model, self.examples[:most], pad_id=self.tokenizer.pad_id, progress=progress
            )

    def __call__(self, model: Transformer, when: str) -> Scores:
        """The scores of a model. when: "before" or "after", for errors and bars.

        Raises NotFiniteError for a loss or logits that are not finite.
        """
        loss, house, outputs, suite, suite_outputs = None, {}, {}, None, ()
        if self.examples:
            loss = self.loss(model, progress=self.bar(f"loss {when}"))
        for asked in self.houses:
            texts = self.answers(model, asked, f"{asked.ward} {when}")
            house[asked.ward] = score_house(asked.ward, asked.records, texts)
            outputs[asked.ward] = texts
        if self.suite:
            suite_outputs = self.suite_answers(model, f"base suite {when}")
            suite = score_regression(self.suite, suite_outputs)
        kept = {
            name: answers(
                model,
                self.tokenizer,
                [list(case.messages) for case in cases],
                self.room,
                progress=self.bar(f"{name} {when}"),
                workers=self.workers,
            )
            for name, cases in self.kept.items()
        }
        return Scores(loss, len(self.examples), house, suite, outputs, suite_outputs, kept)

    def gate(self, before: Scores, after: Scores, rules: Rules = Rules()) -> Gate | None:
        """The verdict on two models by the answers that they gave; None where none were asked."""
        sheets = [
            Sheet(
                f"house/{asked.ward}",
                _cases(asked.records, asked.ward),
                before.outputs[asked.ward],
                after.outputs[asked.ward],
            )
            for asked in self.houses
        ]
        if self.suite:
            rows = [r.to_dict() if isinstance(r, WardExample) else r for r in self.suite]
            cases = _cases(rows, REGRESSION)
            sheets.append(Sheet(REGRESSION, cases, before.suite_outputs, after.suite_outputs))
        for name, cases in self.kept.items():
            texts = before.kept_outputs[name], after.kept_outputs[name]
            sheets.append(Sheet(name, cases, *texts))
        return judge_sheets(sheets, rules) if sheets else None

    def answers(self, model: Transformer, asked: HouseRecords, label: str) -> list[str]:
        """The model's answers to a ward's prompts, which `newest` keeps."""
        prompts = [record["prompt"] for record in asked.records]
        texts = answers(
            model,
            self.tokenizer,
            prompts,
            asked.max_new_tokens,
            progress=self.bar(label),
            workers=self.workers,
        )
        ids = (tuple(prompt_ids(self.tokenizer, prompt)) for prompt in prompts)
        self.newest.update(zip(ids, texts, strict=True))
        return texts

    def suite_answers(self, model: Transformer, label: str = "") -> list[str]:
        """The model's answers to the suite; `label` names the bar."""
        prompts = [
            row.prompt if isinstance(row, WardExample) else row["prompt"] for row in self.suite
        ]
        return answers(
            model, self.tokenizer, prompts, progress=self.bar(label), workers=self.workers
        )

    def suite_score(self, model: Transformer, label: str = "") -> RegressionScore:
        """Exact answers to the suite; `label` names the bar."""
        return score_regression(self.suite, self.suite_answers(model, label))

    def bar(self, label: str) -> str:
        """The name of a bar, "" where none is shown."""
        return label if self.bars else ""


def _cases(rows: Sequence[Mapping], name: str) -> list[Case]:
    return [ward_case(row, f"{name}:{i}") for i, row in enumerate(rows, 1)]
