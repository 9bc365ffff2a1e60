"""Adapters out of git: a folder as it was in a commit, read without touching the working tree."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from minilora.lora import Adapter, AdapterError
from minilora.lora.peft_format import CONFIG, SIDECAR, TENSORS


def read_adapter(text: str) -> Adapter:
    """The adapter in a folder, or in a folder of a commit: "REV:PATH" as git writes it.

    As everywhere in git, PATH is told from the top of the repository, or begins with "./". Raises
    AdapterError as `Adapter.read`, or naming what git says of a revision that it does not find.
    """
    if Path(text).exists() or ":" not in text:
        return Adapter.read(text)
    with _folder_of(text) as folder:
        try:
            adapter = Adapter.read(folder)
        except AdapterError as error:
            raise AdapterError(str(error).replace(str(folder), text)) from None
    return Adapter(
        adapter.config,
        {module: adapter.arrays(module) for module in adapter.modules},
        base=adapter.base,
        provenance=adapter.provenance,
        source=text,
        minilora_version=adapter.minilora_version,
        rule=adapter.rule,
    )


@contextlib.contextmanager
def _folder_of(text: str) -> Iterator[Path]:
    """A folder with the adapter's files as they are in the commit; it goes with the `with`."""
    expected = f"got {text!r}, expected a folder, or REV:PATH of one in a git repository"
    if text.startswith("-"):
        raise AdapterError(expected)
    with tempfile.TemporaryDirectory() as folder:
        for name in (CONFIG, TENSORS, SIDECAR):
            command = ["git", "cat-file", "blob", f"{text.rstrip('/')}/{name}"]
            try:
                done = subprocess.run(command, capture_output=True, check=False)
            except FileNotFoundError:
                raise AdapterError(f"{expected}; there is no git here") from None
            if done.returncode == 0:
                (Path(folder) / name).write_bytes(done.stdout)
            elif name != SIDECAR:
                said = done.stderr.decode("utf-8", "replace").strip().removeprefix("fatal: ")
                raise AdapterError(f"{expected}; git says: {said}")
        yield Path(folder)
