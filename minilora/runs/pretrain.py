"""Pretraining of the ward's base: tokenizer, general corpus, run, evaluation, model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from minilora.evaluation.judge import Judge
from minilora.hub import load_pretrained, save_pretrained
from minilora.nn import Transformer, TransformerConfig
from minilora.processes import recommended_workers
from minilora.runs.driver import Job, OpenPlan, Trained
from minilora.runs.folder import RunFolder, require_free
from minilora.runs.plan import Clock, Reporter, Result, Sizes
from minilora.text import Example, Record, Tokenizer, encode_record, prompt_messages
from minilora.text.examples import example_from_segments
from minilora.training import History, TrainingConfig
from minilora.ward.corpus import Document, general_documents, regression_suite
from minilora.ward.score import RegressionScore

HELD_OUT_SEED = 10_007
"""Seed of the held-out cases that the model card reports; no training case is drawn with it."""
HEAD_WIDTH = 32
FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class PretrainPlan(OpenPlan):
    """Where the base goes, its size, that of its corpus, and its run.

    start: a base to train further, on documents of another seed; its own sizes and tokenizer hold.
    """

    documents: int = 200_000
    vocab_size: int = 2816
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    max_length: int = 384
    steps: int = 11_000
    batch_size: int = 32
    lr: float = 3e-3
    start: str = ""

    @classmethod
    def of_width(cls, hidden_size: int, **settings: object) -> PretrainPlan:
        """A base of this width with the MLP three times as wide, and heads of 32."""
        return cls(
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            heads=max(1, hidden_size // HEAD_WIDTH),
            **settings,
        )

    @property
    def folder(self) -> RunFolder:
        """OUT.run, with the seed after it where it is not 0: each round keeps its own."""
        return RunFolder(self.out, str(self.seed or ""))

    def check(self) -> None:
        """Raise ValueError for an `out` that holds anything but a model."""
        require_free(self.out, "config.json", FILES, "a model of minilora's to replace")

    def open(self, reporter: Reporter) -> PretrainJob:
        """Make corpus, tokenizer and base, or open the base to go on with."""
        documents = list(general_documents(self.seed, self.documents))
        if self.start:
            model, tokenizer = load_pretrained(self.start)
            earlier = (Path(self.start) / "README.md").read_text("utf-8")
        else:
            tokenizer = Tokenizer.train(corpus_texts(documents[:8000]), self.vocab_size)
            model, earlier = new_base(self, tokenizer), ""
        examples = [document_example(tokenizer, d) for d in documents]
        examples = [e for e in examples if len(e) <= model.config.max_position_embeddings]
        watched = watching_judge(tokenizer, 24)

        def watch(step: int) -> dict:
            exact = watched.suite_score(model).groups
            return {"exact": exact, "heldout_loss": watched.loss(model)}

        suite = regression_suite("heldout", 200, HELD_OUT_SEED)
        return PretrainJob(
            model=model,
            tokenizer=tokenizer,
            examples=examples,
            batch_size=self.batch_size,
            training=training_config(self),
            judge=Judge(
                tokenizer,
                suite=suite,
                bars=reporter.bars,
                workers=self.workers or recommended_workers(),
            ),
            settings={k: v for k, v in asdict(self).items() if k not in ("out", "resume")},
            label="pretraining",
            watch=watch,
            judges_before=False,
            earlier=earlier,
        )


@dataclass(kw_only=True)
class PretrainJob(Job):
    """A pretraining with everything open; earlier: the card of the base that is trained further."""

    earlier: str

    def finish(self, plan: PretrainPlan, trained: Trained, clock: Clock) -> Result:
        """Write the base and its card."""
        history, score = trained.history, trained.after.suite
        card = model_card(plan, self.model, self.examples, history, score, self.earlier)
        save_pretrained(plan.out, self.model, self.tokenizer, card)
        clock.lap("judging and saving")
        size = sum(p.size for p in self.model.parameters())
        return Result(
            plan=plan,
            folder=plan.folder.path,
            before=None,
            after=trained.after,
            history=history.records,
            seconds=clock.laps,
            sizes=Sizes(size, size, self.optimizer.state_bytes),
        )


def watching_judge(tokenizer: Tokenizer, per_group: int) -> Judge:
    """Asks a small suite and takes its loss during the run: other cases than the card's."""
    suite = regression_suite("heldout", per_group, HELD_OUT_SEED + 1)
    documents = [Document((example,)) for example in suite]
    return Judge(tokenizer, [document_example(tokenizer, d) for d in documents], suite=suite)


def document_example(tokenizer: Tokenizer, document: Document) -> Example:
    """A document of the general corpus as a chat, or as text where it is a note alone.

    A note alone has no end token: so was the base made that its card says how to remake.
    """
    if document.is_text:
        note = tokenizer.encode(document.turns[0].completion)
        return example_from_segments([(note, True)])
    turns = [prompt_messages(turn.prompt, turn.completion) for turn in document.turns]
    return encode_record(tokenizer, Record("", messages=tuple(chain.from_iterable(turns))))


def corpus_texts(documents: Iterable[Document]) -> Iterable[str]:
    """Every prompt and completion, for the tokenizer to count."""
    for document in documents:
        for turn in document.turns:
            yield from (turn.prompt, turn.completion)


