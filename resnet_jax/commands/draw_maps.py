"""The picture of maps: a panel for each stage and network, with what was measured above it."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from resnet_jax.analysis.colours import CLASS_COLOURS, DIFFERENT, GREY, INK, look_of
from resnet_jax.analysis.maps.maps import Maps, Panel
from resnet_jax.commands.sheet import short
from resnet_jax.display import in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE, GAP, MARGIN = 3.0, 0.15, 0.15  # inches: of a panel, between panels, and at the edges
HEAD, ABOVE, LINE = 0.24, 0.58, 0.165  # of the title of a row, the texts above a panel, and a line of small text
DPI = 160
LEGEND = 40  # classes in the legend, at most; more are named on the map alone
NAMED = 60  # classes that are named on a panel, at most: more would cover it
THUMBNAIL = 22  # pixels at 72 dots per inch

Images = UInt8[np.ndarray, "n S S C"]


def draw_maps(maps: Maps, path: Path, thumbnails: tuple[Int[np.ndarray, " n"], Images] | None = None) -> None:
    """Draws maps as a PNG.

    Args:
      thumbnails: rows of the points that images may stand for, the first ones first, and these images. Those that would
        lie on another are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(maps.rows[0])
    width = max(2 * MARGIN + columns * (SIDE + GAP) - GAP, 6.5)
    letters = int(width / 0.067)  # of a line of small text
    present = np.unique(maps.labels)
    legend = _legend(present, maps, width)
    notes = [line for text in _notes(maps, len(present)) for line in textwrap.wrap(text, letters)]
    foot = LINE * (len(notes) + len(legend)) + 0.3
    each = HEAD + ABOVE + SIDE + GAP
    height = MARGIN + len(maps.rows) * each - GAP + foot
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    left = (width - columns * (SIDE + GAP) + GAP) / 2
    for number, panels in enumerate(maps.rows):
        top = height - MARGIN - number * each
        title = f"{panels[0].network}, on {maps.data}" if number == 0 else panels[0].network
        size = min(11.0, 11 * (width - 2 * MARGIN) / (0.095 * len(title)))
        figure.text(MARGIN / width, top / height, in_figure(title), fontsize=size, fontweight="bold", va="top")
        for column, panel in enumerate(panels):
            x, y = left + column * (SIDE + GAP), top - HEAD - ABOVE - SIDE
            _write_numbers(figure, panel, x / width, (y + SIDE + ABOVE - 0.05) / height)
            axes = figure.add_axes((x / width, y / height, SIDE / width, SIDE / height))
            _draw_panel(axes, panel.points, maps, thumbnails)
    for place, row in enumerate(legend):
        _draw_legend(figure, row, maps, (foot - 0.22 - LINE * place) / height)
    below = (foot - 0.2 - LINE * len(legend)) / height
    figure.text(MARGIN / width, below, in_figure("\n".join(notes)), fontsize=8, color=GREY, va="top", linespacing=1.25)
    figure.savefig(path)


def _write_numbers(figure: "Figure", panel: Panel, x: float, y: float) -> None:
    numbers = panel.numbers
    silhouette = f"{numbers.silhouette:.2f}" if np.isfinite(numbers.silhouette) else "none"
    components = f"; of {panel.reduced} components" if panel.reduced else ""
    text = (
        f"{numbers.neighbours}-NN {100 * numbers.knn:.1f} %, linear probe {100 * numbers.probe:.1f} %\n"
        f"silhouette {silhouette}{components}"
    )
    figure.text(x, y, f"{panel.stage}: {panel.width:,} features", fontsize=9, fontweight="bold", color=INK, va="top")
    figure.text(x, y - 0.18 / figure.get_figheight(), text, fontsize=8.5, color=INK, va="top", linespacing=1.25)


def _draw_panel(
    axes: "Axes", points: Float[np.ndarray, "N 2"], maps: Maps, thumbnails: tuple[Int[np.ndarray, " n"], Images] | None
) -> None:
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.54 * float((high - low).max()) or 1.0
    middle = (low + high) / 2
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#d1d5db")
    axes.set_box_aspect(1)
    size = float(np.clip(6000 / len(points), 3, 18))
    edge: dict[str, Any] = {"edgecolors": "#374151", "linewidths": 0.25} if size > 8 else {"linewidths": 0}
    looks = np.array([label % DIFFERENT for label in maps.labels])
    for look in np.unique(looks):
        colour, marker = look_of(int(look))
        mine = points[looks == look]
        axes.scatter(mine[:, 0], mine[:, 1], s=size, c=colour, marker=marker, alpha=0.85, zorder=1, **edge)
    taken = _draw_thumbnails(axes, points, maps.labels, *thumbnails) if thumbnails else []
    _name_classes(axes, points, maps, taken)


