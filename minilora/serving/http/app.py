"""The server's routes: what may be asked of it over HTTP, by whom, and how much."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from minilora.serving.bank import BASE
from minilora.serving.engine import FullError
from minilora.serving.http.asked import (
    Asked,
    Limits,
    Refused,
    encode,
    read_chat,
    read_comparison,
    read_completion,
    read_object,
    refuse,
)
from minilora.serving.http.metrics import CONTENT_TYPE, Metrics
from minilora.serving.http.replies import ChatForm, Form, Replies, TextForm, comparison, error_of
from minilora.serving.http.streams import GRACE, EventStream, unless_gone
from minilora.serving.service import ROUTER, ClosingError, Service, UnknownAdapterError
from minilora.text import Tokenizer
from minilora.text.answers import stop_ids
from minilora.text.records import shown

PAGE = Path(__file__).with_name("page.html")
OPEN_TO_ALL = ("/", "/health")
"""What needs no key: the page, which holds nothing, and whether the server lives."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src "
    "'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Settings:
    """How a server is asked.

    base: what the base is called. key: that every request must bear, None for none. hosts: the
    names by which it may be asked without a key, None for any: a web page elsewhere that gives its
    own name to this address is refused by it. load_from: the folder in which adapters may be named
    while the server runs, None for none. Raises ValueError for one that is no folder.
    """

    base: str
    limits: Limits = field(default_factory=Limits)
    key: str | None = None
    hosts: frozenset[str] | None = None
    load_from: Path | None = None

    def __post_init__(self) -> None:
        if self.load_from is not None and not self.load_from.is_dir():
            raise ValueError(f"got {self.load_from} to load adapters from, expected a folder")


class Json(Response):
    """A JSON value in ASCII, so that any text can be in it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Its bytes."""
        return json.dumps(content, separators=(",", ":")).encode()


def make_app(service: Service, tokenizer: Tokenizer, settings: Settings) -> Starlette:
    """The application; it begins and ends the service.

    Raises ValueError for an adapter that has the base's name or the router's.
    """
    taken = {settings.base, ROUTER} & set(service.names)
    if taken:
        raise ValueError(f"got an adapter named {taken.pop()!r}, which stands for another")
    return _Api(service, tokenizer, settings).app()


