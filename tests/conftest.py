"""Settings for every test: one BLAS thread, no network, and --all for the slow comparisons."""

from __future__ import annotations

import os

# Before NumPy is imported: a second OpenBLAS thread spins while it waits.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs a download is a mistake

import pytest  # noqa: E402

ONLY_WITH_ALL = ("interop", "gpu", "solved")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="also run tests marked interop and solved, and gpu where there is one",
    )


def pytest_ignore_collect(collection_path, config: pytest.Config) -> bool | None:
    """Leave folders of such tests unread, so that they may import what is not installed."""
    if collection_path.name in _left_out(config) and collection_path.parent.name == "tests":
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = _left_out(config)
    kept, dropped = [], []
    for item in items:
        (dropped if any(item.get_closest_marker(m) for m in left_out) else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    from minilora.backend import is_gpu_available

    for item in items:
        if item.get_closest_marker("gpu") and not is_gpu_available():
            item.add_marker(pytest.mark.skip(reason="needs CuPy and a CUDA device"))


def _left_out(config: pytest.Config) -> tuple[str, ...]:
    """The marks whose tests this run leaves out: those of ONLY_WITH_ALL that nobody asked for."""
    if config.getoption("--all"):
        return ()
    asked = config.getoption("-m") or ""
    return tuple(mark for mark in ONLY_WITH_ALL if mark not in asked)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if _left_out(config):
        marks = ", ".join(_left_out(config))
        terminalreporter.write_line(f"left out: tests marked {marks} (--all runs them)")
