"""The picture of a verification: the pairs accepted at each rate of false accepts, and the cosines of pairs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_jax.analysis.colours import BLUE, GREY, INK, VERMILION
from resnet_jax.display import in_figure
from resnet_jax.tasks.embed.measure import Verified
from resnet_jax.tasks.embed.verification import FALSE_ACCEPT_RATES, LEAST_ACCEPTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 80
POINTS = 2_000
"""Of the curve: all that a picture can show, on a logarithmic axis."""


def plot_roc(found: Verified, title: str, path: str | Path) -> None:
    """Draws the receiver operating characteristic with a logarithmic axis, and histograms of the cosines, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(in_figure(title), fontsize=min(13.0, 13 * 110 / len(title)), fontweight="bold")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, found)
    _draw_cosines(right, found)
    figure.savefig(path)


def _draw_curve(axes: "Axes", found: Verified) -> None:
    from matplotlib.ticker import PercentFormatter

    curve = found.curve
    one = 1 / max(curve.others, 1)  # the rate of one false accept
    rates = np.geomspace(one, 1, POINTS)
    places = np.searchsorted(curve.false, rates, side="right") - 1
    accepted = np.where(places < 0, 0, curve.accepted[places])
    axes.plot(rates, accepted, color=BLUE, linewidth=1.6, drawstyle="steps-post")
    measured = [(rate, at) for rate in FALSE_ACCEPT_RATES if (at := curve.at(rate))]
    for rate, (share, _) in measured:
        axes.plot(rate, share, "o", color=BLUE, markersize=5)
        axes.annotate(
            f"{100 * share:.1f} %",
            (rate, share),
            (6, -9),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
            va="top",
        )
    least = min(LEAST_ACCEPTED * one, 1.0)
    axes.axvspan(one, least, color=GREY, alpha=0.15, linewidth=0)
    axes.text(
        (one * least) ** 0.5, 0.02, f"fewer than {LEAST_ACCEPTED}\nfalse accepts", ha="center", fontsize=8, color=GREY
    )
    axes.set_xscale("log")
    axes.set_xlim(one, 1)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"FAR: accepted, of {curve.others:,} pairs of different identities")
    axes.set_ylabel(f"TAR: accepted, of {int(found.same.sum()):,} pairs of one identity")
    axes.set_title(f"equal error rate {curve.equal_error:.2%}", fontsize=10)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_cosines(axes: "Axes", found: Verified) -> None:
    low = max(-1.0, float(found.scores.min()) - 0.02)
    edges = np.linspace(low, 1, BINS + 1)
    for kind, colour, name in ((found.same, BLUE, "of one identity"), (~found.same, VERMILION, "of different ones")):
        scores = np.clip(found.scores[kind], low, 1)
        counts, _ = np.histogram(scores, edges)
        shares = 100 * counts / max(len(scores), 1)
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
        axes.stairs(shares, edges, color=colour, linewidth=1.4, label=f"{len(scores):,} pairs {name}")
    measured = [(rate, at) for rate in FALSE_ACCEPT_RATES if (at := found.curve.at(rate))]
    top = axes.get_ylim()[1]
    for rate, (_, threshold) in measured:
        axes.axvline(threshold, color=INK, linewidth=0.8, linestyle=":")
        axes.text(threshold, top, f"FAR {rate:g} ", fontsize=8, color=INK, va="top", ha="right", rotation=90)
    axes.set_xlabel("cosine of the embeddings")
    axes.set_ylabel("% of the pairs of this kind, in a bin")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", fontsize=8.5, frameon=False)
