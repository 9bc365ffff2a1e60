"""An engine on a thread of its own, asked from an asyncio loop.

The loop's side counts, refuses and hands out what was told; the thread's side owns engine and bank,
and makes step after step while anything is open. What goes across is a queue of calls one way, and
the events of a step the other.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minilora.backend import blas_threads, blas_threads_override, recommended_blas_threads
from minilora.limits import require_count
from minilora.machine import physical_cores
from minilora.nn.generate import check_request
from minilora.serving.bank import BASE
from minilora.serving.engine import BROKEN, CANCELLED, Engine, FullError, Request
from minilora.serving.router import Choice

ROUTER = "router"
"""The adapter name of a request that the router sends on."""

ENDING = "the server is shutting down"

LOG = logging.getLogger("minilora.serving")


class UnknownAdapterError(ValueError):
    """A name that nobody answers to."""


class ClosingError(ValueError):
    """The service ends, and takes nothing new."""


@dataclass(frozen=True)
class Told:
    """What one of several requests is told: a token, its end, or whom the router chose.

    index: its place among those that were asked together. ended, error: as an engine's Event.
    """

    index: int
    token: int | None = None
    ended: str | None = None
    error: str | None = None
    choice: Choice | None = None


class Answers:
    """What comes of requests that were asked together, until all of them have ended.

    `async for some in answers` gives lists: all that has come since the last one. Those who stop
    listening call `cancel`. began: seconds, of `time.monotonic`.
    """

    def __init__(self, service: Service, count: int) -> None:
        self.began = time.monotonic()
        self._service, self._told = service, asyncio.Queue[Told]()
        self._count, self._open = count, set(range(count))

    @property
    def open(self) -> frozenset[int]:
        """The places of those that have not ended."""
        return frozenset(self._open)

    def goes_on(self, index: int) -> bool:
        """Whether this one has not ended; asked from any thread."""
        return index in self._open

    async def __aiter__(self) -> AsyncIterator[list[Told]]:
        left = self._count  # also those that ended before anybody listened
        while left:
            some = [await self._told.get()]
            while not self._told.empty():
                some.append(self._told.get_nowait())
            left -= sum(one.ended is not None for one in some)
            yield some

    def cancel(self, index: int | None = None) -> None:
        """Give up one of them, or all; what has ended is left as it is."""
        for place in self.open if index is None else self.open & {index}:
            self.end(place, CANCELLED)

    def end(self, index: int, why: str, error: str | None = None) -> None:
        """End one of them that goes on, and free its row."""
        self.tell(Told(index, ended=why, error=error))
        self._service.forget(self, index)

    def tell(self, told: Told) -> None:
        """Take what one is told; nothing after its end."""
        if told.index in self._open:
            self._told.put_nowait(told)
            if told.ended:
                self._open.discard(told.index)
                self._service.ended(self)


class Service:
    """Requests to one engine from one asyncio loop: `async with Service(engine) as service`.

    most_waiting: how many requests may be open beyond those that the engine answers at a time.
    route: whom a prompt (token ids) is for, called on the engine's thread between two steps; None
    for a service without a router. Nobody else uses the engine, its bank and its model meanwhile.
    """

    def __init__(
        self,
        engine: Engine,
        most_waiting: int = 128,
        route: Callable[[Sequence[int]], Choice] | None = None,
    ) -> None:
        require_count("most_waiting", most_waiting, 0)
        self.engine, self.has_router = engine, route is not None
        self.most_open = engine.most_rows + most_waiting
        self._names = dict.fromkeys(engine.bank.names)
        self._open: dict[Answers, int] = {}
        self._seconds = 1.0  # what an answer took, a mean in which the latest counts most
        self._closing = False
        self._thread = _Thread(engine, route)

    async def __aenter__(self) -> Service:
        self._thread.begin(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end_all()
        self._thread.stop()
        await asyncio.to_thread(self._thread.join)

    # -- what it is doing ----------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that may be asked."""
        return tuple(sorted(self._names))

    @property
    def open(self) -> int:
        """How many requests have been asked and not ended."""
        return sum(self._open.values())

    @property
    def closing(self) -> bool:
        """Whether nothing new is taken."""
        return self._closing

    @property
    def failure(self) -> str | None:
        """What ended the engine's thread, None while it lives."""
        return self._thread.failure

    @property
    def retry_after(self) -> int:
        """In how many seconds it may be worth while to ask again, from 1 to 60."""
        return min(60, max(1, math.ceil(self._seconds)))

    # -- asking --------------------------------------------------------------------------------

    def ask(self, requests: Sequence[Request]) -> Answers:
        """Ask all of these, or none; adapter ROUTER lets the router choose.

        Raises UnknownAdapterError, FullError where too many are open, ClosingError near the end,
        and ValueError for what the engine refuses.
        """
        if self._closing or self.failure:
            raise ClosingError(f"got a request, expected none: {self.failure or ENDING}")
        for one in requests:
            if one.adapter not in (BASE, *self._names) and not self._routes(one):
                raise UnknownAdapterError(f"got {one.adapter!r}, expected one that is served")
            settings = one.temperature, one.top_p, one.seed
            check_request([one.prompt], one.max_new_tokens, self.engine.longest, settings)
        if self.open + len(requests) > self.most_open:
            raise FullError(
                f"got {len(requests)} requests where {self.open} are open, expected at most "
                f"{self.most_open} in all"
            )
        answers = Answers(self, len(requests))
        self._open[answers] = len(requests)
        for index, one in enumerate(requests):
            self._thread.do(self._thread.submit, answers, index, one)
        return answers

    def _routes(self, request: Request) -> bool:
        return self.has_router and request.adapter == ROUTER

    def ended(self, answers: Answers) -> None:
        """One of these has ended."""
        self._open[answers] -= 1
        self._seconds += 0.1 * (time.monotonic() - answers.began - self._seconds)
        if not self._open[answers]:
            del self._open[answers]

    def forget(self, answers: Answers, index: int) -> None:
        """Nobody listens to this one any more: its row is freed."""
        self._thread.do(self._thread.cancel, answers, index)

    def refuse_new(self) -> None:
        """Take nothing new from now on."""
        self._closing = True

    def end_all(self, why: str = ENDING) -> None:
        """Take nothing new, and tell all that are open that they end here."""
        self._closing = True
        for answers in list(self._open):
            for place in answers.open:
                answers.end(place, BROKEN, why)

    # -- adapters ------------------------------------------------------------------------------

    async def add(self, name: str, folder: Path) -> None:
        """Add an adapter under a new name. Raises what `AdapterBank.add` does."""
        if name in (ROUTER, BASE):
            raise ValueError(f"got the name {name!r}, expected another: that one is taken")
        await self._thread.call(self.engine.bank.add, name, folder)
        self._names[name] = None

    async def remove(self, name: str) -> None:
        """Take no request for this adapter any more, and forget it when the last one has ended.

        Raises UnknownAdapterError for a name that is not there.
        """
        if name not in self._names:
            raise UnknownAdapterError(f"got {name!r}, expected an adapter that is served")
        del self._names[name]
        await self._thread.call(self._thread.remove, name)


