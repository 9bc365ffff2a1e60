"""Why: which training notes taught an adapter an answer, and which pull against rows one trusts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.analysis.influence import Influence, Moment, Query, influence
from minilora.backend import blas_threads, recommended_blas_threads
from minilora.evaluation.cases import Case, read_cases
from minilora.hub.bases import base_dtype_of, base_of, open_base, public_name
from minilora.lora import Adapter, attach, mark_base
from minilora.nn import Transformer
from minilora.runs.data import File, read_file, split
from minilora.runs.folder import RunFolder
from minilora.runs.plan import Clock, Reporter, paths_from_texts
from minilora.storage import atomic_write, read_safetensors, require_place, sha256_file
from minilora.text import Example, Record, Tokenizer
from minilora.text.answers import answers, prompt_ids
from minilora.text.examples import encode_record
from minilora.text.formats import Format
from minilora.text.rows import row_number
from minilora.training.checkpoint import checkpoints

RANKINGS = ("influence", "own", "loss")
"""How notes are ranked as suspects: by how much they raise the loss of the trusted rows, by their
influence on themselves, or by their own loss."""
ANSWER_TOKENS = 96
"""Of the adapter's own answer at most."""


@dataclass(frozen=True, kw_only=True)
class WhyPlan:
    """All that decides what is asked of an adapter and its training notes.

    data: what the adapter was trained on. eval_data with row (its line, from 1), or prompt: the
    answer that is asked about, the adapter's own unless `answer` gives another. suspects: a share
    of the notes that is to be found in place of an answer; those that pull most against the rows of
    eval_data, which are trusted (by: one of RANKINGS). clean: where `data` without these is
    written. moments: how many of the run's checkpoints are looked at. base, base_dtype: None for
    what the adapter says.
    """

    adapter: Path
    data: Path
    as_text: bool = False
    eval_data: Path | None = None
    rows: int | None = None
    row: int | None = None
    prompt: str | None = None
    answer: str | None = None
    suspects: float | None = None
    by: str = "influence"
    clean: Path | None = None
    moments: int = 3
    base: str | None = None
    device: str = "cpu"
    json_file: Path | None = None

    def __post_init__(self) -> None:
        paths_from_texts(self)
        require_place("--json", self.json_file)
        asked = [name for name in ("row", "prompt", "suspects") if getattr(self, name) is not None]
        if len(asked) != 1:
            given = ", ".join(f"--{name}" for name in asked) or "none of them"
            raise ValueError(f"got {given}, expected one of --row, --prompt and --suspects")
        if self.row is not None and (self.eval_data is None or self.row < 1):
            raise ValueError(f"got --row {self.row}, expected the number of a line of --eval")
        if self.suspects is not None and not 0 < self.suspects < 1:
            raise ValueError(f"got --suspects {self.suspects}, expected a share between 0 and 1")
        if self.by not in RANKINGS:
            raise ValueError(f"got --by {self.by}, expected one of {', '.join(RANKINGS)}")
        if self.suspects is not None and self.by == "influence" and self.eval_data is None:
            raise ValueError("got --suspects without --eval, expected rows that can be trusted")
        if self.clean is not None and (self.suspects is None or self.clean == self.data):
            raise ValueError(f"got --clean {self.clean}, expected --suspects and a file of its own")
        if self.moments < 1:
            raise ValueError(f"got --checkpoints {self.moments}, expected at least 1")


@dataclass(frozen=True)
class Asked:
    """What is asked about: a prompt, the answer to it, and the one that was expected, if known."""

    prompt: str
    answer: str
    expected: str | None

    @property
    def is_wrong(self) -> bool:
        """Whether another answer was expected."""
        return self.expected is not None and self.expected.strip() != self.answer.strip()


@dataclass(frozen=True)
class Note:
    """A training note and what it has to do with the answer; scores as in `Influence`."""

    source: str
    prompt: str
    completion: str
    score: float
    cosine: float
    own: float
    loss: float


