"""How often Python looks for garbage. Standard library only."""

import gc


def collect_seldom() -> None:
    """Looks for garbage after every 50,000 new objects, not after every 700. For commands; a library leaves it alone.

    Tracing makes very many small objects, and nearly all of them are needed. Without this, `python train.py --epochs 1`
    takes 7 to 13 % more CPU time.
    """
    gc.set_threshold(50_000, 20, 50)
