"""The picture of a similarity of networks: a heat map with the numbers in it."""

from pathlib import Path

from resnet_jax.analysis.colours import INK
from resnet_jax.analysis.similarity import Similarity
from resnet_jax.display import in_figure


def plot_similarity(result: Similarity, path: str | Path) -> None:
    """Draws the values as a PNG; the earliest stages are at the bottom and on the left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(result.rows), len(result.columns)
    width = max(6.5, 2.6 + 0.75 * columns)
    figure = Figure(figsize=(width, max(3.2, 1.9 + 0.6 * rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(result.values, origin="lower", cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for row in range(rows):
        for column in range(columns):
            value = result.values[row, column]
            colour = INK if value > 0.5 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=colour)
    axes.set_xticks(range(columns), result.columns, fontsize=9)
    axes.set_yticks(range(rows), result.rows, fontsize=9)
    for title, set_label, inches in (
        (result.second, axes.set_xlabel, width - 2.6),
        (result.first, axes.set_ylabel, max(3.2, 1.9 + 0.6 * rows) - 1.4),
    ):
        set_label(in_figure(title), fontsize=min(10.0, 10 * inches / (0.085 * max(len(title), 1))))
    heading = f"Linear CKA on {result.data}: {result.images:,} images"
    axes.set_title(
        in_figure(heading), fontsize=min(12.0, 12 * (width - 1) / (0.1 * len(heading))), fontweight="bold", loc="left"
    )
    figure.colorbar(image, ax=axes, pad=0.02).set_label("1 = alike but for rotation and scale", fontsize=8.5)
    figure.savefig(path)
