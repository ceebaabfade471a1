"""How a number of a task is called and written for people: on the screen, in the curves, in a run's last line."""

from collections.abc import Mapping
from typing import NamedTuple


class Shown(NamedTuple):
    """Of one number, by the name that it has in the log.

    Attributes:
      label: such as `top-1`.
      form: how a value is written, such as `{:.2%}`; with a percent sign, values are fractions.
      title: of an axis, such as `top-1 accuracy`; empty = the label.
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
"""What is shown of a task's numbers, in this order."""