@dataclass(frozen=True)
class Why:
    """What was found. notes: all of them, from the highest score on; texts of the first only.

    steps: of the checkpoints that were looked at; () where the run's folder keeps none, and the
    adapter's last numbers were all there was. left: how many notes stay in `plan.clean`.
    """

    plan: WhyPlan
    asked: Asked | None
    notes: Sequence[Note]
    steps: tuple[int, ...]
    influence: Influence
    left: int | None
    seconds: Mapping[str, float]

    def to_dict(self) -> dict:
        """JSON-ready."""
        asked = self.asked
        return {
            "adapter": str(self.plan.adapter),
            "data": self.plan.data.name,
            "sha256": sha256_file(self.plan.data),
            "checkpoints": list(self.steps),
            "asked": asked and {"prompt": asked.prompt, "answer": asked.answer,
                                "expected": asked.expected},
            "notes": [
                {"source": n.source, "score": n.score, "cosine": n.cosine, "own": n.own,
                 "loss": n.loss}
                for n in self.notes
            ],
        }  # fmt: skip


SHOWN = 20
"""Notes whose texts are read again."""


def why(plan: WhyPlan, reporter: Reporter | None = None) -> Why:
    """Rank the training notes by what they have to do with an answer, or with trusted rows.

    Rows that were replayed beside the data are not ranked.

    Raises ValueError for data that is not what the adapter was trained on, a row that is not there,
    or what `attach` refuses; and OSError.
    """
    reporter, clock = reporter or Reporter(), Clock()
    adapter = Adapter.read(plan.adapter)
    origin = _origin(adapter, plan)
    name = base_of(plan.base, plan.adapter)
    model, tokenizer = open_base(name, base_dtype_of(plan.adapter), plan.device)
    mark = mark_base(model, public_name(name), tokenizer, quick=True)
    attachment = attach(model, adapter, base=mark)
    length = origin.get("max_length") or model.config.max_position_embeddings
    file = read_file(plan.data, tokenizer, length, plan.as_text, reporter.bars)
    notes = file.examples
    if origin.get("held_out"):
        notes, _ = split(notes, origin["training"]["seed"])
    moments, steps = run_moments(plan.adapter, adapter, plan.moments)
    clock.lap("opening")
    asked, query = None, None
    if plan.suspects is None:
        case = _case(plan)
        asked = _asked(plan, case, model, tokenizer)
        query = answer_query(tokenizer, case, asked, model.config.max_position_embeddings)
    elif plan.eval_data is not None:
        query = [(e, 1.0) for e in trusted(plan, tokenizer, length)]
    with blas_threads(recommended_blas_threads(model.config.hidden_size)):
        found = influence(
            attachment,
            moments,
            notes,
            [query or [(notes[0], 0.0)]],
            tokenizer.pad_id,
            reporter.bars,
        )
    clock.lap("gradients")
    scores = _scores(plan, found)
    order = np.argsort(-scores, kind="stable")
    shown = _records(file, [notes[i] for i in order[:SHOWN]])
    ranked = []
    for rank, i in enumerate(order):
        texts = _texts(shown.get(notes[i].source)) if rank < SHOWN else ("", "")
        numbers = (scores[i], found.by_cosine[i, 0], found.own[i], found.losses[i])
        ranked.append(Note(notes[i].source, *texts, *map(float, numbers)))
    left = None
    if plan.clean is not None:
        out = {note.source for note in ranked[: round(plan.suspects * len(ranked))]}
        left = write_without(file, out, plan.clean)
    result = Why(plan, asked, ranked, steps, found, left, clock.laps)
    if plan.json_file is not None:
        text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n"
        atomic_write(plan.json_file, text.encode())
    return result


def _origin(adapter: Adapter, plan: WhyPlan) -> dict:
    """The adapter's provenance, which must be of these data where it says of which it is."""
    adapter.require_product()
    origin = adapter.provenance
    training = origin.get("training")
    ratio = training.get("loraplus_lr_ratio", 1.0) if isinstance(training, dict) else 1.0
    if origin.get("freeze_a") or origin.get("pissa") or ratio != 1.0:
        how = "a frozen A" if origin.get("freeze_a") else f"loraplus_lr_ratio {ratio:g}"
        how = "pissa, half of whose numbers stood still" if origin.get("pissa") else how
        raise ValueError(
            f"{plan.adapter} was trained with {how}, but influence adds the gradients of A and B "
            "at one rate; expected an adapter that was trained in the plain way"
        )
    data = origin.get("data")
    expected = data.get("sha256") if isinstance(data, dict) else origin.get("data_sha256")
    got = sha256_file(plan.data)
    if expected is not None and got != expected:
        raise ValueError(
            f"{plan.adapter} was trained on data with sha256 {expected}, got {plan.data} with "
            f"{got}; expected the same file"
        )
    return origin


