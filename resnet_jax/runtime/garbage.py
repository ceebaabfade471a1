"""Memory of this process that nothing uses. Standard library only."""

import ctypes
import gc
import sys


def collect_seldom() -> None:
    """Looks for garbage after every 50,000 new objects, not after every 700. For commands; a library leaves it alone.

    Tracing makes very many small objects, and nearly all of them are needed. Without this, `python train.py --epochs 1`
    takes 7 to 13 % more CPU time.
    """
    gc.set_threshold(50_000, 20, 50)


def give_back() -> None:
    """Gives memory that is free back to the system, where the C library can (glibc on Linux).

    glibc keeps what compiling has freed, 0.3 GB for a training step of FCN, beside all that the program then takes. The
    call took 0.1 s there.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
