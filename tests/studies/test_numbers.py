"""Intervals and slopes against scipy and numpy, and what is said of them."""

import numpy as np
import pytest
from scipy import stats

import resnet_jax as rn
from resnet_jax.logs.shown import Shown
from resnet_jax.studies.claims import claims
from resnet_jax.studies.numbers import interval, slope
from resnet_jax.studies.results import Outcome, Results, Row, training_numbers
from resnet_jax.studies.table import cells as cells_of_row
from resnet_jax.studies.table import columns, comma_separated, markdown

from .tiny import cells, study_of


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_the_interval_is_scipys(count):
    values = np.random.default_rng(count).normal(3, 2, count)
    found = interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean, found.deviation) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_seed_has_no_interval():
    found = interval([2.0])
    assert (found.deviation, found.half, found.sign) == (None, None, 0)
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_an_interval_that_ends_at_0_shows_nothing():
    assert interval([1.0, 1.1, 0.9]).sign == 1
    assert interval([-1.0, -1.1, -0.9]).sign == -1
    assert interval([1.0, -0.5, 0.2]).sign == 0


def test_the_slope_is_numpys():
    rng = np.random.default_rng(0)
    xs, ys = [20.0, 32.0, 44.0, 56.0], rng.normal(size=4).tolist()
    assert slope(xs, ys) == pytest.approx(np.polyfit(xs, ys, 1)[0])


def results_of(values, seeds=(0, 1, 2), **fields):
    """Results whose error in a cell and for a seed is `values(network, rate, seed)`; None = not complete."""
    study = study_of(seeds=seeds, numbers=("error",), **fields)
    rows = []
    for cell in cells(**fields):
        outcomes = []
        for seed in seeds:
            value = values(cell.values["network"], float(cell.values["rate"]), seed)
            if isinstance(value, float):
                outcomes.append(Outcome(seed, True, "", {"error": value, "seconds": 10.0 + seed}))
            else:
                outcomes.append(Outcome(seed, False, value or ""))
        rows.append(Row(cell, tuple(outcomes), 1234, 5_678_000))
    return Results(study, tuple(rows), {"error": Shown("error", "{:.2%}")}, ("error",))


def of(network, rate, seed):
    """Plain: rises by 2 points for 0.1, up to a hundredth of it. Residual: anything."""
    noise = (0.0, 0.0002, -0.0002)[seed]
    return 0.1 + 0.2 * rate + noise * rate if network == "plain" else 0.1 + (0.01, -0.02, 0.005)[seed] * rate


def test_slopes_are_stated_with_their_interval_or_honestly_not():
    plain, residual = claims(results_of(of, compare=(rn.Slope(along="rate", unit=0.1),)))
    low, high = stats.t.interval(0.95, 2, loc=2.0, scale=0.002 / 3**0.5)
    assert plain.text == (
        "plain: error by rate, 0.1 to 0.2: +2.00 points for each 0.1 of rate (95 % interval "
        f"{low:+.2f} to {high:+.2f}, 3 seeds). It rises with rate."
    )
    assert (plain.interval.low * 100, plain.interval.high * 100) == (pytest.approx(low), pytest.approx(high))
    assert residual.text.endswith("The interval holds 0: the evidence does not suffice to say which way it goes.")


def test_a_difference_is_taken_seed_by_seed():
    both = rn.Difference(of="plain/0.2", minus="plain/0.1")
    (found,) = claims(results_of(of, compare=(both,)))
    assert found.text.startswith(
        "plain/0.2 minus plain/0.1: error +2.00 points (95 % interval +2.00 to +2.00, 3 seeds)"
    )
    assert found.text.endswith("plain/0.2 has the higher one.")
    other = rn.Difference(of="plain/0.1", minus="plain/0.2")
    assert claims(results_of(of, compare=(other,)))[0].text.endswith("plain/0.1 has the lower one.")
    (alone,) = claims(results_of(of, seeds=(0,), compare=(both,)))
    assert (
        alone.text == "plain/0.2 minus plain/0.1: error +2.00 points. One seed has no interval, so nothing is claimed."
    )


def test_missing_runs_are_left_out_and_that_is_said():
    broken = lambda network, rate, seed: "diverged\nat step 3" if (rate, seed) == (0.2, 2) else of(network, rate, seed)
    compare = (rn.Difference(of="plain/0.2", minus="plain/0.1"), rn.Slope(along="rate"))
    results = results_of(broken, compare=compare)
    difference, plain, _ = claims(results)
    assert "2 seeds" in difference.text
    assert difference.text.endswith("Runs that are missing or failed were left out.")
    assert plain.text.endswith("Runs that are missing or failed were left out.")
    assert "- plain/0.2, seed 2: failed: diverged\n" in markdown(results)
    assert "seed 2: failed: diverged" in comma_separated(results)
    assert cells_of_row(results, results.rows[1])[3] == "2 of 3"
    nothing = results_of(lambda network, rate, seed: None if rate == 0.2 else 0.1, compare=compare)
    assert [claim.text for claim in claims(nothing)] == [
        "plain/0.2 minus plain/0.1: error: no seed has both cells, so nothing is said.",
        "plain: error by rate: no seed has all 2 cells, so nothing is said.",
        "residual: error by rate: no seed has all 2 cells, so nothing is said.",
    ]


def test_the_table_has_means_deviations_and_the_papers_figures():
    paper = {"plain/0.1": rn.Published(error=9.5, source="Somebody 2015, Table 6")}
    results = results_of(of, paper=paper)
    assert columns(results) == ["network", "rate", "error", "n", "parameters", "MACs", "seconds", "the paper's"]
    text = markdown(results)
    assert "| plain | 0.1 | 12.00 ± 0.00 % | 3 | 1,234 | 5.68 M | 11 | error 9.5 % |" in text
    assert "- The paper's: printed in Somebody 2015, Table 6, not measured here." in text
    (head, first, *_) = [line.split(",") for line in comma_separated(results).splitlines()]
    row = dict(zip(head, first, strict=False))
    values = [of("plain", 0.1, seed) for seed in range(3)]
    assert float(row["error mean"]) == pytest.approx(np.mean(values), rel=1e-12)
    assert float(row["error sd"]) == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert (row["cell"], row["error n"], row["macs"], row["paper"]) == ("plain/0.1", "3", "5678000", "error 9.5 %")
    assert "the paper's" not in columns(results_of(of))


def test_numbers_in_training_are_means_over_the_steps_of_the_last_epoch():
    (cell, *_) = cells()
    line = lambda step, epoch, top1: {"kind": "train", "step": step, "epoch": epoch, "top1": top1, "loss": 1.0}
    log = [line(4, 1.0, 0.1), line(6, 1.5, 0.5), {"kind": "eval", "step": 6}, line(8, 2.0, 0.9), line(9, 2.25, 0.3)]
    found = training_numbers(log, cell.task())
    assert found["train/top1"] == pytest.approx((2 * 0.5 + 2 * 0.9 + 1 * 0.3) / 5)
    assert training_numbers([], cell.task()) == {}
