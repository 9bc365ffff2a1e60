"""Ends an answer that runs too long, on every system and in every thread.

A second thread waits, and then has Python raise `TooLong` in the thread that runs the answer
(`PyThreadState_SetAsyncExc`), which it does between two steps of Python code. So a loop ends; a
single call into C that never returns, such as `time.sleep(10**9)`, does not.
"""

from __future__ import annotations

import ctypes
import sys
import threading

TIME_LIMIT = 20.0
"""Seconds that one check may take; our solutions take a fraction of one."""
AGAIN = 1.0
"""Seconds until TooLong is raised again in an answer that caught it, as a bare `except` does."""


class TooLong(BaseException):
    """Raised in an answer that runs too long. No Exception: `except Exception` must not eat it."""


class TimeLimit:
    """`with TimeLimit(seconds):` raises TooLong in its body after so many seconds.

    Enter it in a function that does nothing else: the clock stops at the latest when that returns.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> TimeLimit:
        self._thread, self._frame = threading.get_ident(), sys._getframe(1)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over.set()
            _raise_in(self._thread, None)  # what was sent as the body ended must not come later
        del self._frame

    def _watch(self) -> None:
        wait = self.seconds
        while not self._over.wait(wait):
            with self._lock:
                if self._over.is_set() or not self._is_running():
                    return
                _raise_in(self._thread, TooLong)
            wait = AGAIN

    def _is_running(self) -> bool:
        """Whether the function with the `with` has not returned: TooLong may hit `__exit__` too."""
        frame = sys._current_frames().get(self._thread)
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have Python raise `kind` in a thread as soon as it can; None takes back what is still due."""
    exception = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
