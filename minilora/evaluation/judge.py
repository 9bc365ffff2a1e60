"""Judge: the same questions to a model before and after training, and the scores of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.evaluation.house import HouseRecords
from minilora.nn import Transformer
from minilora.text import Example, Tokenizer
from minilora.text.answers import answers, prompt_ids
from minilora.training import evaluate
from minilora.ward import HouseScore, RegressionScore, score_house, score_regression
from minilora.ward.corpus import Example as WardExample


@dataclass(frozen=True)
class Scores:
    """What a model got; a part is there where its questions were asked.

    loss: mean over the labels of `loss_rows` examples, in nats a label. house: by ward.
    suite: what the base could do before. outputs: the answers by ward, in the records' order.
    """

    loss: float | None = None
    loss_rows: int = 0
    house: Mapping[str, HouseScore] = field(default_factory=dict)
    suite: RegressionScore | None = None
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)

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
    prompts of the regression suite, as examples or JSONL records. bars: whether progress is shown.
    newest: the newest answer to each house prompt, by its token ids.
    """

    tokenizer: Tokenizer
    examples: Sequence[Example] = ()
    houses: Sequence[HouseRecords] = ()
    suite: Sequence[WardExample | Mapping] = ()
    bars: bool = False
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
        loss, house, outputs, suite = None, {}, {}, None
        if self.examples:
            loss = self.loss(model, progress=self.bar(f"loss {when}"))
        for asked in self.houses:
            texts = self.answers(model, asked, f"{asked.ward} {when}")
            house[asked.ward] = score_house(asked.ward, asked.records, texts)
            outputs[asked.ward] = texts
        if self.suite:
            suite = self.suite_score(model, f"base suite {when}")
        return Scores(loss, len(self.examples), house, suite, outputs)

    def answers(self, model: Transformer, asked: HouseRecords, label: str) -> list[str]:
        """The model's answers to a ward's prompts, which `newest` keeps."""
        prompts = [record["prompt"] for record in asked.records]
        texts = answers(
            model, self.tokenizer, prompts, asked.max_new_tokens, progress=self.bar(label)
        )
        ids = (tuple(prompt_ids(self.tokenizer, prompt)) for prompt in prompts)
        self.newest.update(zip(ids, texts, strict=True))
        return texts

    def suite_score(self, model: Transformer, label: str = "") -> RegressionScore:
        """Exact answers to the suite; `label` names the bar."""
        prompts = [
            row.prompt if isinstance(row, WardExample) else row["prompt"] for row in self.suite
        ]
        texts = answers(model, self.tokenizer, prompts, progress=self.bar(label))
        return score_regression(self.suite, texts)

    def bar(self, label: str) -> str:
        """The name of a bar, "" where none is shown."""
        return label if self.bars else ""
