"""Continuous batching: requests of any adapters join and leave a running batch at every step.

A step reads the prompts of those that join, gives each request one token, and makes one decoding
step for all that go on (Yu et al. 2022, "Orca", Sec. 4, where batches are formed anew at each
iteration). Each answer is the one that the request gets alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np

from minilora.autograd import no_grad
from minilora.backend import to_numpy
from minilora.hub.several import BASE
from minilora.limits import require_count
from minilora.nn.finite import quiet_overflow
from minilora.nn.generate import PREFILL_TOKENS, check_request, sample_token
from minilora.nn.ragged import RaggedDecoding
from minilora.nn.rows import NEVER, last_place
from minilora.serving.bank import AdapterBank
from minilora.serving.kept import KeptBeginnings
from minilora.serving.mixing import Loaded, Mix

STOP, LENGTH, CANCELLED, BROKEN = "stop", "length", "cancelled", "broken"
"""Why an answer ended: a stop token, as many tokens as were asked for, `cancel`, or logits that are
not finite."""


class FullError(ValueError):
    """As many requests wait as may."""


@dataclass(frozen=True)
class Request:
    """What is asked: a prompt (token ids), who answers, and how. Settings as in `generate`.

    seed: of the sampling, where the temperature is above 0.
    """

    prompt: Sequence[int]
    adapter: str = BASE
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: Collection[int] = ()


@dataclass(frozen=True)
class Event:
    """A request's next token, or None where it ends without one.

    ended: why it ended, None while it goes on. error: what went wrong where it is BROKEN.
    """

    number: int
    token: int | None = None
    ended: str | None = None
    error: str | None = None


def _read_by_base(prompt: Sequence[int], loaded: Loaded | None) -> int:
    """How many of a prompt's first tokens the base alone reads."""
    if loaded is None:
        return len(prompt)
    if loaded.invocation is None:
        return 0
    return min(len(prompt), last_place(np.array(prompt), loaded.invocation))


class _Row:
    """A request that is being answered, and the logits of its next token.

    acting: its adapter where that acts on what comes after the prompt, None for the base. One that
    waits for an invocation acts there on every position, or on none.
    """

    def __init__(
        self, number: int, request: Request, loaded: Loaded | None, logits: np.ndarray
    ) -> None:
        self.number, self.request, self.logits = number, request, logits
        self.acting = loaded
        if loaded is not None and loaded.invocation is not None:
            place = last_place(np.array(request.prompt), loaded.invocation)
            self.acting = None if place == NEVER else Loaded(loaded.factors)
        self.rng = np.random.default_rng(request.seed)
        self.tokens: list[int] = []
        self.ended: str | None = None

    def next(self) -> Event:
        """The next token, or the end."""
        if self.ended:
            return Event(self.number, ended=self.ended)
        if not np.isfinite(self.logits).all():
            self.ended = BROKEN
            why = "got logits that are not finite; the weights or the adapter are broken"
            return Event(self.number, ended=BROKEN, error=why)
        asked = self.request
        sampled = sample_token(self.logits[None], asked.temperature, asked.top_p, self.rng)
        token = int(sampled[0])
        if token in asked.stop_ids:
            self.ended = STOP
            return Event(self.number, ended=STOP)
        self.tokens.append(token)
        self.ended = LENGTH if len(self.tokens) == asked.max_new_tokens else None
        return Event(self.number, token, self.ended)


