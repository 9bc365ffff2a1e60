"""Judge: loss and house scores of a model, taken the same way before and after training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from minilora.backend import blas_threads, recommended_blas_threads
from minilora.evaluation.house import HouseRecords
from minilora.nn import Transformer
from minilora.text import Example, Tokenizer
from minilora.text.answers import answers, prompt_ids
from minilora.training import DivergedError, evaluate
from minilora.ward import score_house


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
