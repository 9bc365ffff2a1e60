"""Pretraining of the ward's base: tokenizer, general corpus, run, evaluation, model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.hub import load_pretrained, save_pretrained
from minilora.nn import Transformer, TransformerConfig
from minilora.text import Example, Record, Tokenizer, encode_record
from minilora.text.answers import answers
from minilora.training import Batches, History, TrainingConfig, fit
from minilora.training import evaluate as mean_loss
from minilora.ward.corpus import Document, general_documents, regression_suite
from minilora.ward.score import RegressionScore, score_regression

HELD_OUT_SEED = 10_007
"""Seed of the held-out cases that the model card reports; no training case is drawn with it."""


@dataclass(frozen=True)
class PretrainConfig:
    """Size of the base, of its corpus, and of its run."""

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
    seed: int = 0
    workers: int = 0
    start: str = ""
    """A base to train further, on documents of another seed; its own sizes and tokenizer hold."""


def document_record(document: Document, source: str = "") -> Record:
    """A document of the general corpus as chat messages, or as text where it is a note alone."""
    if document.is_text:
        return Record(source, text=document.turns[0].completion)
    messages = []
    for turn in document.turns:
        messages.append({"role": "user", "content": turn.prompt})
        messages.append({"role": "assistant", "content": turn.completion})
    return Record(source, messages=tuple(messages))


def corpus_texts(documents: Iterable[Document]) -> Iterable[str]:
    """Every prompt and completion, for the tokenizer to count."""
    for document in documents:
        for turn in document.turns:
            yield from (turn.prompt, turn.completion)


def new_base(config: PretrainConfig, tokenizer: Tokenizer) -> Transformer:
    """A freshly initialised base: linear maps N(0, 1/width), so that attention starts awake."""
    shape = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.max_length,
        initializer_range=round(config.hidden_size**-0.5, 4),
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    return Transformer(shape, np.random.default_rng([config.seed, 1]))


def training_config(config: PretrainConfig) -> TrainingConfig:
    """The run's settings: AdamW, short warm-up, cosine to 2 % of the peak rate."""
    return TrainingConfig(
        steps=config.steps,
        lr=config.lr,
        warmup=min(200, config.steps // 10),
        final_lr=0.02,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        seed=config.seed,
        workers=config.workers,
        eval_every=max(1, config.steps // 16),
        checkpoint_every=max(1, config.steps // 16),
    )


def regression_score(
    model: Transformer, tokenizer: Tokenizer, suite: Sequence, progress: str = ""
) -> RegressionScore:
    """Exact answers of a model on a regression suite."""
    prompts = [example.prompt for example in suite]
    return score_regression(suite, answers(model, tokenizer, prompts, progress=progress))


def pretrain(
    out: Path | str, config: PretrainConfig, *, resume: bool = False, progress: bool = True
) -> tuple[RegressionScore, History]:
    """Train a base on the general corpus and write it to `out` as a Hugging Face folder.

    History and checkpoints go to `out`.run (with a seed other than 0: `out`.runSEED), from which
    `resume` continues. Returns the score on held-out cases and the history.
    """
    out, settings = Path(out), training_config(config)  # what is odd is refused before the work
    documents = list(general_documents(config.seed, config.documents))
    if config.start:
        model, tokenizer = load_pretrained(config.start)
        earlier = (Path(config.start) / "README.md").read_text("utf-8")
    else:
        tokenizer = Tokenizer.train(corpus_texts(documents[:8000]), config.vocab_size)
        model, earlier = new_base(config, tokenizer), ""
    examples = [encode_record(tokenizer, document_record(d)) for d in documents]
    examples = [e for e in examples if len(e) <= model.config.max_position_embeddings]
    watched, watched_examples = _held_out(tokenizer, 24)

    def on_eval(step: int) -> dict:
        score = regression_score(model, tokenizer, watched)
        return {"exact": score.groups, "heldout_loss": mean_loss(model, watched_examples)}

    history = fit(
        model,
        Batches(examples, config.batch_size, config.seed, tokenizer.pad_id),
        settings,
        out_dir=out.with_name(f"{out.name}.run{config.seed or ''}"),
        resume=resume,
        on_eval=on_eval,
        progress=progress,
        label="pretraining",
    )
    suite = regression_suite("heldout", 200, HELD_OUT_SEED)
    score = regression_score(model, tokenizer, suite, "held-out cases" if progress else "")
    card = model_card(config, model, examples, history, score, earlier)
    save_pretrained(out, model, tokenizer, card)
    return score, history


def _held_out(tokenizer: Tokenizer, per_group: int) -> tuple[list, list[Example]]:
    """A small suite to watch during the run: other cases than the card's."""
    suite = regression_suite("heldout", per_group, HELD_OUT_SEED + 1)
    documents = [Document((example,)) for example in suite]
    return suite, [encode_record(tokenizer, document_record(d)) for d in documents]


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
    config: PretrainConfig,
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
    rounds = [_round(config, examples, history)]
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


def _round(config: PretrainConfig, examples: Sequence[Example], history: History) -> str:
    return ROUND.format(
        command=command_line(config),
        documents=len(examples),
        seed=config.seed,
        tokens=sum(r["tokens"] for r in history.records),
        steps=config.steps,
        batch=config.batch_size,
        epochs=config.steps * config.batch_size / len(examples),
        minutes=sum(r["seconds"] for r in history.records) / 60,
        workers=f"{config.workers} processes" if config.workers else "a process a core",
        lr=config.lr,
        warmup=training_config(config).warmup,
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


def command_line(config: PretrainConfig) -> str:
    """The `minilora pretrain` call that repeats this run."""
    sizes = f"--hidden-size {config.hidden_size} --layers {config.layers}"
    if config.start:
        sizes = "--continue-from data/ward-base"
    return (
        f"minilora pretrain --out data/ward-base {sizes} --documents {config.documents} "
        f"--steps {config.steps} --batch-size {config.batch_size} --lr {config.lr} "
        f"--seed {config.seed}"
    )
