"""Downloads by the tools that people have: pip or uv for a wheel, huggingface_hub for a model."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

POLL_SECONDS = 0.25
# A Ctrl-C that falls between two instructions of Popen.wait leaves its lock held (about 1 in 800
# of those in its first 4 ms): a later wait without a limit would never return.
REAP_SECONDS = 2.0
HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "LICENSE*", "README.md"]


@contextlib.contextmanager
def one_at_a_time(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file; wait for another process that holds it, and outlive one that was killed."""
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        say("another fetch is at work; waiting for it")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def downloader() -> list[str]:
    """The start of a `pip download` command: this Python's own pip, else one that uv brings.

    Raises ValueError where there is neither.
    """
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
        return own
    uv = shutil.which("uv")
    if uv is None:
        raise ValueError(
            f"{sys.executable} has no pip and there is no uv: install one of them, for example "
            f"with `{sys.executable} -m ensurepip`"
        )
    return [uv, "tool", "run", "--quiet", "--no-cache", "pip"]


def wheel(requirement: str, folder: Path, size: int) -> None:
    """Download one wheel, without what it depends on, into a new folder; `size` is for the bar.

    Raises ValueError with the tool's own last words when it fails.
    """
    scratch = folder.parent / "scratch"  # pip's unfinished file, which a kill would leave in /tmp
    folder.mkdir()
    scratch.mkdir()
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off"]
    options += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    places = {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    log = scratch / "log.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*downloader(), "download", *options, requirement],
            stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **places},
        )  # fmt: skip
        try:
            _watch(process, folder.parent, size)
        finally:
            if process.poll() is None:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(REAP_SECONDS)
    if process.returncode:
        raise ValueError(
            f"could not download {requirement}: {_last_words(log)}; check the network or the "
            "package index, then run the same command again"
        )


def _watch(process: subprocess.Popen, folder: Path, size: int) -> None:
    """Wait for the process, with a bar of the bytes that it has written below `folder`."""
    with tqdm(total=size, unit="B", unit_scale=True, desc="download", disable=None) as bar:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            bar.update(max(0, min(_bytes_below(folder), size) - bar.n))
            if process.returncode is not None:
                return


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # moved meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return " ".join(errors[-2:])[:400] or "the downloader said nothing"


def from_hub(hub_id: str, folder: Path) -> None:
    """Download a model's folder, as safetensors, from the Hugging Face hub.

    Raises ValueError saying how to install huggingface_hub, or why the hub did not answer.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise ValueError(
            "--source hub needs the huggingface_hub package: pip install huggingface_hub"
        ) from None
    try:
        hub.snapshot_download(repo_id=hub_id, local_dir=str(folder), allow_patterns=HUB_PATTERNS)
    except Exception as error:  # its errors come from several libraries
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"could not download {hub_id} from the hub: {reason}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # its notes on the download
    missing = [n for n in ("config.json", "tokenizer.json") if not (folder / n).is_file()]
    if missing or not list(folder.glob("*.safetensors")):
        raise ValueError(f"{hub_id} came without {missing or 'safetensors'}, expected a model")
