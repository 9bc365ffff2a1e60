"""The tiny base of the commands' tests."""

from tests.cli.conftest import base

__all__ = ["base"]
