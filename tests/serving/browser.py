"""A headless Chromium that opens a page and says what came of it, over its DevTools pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
"""Where there is one, None for nowhere."""
START = """
import fcntl, os, sys
theirs, to_us = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(theirs, 3)
os.dup2(to_us, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""A browser reads from descriptor 3 and writes to 4."""


class Page:
    """A page in a browser. requested: the URLs that it asked for. faults: what went wrong in it."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._held, self._count = write, read, b"", 0
        self.requested: list[str] = []
        self.faults: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    _session: str | None = None

    def _call(self, method: str, **params: object) -> dict:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._count:
                assert "error" not in told, told
                return told["result"]
            self._note(told)

    def _next(self) -> dict:
        while b"\0" not in self._held:
            more = os.read(self._read, 1 << 16)
            assert more, "the browser has ended"
            self._held += more
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)

    def _note(self, told: dict) -> None:
        params = told.get("params", {})
        if told.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif told.get("method") == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(params["entry"]["text"])

    def show(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page in a window of this size."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def value(self, script: str) -> object:
        """What a script's expression is, as JSON."""
        result = self._call("Runtime.evaluate", expression=script, returnByValue=True,
                            awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 30.0) -> None:
        """Wait until the expression is true."""
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, f"{script} did not become true"
            time.sleep(0.02)

    def picture(self, path: Path) -> None:
        """Save all of the page as a PNG."""
        made = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))


@contextmanager
def browser(profile: Path):
    """A page in a browser of its own."""
    theirs, write = os.pipe()
    read, to_us = os.pipe()
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
        "--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}",
    ]  # fmt: skip
    command = [sys.executable, "-c", START, str(theirs), str(to_us), PATH, *options]
    process = subprocess.Popen(
        command, pass_fds=(theirs, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    os.close(to_us)
    try:
        yield Page(write, read)
    finally:
        process.kill()
        process.wait(20)
        os.close(write)
        os.close(read)
