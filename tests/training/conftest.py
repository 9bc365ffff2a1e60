"""The tiny run of tinyrun.py, for tests that can't import it by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tinyrun.py as a module."""
    path = Path(__file__).with_name("tinyrun.py")
    spec = importlib.util.spec_from_file_location("tinyrun", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
