"""The tiny run, for the tests of this folder."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tinyrun.py, whose models are those of tests/tiny.py."""
    from tests.training import tinyrun

    return tinyrun
