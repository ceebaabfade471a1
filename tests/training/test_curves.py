"""The picture of a run is drawn from whatever part of a log there is, and says the numbers that matter."""

import subprocess
import sys

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from resnet_jax.logs.curves import plot_curves
from resnet_jax.logs.shown import Shown
from resnet_jax.tasks.classify.measure import BEST, NAMES


def train_record(epoch, loss=1.0):
    return {"kind": "train", "step": 10 * epoch, "epoch": epoch, "loss": loss, "lr": 0.1 / epoch, "top1": 0.3}


def eval_record(epoch, top1, loss=1.1):
    return {"kind": "eval", "step": 10 * epoch, "epoch": epoch, "loss": loss, "top1": top1, "top5": 0.9, "count": 100}


RUN = [
    train_record(1),
    eval_record(1, 0.5),
    train_record(2),
    eval_record(2, 0.751),
    train_record(3),
    eval_record(3, 0.7),
]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws, checks that the picture is no blank sheet, and gives its three axes."""
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *args: (figures.append(self), save(self, *args))
    )

    def draw(records, best=BEST, shown=NAMES[BEST]):
        plot_curves(records, tmp_path / "curves.png", "resnet50 on pets", best, shown)
        with Image.open(tmp_path / "curves.png") as image:
            assert image.format == "PNG"
            assert min(image.size) >= 600
            assert np.asarray(image.convert("L")).std() > 5
        assert figures[-1].get_suptitle() == "resnet50 on pets"
        return figures[-1].axes

    return draw


def curves(axes):
    """Label -> (epochs, values) of the labelled lines."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_the_curves_are_those_of_the_log(draw):
    accuracy, loss, rate = draw(RUN)
    name = "evaluation: best 75.10% at epoch 2, last 70.00%"
    assert curves(accuracy)[name] == ([1, 2, 3], [0.5, 0.751, 0.7])
    assert curves(loss) == {"training": ([1, 2, 3], [1.0] * 3), "evaluation": ([1, 2, 3], [1.1] * 3)}
    assert list(rate.lines[0].get_ydata()) == [0.1, 0.05, 0.1 / 3]
    assert name in [text.get_text() for text in accuracy.get_legend().get_texts()]
    star = next(line for line in accuracy.lines if line.get_marker() == "*")
    assert (*star.get_xdata(), *star.get_ydata()) == (2, 0.751)


def test_a_task_names_what_is_best(draw):
    records = [{**record, "minus_error": -record["epoch"]} for record in RUN]
    goal, _, _ = draw(records, "minus_error", Shown("minus error", "{:.1f}", "minus error (degrees)"))
    assert "evaluation: best -1.0 at epoch 1, last -3.0" in curves(goal)
    assert goal.get_ylabel() == "minus error (degrees)"
    assert "%" not in "".join(label.get_text() for label in goal.get_yticklabels())


def test_of_equally_good_evaluations_the_newest_is_best(draw):
    accuracy, _, _ = draw([eval_record(epoch, 0.5) for epoch in (1, 2, 3)])
    assert "evaluation: best 50.00% at epoch 3, last 50.00%" in curves(accuracy)


@pytest.mark.parametrize(
    ("smallest", "scale"), [(0.5, "linear"), (0.01, "log"), (0.0, "linear"), (-0.01, "linear"), (None, "linear")]
)
def test_a_loss_that_spans_decades_is_drawn_on_a_log_scale(draw, smallest, scale):
    _, loss, _ = draw([train_record(1, 2.0), train_record(2, smallest)])
    assert loss.get_yscale() == scale


@pytest.mark.parametrize(
    "records",
    [
        [],
        RUN[:1],
        RUN[1:2],
        RUN[::2],
        RUN[1::2],
        [{"kind": "eval", "step": 5, "epoch": 0.5, "loss": 1.0, "top1": None}],
    ],
    ids=["nothing", "one of training", "one evaluation", "no evaluation", "only evaluations", "no number"],
)
def test_any_part_of_a_log_will_do(draw, records):
    accuracy, loss, _ = draw(records)
    assert len(curves(loss)) == len({record["kind"] for record in records})
    assert accuracy.get_xlim()[0] == 0


def test_no_display_and_no_global_state_is_needed(tmp_path):
    program = (
        "import sys, resnet_jax.logs.curves as curves\n"
        "assert 'matplotlib' not in sys.modules, 'imported too early'\n"
        f"curves.plot_curves([], {str(tmp_path / 'x.png')!r}, '', 'x', curves.Shown('x'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=3000)