def _draw_thumbnails(
    axes: "Axes", points: np.ndarray, labels: np.ndarray, rows: Int[np.ndarray, " n"], images: Images
) -> list[tuple[float, float, float, float]]:
    """Draws those images that do not lie on an earlier one, framed in the colour of their class."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    drawn: list[tuple[float, float, float, float]] = []
    side = (THUMBNAIL + 4) * DPI / 72
    inside = axes.bbox.extents
    for row, image in zip(rows, images, strict=True):
        x, y = axes.transData.transform(points[row])
        box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
        if not _is_inside(box, inside) or any(_overlap(box, other) for other in drawn):
            continue
        drawn.append(box)
        scale = THUMBNAIL / image.shape[0]
        picture = OffsetImage(image.squeeze(), zoom=scale, cmap="gray", interpolation="nearest")
        picture.image.set_clim(0, 255)
        frame = {"edgecolor": look_of(int(labels[row])).colour, "linewidth": 1.5, "boxstyle": "square,pad=0"}
        axes.add_artist(AnnotationBbox(picture, points[row], pad=0, bboxprops=frame, zorder=2))
    return drawn


def _name_classes(axes: "Axes", points: np.ndarray, maps: Maps, taken: list[Any]) -> None:
    """Writes the names of classes at their medians: the largest classes first, each where nothing is written yet."""
    from matplotlib.patheffects import withStroke

    figure: Any = axes.figure
    renderer = figure.canvas.get_renderer()
    inside = axes.bbox.extents
    boxes = list(taken)
    present, counts = np.unique(maps.labels, return_counts=True)
    written = 0
    for label in present[np.lexsort((present, -counts))]:
        if written == NAMED:
            break
        middle = np.median(points[maps.labels == label], axis=0)
        x, y = middle
        name = in_figure(short(maps.class_names[label], 14))
        text = axes.text(x, y, name, fontsize=7.5, fontweight="bold", ha="center", va="center", color=INK, zorder=3)
        text.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
        box = tuple(text.get_window_extent(renderer).padded(3).extents)
        # A name that would leave the panel moves inside.
        shift = [max(inside[i] - box[i], 0) - max(box[i + 2] - inside[i + 2], 0) for i in (0, 1)]
        box = (box[0] + shift[0], box[1] + shift[1], box[2] + shift[0], box[3] + shift[1])
        if any(_overlap(box, other) for other in boxes):
            text.remove()
            continue
        at = axes.transData.transform(middle) + shift
        text.set_position(tuple(axes.transData.inverted().transform(at)))
        boxes.append(box)
        written += 1


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _is_inside(box: tuple[float, ...], outer: tuple[float, ...]) -> bool:
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def _legend(present: Int[np.ndarray, " K"], maps: Maps, width: float) -> list[list[tuple[float, int]]]:
    """Rows of the legend: where each entry begins, as a part of the width, and its class. Empty if there are many."""
    if len(present) > LEGEND:
        return []
    longest = max(len(short(maps.class_names[label])) for label in present)
    each = 0.3 + 0.075 * longest
    columns = max(1, int((width - 2 * MARGIN) / each))
    rows = [present[i : i + columns] for i in range(0, len(present), columns)]
    return [[((MARGIN + 0.08 + i * each) / width, int(label)) for i, label in enumerate(row)] for row in rows]


def _draw_legend(figure: "Figure", row: list[tuple[float, int]], maps: Maps, y: float) -> None:
    from matplotlib.lines import Line2D

    for x, label in row:
        look = look_of(label)
        sign = Line2D([x], [y], color=look.colour, marker=look.marker, markersize=5.5, linestyle="")
        sign.set(markeredgecolor="#374151", markeredgewidth=0.4)
        figure.add_artist(sign)
        name = in_figure(short(maps.class_names[label]))
        figure.text(x + 0.09 / figure.get_figwidth(), y, name, fontsize=8, color=INK, va="center_baseline")


def _notes(maps: Maps, classes: int) -> list[str]:
    how = {
        "tsne": f"t-SNE, perplexity {maps.perplexity:g}, begun from principal components",
        "umap": "UMAP, 15 neighbours, smallest distance 0.1",
        "pca": "the first two principal components",
    }[maps.method]
    sample = f" drawn by lot from {maps.split_size:,}" if len(maps.labels) < maps.split_size else ""
    first = maps.rows[0][0].numbers
    some = f" of {first.silhouette_images:,} images drawn by lot" if first.silhouette_images < len(maps.labels) else ""
    notes = [
        f"{len(maps.labels):,} images{sample} by {how}; seed {maps.seed}. The numbers are of the features, not of the "
        "map. k-NN: each image by the others. Linear probe: fitted to one half of each class and applied to the other, "
        f"both ways. Silhouette: Euclidean, from -1 to 1{some}.",
    ]
    if reduced := sorted({panel.reduced for panels in maps.rows for panel in panels if panel.reduced}):
        notes.append(f"Where it says so, PCA first reduced the features to {reduced[0]}, for map and numbers.")
    colours = len(CLASS_COLOURS)
    if classes > LEGEND:
        again = f", and after {DIFFERENT} classes they come again" if classes > DIFFERENT else ""
        notes.append(
            f"{classes:,} classes: every {colours} classes the same {colours} colours come with another sign{again}. "
            "Names stand at the medians of classes, where there is room; the largest classes come first."
        )
    return notes
