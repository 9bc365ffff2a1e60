"""The server under load, beside llama.cpp's: `python -m minilora.bench.serving BASE`.

Clients ask about the ward's notes, each its next as soon as it has an answer, streamed. Three kinds
of work: the base alone ("base"), adapters in turn ("mixed"), and activated adapters that are all
asked about each note ("shared"). Rates are tokens of answers a second, by wall time and by the
server's processor time, which a busy machine changes less. Every whole answer is kept, so that
`--check` can compare it with the one that the request gets alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minilora.backend import recommended_blas_threads
from minilora.bench.about import about
from minilora.hub.bases import WARD, find_base, open_base
from minilora.hub.export import write_gguf_adapter
from minilora.lora import ALL_LINEAR, Adapter, LoRAConfig, mark_base
from minilora.lora.targets import select_linears
from minilora.machine import process_seconds
from minilora.nn import Transformer, generate
from minilora.runs.tour import DATA, read_examples
from minilora.serving import BASE, AdapterBank
from minilora.storage import atomic_write
from minilora.text import Tokenizer
from minilora.text.answers import prompt_ids
from minilora.text.streaming import answer_text

ADAPTERS, NEW_TOKENS, NOTES = 8, 48, 1800
WORK = ("base", "mixed", "shared")
WARDS = ("cardiology", "gastroenterology", "nephrology", "pediatrics", "respiratory", "vascular")
SCALES = {128: 0.14, 576: 0.04}
"""Width -> of the random numbers in A and B, so that adapters say other things than the base."""
DIFFERENT = 40
"""Answers of each work that --check also compares with the base's."""


# ---------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class Ask:
    """One request: a note's tokens, and an adapter's number, None for the base."""

    note: int
    ids: Sequence[int]
    adapter: int | None


@dataclass
class Answer:
    """What came of a request. began, first, ended: seconds since the load began."""

    ask: Ask
    began: float
    first: float = 0.0
    ended: float = 0.0
    tokens: int = 0
    text: str = ""


def requests_of(work: str, notes: Sequence[Sequence[int]]) -> Iterator[Ask]:
    """Requests without an end; the notes come anew when all have been asked."""
    count = 0
    while True:
        if work == "shared":
            note, adapter = count // ADAPTERS % len(notes), count % ADAPTERS
        else:
            note, adapter = count % len(notes), count % ADAPTERS if work == "mixed" else None
        yield Ask(note, notes[note], adapter)
        count += 1


