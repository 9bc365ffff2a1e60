"""`minilora tour`: the main job on real input, from the base's habit to an adapter that lost it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from minilora.autograd import no_grad
from minilora.cli import show
from minilora.cli.tour_report import score_rows
from minilora.hub import save_pretrained
from minilora.hub.bases import WARD, WARD_BASE, open_base
from minilora.lora import (
    Attachment,
    LoRAConfig,
    attach,
    base_fingerprint,
    trainable_parameters,
)
from minilora.nn import Transformer
from minilora.runs.folder import require_free
from minilora.runs.plots import plot_tour
from minilora.storage import sha256_file
from minilora.text import Record, Tokenizer, encode_records, prompt_messages
from minilora.text.answers import answers
from minilora.training import AdamW, Batches, History, TrainingConfig, fit
from minilora.ward import (
    HouseScore,
    RegressionScore,
    house_format,
    score_house,
    score_regression,
)
from minilora.ward.formats import FORM_INSTRUCTIONS, HOUSE_INSTRUCTION
from minilora.ward.score import gives_dose

DATA = WARD_BASE.parent / "ward"
MARK = "tour.json"
FILES = (MARK, "tour.png", "adapter", "merged")
STEPS, BATCH, LR = 450, 16, 0.015
CHECK_ROWS = 120
"""Held-out house examples, and prompts of the base regression suite, that are scored."""


READING = (
    "The base, prompted: asked for the house's five lines by name. That gets the format, and not "
    "the rule.\nThe adapter saw nothing but the house task. The base's bits are the same, and yet "
    "base and adapter\ntogether answer other questions worse: frozen storage is not frozen "
    "behaviour. Test what you ship."
)


@dataclass(frozen=True)
class Scores:
    """What a model does on the held-out house task and on what the base could do."""

    house: HouseScore
    base: RegressionScore
    outputs: list[str]


def tour(
    out: Path = typer.Option(Path("tour"), "--out", help="Folder for adapter, model and plot."),
    ward: str = typer.Option("cardiology", "--ward", help="cardiology or pediatrics."),
    steps: int = typer.Option(STEPS, "--steps", min=1, help="Training steps."),
    lr: float = typer.Option(LR, "--lr", help="Peak learning rate."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of A and of the order of the data."),
    workers: int = typer.Option(0, "--workers", min=0, help="Processes; 0: one a core."),
) -> None:
    """Adapt the ward's base to a hospital's discharge notes with LoRA, and measure all of it."""
    began = time.perf_counter()
    console = Console()
    house_format(ward)
    require_free(out, MARK, FILES, "an earlier tour to replace")
    config = TrainingConfig(
        steps=steps, lr=lr, warmup=min(20, steps // 10), seed=seed, workers=workers
    )
    train, held_out, suite = read_data(ward)
    model, tokenizer = open_base(WARD)
    base = {"parameters": sum(p.size for p in model.parameters()), "print": base_fingerprint(model)}
    shown = show_note(console, held_out, ward)
    before = measure(model, tokenizer, ward, held_out, suite, "before")
    show_answer(console, "The base answers", before.outputs[shown], held_out[shown])

    prompted = measure_prompted(model, tokenizer, ward, held_out)

    handle = attach(model, LoRAConfig(), np.random.default_rng(seed))
    history, optimizer = train_adapter(model, tokenizer, train, config)
    after = measure(model, tokenizer, ward, held_out, suite, "after")
    show_answer(console, "With the adapter", after.outputs[shown], held_out[shown])

    promises = check_promises(handle, tokenizer, held_out[shown]["prompt"], base["print"])
    rows = score_rows((before.house, prompted, after.house), (before.base, after.base))
    titles = ("", "base", "base, prompted", "adapted")
    show.grid(console, f"{ward}: held-out notes", titles, rows, right=(1, 2, 3))
    show.say(console, READING)
    show.pairs(console, "What it took", bill(model, optimizer, base["parameters"], promises))
    figures = {
        "ward": ward,
        "prompted": {"house": prompted.to_dict()},
        "before": {"house": before.house.to_dict(), "base": before.base.to_dict()},
        "after": {"house": after.house.to_dict(), "base": after.base.to_dict()},
    }
    save(out, handle, tokenizer, history, figures, ward)
    seconds = time.perf_counter() - began
    next_steps(console, out, seconds)


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


def show_note(console: Console, held_out: list[dict], ward: str) -> int:
    """Print a held-out note that has a drug without a dose; its index.

    Raises ValueError when there is none among the examples.
    """
    for i, row in enumerate(held_out):
        if row["facts"]["no_dose"]:
            note = row["prompt"]
            title = f"A note from {ward} that no model has seen (no dose: {no_dose(row)})"
            console.print(Panel(Text(note), title=title, title_align="left"))
            return i
    raise ValueError(f"none of {len(held_out)} held-out notes lacks a dose")


def no_dose(row: dict) -> str:
    """The drugs of a note that it gives no dose for."""
    return ", ".join(row["facts"]["no_dose"])


def show_answer(console: Console, title: str, output: str, row: dict) -> None:
    """Print an answer, and say whether it makes up a dose."""
    guessed = [drug for drug in row["facts"]["no_dose"] if gives_dose(output, drug)]
    verdict = f"invents a dose of {', '.join(guessed)}" if guessed else "invents no dose"
    style = "red" if guessed else "green"
    console.print(
        Panel(Text(output), title=f"{title}: {verdict}", title_align="left", border_style=style)
    )


def measure(
    model: Transformer,
    tokenizer: Tokenizer,
    ward: str,
    held_out: list[dict],
    suite: list[dict],
    when: str,
) -> Scores:
    """Greedy answers to both sets, scored."""
    house = answers(model, tokenizer, [r["prompt"] for r in held_out], progress=f"house {when}")
    base = answers(model, tokenizer, [r["prompt"] for r in suite], progress=f"base suite {when}")
    return Scores(score_house(ward, held_out, house), score_regression(suite, base), house)


def measure_prompted(
    model: Transformer, tokenizer: Tokenizer, ward: str, held_out: list[dict]
) -> HouseScore:
    """The base with the best plain prompt: a form that names the house's lines.

    The prompt comes before the adapter; what it gets is measured beside it.
    """
    labels = [label for label, _ in house_format(ward).layout]
    instruction = FORM_INSTRUCTIONS[0].format(", ".join(labels))
    notes = [row["prompt"].removesuffix(HOUSE_INSTRUCTION) for row in held_out]
    outputs = answers(model, tokenizer, [note + instruction for note in notes], progress="prompted")
    return score_house(ward, held_out, outputs)


def train_adapter(
    model: Transformer, tokenizer: Tokenizer, train: list[dict], config: TrainingConfig
) -> tuple[History, AdamW]:
    """LoRA on the house's notes, loss on the answers."""
    records = [
        Record(str(i), messages=prompt_messages(row["prompt"], row["completion"]))
        for i, row in enumerate(train)
    ]
    examples, _ = encode_records(tokenizer, records, model.config.max_position_embeddings)
    optimizer = AdamW(model.named_parameters())
    batches = Batches(examples, BATCH, config.seed, tokenizer.pad_id)
    return fit(model, batches, config, optimizer=optimizer, label="adapting"), optimizer


