"""The result of a comparison: rows of numbers, a verdict, and the place where the two sides begin to differ."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.files import write_atomically


@dataclass(frozen=True)
class Row:
    """One tensor on both sides.

    Attributes:
      name: PyTorch's name.
      ours: shape of our tensor in PyTorch's order of axes.
      theirs: shape of PyTorch's tensor.
      max_abs: largest difference.
      relative: largest difference, divided by the largest magnitude in PyTorch's tensor.
      cosine: of the angle between the two tensors, as vectors.
      tolerance: the largest `relative` that passes.
      min_cosine: the least `cosine` that passes.
    """

    name: str
    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    max_abs: float
    relative: float
    cosine: float
    tolerance: float
    min_cosine: float = -1.0

    @property
    def ok(self) -> bool:  # False for NaN
        return self.ours == self.theirs and self.relative <= self.tolerance and self.cosine >= self.min_cosine


def compare_arrays(
    name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float, min_cosine: float = -1.0, *, nothing: float = 0.0
) -> Row:
    """Compares two arrays in the same order of axes. If the shapes differ, the row fails with infinite error.

    Args:
      nothing: arrays whose numbers are all smaller than this, on both sides, are 0 apart from rounding, and agree.
    """
    if ours.shape != theirs.shape:
        return Row(name, ours.shape, theirs.shape, np.inf, np.inf, np.nan, tolerance, min_cosine)
    a, b = (np.asarray(x, np.float64).ravel() for x in (ours, theirs))
    max_abs = float(np.max(np.abs(a - b), initial=0.0))
    scale = float(np.max(np.abs(b), initial=0.0))
    if max(scale, float(np.max(np.abs(a), initial=0.0))) < nothing:
        return Row(name, ours.shape, theirs.shape, max_abs, 0.0, 1.0, tolerance, min_cosine)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    relative = max_abs / scale if scale else (0.0 if max_abs == 0 else np.inf)
    cosine = min(float(a @ b) / norms, 1.0) if norms else 1.0
    return Row(name, ours.shape, theirs.shape, max_abs, relative, cosine, tolerance, min_cosine)


@dataclass
class Section:
    """Rows about one question.

    Attributes:
      rows: in the order in which the network computes them.
      shown: names of the rows of the short table; None = the worst rows.
    """

    title: str
    rows: list[Row]
    shown: set[str] | None = None

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    @property
    def worst(self) -> Row:
        return max(
            self.rows, key=lambda row: np.inf if np.isnan(row.relative) else row.relative / (row.tolerance or 1.0)
        )

    def table(self, verbose: bool) -> list[Row]:
        """The rows to print: all, or the short table with every row that fails (at most ten of those)."""
        if verbose:
            return self.rows
        if self.shown is None:
            order = sorted(self.rows, key=lambda row: -np.inf if np.isnan(row.relative) else -row.relative)[:5]
            return [row for row in self.rows if row in order]
        failing = [row.name for row in self.rows if not row.ok][:10]
        return [row for row in self.rows if row.name in self.shown or row.name in failing]


@dataclass
class Report:
    """The results of one comparison.

    Attributes:
      title: what was compared, and how.
      difference: where the two sides begin to differ, in words; None if they agree.
    """

    title: str
    setting: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    difference: str | None = None

    @property
    def passed(self) -> bool:
        return all(section.ok for section in self.sections)

    def __str__(self) -> str:
        return self.markdown()

    def markdown(self, verbose: bool = False) -> str:
        lines = [f"## {self.title}: {'PASS' if self.passed else 'FAIL'}", ""]
        lines += [", ".join(f"{key} {value}" for key, value in self.setting.items()), ""]
        if self.difference:
            lines += [f"**{self.difference}**", ""]
        for section in self.sections:
            table = section.table(verbose)
            head = f"### {section.title}: {'PASS' if section.ok else 'FAIL'}"
            head += f" ({len(table)} worst of {len(section.rows)})" if section.shown is None and not verbose else ""
            lines += [head, "", *_aligned([_HEADER, *(_cells(row) for row in table)]), ""]
        return "\n".join(lines)

    def content(self) -> dict[str, Any]:
        """Every number, in a form for JSON."""
        return {
            "title": self.title,
            "passed": self.passed,
            "difference": self.difference,
            **self.setting,
            "sections": [
                {
                    "title": part.title,
                    "passed": part.ok,
                    "worst": float(np.max([row.relative for row in part.rows])),
                    "rows": list(map(_numbers, part.rows)),
                }
                for part in self.sections
            ],
        }


def _numbers(row: Row) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"passed": row.ok}


_HEADER = ["tensor", "shape", "max abs", "relative", "tolerance", "cosine", ""]


def _cells(row: Row) -> list[str]:
    shape = "x".join(map(str, row.theirs)) or "scalar"
    if row.ours != row.theirs:
        shape = f"ours {'x'.join(map(str, row.ours))}, theirs {shape}"
    numbers = [f"{row.max_abs:.1e}", f"{row.relative:.1e}", f"{row.tolerance:.0e}", f"{row.cosine:.12f}"]
    return [row.name, shape, *numbers, "ok" if row.ok else "FAIL"]


def _aligned(rows: list[list[str]]) -> list[str]:
    """A Markdown table that is also readable as plain text. The first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


RESULTS = ("<!-- results -->", "<!-- end of results -->")


def write_reports(reports: list[Report], path: Path, verbose: bool = False) -> None:
    """Writes all reports as Markdown to `path`, and every number as JSON beside it.

    A page with the marks `RESULTS`, such as docs/parity.md, keeps its text and gets a summary between the marks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = [report.content() for report in reports]
    page = path.read_text() if path.exists() else ""
    if RESULTS[0] in page:
        page = fill_page(page, contents)
    else:
        page = "\n".join(report.markdown(verbose) for report in reports)
    write_atomically(path, page)
    write_atomically(path.with_suffix(".json"), json.dumps(contents, indent=1) + "\n")


def fill_page(page: str, contents: list[dict[str, Any]]) -> str:
    """`page` with one line per comparison between its marks: the worst relative error of every section.

    Lines about other comparisons stay, so that the table can be made in several runs.
    """
    kinds = ("forward", "argmax", "gradients", "running", "steps")
    header = [
        "network, dtype",
        "forward, even size",
        "forward, odd size",
        "argmax",
        "gradients",
        "statistics",
        "steps",
        "",
    ]
    before, _, rest = page.partition(RESULTS[0])
    old, _, after = rest.partition(RESULTS[1])
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in old.splitlines() if line.startswith("| ")
    ]
    lines = {line[0]: line for line in cells or [header]}
    for content in contents:
        found: dict[str, list[str]] = {kind: [] for kind in kinds}
        for section in content["sections"]:
            found[next(kind for kind in kinds if kind in section["title"])].append(f"{section['worst']:.0e}")
        forward = [*found["forward"], "", ""][:2]
        numbers = [*forward, *(", ".join(found[kind]) for kind in kinds[1:])]
        lines[content["title"]] = [content["title"], *numbers, "PASS" if content["passed"] else "FAIL"]
    return before + "\n".join([RESULTS[0], *_aligned(list(lines.values())), RESULTS[1]]) + after
