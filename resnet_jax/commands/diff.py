"""`python -m resnet_jax diff DIR DIR`"""

import json
from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from resnet_jax.display import plain_console

LONG = 24  # characters


def diff(first: Positional[Path], second: Positional[Path], as_json: bool = False) -> None:
    """Show how two runs differ: config, code, versions, devices, data and result.

    Args:
        first: The folder of a run.
        second: The folder of another.
        as_json: Print one JSON object instead of a table.
    """
    from resnet_jax.run.environment import compare_runs

    differences = compare_runs(first, second)
    if as_json:
        print(json.dumps({name: list(values) for name, values in differences.items()}))
        return
    if not differences:
        print("The two runs do not differ.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("", str(first), str(second)):
        table.add_column(heading, overflow="fold")
    for name, values in differences.items():
        table.add_row(_narrow(name), *("-" if value is None else str(value) for value in values))
    plain_console().print(table)


def _narrow(name: str) -> str:
    """A long name, such as `config.data.augment.crop_min_area`, on two lines, so that the values fit in 80 columns."""
    groups, _, last = name.rpartition(".")
    return f"{groups}.\n{last}" if len(name) > LONG else name
