"""minilora: LoRA, built in NumPy with every gradient written by hand.

Importing the package loads nothing heavy and settles one thing: BLAS starts with one thread,
because a second OpenBLAS thread spins while it waits and slows small models on a busy machine.
`MINILORA_THREADS` or `OPENBLAS_NUM_THREADS` overrides that; `minilora.backend` says when more
threads pay.
"""

from __future__ import annotations

import os
import sys

__version__ = "0.1.0"

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables by which each BLAS library is told its number of threads."""
THREAD_VARIABLES = (*BLAS_VARIABLES, "OMP_NUM_THREADS")
"""The same, and that of what else uses threads in a child process, such as torch."""


def _start_with_few_blas_threads() -> None:
    wanted = os.environ.get("MINILORA_THREADS", "").strip()
    if not wanted.isdecimal() or int(wanted) < 1:  # a bad value is reported when it is used
        if "OPENBLAS_NUM_THREADS" in os.environ:
            return
        wanted = "1"
        # Child processes inherit the variable; this mark tells them that no user chose it.
        os.environ["MINILORA_BLAS_DEFAULT"] = "1"
    if "numpy" not in sys.modules:
        for name in BLAS_VARIABLES:
            os.environ.setdefault(name, wanted)
        return
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return
    threadpool_limits(int(wanted), user_api="blas")


_start_with_few_blas_threads()