class _Api:
    """The endpoints over one service."""

    def __init__(self, service: Service, tokenizer: Tokenizer, settings: Settings) -> None:
        self.service, self.tokenizer, self.settings = service, tokenizer, settings
        self.limits, self.metrics = settings.limits, Metrics(service)
        self.began = int(time.time())
        model = service.engine.bank.model
        self.stop_ids = frozenset(stop_ids(model, tokenizer))
        self.vocabulary = model.config.vocab_size

    def app(self) -> Starlette:
        """All of it."""
        self.one_at_a_time = anyio.CapacityLimiter(1)  # a chat template counts what it does
        routes: list[tuple[str, str, Endpoint]] = [
            ("GET", "/", self.page),
            ("GET", "/health", self.health),
            ("GET", "/metrics", self.show_metrics),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{name:path}", self.model),
            ("POST", "/v1/chat/completions", partial(self.complete, read_chat, ChatForm)),
            ("POST", "/v1/completions", partial(self.complete, read_completion, TextForm)),
            ("POST", "/v1/compare", self.compare),
            ("POST", "/v1/load_lora_adapter", self.load),
            ("POST", "/v1/unload_lora_adapter", self.unload),
        ]
        return Starlette(
            routes=[Route(path, self._answering(own), methods=[how]) for how, path, own in routes],
            middleware=[Middleware(_Guard, settings=self.settings, refuse=self._refused)],
            exception_handlers={HTTPException: self._http_error, Exception: self._our_error},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self.service:
            yield

    # -- errors --------------------------------------------------------------------------------

    def _answering(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, with what the library raises as an answer."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except Refused as error:
                return self._refused(error)
            except UnknownAdapterError as error:
                known = ", ".join(one["id"] for one in self._models()[:8])
                text = f"{error} (this server has {known})"
                return self._refused(Refused(text, 404, "model", "model_not_found"))
            except FullError as error:
                again = self.service.retry_after
                return self._refused(Refused(str(error), 429, code="full", retry_after=again))
            except ClosingError as error:
                return self._refused(Refused(str(error), 503, code="closing"))
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return answer

    def _refused(self, error: Refused) -> Response:
        self.metrics.refused.labels(str(error.status)).inc()
        headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
        if error.retry_after is not None:
            headers["retry-after"] = str(error.retry_after)
        return Json(error_of(error), error.status, headers)

    async def _http_error(self, request: Request, error: HTTPException) -> Response:
        text = f"got {request.method} {request.url.path}: {error.detail}"
        return self._refused(Refused(text, error.status_code))

    async def _our_error(self, _: Request, error: Exception) -> Response:
        return self._refused(Refused(f"the server failed: {type(error).__name__}", 500))

    # -- what there is -------------------------------------------------------------------------

    async def page(self, _: Request) -> Response:
        """The page for a browser."""
        return HTMLResponse(PAGE.read_bytes(), headers=PAGE_HEADERS)

    async def health(self, _: Request) -> Response:
        """Whether it takes requests."""
        failure = self.service.failure or ("closing" if self.service.closing else None)
        return Json({"status": failure or "ok"}, 503 if failure else 200)

    async def show_metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def models(self, _: Request) -> Response:
        """The base, the adapters and the router."""
        return Json({"object": "list", "data": self._models()})

    async def model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        found = [one for one in self._models() if one["id"] == name]
        if not found:
            raise UnknownAdapterError(f"got {name!r}, expected one that is served")
        return Json(found[0])

    def _models(self) -> list[dict[str, Any]]:
        base, longest = self.settings.base, self.service.engine.longest
        made = [(base, None), *((name, base) for name in self.service.names)]
        made += [(ROUTER, base)] if self.service.has_router else []
        return [
            {
                "id": name, "object": "model", "created": self.began, "owned_by": "minilora",
                "parent": parent, "max_model_len": longest,
            }
            for name, parent in made
        ]  # fmt: skip

    # -- answers -------------------------------------------------------------------------------

    async def complete(
        self, read: Callable[[dict, Limits], Asked], form: type[Form], request: Request
    ) -> Response:
        """A chat's or a text's next words."""
        asked = read(await self._object(request), self.limits)
        replies = await self._ask(asked)
        told = form(replies)
        if asked.stream:
            return self._stream(told.stream(), replies)
        try:
            whole = await unless_gone(request, told.whole)
        finally:
            replies.close()
        return Response(status_code=400) if whole is None else Json(whole)

    async def compare(self, request: Request) -> Response:
        """Several models' answers to one chat, always streamed."""
        asked = read_comparison(await self._object(request), self.limits)
        replies = await self._ask(asked)
        return self._stream(comparison(replies), replies)

    def _stream(self, events: AsyncGenerator[bytes, None], replies: Replies) -> Response:
        return EventStream(events, self.limits.seconds + GRACE, replies.close)

    async def _ask(self, asked: Asked) -> Replies:
        adapters = tuple(BASE if n == self.settings.base else n for n in asked.models)
        inner = replace(asked, models=adapters)
        prompts = await anyio.to_thread.run_sync(
            encode, inner, self.tokenizer, self.vocabulary, limiter=self.one_at_a_time
        )
        longest = self.service.engine.longest
        requests = inner.requests(prompts, self.limits, longest, self.stop_ids)
        names = [self.settings.base if r.adapter == BASE else r.adapter for r in requests]
        try:
            answers = self.service.ask(requests)
        except (UnknownAdapterError, FullError, ClosingError):
            raise
        except ValueError as error:
            raise Refused(str(error)) from None
        return Replies(
            self.service, self.tokenizer, self.metrics, inner, requests, names,
            self.settings.base, answers, self.limits.seconds,
        )  # fmt: skip

    # -- adapters ------------------------------------------------------------------------------

    async def load(self, request: Request) -> Response:
        """Add an adapter, as vLLM does."""
        body = await self._object(request)
        name, given = (self._text(body, key) for key in ("lora_name", "lora_path"))
        if name in (self.settings.base, ROUTER, BASE) or name in self.service.names:
            refuse(f"got lora_name {shown(name)}, expected one that is not taken", "lora_name")
        folder = self._allowed(given)
        try:
            await self.service.add(name, folder)
        except ClosingError:
            raise
        except (ValueError, OSError) as error:
            raise Refused(str(error), field="lora_path") from None
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """Forget an adapter, when those that it is answering have their answers."""
        name = self._text(await self._object(request), "lora_name")
        self._allowed(".")
        await self.service.remove(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    def _allowed(self, given: str) -> Path:
        """The folder, where it lies in the one from which adapters may be loaded."""
        root = self.settings.load_from
        if root is None:
            raise Refused(
                "got a change of adapters, which this server does not take: it was started "
                "without --load-from", 403,
            )  # fmt: skip
        try:
            folder = (root / given).resolve()
        except (ValueError, OSError, RuntimeError) as error:
            raise Refused(f"got a path that is none: {error}", field="lora_path") from None
        if not folder.is_relative_to(root.resolve()):
            raise Refused(
                f"got lora_path {shown(given)}, expected a folder within --load-from", 403,
                "lora_path",
            )  # fmt: skip
        return folder

    @staticmethod
    def _text(body: dict, name: str) -> str:
        value = body.get(name)
        if not isinstance(value, str) or not value or not value.isprintable():
            refuse(f"got {name} {shown(value)}, expected a text", name)
        return value

    # -- bodies --------------------------------------------------------------------------------

    async def _object(self, request: Request) -> dict:
        """The JSON object of a body of bounded size that comes in bounded time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(f"got content-type {kind!r}, expected application/json", 415)
        most, body = self.limits.body, bytearray()
        declared = request.headers.get("content-length", "")
        too_long = declared.isdecimal() and int(declared) > most
        try:
            with anyio.fail_after(self.limits.seconds):
                async for part in request.stream() if not too_long else _nothing():
                    body += part
                    too_long = too_long or len(body) > most
                    if too_long:
                        break
        except TimeoutError:
            raise Refused(f"got no whole body in {self.limits.seconds:g} seconds", 408) from None
        if too_long:
            raise Refused(f"got a body of more than {most} bytes, expected at most so many", 413)
        return read_object(bytes(body))


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


class _Guard:
    """Refuses who has no key, and a browser's requests on behalf of another site."""

    def __init__(
        self, app: ASGIApp, settings: Settings, refuse: Callable[[Refused], Response]
    ) -> None:
        self.app, self.settings, self.refuse = app, settings, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed."""
        refused = self._judge(Request(scope)) if scope["type"] == "http" else None
        await (self.app if refused is None else self.refuse(refused))(scope, receive, send)

    def _judge(self, request: Request) -> Refused | None:
        if self.settings.key is None:
            return self._judge_browser(request)
        if request.url.path in OPEN_TO_ALL:
            return None
        given = request.headers.get("authorization", "")
        scheme, _, key = given.partition(" ")
        same = hmac.compare_digest(key.strip().encode(), self.settings.key.encode())
        if scheme.lower() != "bearer" or not same:
            return Refused("got no valid key, expected Authorization: Bearer KEY", 401)
        return None

    def _judge_browser(self, request: Request) -> Refused | None:
        """Where no key is demanded, a browser must not ask for a page of another site."""
        hosts, host = self.settings.hosts, request.headers.get("host", "")
        if hosts is not None and _name_in(f"//{host}") not in hosts:
            return Refused(f"got a request for the host {host!r}, which is not this one", 421)
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return Refused(f"got a request from the origin {origin!r}, expected this page's", 403)
        return None


def _name_in(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
