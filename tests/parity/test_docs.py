"""docs/parity.md says what the code holds."""

import re
from pathlib import Path

import numpy as np

from resnet_jax.parity import TOLERANCES, fill_page
from resnet_jax.parity.report import Report, Row, Section

PAGE = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()


def test_the_tolerances_are_those_of_the_code():
    for name, t in TOLERANCES.items():
        numbers = [f"{x:g}" for x in (t.forward, t.logits, t.gradients, t.statistics, t.trajectory)]
        assert (
            "| " + " | ".join([name, *numbers, f"{t.cosine:.12g}", f"{t.trajectory_cosine:.12g}", t.reason]) + " |"
            in PAGE
        )


def test_a_summary_is_put_between_the_marks_and_the_text_kept():
    sections = [{"title": title, "worst": 2e-15} for title in ("forward, 224 px", "forward, 97 px", "gradients")]
    content = {"title": "resnet9, float64", "passed": True, "sections": sections}
    page = fill_page(PAGE, [content])
    assert re.search(r"\| resnet9, float64 +\| 2e-15 ", page)
    assert page.count("PASS |") == PAGE.count("PASS |") + 1
    assert page.startswith("# Parity with PyTorch")
    assert page.endswith(PAGE[-300:])
    assert fill_page(page, [content]) == page


def test_a_section_is_as_bad_as_its_largest_error():
    """Also where another row, with a stricter tolerance, comes closer to failing; and not a number is worst."""
    rows = [
        Row(name, (), (), 0.0, error, 1.0, tolerance)
        for name, error, tolerance in (("a", 3e-6, 1e-4), ("b", 1e-6, 2e-6))
    ]
    found = Report("a net", {}, [Section("forward", rows)]).content()["sections"][0]
    assert found["worst"] == 3e-6
    rows.append(Row("c", (), (), 0.0, np.nan, 1.0, 1.0))
    assert np.isnan(Report("a net", {}, [Section("forward", rows)]).content()["sections"][0]["worst"])


def test_every_published_result_passes():
    assert "FAIL |" not in PAGE.partition("<!-- results -->")[2].partition("<!-- end of results -->")[0]
