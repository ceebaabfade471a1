"""Names that users gave are shown as they are."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from resnet_jax import display
from resnet_jax.commands.data_show import draw_grid
from resnet_jax.logs.curves import plot_curves
from resnet_jax.logs.shown import Shown
from resnet_jax.tasks.classify.confusion import plot_confusion
from resnet_jax.tasks.classify.report import CALIBRATION_BINS, EvalReport

NAMES = ["[bold]", "[/x]", "lr[a-c]", ":smile:", "a $x_1$", r"$\foo$", "b\udcff"]


def test_a_console_prints_names_as_they_are():
    shown = io.StringIO()
    display.plain_console(file=shown).print("runs/lr[a-c] and :smile: and [/x]")
    assert shown.getvalue() == "runs/lr[a-c] and :smile: and [/x]\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_shows_names_as_they_are(name):
    text = Figure().text(0, 0, display.in_figure(name))
    assert text._preprocess_math(text.get_text()) == (name.replace("\udcff", "\ufffd"), False)


def test_every_figure_can_be_drawn_with_any_name(tmp_path):
    count = len(NAMES)
    report = EvalReport(
        loss=0.1,
        top1=0.1,
        top5=1.0,
        count=count**2,
        confusion=np.ones((count, count), int),
        calibration=np.ones((3, CALIBRATION_BINS)),
    )
    plot_confusion(report, NAMES, tmp_path / "confusion.png", NAMES[5])
    plot_curves([], tmp_path / "curves.png", NAMES[5], "top1", Shown("top-1"))
    draw_grid(np.zeros((count, 8, 8, 3)), NAMES, NAMES[5], "notes", tmp_path / "grid.png")
    for name in ("curves.png", "grid.png", "confusion.png"):
        assert imread(tmp_path / name).ndim == 3


def test_commands_print_names_that_their_terminal_cannot_show(tmp_path):
    """A path that is no text, and a terminal that knows only ASCII."""
    folder = tmp_path / "photos"
    for split in ("train", "test"):
        for name in ("b\udcff", "é", "[bold]"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / split / name / "1.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "resnet_jax", "data", "info", f"folder:{folder}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert all(name in done.stdout for name in (r"b\udcff", r"\xe9", "[bold]"))


def test_names_that_occur_twice_get_their_numbers():
    assert display.distinct(["a", "crane", "b", "crane"]) == ["a", "crane (1)", "b", "crane (3)"]
    assert display.distinct(["a", "image"], taken=["image"]) == ["a", "image (1)"]
