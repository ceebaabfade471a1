"""How a number of a task is named and written for people: on the screen, in the curves, in a run's last line."""

from collections.abc import Mapping
from typing import NamedTuple


class Shown(NamedTuple):
    """How one number of the log is shown.

    Attributes:
      label: its name for people, such as `top-1`.
      form: how a value is written, such as `{:.2%}`. With a percent sign, values are fractions.
      title: title of an axis, such as `top-1 accuracy`; empty = the label.
    """

    label: str
    form: str = "{:.4f}"
    title: str = ""

    @property
    def is_fraction(self) -> bool:
        return "%" in self.form

    def text(self, value: float) -> str:
        return self.form.format(value)


Names = Mapping[str, Shown]
"""How a task's numbers are shown, by their names in the log, in this order."""
