"""The notebook that code runs in, where it runs in one."""

from __future__ import annotations

import sys
from typing import Any


def live_shell() -> Any | None:
    """IPython's shell of a live kernel; None in plain Python. IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell if getattr(shell, "kernel", None) is not None else None
