"""Checkpoints of a run: trainable parameters, optimizer state and the step, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from minilora.backend import get_array_module
from minilora.nn import Module
from minilora.storage import atomic_folder, read_json, read_safetensors, write_safetensors
from minilora.training.optim import Optimizer

FORMAT = 1


def trainable_state(model: Module) -> dict[str, np.ndarray]:
    """Name -> array of the parameters that are being trained."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: a for name, a in model.state_dict().items() if name in trained}


def checkpoints(folder: Path | str) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    folders = [p for p in Path(folder).glob("step-*") if p.name[5:].isdecimal()]
    # By number: as text, step-1000000 comes before step-999999.
    return sorted(folders, key=lambda p: int(p.name[5:]))


def save_checkpoint(
    folder: Path | str,
    model: Module,
    optimizer: Optimizer,
    settings: dict,
    keep: int | None = 2,
    step: int | None = None,
) -> Path:
    """Write `folder/step-NNNNNN`, then delete all but the newest `keep` checkpoints.

    keep: None deletes none.
    step: of the run; the optimizer's own count unless given (it may have served an earlier run).
    """
    step = optimizer.steps if step is None else step
    path = Path(folder) / f"step-{step:06d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(path) as part:
        write_safetensors(part / "trainable.safetensors", trainable_state(model))
        write_safetensors(part / "optimizer.safetensors", optimizer.state_dict())
        about = {"format": FORMAT, "step": step, "settings": settings}
        (part / "state.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    for old in checkpoints(folder)[: -keep if keep else 0]:
        shutil.rmtree(old)
    return path


def _read_about(path: Path) -> dict:
    """state.json of a checkpoint. Raises ValueError for none, or one of another format."""
    try:
        about = read_json(path / "state.json")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint: {error}") from None
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} has checkpoint format {about.get('format')}, expected {FORMAT}")
    if not isinstance(about.get("settings"), dict) or not isinstance(about.get("step"), int):
        raise ValueError(f"{path} is not a checkpoint: state.json lacks settings or step")
    return about


def load_checkpoint(path: Path | str, model: Module, optimizer: Optimizer, settings: dict) -> int:
    """Put a checkpoint back; the number of steps it has behind it.

    Raises ValueError, before anything changes, when names, shapes or settings differ from the
    run's (a resumed run with other settings would not be the same run), or a number is not finite.
    """
    path = Path(path)
    about = _read_about(path)
    settings = json.loads(json.dumps(settings))  # as the file has them: lists for tuples
    if about["settings"] != settings:
        theirs = about["settings"]
        differing = {
            key: (theirs.get(key), settings.get(key))
            for key in sorted(theirs.keys() | settings.keys())
            if theirs.get(key) != settings.get(key)
        }
        raise ValueError(f"{path} belongs to another run: (its setting, this run's) {differing}")
    state, _ = read_safetensors(path / "trainable.safetensors")
    moments, _ = read_safetensors(path / "optimizer.safetensors")
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if state.keys() != own.keys() or any(state[n].shape != own[n].shape for n in own):
        raise ValueError(f"{path} holds other parameters than the model trains")
    for file, arrays in (("trainable", state), ("optimizer", moments)):
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise ValueError(
                f"{path / file}.safetensors got NaN or infinity in {broken[0]}, expected finite "
                "numbers; delete this checkpoint to continue from the one before"
            )
    optimizer.load_state_dict(moments)
    for name, parameter in own.items():
        parameter.data = get_array_module(parameter.data).array(state[name])
    return int(about["step"])