class Engine:
    """Answers requests over one bank, side by side; `step` by step, or all with `run`.

    most_rows: how many are answered at a time; the others wait, first come, first served.
    most_waiting: how many may wait, None for any number. most_read: tokens of new prompts that one
    step reads, by default PREFILL_TOKENS, one prompt at least: so a long queue does not hold up
    those that stream.
    kept_positions: how many positions of what the base read of prompts are kept for others that
    begin alike, of the base or of activated adapters; 0 for none. longest: positions of a prompt
    with its answer, by default as many as the model has. Keys and values take up to most_rows times
    longest positions.
    read_positions, known_positions: how many positions of prompts were read so far, and how many
    were known from others.
    While requests are being answered the model is not free for `generate`, and the bank for `use`;
    adapters may be added, and removed where no request in the engine names them. For one thread.
    """

    def __init__(
        self,
        bank: AdapterBank,
        most_rows: int = 64,
        most_waiting: int | None = None,
        kept_positions: int = 0,
        longest: int | None = None,
        most_read: int | None = None,
    ) -> None:
        require_count("most_rows", most_rows, 1)
        positions = bank.model.config.max_position_embeddings
        require_count("longest", positions if longest is None else longest, 1, positions)
        if most_waiting is not None:
            require_count("most_waiting", most_waiting, 1)
        self.bank, self.most_rows, self.most_waiting = bank, most_rows, most_waiting
        self.most_read = PREFILL_TOKENS if most_read is None else most_read
        require_count("most_read", self.most_read, 1)
        self.longest = positions if longest is None else longest
        self.read_positions = self.known_positions = 0
        self._waiting: deque[tuple[int, Request]] = deque()
        self._rows: list[_Row] = []
        self._count, self.kept = 0, KeptBeginnings(kept_positions)
        self._mix = Mix([], [])
        self._decoding: RaggedDecoding | None = None
        self._was_training = False

    # -- asking ------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """How many requests are being answered."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def submit(self, request: Request) -> int:
        """Queue a request; its number, which its events bear.

        Raises ValueError for what `generate` refuses and for an adapter that is not in the bank,
        FullError where `most_waiting` wait already.
        """
        if request.adapter != BASE and request.adapter not in self.bank.names:
            known = ", ".join([*self.bank.names[:8], BASE])
            raise ValueError(f"got adapter {request.adapter!r}, expected one of {known}")
        check_request(
            [request.prompt], request.max_new_tokens, self.longest,
            (request.temperature, request.top_p, request.seed),
        )  # fmt: skip
        require_count("seed", request.seed, 0)
        if self.most_waiting is not None and len(self._waiting) >= self.most_waiting:
            raise FullError(
                f"got a request where {len(self._waiting)} wait, expected at most most_waiting = "
                f"{self.most_waiting}"
            )
        number, self._count = self._count, self._count + 1
        self._waiting.append((number, request))
        return number

    def cancel(self, number: int) -> None:
        """Give a request up: it gets no further token. One that has ended is left as it is.

        One that waited is forgotten; for one that was being answered, the next step tells its end.
        """
        self._waiting = deque(one for one in self._waiting if one[0] != number)
        for row in self._rows:
            if row.number == number:
                row.ended = CANCELLED

    def uses(self, name: str) -> bool:
        """Whether a request that waits or is being answered names this adapter."""
        asked = [request for _, request in self._waiting] + [row.request for row in self._rows]
        return any(request.adapter == name for request in asked)

    def abandon(self) -> None:
        """Forget every request without a word, where a step has raised and none can go on."""
        for row in self._rows:
            self.bank.let_go(row.request.adapter)
        if self._rows:
            self.bank.model.generations -= 1
            self.bank.model.train(self._was_training)
        self._rows, self._decoding = [], None
        self._waiting.clear()
        self._mix = Mix([], [])

    # -- answering ---------------------------------------------------------------------------

    def run(self) -> dict[int, list[int]]:
        """Answer all that is asked; number -> its new tokens."""
        answers: dict[int, list[int]] = {}
        while self._waiting or self._rows:
            for event in self.step():
                own = answers.setdefault(event.number, [])
                if event.token is not None:
                    own.append(event.token)
        return answers

    def step(self) -> list[Event]:
        """One token for each request that is being answered, and for those that join.

        Raises ValueError where somebody else generates with the model.
        """
        with self._answering():
            events = self._join()
            for row in self._rows:
                events.append(row.next())
            self._drop_ended()
            if self._rows:
                self.bank.chosen.mix = self._mix
                tokens = np.array([row.tokens[-1] for row in self._rows])
                logits = to_numpy(self._decoding.step(tokens))
                for row, own in zip(self._rows, logits, strict=True):
                    row.logits = own
        return events

    @contextmanager
    def reading_as_base(self) -> Iterator[None]:
        """In the `with`, between two steps, the model reads what it is given as the base does."""
        model, chosen = self.bank.model, self.bank.chosen
        before, was_training = (chosen.alone, chosen.mix), model.training
        chosen.alone = chosen.mix = None
        model.eval()
        try:
            with no_grad(), quiet_overflow():
                yield
        finally:
            chosen.alone, chosen.mix = before
            model.train(was_training)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Nobody else may swap or generate from the first row to the last."""
        model, chosen = self.bank.model, self.bank.chosen
        if not self._rows:
            self.bank.require_free("step")
            self._was_training = model.training
            model.eval()
            model.generations += 1
        before = chosen.alone, chosen.mix
        try:
            with no_grad(), quiet_overflow():
                yield
        finally:
            chosen.alone, chosen.mix = before
            if not self._rows:
                model.generations -= 1
                model.train(self._was_training)

    def _join(self) -> list[Event]:
        """Read the prompts of requests that wait, as far as there is room."""
        events, read, before = [], 0, len(self._rows)
        self._make_room()
        while self._waiting and len(self._rows) < self.most_rows:
            number, request = self._waiting[0]
            more = len(request.prompt)
            if read and read + more > self.most_read:
                break
            if not self.bank.has_room_for(request.adapter):
                break
            self._waiting.popleft()
            try:
                loaded = self.bank.hold(request.adapter)
            except (ValueError, OSError) as error:  # removed, or changed, since it was asked for
                events.append(Event(number, ended=BROKEN, error=str(error)))
                continue
            try:
                self._rows.append(_Row(number, request, loaded, self._read(request, loaded)))
            except BaseException:
                self.bank.let_go(request.adapter)
                raise
            read += more
        if len(self._rows) > before:
            self._mix_anew()
        return events

    def _make_room(self) -> None:
        """Room for those that may join soon, so that the pool need not grow with each of them."""
        if self._decoding is None:
            self.bank.chosen.mix = self._mix
            self._decoding = RaggedDecoding(self.bank.model, self.most_rows, self.longest)
        soon = list(islice(self._waiting, self.most_rows - len(self._rows)))
        if soon:
            length = max(len(one.prompt) + one.max_new_tokens for _, one in soon)
            self._decoding.make_room(len(self._rows) + len(soon), length)

    def _read(self, request: Request, loaded: Loaded | None) -> np.ndarray:
        """Logits after the prompt, which becomes the decoding's last row."""
        chosen, prompt, room = self.bank.chosen, request.prompt, request.max_new_tokens
        chosen.alone, chosen.mix = loaded, None
        by_base = _read_by_base(prompt, loaded) if self.kept.most else 0
        beginning = self.kept.find(prompt[:by_base])
        known = min(beginning.length, len(prompt) - 1)  # the last token gives the logits
        logits = self._decoding.read(prompt, room, known, beginning.layers if known else ())
        self.read_positions += len(prompt) - known
        self.known_positions += known
        if by_base > beginning.length:
            self.kept.keep(prompt[:by_base], self._decoding.held(len(self._rows), by_base))
        return logits

    def _drop_ended(self) -> None:
        ended = [i for i, row in enumerate(self._rows) if row.ended]
        if not ended:
            return
        for i in ended:
            self.bank.let_go(self._rows[i].request.adapter)
        kept = list(range(len(self._rows)))
        for gap in reversed(ended):  # the last row moves into each gap
            last = kept.pop()
            if gap < len(kept):
                kept[gap] = last
        self._rows = [self._rows[i] for i in kept]
        self._decoding.keep(kept)
        self._mix_anew()

    def _mix_anew(self) -> None:
        """Make the mix that of the rows as they are now."""
        adapters = {row.request.adapter: row.acting for row in self._rows if row.acting is not None}
        number = {name: i for i, name in enumerate(adapters)}
        own = [-1 if r.acting is None else number[r.request.adapter] for r in self._rows]
        self._mix.assign(list(adapters.values()), own)
