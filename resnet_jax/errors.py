"""The errors of this package, and how they suggest a name that was nearly right.

Every message says what is wrong, the value, the rule and the remedy.
"""

from collections.abc import Iterable
from difflib import get_close_matches

# Exit statuses of `train.py`, besides 0 (complete), 1 (a mistake of the user or of a file) and 2 (wrong arguments).
EXIT_CRASHED = 70  # an error that nobody foresaw, or another process of the run has died
EXIT_PREEMPTED = 75
EXIT_HUNG = 76


class ResnetJaxError(ValueError):
    """Base of the errors that a user can mend. The command line prints only their text, without a traceback."""


class ConfigError(ResnetJaxError):
    """A config that cannot be run."""


class ModelError(ResnetJaxError):
    """A network that cannot be built with the given name and options."""


class DataError(ResnetJaxError):
    """A data set or an image that cannot be read."""


class ImageError(DataError):
    """One image that cannot be read. Training goes on without a few of them; see `DataConfig.max_broken_fraction`."""


class CheckpointError(ResnetJaxError):
    """A checkpoint folder that holds nothing that can be restored."""


class StorageError(ResnetJaxError):
    """A file of a run could not be written: the disk is full, or its folder is read-only."""


class WeightsError(ResnetJaxError):
    """A weight file that does not fit the network, or cannot be read safely."""


class CompileError(ResnetJaxError):
    """A program that could not be compiled for a device."""


class NonFiniteLossError(ResnetJaxError):
    """The loss or the gradient of `step` is infinite or not a number. The last checkpoint is from before that step."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class StudyError(ResnetJaxError):
    """Some runs of a study failed. The others are complete, and the table says which are not."""


class Preempted(Exception):
    """The run was asked to stop, and stopped after saving a checkpoint. The same command continues it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Says that `name` is not a known `kind`. Lists the known names that are like it, or all if none is."""
    known = sorted(known)
    near = get_close_matches(name, known, n=4, cutoff=0.6)
    remedy = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known)}."
    return f"unknown {kind} {name!r}. {remedy}"
