"""How often Python looks for garbage. Standard library only."""

import gc


def collect_seldom() -> None:
    """Looks for garbage after every 50,000 new objects, not after every 700. For commands; a library leaves it alone.

    Tracing makes millions of small objects, and nearly all of them are needed. Without this, a tenth of the time until
    the first step of `python train.py` is a search for garbage among them.
    """
    gc.set_threshold(50_000, 20, 50)
