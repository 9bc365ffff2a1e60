from __future__ import annotations

import sys

import pytest

from minilora import backend
from tests.device import strict_cupy


@pytest.fixture
def cupy(monkeypatch):
    """The strict stand-in where minilora looks for CuPy, so that "gpu" is a device."""
    module = strict_cupy.make_cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    backend.is_gpu_available.cache_clear()
    strict_cupy.syncs.clear()
    yield module
    backend.is_gpu_available.cache_clear()
