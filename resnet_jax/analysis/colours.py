"""Colours and signs for classes, which colour-blind people tell apart, and the colours of pictures in general.

The colours of classes are Okabe and Ito's (2008, "Color Universal Design"). There are eight. More classes have other
signs: class 8 has the colour of class 0 and a square instead of a circle. After 64 classes colour and sign come again,
and a picture must name its classes besides.
"""

from typing import NamedTuple

BLUE, SKY, VERMILION, ORANGE = "#0072b2", "#56b4e9", "#d55e00", "#e69f00"
GREEN, PURPLE, YELLOW, BLACK = "#009e73", "#cc79a7", "#f0e442", "#000000"
GREY, INK = "#6b7280", "#111827"

CLASS_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, BLACK)
"""Of the first eight classes. Those that are hardest to tell apart come late."""
MARKERS = ("o", "s", "^", "X", "D", "v", "P", "*")
"""Signs by Matplotlib's letters. All are filled: circle, square, triangle, cross, diamond, triangle downwards, plus,
star."""
DIFFERENT = len(CLASS_COLOURS) * len(MARKERS)
"""Classes after which colour and sign come again."""

MASK_COLOURS = (
    *("#cc6677", "#88ccee", "#ddcc77", "#117733", "#aa4499"),
    *("#44aa99", "#999933", "#882255", "#6699cc", "#dddddd"),
)
"""Paul Tol's "muted" scheme, for areas: ten colours that colour-blind people tell apart. The background has none."""
_DARKER, _LIGHTER = (0.0, 0.45), (255.0, 0.55)  # the grey that is mixed in, and its share


class Look(NamedTuple):
    """How a class is drawn.

    Attributes:
      colour: as `#rrggbb`.
      marker: one of `MARKERS`.
    """

    colour: str
    marker: str


def look_of(label: int) -> Look:
    """The colour and the sign of a class, by its number. They do not depend on how many classes there are."""
    return Look(CLASS_COLOURS[label % len(CLASS_COLOURS)], MARKERS[label // len(CLASS_COLOURS) % len(MARKERS)])


def mask_colour(label: int) -> str:
    """The colour of a class on a mask, `#rrggbb`; 0 is the background. Classes 11 to 20 have darker colours than 1 to
    10, classes 21 to 30 lighter ones; then colours come again."""
    turn, place = divmod(label - 1, len(MASK_COLOURS))
    colour = MASK_COLOURS[place]
    grey, share = ((0.0, 0.0), _DARKER, _LIGHTER)[turn % 3]
    values = (round((1 - share) * int(colour[at : at + 2], 16) + share * grey) for at in (1, 3, 5))
    return "#{:02x}{:02x}{:02x}".format(*values)


def mask_palette(classes: int) -> list[tuple[int, int, int]]:
    """Red, green and blue of each class of a mask; the background is black."""
    colours = (mask_colour(label) for label in range(1, classes))
    return [(0, 0, 0), *((int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for c in colours)]
