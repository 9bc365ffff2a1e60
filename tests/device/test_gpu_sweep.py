"""`sweep --device gpu`: its runs are on the card; without one it is refused before it writes."""

from __future__ import annotations

from minilora import backend
from minilora.lora import Adapter
from minilora.runs import adapt as adapting
from minilora.runs.sweep import drive, sweep
from minilora.runs.sweep.pools import guarded
from tests.cli.conftest import base, make_base
from tests.device.strict_cupy import syncs
from tests.runs.sweep.test_drive import write
from tests.says import refusal

__all__ = ["base", "make_base"]


def test_the_runs_of_a_sweep_are_on_the_card(cupy, base, tmp_path, monkeypatch):
    """In this process, as the stand-in is no device of another one's."""
    monkeypatch.setattr(adapting, "plot_loss", lambda history, path: None)
    monkeypatch.setattr(drive, "on_cards", lambda points: map(guarded, points))
    file, waits = write(base, tmp_path), syncs["get"]
    found = sweep(file, tmp_path / "gpu", device="gpu")
    assert (found.ran, found.failures) == (4, {}) and syncs["get"] > waits
    adapters = [
        Adapter.read(path)
        for path in (tmp_path / "gpu" / "runs").iterdir()
        if path.suffix != ".run"
    ]
    assert {adapter.provenance["device"] for adapter in adapters} == {"gpu"}
    again = sweep(file, tmp_path / "gpu", device="gpu")
    assert (again.ran, again.kept) == (0, 4)


def test_without_a_card_a_sweep_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "is_gpu_available", lambda: False)
    for device, told in (("gpu", "CuPy"), ("cuda", "'cuda'")):
        with refusal(ValueError, told):
            sweep(write(base, tmp_path), tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()
