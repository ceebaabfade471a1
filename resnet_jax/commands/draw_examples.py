"""Examples as a source gives them, drawn for people: images with masks, boxes and instances, and videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.analysis.colours import mask_colour
from resnet_jax.commands.sheet import columns_for, short
from resnet_jax.config import DataConfig
from resnet_jax.data import decode_image, leaves_of, load_source
from resnet_jax.data.boxes import Objects, objects_of
from resnet_jax.data.masks import NOT_COUNTED, check_size
from resnet_jax.data.sources import Example
from resnet_jax.display import in_figure
from resnet_jax.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOT_COUNTED = "#ffffff"
_DPI = 100
_SIDE, _WIDE_SIDE, _FRAME = 110, 220, 90  # about the pixels of an image, of one with boxes or a mask, of a clip's frame
_LARGE_SIDE = 340  # of an image with boxes that has more pixels than that
_SHOWN = 8  # frames of a video, spread over it
_NAMED = 30  # boxes of an image; where there are more, they have no names
_GAP, _TEXT, _HEAD = 0.1, 0.22, 0.45  # inches between cells, of a caption, of the title


def draw_examples(name: str, split: str, count: int, path: Path, *, exif: bool = False) -> int:
    """Draws the first examples of a split as a PNG. Returns how many it drew.

    A mask is laid over its image in colours, white where a pixel is not counted. Boxes have the names of their classes,
    and instances have an outline. Where there are no boxes, the name of a class stands once on its pixels. A video is a
    row of frames, spread over it.

    Args:
      exif: turn photographs upright.

    Raises:
      DataError: as `load_source` does, examples with neither image nor video, or a mask whose size is not its image's.
    """
    source = load_source(DataConfig(name=name, exif=exif), split)
    leaves = leaves_of(source)
    if not {"image", "video"} & {*leaves}:
        raise DataError(
            f"{name} gives {', '.join(leaves)}; to be drawn, an example must have an image or a video. Add one of them"
        )
    examples = [source[i] for i in range(min(count, len(source)))]
    title = f"{name}, {split}: the first {len(examples)} of {len(source):,} examples"
    named = next((leaf for leaf in ("label", "same") if leaf in leaves), "")
    is_clip, is_scene = "video" in leaves, bool({"mask", "boxes"} & {*leaves})
    panels = [_frames(example, f"example {i}", exif) for i, example in enumerate(examples)]
    large = "boxes" in leaves and max(panels[0][0].shape) > _WIDE_SIDE
    wanted = _FRAME if is_clip else _LARGE_SIDE if large else _WIDE_SIDE if is_scene else _SIDE
    side = _whole(wanted, panels[0][0]) / _DPI
    columns = max(map(len, panels)) if is_clip else columns_for(len(panels))
    if named == "same":
        columns += columns % 2  # so that the images of a pair stand side by side
    rows = len(panels) if is_clip else -(-len(panels) // columns)
    caption = _TEXT if named else 0.0
    figure, cells = _grid(rows, columns, side, caption, title, tight=is_clip)
    for i, (example, frames) in enumerate(zip(examples, panels, strict=True)):
        for j, frame in enumerate(frames):
            axes = cells(i, j) if is_clip else cells(*divmod(i, columns))
            axes.imshow(frame.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if not is_clip:
            if "mask" in example:
                check_size(frames[0].shape, example["mask"].shape, name=example.get("name", f"example {i}"))
            _draw_targets(axes, example, source.class_names)
        if caption:
            first = cells(i, 0) if is_clip else axes
            name_of = source.class_names[example[named]]  # type: ignore[literal-required]
            first.text(0, 1.04, in_figure(name_of), fontsize=9, color="#374151", transform=first.transAxes)
    _save(figure, path)
    return len(examples)


def draw_masked(
    images: Float[np.ndarray, "N H W C"],
    masks: UInt8[np.ndarray, "N H W"],
    class_names: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Draws images with values in [0, 1] as a PNG, with their masks as `draw_examples` draws them."""
    side, columns = _whole(_WIDE_SIDE, images[0]) / _DPI, columns_for(len(images))
    figure, cells = _grid(-(-len(images) // columns), columns, side, 0.0, title, tight=False)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        axes = cells(*divmod(i, columns))
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        _draw_targets(axes, {"mask": mask}, class_names)
    _save(figure, path)


def draw_boxed(
    images: Float[np.ndarray, "N H W C"],
    objects: Sequence[Objects],
    class_names: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Draws images with values in [0, 1] as a PNG, with their objects as `draw_examples` draws them."""
    large = max(images[0].shape) > _WIDE_SIDE
    side, columns = _whole(_LARGE_SIDE if large else _WIDE_SIDE, images[0]) / _DPI, columns_for(len(images))
    figure, cells = _grid(-(-len(images) // columns), columns, side, 0.0, title, tight=False)
    for i, (image, found) in enumerate(zip(images, objects, strict=True)):
        axes = cells(*divmod(i, columns))
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        _draw_objects(axes, found, class_names)
    _save(figure, path)


def _whole(side: int, image: np.ndarray) -> int:
    """About `side` pixels. For a smaller image, a whole number for each of its pixels, so that all are equally wide."""
    longer = max(image.shape[:2])
    return longer * round(side / longer) if longer <= side else side


def _save(figure: "Figure", path: Path) -> None:
    """Saves a PNG of 256 colours, which is a third as large. Grey images lose nothing."""
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    Image.fromarray(pixels).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        path, "PNG", optimize=True
    )


def _frames(example: Example, name: str, exif: bool) -> Sequence[np.ndarray]:
    if "video" in example:
        count = len(example["video"].times())
        return list(example["video"].read(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(int)))
    image = example["image"]
    return [image if isinstance(image, np.ndarray) else decode_image(image, 3, name=name, exif=exif)]


def _grid(rows: int, columns: int, side: float, caption: float, title: str, *, tight: bool) -> tuple[Any, Any]:
    """A figure, and a function from row and column to the axes of a cell. It gives the same axes when asked again."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gap = 0.03 if tight else _GAP
    width = max(columns * (side + gap) - gap + 2 * _GAP, 5.0)
    height = _HEAD + rows * (side + caption + _GAP)
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.text(_GAP / width, 1 - 0.12 / height, in_figure(title), fontsize=11, fontweight="bold", va="top")
    made: dict[tuple[int, int], Axes] = {}

    def cell(row: int, column: int) -> "Axes":
        if (row, column) not in made:
            left = _GAP + column * (side + gap)
            bottom = height - _HEAD - row * (side + caption + _GAP) - caption - side
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            axes.set_axis_off()
            made[row, column] = axes
        return made[row, column]

    return figure, cell


def _draw_targets(axes: "Axes", example: Example, class_names: Sequence[str]) -> None:
    from matplotlib.colors import to_rgba

    if "mask" in example:
        mask = example["mask"]
        overlay = np.zeros((*mask.shape, 4))
        for value in np.unique(mask[mask > 0]):
            colour = _NOT_COUNTED if value == NOT_COUNTED else mask_colour(int(value))
            overlay[mask == value] = to_rgba(colour, 0.6)
        axes.imshow(overlay, interpolation="nearest")
        if "boxes" not in example:
            _name_classes(axes, mask, class_names)
    if "boxes" in example:
        _draw_objects(axes, objects_of(example), class_names)


def _draw_objects(axes: "Axes", objects: Objects, class_names: Sequence[str]) -> None:
    """Boxes with the names of their classes, unless there are too many for names; dashed where it is a crowd."""
    from matplotlib.patches import Rectangle

    few, named = len(objects.boxes) <= _NAMED, len(class_names) > 2  # the only class needs no name
    width = axes.get_xlim()[1] + 0.5
    pixel = width / axes.get_window_extent().width  # of the picture, in those of the image
    for place, (box, label) in enumerate(zip(objects.boxes, objects.classes.tolist(), strict=True)):
        left, top, right, bottom = box
        colour = mask_colour(label)
        if objects.bitmaps:
            bitmap = objects.bitmaps[place]
            _outline(axes, bitmap.pixels, bitmap.left, bitmap.top)
        # The coordinates of a pixel are those of its middle, so its corner is half a pixel before.
        corner, sides, style = (
            (left - 0.5, top - 0.5),
            (right - left, bottom - top),
            "--" if objects.crowd[place] else "-",
        )
        line = 1.2 if few else 0.8
        axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linewidth=line, linestyle=style))
        if few and named:
            above = top >= 16 * pixel  # otherwise there is only room inside the box
            at_right = left > 0.75 * width
            corner = ((right if at_right else left) - 0.5, top - 0.9 if above else top)
            where = {"va": "bottom" if above else "top", "ha": "right" if at_right else "left"}
            _write(axes, corner, short(class_names[label]), colour, **where)


def _name_classes(axes: "Axes", mask: np.ndarray, class_names: Sequence[str]) -> None:
    """Writes the name of each class, but for the background, where its pixels are farthest from others."""
    import cv2

    for value in np.unique(mask[(mask > 0) & (mask < len(class_names))]):
        inside = np.pad(mask == value, 1).astype(np.uint8)  # the border of the image counts as another class
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        at = (float(np.clip(column, 0.12 * mask.shape[1], 0.88 * mask.shape[1])), float(row))
        _write(axes, at, short(class_names[value]), mask_colour(int(value)), va="center", ha="center")


def _write(axes: "Axes", at: tuple[float, float], name: str, colour: str, **place: Any) -> None:
    axes.text(
        *at,
        in_figure(name),
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
        fontsize=7.5,
        color="black" if _is_light(colour) else "white",
        **place,
    )


def _outline(axes: "Axes", pixels: np.ndarray, left: int, top: int) -> None:
    """Draws a white line along the sides of an instance's pixels."""
    from matplotlib.collections import LineCollection

    padded = np.pad(pixels.astype(np.int8), 1)
    rows, columns = np.nonzero(np.diff(padded, axis=0))  # between a pixel and the one below
    lines = [[(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)] for y, x in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(np.diff(padded, axis=1))  # between a pixel and the one to its right
    lines += [[(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)] for y, x in zip(rows, columns, strict=True)]
    moved = [[(x + left, y + top) for x, y in line] for line in lines]
    axes.add_collection(LineCollection(moved, colors="white", linewidths=0.7))


def _is_light(colour: str) -> bool:
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114))) > 0.5
