"""docs/parity.md says what the code holds."""

from pathlib import Path

from resnet_jax.parity import TOLERANCES, fill_page

PAGE = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()


def test_the_tolerances_are_those_of_the_code():
    for name, t in TOLERANCES.items():
        numbers = [f"{x:g}" for x in (t.forward, t.logits, t.gradients, t.statistics, t.trajectory)]
        assert "| " + " | ".join([name, *numbers, f"{t.cosine:.12g}", t.reason]) + " |" in PAGE


def test_a_summary_is_put_between_the_marks_and_the_text_kept():
    sections = [{"title": title, "worst": 2e-15} for title in ("forward, 224 px", "forward, 97 px", "gradients")]
    content = {"title": "resnet9, float64", "passed": True, "sections": sections}
    page = fill_page(PAGE, [content])
    assert "| resnet9, float64 | 2e-15 " in page
    assert page.count("PASS |") == 1
    assert page.startswith("# Parity with PyTorch")
    assert page.endswith(PAGE[-300:])
    assert fill_page(page, [content]) == page


def test_every_published_result_passes():
    assert "FAIL |" not in PAGE.partition("<!-- results -->")[2].partition("<!-- end of results -->")[0]