def run_moments(folder: Path, adapter: Adapter, count: int) -> tuple[list[Moment], tuple[int, ...]]:
    """(the adapter at up to `count` of the run's checkpoints, evenly spread, their steps).

    Where `adapt --keep-checkpoints` left none, the adapter as it is, at rate 1, and ().
    """
    run = RunFolder(folder)
    saved = checkpoints(run.checkpoints)
    if not saved:
        factors = {name: adapter.factors(name) for name in adapter.modules}
        return [Moment(0, 1.0, factors)], ()
    rates = {}
    for line in (run.path / "history.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        rates[record["step"]] = record["lr"]
    places = np.unique(np.linspace(0, len(saved) - 1, min(count, len(saved)) + 2).round()[1:-1])
    if count >= len(saved):
        places = np.arange(len(saved))
    moments = []
    for place in places.astype(int):
        state, _ = read_safetensors(saved[place] / "trainable.safetensors")
        step = int(saved[place].name.removeprefix("step-"))
        factors = {
            name.removesuffix(".lora_A"): (array, state[f"{name.removesuffix('.lora_A')}.lora_B"])
            for name, array in state.items()
            if name.endswith(".lora_A")
        }
        moments.append(Moment(step, rates[step], factors))
    return moments, tuple(moment.step for moment in moments)


def _case(plan: WhyPlan) -> Case:
    """The case that is asked about."""
    if plan.prompt is not None:
        message = {"role": "user", "content": plan.prompt}
        return Case("--prompt", (message,), "", None, None)
    for case in read_cases(plan.eval_data).cases:
        if row_number(case.source) == plan.row:
            return case
    raise ValueError(f"got --row {plan.row}, expected a line of {plan.eval_data} that can be asked")


def _asked(plan: WhyPlan, case: Case, model: Transformer, tokenizer: Tokenizer) -> Asked:
    answer = plan.answer
    if answer is None:
        messages, limit = list(case.messages), model.config.max_position_embeddings
        room = max(1, min(ANSWER_TOKENS, limit - len(prompt_ids(tokenizer, messages))))
        answer = answers(model, tokenizer, [messages], room)[0].strip()
    expected = None if plan.prompt is not None else case.expected
    return Asked(case.messages[-1]["content"], answer, expected)


def answer_query(tokenizer: Tokenizer, case: Case, asked: Asked, limit: int) -> Query:
    """What taught the answer: its loss; of a wrong one less that of the expected answer.

    Then a note counts that makes the wrong answer likelier than the right one, and not one that
    teaches what both have in common. limit: positions that the base can read; what is beyond them
    is left out.
    """
    query = [(_answered(tokenizer, case, asked.answer, limit), 1.0)]
    if asked.is_wrong:
        query.append((_answered(tokenizer, case, asked.expected, limit), -1.0))
    return query


def _answered(tokenizer: Tokenizer, case: Case, answer: str, limit: int) -> Example:
    message = {"role": "assistant", "content": answer}
    example = encode_record(tokenizer, Record(case.source, (*case.messages, message)))
    return Example(example.ids[:limit], example.labels[:limit], example.source)


def trusted(plan: WhyPlan, tokenizer: Tokenizer, length: int) -> Sequence[Example]:
    """The rows that a suspect pulls against."""
    return read_file(plan.eval_data, tokenizer, length, plan.as_text).examples[: plan.rows]


def _scores(plan: WhyPlan, found: Influence) -> np.ndarray:
    if plan.suspects is None:
        return found.by_dot[:, 0]
    return {"influence": -found.by_dot[:, 0], "own": found.own, "loss": found.losses}[plan.by]


def _records(file: File, examples: Sequence[Example]) -> dict[str, Record]:
    return file.records({example.source for example in examples})


def _texts(record: Record | None) -> tuple[str, str]:
    """Prompt and completion of a note, "" for a plain text."""
    if record is None or record.text:
        return "", "" if record is None else record.text
    last = record.last_answer
    return record.messages[last - 1]["content"], record.messages[last]["content"]


def write_without(file: File, sources: set[str], out: Path) -> int:
    """Write a JSONL file without the lines of these sources, byte for byte; how many stay.

    Raises ValueError for data that is not JSON lines.
    """
    if file.format is not Format.LINES:
        raise ValueError(f"got --clean for {file.path}, expected JSON lines to leave some out")
    numbers = {row_number(source) for source in sources}
    lines = file.path.read_bytes().splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines, 1) if number not in numbers]
    atomic_write(out, b"".join(kept))
    return len(kept)
