"""What a study leaves in its folder beside its runs: tables, pictures, a page."""

from pathlib import Path

from resnet_jax.files import write_atomically
from resnet_jax.studies.claims import claims
from resnet_jax.studies.opened import Opened
from resnet_jax.studies.page import render
from resnet_jax.studies.pictures import draw_all
from resnet_jax.studies.results import Results
from resnet_jax.studies.table import comma_separated, markdown

TABLE, NUMBERS, PAGE = "table.md", "table.csv", "index.html"


def write_tables(results: Results, workdir: Path) -> None:
    said = "".join(f"- {claim.text}\n" for claim in claims(results))
    text = f"# {results.study.title}\n\n{results.study.question}\n\n{markdown(results)}"
    write_atomically(workdir / TABLE, text + (f"\n{said}" if said else ""))
    write_atomically(workdir / NUMBERS, comma_separated(results))


def write_all(results: Results, opened: Opened, command: str) -> Path:
    """Tables, pictures and the page. Returns the path of the page."""
    write_tables(results, opened.workdir)
    pictures = draw_all(results, opened.workdir)
    path = opened.workdir / PAGE
    write_atomically(path, render(results, pictures, command))
    return path