def check_promises(
    handle: Attachment, tokenizer: Tokenizer, prompt: str, fingerprint: str
) -> dict[str, str]:
    """Base bit-identical; merged equals adapted and differs from the base; unmerge restores.

    Raises ValueError when one of them does not hold.
    """
    model = handle.model
    if base_fingerprint(model) != fingerprint:
        raise ValueError("the base's weights changed during training, expected the same bits")
    ids = np.array([tokenizer.encode_prompt(prompt)])
    with no_grad():
        adapted = model(ids).data
        handle.merge()
        merged = model(ids).data
        handle.unmerge()
        restored = model(ids).data
    gap = float(np.abs(merged - adapted).max() / np.abs(adapted).max())
    if not gap <= 1e-4 or not np.array_equal(restored, adapted):
        raise ValueError(f"merged and adapted logits differ by {gap:.1e} of the largest")
    if base_fingerprint(model) != fingerprint:
        raise ValueError("unmerge did not give the base back bit for bit")
    return {
        "base after training, and after merge and unmerge": "bit-identical (sha256)",
        "merged against adapted logits": f"{gap:.1e} of the largest",
    }


def bill(
    model: Transformer, optimizer: AdamW, base_parameters: int, promises: dict[str, str]
) -> list[tuple[str, str]]:
    """Parameters and bytes, and the promises that were checked."""
    trained = trainable_parameters(model)
    return [
        ("parameters of the base, frozen", f"{base_parameters:,}"),
        ("parameters trained", f"{trained:,} ({trained / base_parameters:.2%})"),
        ("base in memory", show.size(4 * base_parameters)),
        ("adapter", show.size(4 * trained)),
        (
            "optimizer state (full training needs 8 bytes a parameter)",
            f"{show.size(optimizer.state_bytes)} ({show.size(8 * base_parameters)})",
        ),
        *promises.items(),
    ]


def save(
    out: Path,
    handle: Attachment,
    tokenizer: Tokenizer,
    history: History,
    figures: dict,
    ward: str,
) -> None:
    """Adapter, merged model, plot and figures; the model is plain and merged afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    data = DATA / f"{ward}.train.jsonl"
    provenance = {"data": data.name, "data_sha256": sha256_file(data), "evaluation": figures}
    handle.adapter(base_name=WARD, provenance=provenance).write(out / "adapter")
    model = handle.merge_and_unload()
    card = f"# ward-base with the tour's {ward} adapter merged in\n"
    save_pretrained(out / "merged", model, tokenizer, card)
    plot_tour(out / "tour.png", history, figures)
    (out / MARK).write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", "utf-8")


def next_steps(console: Console, out: Path, seconds: float) -> None:
    """What was written, and where to go from here."""
    lines = [
        f"Done in {seconds:.0f} s. Written to {out}:",
        f"  {out}/adapter   the adapter, a PEFT folder (`minilora info {out}/adapter`)",
        f"  {out}/merged    base and adapter as one ordinary model",
        f"  {out}/tour.png  loss and scores",
        "",
        "Next:",
        f"  python3 minilora generate --adapter {out}/adapter --prompt-file note.txt",
        "  python3 minilora adapt --data your.jsonl --out my-adapter   your own data",
        "  python3 minilora gradcheck                                  every gradient, checked",
        "  python3 minilora learn                                      the course, from chapter 0",
    ]
    show.say(console, "\n".join(lines))
