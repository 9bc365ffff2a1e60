"""Running the server: where it listens, who may ask it there, and how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from types import FrameType

import uvicorn

from minilora.limits import require_count, require_finite
from minilora.serving.http.app import Settings, make_app
from minilora.serving.service import Service
from minilora.text import Tokenizer

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
CONNECTIONS = 1000
"""Open connections from which on a new one is answered with 503."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can ask what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hosts_for(host: str) -> frozenset[str] | None:
    """The names by which a server there may be asked; None for any, where keys are demanded."""
    return LOCAL_NAMES | {host} if is_loopback(host) else None


def require_key(host: str, key: str | None) -> None:
    """Raise ValueError for a key that is none, and for a host beyond this machine without one."""
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise ValueError("got an API key with other than visible ASCII characters, or none in it")
    if key is None and not is_loopback(host):
        raise ValueError(
            f"got --host {host}, which others can reach, without --api-key; expected a key there, "
            "or a loopback address such as 127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 for any free one. Raises OSError naming both."""
    require_count("port", port, 0, 65535)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=256)
    except OSError as error:
        raise OSError(f"can't listen at {host}, port {port}: {error.strerror or error}") from None


def url_of(listener: socket.socket) -> str:
    """Where a browser finds what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(
    service: Service, tokenizer: Tokenizer, settings: Settings, grace: float = 30.0
) -> uvicorn.Server:
    """A server whose `run([listener])` serves until Ctrl-C or SIGTERM.

    Then those in flight have `grace` seconds to finish. Afterwards, or at a second Ctrl-C, they are
    told that the server ends. A third ends it at once.
    """
    require_finite("grace", grace)
    config = uvicorn.Config(
        make_app(service, tokenizer, settings), http="h11", ws="none", lifespan="on",
        log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=CONNECTIONS, timeout_keep_alive=30,
        timeout_graceful_shutdown=round(grace + 10),
    )  # fmt: skip
    return _Server(config, service, grace)


class _Server(uvicorn.Server):
    """uvicorn's, which ends as `make_server` says, and without raising its signals once more."""

    def __init__(self, config: uvicorn.Config, service: Service, grace: float) -> None:
        super().__init__(config)
        self.service, self.grace, self.signals = service, grace, 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count a signal."""
        self.signals += 1
        self.should_exit = True
        self.force_exit = self.signals > 2 and sig == signal.SIGINT

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, wait for those in flight, and tell those that are left."""
        self.service.refuse_new()
        ending = asyncio.create_task(self._end_when_due())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_when_due(self) -> None:
        due = asyncio.get_running_loop().time() + self.grace
        while self.signals < 2 and asyncio.get_running_loop().time() < due:
            await asyncio.sleep(0.1)
        self.service.end_all()
