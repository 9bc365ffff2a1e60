"""Answers that are sent while they come, or in one piece, to a client that may go away."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
GRACE = 5.0
"""Seconds beyond its limit after which a stream is dropped whose client does not read."""
DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    """One server-sent event with a JSON value, in ASCII, so that any text can be in it."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """Server-sent events from a generator, until its end or until the client goes away.

    seconds: after which the connection is given up, whatever it is waiting for. close: called at
    the end, also where the generator was never begun.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], seconds: float, close: Callable[[], None]
    ) -> None:
        self.events, self.seconds, self.close = events, seconds, close
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await self._send_all(receive, send)
        finally:
            self.close()

    async def _send_all(self, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_when_gone, receive, group.cancel_scope)
            with anyio.move_on_after(self.seconds):
                await send(
                    {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                )
                async with aclosing(self.events) as events:
                    async for piece in events:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            group.cancel_scope.cancel()


async def unless_gone(request: Request, work: Callable[[], Awaitable[T]]) -> T | None:
    """What the work returns, or raises as an Exception; None where the client goes away first."""
    result, failure = None, None

    async def run() -> None:
        nonlocal result, failure
        try:
            result = await work()
        except Exception as error:  # raised outside the group, which would wrap it
            failure = error
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(_cancel_when_gone, request.receive, group.cancel_scope)
        group.start_soon(run)
    if failure is not None:
        raise failure
    return result


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
