"""A few canvases for images of all sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import Arrays, load_source
from resnet_jax.data.canvases import Canvases, group
from resnet_jax.errors import ImageError

SIDES = st.integers(1, 700)


def padded(canvases):
    return sum(canvas.size[0] * canvas.size[1] * len(canvas.indices) for canvas in canvases)


@given(st.lists(st.tuples(SIDES, SIDES), max_size=60), st.integers(1, 6), st.sampled_from([1, 32, 50]))
def test_properties(sizes, most, multiple):
    canvases = group(sizes, most, multiple)
    assert canvases == group(sizes, most, multiple)
    assert len(canvases) <= most
    assert sorted(i for canvas in canvases for i in canvas.indices) == list(range(len(sizes)))
    for (height, width), indices in canvases:
        assert height % multiple == width % multiple == 0
        assert indices == sorted(indices)
        assert all(sizes[i][0] <= height and sizes[i][1] <= width for i in indices)
    areas = [canvas.size[0] * canvas.size[1] for canvas in canvases]
    assert areas == sorted(areas)
    if sizes:
        assert padded(canvases) <= padded(group(sizes, 1, multiple)), "no more padding than on one canvas"


def test_a_few_kinds_are_told_apart():
    """Photographs of 3:4 in both directions, squares, and one panorama: four canvases, nothing padded but to 32."""
    sizes = [(520, 693)] * 10 + [(693, 520)] * 5 + [(520, 520), (520, 1500)]
    found = {canvas.size: len(canvas.indices) for canvas in group(sizes, 4)}
    assert found == {(544, 544): 1, (544, 704): 10, (704, 544): 5, (544, 1504): 1}
    # With three, the square is enlarged and not one of the many.
    found = {canvas.size: len(canvas.indices) for canvas in group(sizes, 3)}
    assert found == {(544, 704): 11, (704, 544): 5, (544, 1504): 1}


def test_close_to_the_best_choice():
    """Beside all choices of three canvases from the sides that occur."""
    from itertools import combinations

    rng = np.random.default_rng(0)
    for _ in range(5):
        sizes = [(int(h), int(w)) for h, w in rng.integers(1, 8, (12, 2)) * 32]
        sides = [sorted({size[axis] for size in sizes}) for axis in (0, 1)]
        corners = [(h, w) for h in sides[0] for w in sides[1]]
        best = min(
            sum(min((h * w for h, w in chosen if h >= a and w >= b), default=10**9) for a, b in sizes)
            for chosen in combinations(corners, 3)
        )
        assert padded(group(sizes, 3)) <= 1.15 * best


def test_thousands_of_sizes_are_told_apart_coarsely():
    sizes = [(int(h), int(w)) for h, w in np.random.default_rng(0).integers(100, 3000, (3000, 2))]
    canvases = group(sizes, 4)
    assert len(canvases) == 4
    assert padded(canvases) < 0.75 * padded(group(sizes, 1))


def test_sizes_come_from_headers_and_are_read_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, (height, width) in enumerate([(30, 40), (70, 20), (30, 44)]):
        for part in ("images", "masks"):
            (tmp_path / "train" / part).mkdir(parents=True, exist_ok=True)
        options = {"exif": exif} if number == 1 else {}
        Image.new("RGB", (width, height)).save(tmp_path / "train" / "images" / f"{number}.jpg", **options)
        Image.new("L", (width, height), number % 2).save(tmp_path / "train" / "masks" / f"{number}.png")
    source = load_source(DataConfig(name=f"pairs:{tmp_path}"), "train")
    assert Canvases(source, base=None, exif=True).sizes == [(30, 40), (20, 70), (30, 44)]
    assert Canvases(source, base=10).sizes == [(10, 13), (35, 10), (10, 14)]
    canvases = Canvases(source, base=None, multiple=10)
    assert canvases.groups(2) == [((70, 20), [1]), ((30, 50), [0, 2])]
    assert canvases.groups(1) == [((70, 50), [0, 1, 2])]
    (tmp_path / "train" / "images" / "1.jpg").write_bytes(b"x")
    assert len(canvases.groups(3)) == 3, "not read again"
    with pytest.raises(
        ImageError, match="cannot read .*1.jpg: .*; it must be an image file. Correct the path, or replace"
    ):
        Canvases(source, base=None).groups()


def test_sizes_of_any_source():
    source = Arrays(np.zeros((5, 20, 30), np.uint8), np.zeros(5, int), ("a", "b"))
    assert Canvases(source, base=40).groups() == [((64, 64), [0, 1, 2, 3, 4])]