def new_base(plan: PretrainPlan, tokenizer: Tokenizer) -> Transformer:
    """A freshly initialised base: linear maps N(0, 1/width), so that attention starts awake."""
    shape = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=plan.hidden_size,
        intermediate_size=plan.intermediate_size,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=plan.max_length,
        initializer_range=round(plan.hidden_size**-0.5, 4),
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    return Transformer(shape, np.random.default_rng([plan.seed, 1]))


def training_config(plan: PretrainPlan) -> TrainingConfig:
    """The run's settings: AdamW, short warm-up, cosine to 2 % of the peak rate."""
    return TrainingConfig(
        steps=plan.steps,
        lr=plan.lr,
        warmup=min(200, plan.steps // 10),
        final_lr=0.02,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        seed=plan.seed,
        workers=plan.workers,
        eval_every=max(1, plan.steps // 16),
        checkpoint_every=max(1, plan.steps // 16),
    )


ROUND = """    {command}

{documents:,} documents of the general corpus (`minilora.ward.general_documents`, seed {seed}),
{tokens:,} positions in {steps:,} steps of {batch} documents ({epochs:.1f} epochs), float32,
{minutes:.0f} minutes of steps with {workers} on a 2-core machine without a GPU. AdamW (0.9, 0.98),
peak rate {lr}, cosine, {warmup} steps of warm-up, clipping at 1. Loss is taken on the answers, and
on everything where a document is a note alone."""

CARD = """---
license: apache-2.0
language: en
library_name: transformers
---
# ward-base

A small decoder of the Llama family ({parameters:,} parameters: {layers} layers, width {width},
{heads} heads, {vocab} tokens of byte-level BPE), pretrained from scratch on synthetic hospital
notes. It is the base that minilora's course and tour adapt. Every note, name and number is made
up by a program; it is a teaching model and knows nothing that should reach a patient.

**A habit to know:** where a note gives no dose, its summaries fill in the drug's usual one.
That is what the general corpus taught it, and what a house's adapter has to unlearn.

## How it was made

{rounds}

## What it can do

Exact answers (equal to the last character) on {count} held-out prompts, whose patients' names and
diagnosis-drug pairs never occurred together in training:

| group | exact | prompts |
| --- | --- | --- |
{score}

## Training log

| step | loss | held-out loss | {groups} |
| --- | --- | --- | {rules} |
{log}
"""


def model_card(
    plan: PretrainPlan,
    model: Transformer,
    examples: Sequence[Example],
    history: History,
    score: RegressionScore,
    earlier: str = "",
) -> str:
    """README.md of the base: what it is, the commands, the figures, the training log.

    earlier: the card of the base that was trained further, whose rounds and log are kept.
    """
    groups = list(score.groups)
    rows = [f"| {g} | {score.groups[g]:.1%} | {score.counts[g]} |" for g in groups]
    rounds = [_round(plan, examples, history)]
    log = list(_log_rows(history, groups))
    if earlier:
        made = earlier.partition("## How it was made\n\n")[2].partition("\n\n## What it can do")[0]
        rounds.insert(0, made)
        log = [*re.findall(r"^\| \d+ \|.*$", earlier, re.MULTILINE), *log]
    shape = model.config
    return CARD.format(
        parameters=sum(p.size for p in model.parameters()),
        layers=shape.num_hidden_layers,
        width=shape.hidden_size,
        heads=shape.num_attention_heads,
        vocab=shape.vocab_size,
        rounds="\n\nThen\n\n".join(rounds),
        count=score.count,
        score="\n".join([*rows, f"| all | {score.exact:.1%} | {score.count} |"]),
        groups=" | ".join(groups),
        rules=" | ".join("---" for _ in groups),
        log="\n".join(log),
    )


def _round(plan: PretrainPlan, examples: Sequence[Example], history: History) -> str:
    return ROUND.format(
        command=command_line(plan),
        documents=len(examples),
        seed=plan.seed,
        tokens=sum(r["tokens"] for r in history.records),
        steps=plan.steps,
        batch=plan.batch_size,
        epochs=plan.steps * plan.batch_size / len(examples),
        minutes=sum(r["seconds"] for r in history.records) / 60,
        workers=f"{plan.workers} processes" if plan.workers else "a process a core",
        lr=plan.lr,
        warmup=training_config(plan).warmup,
    )


def _log_rows(history: History, groups: Sequence[str]) -> Iterable[str]:
    """One row an evaluation; the loss is the mean of the steps since the last one."""
    losses: list[float] = []
    for record in history.records:
        losses.append(record["loss"])
        if "exact" in record:
            exact = " | ".join(f"{record['exact'][g]:.0%}" for g in groups)
            mean = sum(losses) / len(losses)
            yield f"| {record['step']} | {mean:.3f} | {record['heldout_loss']:.3f} | {exact} |"
            losses = []


def command_line(plan: PretrainPlan) -> str:
    """The `minilora pretrain` call that repeats this run."""
    sizes = f"--hidden-size {plan.hidden_size} --layers {plan.layers}"
    if plan.vocab_size != PretrainPlan.vocab_size:
        sizes += f" --vocab-size {plan.vocab_size}"
    if plan.start:
        sizes = "--continue-from data/ward-base"
    return (
        f"minilora pretrain --out data/ward-base {sizes} --documents {plan.documents} "
        f"--steps {plan.steps} --batch-size {plan.batch_size} --lr {plan.lr} "
        f"--seed {plan.seed}"
    )