class _Thread:
    """The engine's side. All but `begin`, `do`, `call`, `stop` and `join` runs on its thread."""

    def __init__(self, engine: Engine, route: Callable[[Sequence[int]], Choice] | None) -> None:
        self.engine, self.route = engine, route
        self.failure: str | None = None
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple]] = queue.SimpleQueue()
        self._asked: dict[int, tuple[Answers, int]] = {}  # by the engine's numbers
        self._leaving: dict[str, asyncio.Future[None]] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # -- from the loop -------------------------------------------------------------------------

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start; `loop` gets what is told."""
        self._loop = loop
        self._thread.start()

    def do(self, function: Callable[..., Any], *values: object) -> None:
        """Call this before the next step."""
        self._calls.put((function, values))

    async def call(self, function: Callable[..., Any], *values: object) -> Any:
        """Call this before the next step, and wait for what it returns or raises.

        A future that it returns is waited for as well.
        """
        if self._stopped:
            raise ClosingError(ENDING)
        done = self._loop.create_future()

        def run() -> None:
            try:
                value = function(*values)
            except Exception as error:
                self._on_loop(_settle, done, None, error)
            else:
                self._on_loop(_settle, done, value, None)

        self.do(run)
        value = await done
        return await value if isinstance(value, asyncio.Future) else value

    def stop(self) -> None:
        """End before the next step."""
        self.do(self._stop)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    # -- on the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with blas_threads(threads_beside_a_loop(self.engine.bank.model.config.hidden_size)):
                while not self._stopped:
                    self._do_calls()
                    if not self._stopped and (self.engine.active or self.engine.waiting):
                        self._step()
                    self._let_leave()
        except Exception as error:
            LOG.exception("the engine's thread has ended")
            self.failure = f"{type(error).__name__}: {error}"
            self._fail_all(self.failure)
        finally:
            self._stopped = True
            self.engine.abandon()
            for done in self._leaving.values():
                self._on_loop(_settle, done, None, ClosingError(ENDING))

    def _do_calls(self) -> None:
        """All that wait; the first is waited for where there is nothing else to do."""
        idle = not (self.engine.active or self.engine.waiting)
        while True:
            try:
                function, values = self._calls.get(block=idle)
            except queue.Empty:
                return
            function(*values)
            idle = False

    def _step(self) -> None:
        try:
            events = self.engine.step()
        except Exception as error:  # nothing that a request asks should, so it is ours
            LOG.exception("a step has failed")
            self.engine.abandon()
            self._fail_all(f"{type(error).__name__}: {error}")
            return
        told = []
        for event in events:
            asked = self._asked.get(event.number)
            if asked is not None:
                answers, index = asked
                told.append((answers, Told(index, event.token, event.ended, event.error)))
            if event.ended:
                self._asked.pop(event.number, None)
        self._tell(told)

    def _fail_all(self, why: str) -> None:
        asked = list(self._asked.values())
        self._asked.clear()
        self._tell([(answers, Told(i, ended=BROKEN, error=why)) for answers, i in asked])

    def _tell(self, told: list[tuple[Answers, Told]]) -> None:
        if told:
            self._on_loop(_tell_each, told)

    def _on_loop(self, function: Callable[..., Any], *values: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)

    def submit(self, answers: Answers, index: int, request: Request) -> None:
        """Hand a request to the engine, after the router where it is to choose."""
        if not answers.goes_on(index):
            return
        try:
            if request.adapter == ROUTER and self.route is not None:
                choice = self.route(request.prompt)
                self._tell([(answers, Told(index, choice=choice))])
                request = replace(request, adapter=choice.name or BASE)
                if request.adapter in self._leaving:
                    raise UnknownAdapterError(f"the router chose {choice.name}, which is leaving")
            number = self.engine.submit(request)
        except Exception as error:
            self._tell([(answers, Told(index, ended=BROKEN, error=str(error)))])
            return
        self._asked[number] = answers, index

    def cancel(self, answers: Answers, index: int) -> None:
        """Free the request's row."""
        numbers = [n for n, asked in self._asked.items() if asked == (answers, index)]
        for number in numbers:
            del self._asked[number]
            self.engine.cancel(number)

    def remove(self, name: str) -> asyncio.Future[None]:
        """A future that is done when no request uses the adapter and it is forgotten."""
        self._leaving[name] = self._loop.create_future()
        return self._leaving[name]

    def _let_leave(self) -> None:
        for name in [name for name in self._leaving if not self.engine.uses(name)]:
            self.engine.bank.remove(name)
            self._on_loop(_settle, self._leaving.pop(name), None, None)

    def _stop(self) -> None:
        self._stopped = True


def threads_beside_a_loop(hidden_size: int) -> int:
    """BLAS threads for a model of this width where one core is left to the loop and its clients.

    BLAS threads wait for each other by turning in circles, so one that has no core of its own holds
    up all. A user's choice counts as it does elsewhere.
    """
    threads = recommended_blas_threads(hidden_size)
    if blas_threads_override() is not None:
        return threads
    return min(threads, max(1, physical_cores() - 1))


def _settle(done: asyncio.Future, value: object, error: Exception | None) -> None:
    if done.done():  # whoever waited has gone away
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)


def _tell_each(told: Sequence[tuple[Answers, Told]]) -> None:
    for answers, one in told:
        answers.tell(one)