def notes_for(tokenizer: Tokenizer) -> list[list[int]]:
    """The wards' training notes in turn, as the model is asked them."""
    rows = [read_examples(DATA / f"{ward}.train.jsonl")[: NOTES // len(WARDS)] for ward in WARDS]
    return [
        prompt_ids(tokenizer, row["prompt"]) for some in zip(*rows, strict=True) for row in some
    ]


def adapters_for(model: Transformer, tokenizer: Tokenizer, work: str) -> list[Adapter]:
    """Random ones, r 8 on q and v; for "shared" activated ones that act from the answer on."""
    invocation = None
    if work == "shared":
        begun, asked = (
            tokenizer.encode(tokenizer.apply_chat_template([{"role": "user", "content": "x"}], g))
            for g in (False, True)
        )
        invocation = tuple(asked[len(begun) :])
    targets = ALL_LINEAR if work == "shared" else ("q_proj", "v_proj")
    config = LoRAConfig(r=8, lora_alpha=16, target_modules=targets, invocation=invocation)
    linears, base, made = select_linears(model, targets), mark_base(model), []
    scale = SCALES.get(model.config.hidden_size, 0.04)
    for seed in range(ADAPTERS):
        rng, factors = np.random.default_rng(seed), {}
        for name, linear in linears.items():
            shapes = ((config.r, linear.in_features), (linear.out_features, config.r))
            factors[name] = tuple(scale * rng.standard_normal(s, dtype=np.float32) for s in shapes)
        made.append(Adapter(config, factors, base=base))
    return made


# ---------------------------------------------------------------------------------------- the load


def drive(
    port: int,
    clients: int,
    seconds: float,
    asks: Iterator[Ask],
    body: Callable[[Ask], dict],
    each: int | None = None,
) -> list[Answer]:
    """Every answer, whole or not, that clients got who each ask until the time is over.

    each: how many answers each of them wants at most.
    """
    lock, answers, began = threading.Lock(), [], time.perf_counter()
    faults: list[str] = []

    def client() -> None:
        left = each
        while time.perf_counter() - began < seconds and not faults and left != 0:
            left = None if left is None else left - 1
            with lock:
                answer = Answer(next(asks), time.perf_counter() - began)
                answers.append(answer)
            try:
                _read(port, body(answer.ask), answer, began, seconds)
            except TimeoutError:
                return
            except (OSError, HTTPException, ValueError) as error:
                faults.append(f"{type(error).__name__}: {error}")
                return

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if faults:
        raise ValueError(f"a client failed: {faults[0]}")
    return answers


def _read(port: int, body: dict, answer: Answer, began: float, seconds: float) -> None:
    """Read a streamed answer, and go away where the time is over before its end."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_left(began, seconds))
    with closing(connection):
        head = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), head)
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"{response.status} {response.read()[:200]!r}")
        for line in response:
            now = time.perf_counter() - began
            if now > seconds:
                return
            if not line.startswith(b"data: {"):
                continue
            told = json.loads(line[6:])
            if "error" in told:
                raise ValueError(told["error"])
            for choice in told["choices"]:
                answer.text += choice["text"]
                answer.tokens += bool(choice["text"])
                answer.first = answer.first or now
            answer.tokens = (told.get("usage") or {}).get("completion_tokens", answer.tokens)
        answer.ended = time.perf_counter() - began


def _left(began: float, seconds: float) -> float:
    return max(0.1, began + seconds - time.perf_counter())


@dataclass(frozen=True)
class Rate:
    """What a load came to.

    tokens: of answers a second, of one that the end cut its pieces. by_cpu: tokens a second
    of the server's processor time. answers: whole ones a second. first, whole: median seconds to
    the first piece and to the end. pace: median tokens a second of one answer after its first
    piece. done: whole answers.
    """

    server: str
    work: str
    clients: int
    tokens: float
    by_cpu: float
    answers: float
    first: float
    whole: float
    pace: float
    done: int
    seconds: float


@dataclass(frozen=True)
class Load:
    """What was asked of a server, and what it took: `cpu` seconds of its processor time."""

    server: str
    work: str
    clients: int
    seconds: float
    cpu: float
    answers: list[Answer]


def rate_of(load: Load) -> Rate:
    """The rates of a load."""
    answers, seconds = load.answers, load.seconds
    if all(one.ended for one in answers):  # each client had all that it wanted
        seconds = max(one.ended for one in answers)
    whole = [one for one in answers if one.ended]
    tokens = sum(one.tokens for one in answers)
    return Rate(
        load.server, load.work, load.clients, round(tokens / seconds, 1),
        round(tokens / max(load.cpu, 1e-9), 1), round(len(whole) / seconds, 3),
        round(float(np.median([a.first - a.began for a in answers if a.first] or [0.0])), 3),
        round(float(np.median([a.ended - a.began for a in whole] or [0.0])), 3),
        round(float(np.median([
            (a.tokens - 1) / (a.ended - a.first) for a in whole if a.ended > a.first
        ] or [0.0])), 1), len(whole), round(seconds, 2),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- servers


@contextmanager
def ours(base: str, folders: Mapping[str, Path], *more: str) -> Iterator[tuple[int, int]]:
    """Port and process of `minilora serve`."""
    code = "import sys; from minilora.cli.app import main; sys.exit(main())"
    adapters = [word for name, path in folders.items() for word in ("--adapter", f"{name}={path}")]
    command = [sys.executable, "-c", code, "serve", "--base", base, *adapters, "--port", "0", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if "127.0.0.1:" not in line:
                raise ValueError(f"the server did not begin: {line!r}")
            port = int(line.split("127.0.0.1:")[1].split("/")[0])
            _wait_for(port, "/health")
            yield port, process.pid
        finally:
            process.terminate()


@contextmanager
def llama_cpp(
    model: Path, rows: int, threads: int, adapters: Sequence[Path]
) -> Iterator[tuple[int, int]]:
    """Port and process of llama.cpp's server."""
    command = [sys.executable, "-m", "minilora.bench.llama_server", str(model)]
    command += ["--rows", str(rows), "--threads", str(threads)]
    command += [word for path in adapters for word in ("--lora", str(path))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            line = next((one for one in process.stdout if one.startswith("http://")), "")
            if not line:
                raise ValueError("llama.cpp's server did not begin (the interop extra)")
            yield int(line.strip().rsplit(":", 1)[1]), process.pid
        finally:
            process.kill()


def _wait_for(port: int, path: str) -> None:
    for _ in range(600):
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise ValueError(f"nobody answers at port {port}")


def asked_of_us(base: str) -> Callable[[Ask], dict]:
    """A request in our server's words."""
    return lambda ask: {**_asked(ask), "model": base if ask.adapter is None else str(ask.adapter)}


def asked_of_llama_cpp(ask: Ask) -> dict:
    """And in llama.cpp's, which knows adapters by their places."""
    wanted = [] if ask.adapter is None else [{"id": ask.adapter, "scale": 1.0}]
    return {**_asked(ask), "lora": wanted}


def _asked(ask: Ask) -> dict[str, Any]:
    return {
        "prompt": list(ask.ids), "max_tokens": NEW_TOKENS, "temperature": 0.0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


# ---------------------------------------------------------------------------------------- measuring


@dataclass
class Measured:
    """Rates, and the whole answers of our server: [work, note, adapter, text]."""

    rates: list[Rate] = field(default_factory=list)
    answers: list[tuple[str, int, int | None, str]] = field(default_factory=list)


def measure(options: argparse.Namespace) -> Measured:
    """Run every load that was asked for."""
    model, tokenizer = open_base(options.base)
    notes, result = notes_for(tokenizer), Measured()
    loads = list(zip(options.clients, options.seconds, strict=True))
    bar = tqdm(options.work, "work", disable=not sys.stderr.isatty())
    threads = recommended_blas_threads(model.config.hidden_size)
    for work in bar:
        with tempfile.TemporaryDirectory() as folder:
            folders, files = {}, []
            if work != "base":
                for i, adapter in enumerate(adapters_for(model, tokenizer, work)):
                    folders[str(i)] = Path(folder) / str(i)
                    adapter.write(folders[str(i)])
                    if options.llama_cpp:
                        files.append(Path(folder) / f"{i}.gguf")
                        write_gguf_adapter(adapter, model.config, files[-1])
            if not options.no_ours:
                _measure_ours(options, work, folders, notes, result)
            if options.llama_cpp:
                for clients, seconds in loads:
                    path = find_base(options.base)
                    gguf = path if path.suffix == ".gguf" else next(path.glob("*.gguf"))
                    with llama_cpp(gguf, clients, threads, files) as (port, process):
                        asks, before = requests_of(work, notes), process_seconds(process)
                        answers = drive(
                            port, clients, seconds, asks, asked_of_llama_cpp, options.each
                        )
                        cpu = process_seconds(process) - before
                    _add(result, Load("llama.cpp", work, clients, seconds, cpu, answers))
    return result


def _measure_ours(
    options: argparse.Namespace, work: str, folders: Mapping[str, Path],
    notes: Sequence[Sequence[int]], result: Measured,
) -> None:  # fmt: skip
    with ours(options.base, folders, *options.serve) as (port, process):
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/v1/models")
        base = json.loads(connection.getresponse().read())["data"][0]["id"]
        connection.close()
        asks = requests_of(work, notes)
        for clients, seconds in zip(options.clients, options.seconds, strict=True):
            before = process_seconds(process)
            answers = drive(port, clients, seconds, asks, asked_of_us(base), options.each)
            cpu = process_seconds(process) - before
            kept = [(work, a.ask.note, a.ask.adapter, a.text) for a in answers if a.ended]
            result.answers += kept
            label = " ".join(["minilora", *options.serve])
            _add(result, Load(label, work, clients, seconds, cpu, answers))


def _add(result: Measured, load: Load) -> None:
    rate = rate_of(load)
    result.rates.append(rate)
    print(
        f"{rate.server}, {rate.work}, {rate.clients} clients: {rate.tokens:.1f} tokens/s, "
        f"{rate.by_cpu:.1f} by processor time, "
        f"{rate.answers:.2f} answers/s; first {rate.first:.2f} s, whole {rate.whole:.2f} s, "
        f"pace {rate.pace:.1f}",
        flush=True,
    )


def check(base: str, answers: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Compare each answer with the one that the request gets alone, by `generate` after a swap."""
    model, tokenizer = open_base(base)
    notes, stops = notes_for(tokenizer), {tokenizer.eos_id} - {None}
    told: dict[str, Any] = {}
    by_work: dict[str, list[Sequence[Any]]] = {}
    for one in answers:
        by_work.setdefault(one[0], []).append(one)
    for work, own in by_work.items():
        bank = AdapterBank(model)
        for i, adapter in enumerate(adapters_for(model, tokenizer, work) if work != "base" else []):
            bank.add(str(i), adapter)
        alone: dict[tuple[int, int | None], str] = {}

        def answer(note: int, adapter: int | None, bank=bank, alone=alone) -> str:
            if (note, adapter) not in alone:
                bank.use(BASE if adapter is None else str(adapter))
                ids = generate(model, [notes[note]], NEW_TOKENS, stop_ids=stops)[0]
                alone[note, adapter] = answer_text(tokenizer, ids, NEW_TOKENS)
            return alone[note, adapter]

        bar = tqdm(own, work, disable=not sys.stderr.isatty())
        equal = sum(answer(note, adapter) == text for _, note, adapter, text in bar)
        some = [] if work == "base" else own[:DIFFERENT]
        other = sum(answer(note, None) != text for _, note, _, text in some)
        told[work] = {
            "answers": len(own), "as alone": equal,
            "other than the base's": f"{other} of {len(some)}",
        }  # fmt: skip
        bank.use(BASE)
        bank.close()
    return told


def main() -> None:
    """Measure, or check what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", default=WARD)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--work", nargs="+", choices=WORK, default=["mixed"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[15.0, 15.0, 60.0],
                        help="Of each number of clients.")  # fmt: skip
    parser.add_argument("--each", type=int, help="Answers that each client wants, at most.")
    parser.add_argument(
        "--llama-cpp", action="store_true", help="Its server as well (a GGUF base)."
    )
    parser.add_argument("--no-ours", action="store_true", help="Leave ours out.")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="Options of serve.")
    parser.add_argument("--json", type=Path, help="Where to leave the figures.")
    parser.add_argument("--answers", type=Path, help="Where to leave the answers for --check.")
    parser.add_argument("--check", type=Path, help="Check these answers, and measure nothing.")
    options = parser.parse_args()
    if options.check:
        told = check(options.base, json.loads(options.check.read_text("utf-8")))
        print(json.dumps(told))
        if options.json and options.json.exists():
            figures = json.loads(options.json.read_text("utf-8"))
            _write(options.json, {**figures, "checked": told})
        return
    result = measure(options)
    if options.answers:
        atomic_write(options.answers, json.dumps(result.answers).encode())
    if options.json:
        told = about(False, [], "both")
        words = {name: told[name] for name in ("minilora", "BLAS", "CPU")}
        _write(options.json, {
            "base": options.base, "command": " ".join(["python -m minilora.bench.serving",
            *sys.argv[1:]]), "about": words, "threads": os.environ.get("MINILORA_THREADS", ""),
            "rates": [asdict(rate) for rate in result.rates],
        })  # fmt: skip


def _write(path: Path, figures: dict) -> None:
    atomic_write(path, (json.dumps(figures, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
