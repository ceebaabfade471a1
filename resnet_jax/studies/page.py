"""The page of a study: one HTML file with its table, its pictures, what is said of them, and all settings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resnet_jax import __version__
from resnet_jax.analysis.report.pictures import data_uri
from resnet_jax.config.checked import flat
from resnet_jax.studies.claims import claims
from resnet_jax.studies.results import Results
from resnet_jax.studies.table import cells, columns, notes

PAGE = Path(__file__).parent / "page"


def render(results: Results, pictures: Sequence[Path], command: str) -> str:
    """The page. It holds its pictures in itself.

    Args:
      pictures: PNG files.
      command: that made it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    configs = {row.cell.name: flat(asdict(row.cell.config)) for row in results.rows}
    common, different = _split(configs)
    return environment.get_template("page.html").render(
        study=results.study,
        columns=columns(results),
        axes=len(results.study.axes),
        rows=[cells(results, row) for row in results.rows],
        notes=notes(results),
        claims=claims(results),
        pictures=[(path.stem.replace("_", " "), data_uri(path.read_bytes(), "image/png")) for path in pictures],
        names=list(configs),
        different=different,
        common=common,
        networks={row.cell.name: repr(row.cell.network) for row in results.rows if row.cell.network is not None},
        seeds=sorted({outcome.seed for row in results.rows for outcome in row.outcomes}),
        command=command,
        version=__version__,
        css=Markup((PAGE / "page.css").read_text("utf-8")),
    )


def _split(configs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The settings that all cells have, and those in which they differ, cell by cell."""
    names = list(dict.fromkeys(name for config in configs.values() for name in config if name != "seed"))
    common, different = {}, {}
    for name in names:
        values = [repr(config.get(name)) for config in configs.values()]
        if len(set(values)) == 1:
            common[name] = values[0]
        else:
            different[name] = values
    return common, different
