"""`docs/reliability.md` promises nothing without a test, and its statuses are the program's."""

import re

from resnet_jax import errors

from .conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_that_is_named_exists():
    names = set(re.findall(r"`(tests/[\w/.]+|test_\w+\.py)`", PAGE))
    assert len(names) > 8
    for name in names - {"tests/reliability/"}:
        path = ROOT / name if name.startswith("tests/") else ROOT / "tests" / "reliability" / name
        assert path.exists(), name


def test_every_promise_names_a_test():
    rows = [row for row in PAGE.splitlines() if row.startswith("| ") and "promise" not in row and "test" in row]
    promises = [row for row in PAGE.split("## Exit statuses")[0].splitlines() if row.startswith("| ")]
    assert len(rows) == len([row for row in promises if "held by" not in row])


def test_what_is_shown_by_slow_tests_alone_says_so():
    for line in PAGE.splitlines():
        if line.startswith("| "):
            for name, slow in re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)`( \(slow\))?", line):
                text = (ROOT / name if name.startswith("tests/") else ROOT / "tests" / "reliability" / name).read_text()
                marks, tests = text.count("pytest.mark.slow"), len(re.findall(r"^def test_", text, re.M))
                assert marks > 0 if slow else marks < tests, line


def test_the_statuses_are_the_programs():
    statuses = {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
    assert statuses == {0, 1, 2, errors.EXIT_CRASHED, errors.EXIT_PREEMPTED, errors.EXIT_HUNG}
