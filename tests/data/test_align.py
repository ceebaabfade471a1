"""Alignment: the transform beside scikit-image's and a float64 reference, the warp beside another, and the command."""

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.data.align import COLUMNS, POINTS, TEMPLATE, align, read_points, similarity, template
from resnet_jax.errors import ConfigError, DataError

PLACES = np.array([[62.0, 80], [98, 84], [80, 105], [64, 122], [92, 125]])  # of a face in an image of 160 x 180


def image(seed=0, shape=(180, 160, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def cases():
    """Points of faces that are turned, scaled, moved and inexact, and points that are no face's."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        turned = (TEMPLATE @ [1, 1j]) * rng.uniform(0.2, 9) * np.exp(1j * rng.uniform(-3, 3))
        yield np.stack([turned.real, turned.imag], 1) + rng.normal(0, 3, (5, 2)) + rng.uniform(-200, 200, 2)
        yield rng.uniform(0, 100, (5, 2))
        yield TEMPLATE * [-1, 1] + rng.normal(0, 1, (5, 2))  # a mirrored face: Umeyama's reflection


def test_the_transform_is_the_least_squares_one():
    for points in cases():
        # a, b, tx, ty of x' = ax - by + tx, y' = bx + ay + ty
        ones, zeros = np.ones(5), np.zeros(5)
        rows = [np.stack([points[:, 0], -points[:, 1], ones, zeros], 1)]
        rows.append(np.stack([points[:, 1], points[:, 0], zeros, ones], 1))
        a, b, x, y = np.linalg.lstsq(np.concatenate(rows), TEMPLATE.T.ravel(), rcond=None)[0]
        np.testing.assert_allclose(similarity(points, TEMPLATE), [[a, -b, x], [b, a, y]], rtol=1e-9, atol=1e-9)


def test_the_transform_is_scikit_images():
    transform = pytest.importorskip("skimage.transform")
    for points in cases():
        expected = transform.SimilarityTransform.from_estimate(points, TEMPLATE).params[:2]
        np.testing.assert_allclose(similarity(points, TEMPLATE), expected, rtol=1e-9, atol=1e-9)


def test_the_template_of_each_size():
    np.testing.assert_array_equal(template(112), TEMPLATE)
    np.testing.assert_array_equal(template(128), TEMPLATE + np.array([8, 0]))  # insightface's `estimate_norm`
    np.testing.assert_array_equal(template(256), 2 * (TEMPLATE + np.array([8, 0])))
    np.testing.assert_array_equal(template(224), 2 * TEMPLATE)
    np.testing.assert_array_equal(template(896), 8 * TEMPLATE)
    np.testing.assert_allclose(template(64), TEMPLATE * 64 / 112)
    with pytest.raises(ConfigError, match="size = 0 must be at least 1, such as 112"):
        template(0)


def bilinear(pixels, matrix, size):
    """By the definition, in float64: 0 outside the image."""
    back = np.linalg.inv([*matrix.tolist(), [0, 0, 1]])
    rows, columns = np.mgrid[:size, :size]
    x, y, _ = back @ np.stack([columns.ravel(), rows.ravel(), np.ones(size * size)])
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    found = np.zeros((size * size, pixels.shape[2]))
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        u, v = left + column, top + row
        weight = np.abs(1 - column - (x - left)) * np.abs(1 - row - (y - top))
        inside = (u >= 0) & (u < pixels.shape[1]) & (v >= 0) & (v < pixels.shape[0])
        found[inside] += weight[inside, None] * pixels[v[inside], u[inside]]
    return found.reshape(size, size, -1)


@pytest.mark.parametrize(("size", "channels"), [(112, 3), (128, 1), (33, 3)])
@pytest.mark.parametrize("scale", [1.0, 0.31, 2.7])
def test_the_pixels_are_bilinear(size, channels, scale):
    pixels = image(2, (int(180 * scale), int(160 * scale), channels))
    points = PLACES * scale
    found = align(pixels, points, size)
    assert (found.shape, found.dtype) == ((size, size, channels), np.uint8)
    expected = bilinear(pixels, similarity(points, template(size)), size)
    assert np.abs(found - expected).max() < 0.6  # rounding


def test_points_come_to_lie_in_the_template_and_the_border_is_black():
    pixels = np.full((112, 112, 3), 200, np.uint8)
    for (x, y), colour in zip(TEMPLATE.round().astype(int), np.eye(5, 3, dtype=np.uint8) * 255, strict=True):
        pixels[y - 1 : y + 2, x - 1 : x + 2] = colour
    np.testing.assert_array_equal(align(pixels, TEMPLATE), pixels)
    moved = align(pixels, TEMPLATE - np.array([0, 30]))
    np.testing.assert_array_equal(moved[30:], pixels[:-30])
    assert not moved[:29].any()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {0: (-1, 5)},
            r"the left eye of a.jpg is at \(-1, 5\), outside the image of 160 x 180 pixels; points are x and y",
        ),
        ({2: (160.2, 5)}, r"the nose of a.jpg is at \(160.2, 5\), outside the image of 160 x 180 pixels"),
        ({4: (20, 180)}, r"the right corner of the mouth of a.jpg is at \(20, 180\), outside"),
        (
            {3: (float("nan"), 1)},
            r"the left corner of the mouth of a.jpg is at \(nan, 1.0\), which is no place. Correct",
        ),
        ({1: (1, float("inf"))}, r"the right eye of a.jpg is at \(1.0, inf\), which is no place"),
        (
            {1: PLACES[0]},
            r"the left eye and the right eye of a.jpg are both at \(62, 80\); the five points must differ",
        ),
        ({i: (10 + 7 * i, 20 + 14 * i) for i in range(5)}, "the five points of a.jpg lie on a line, as no face's do"),
        (
            dict(enumerate(PLACES[[1, 0, 2, 4, 3]])),
            "the points of a.jpg are those of a mirrored face; their order is left",
        ),
    ],
)
def test_points_of_no_face(change, text):
    points = PLACES.copy()
    for place, value in change.items():
        points[place] = value
    with pytest.raises(DataError, match=text):
        align(image(), points, name="a.jpg")


def test_faces_from_the_side_and_upside_down_are_faces():
    middle = PLACES.mean(axis=0)
    align(image(), (PLACES - middle) * [0.1, 1] + middle)  # nearly a profile: left and right are 3 pixels apart
    align(image(), (PLACES - middle) * [-0.1, 1] + middle)  # a little beyond it
    align(image(), 2 * middle - PLACES)
    align(image(), (PLACES - middle)[:, ::-1] * [-1, 1] + middle)


def test_arrays_of_another_kind():
    with pytest.raises(
        DataError, match=r"the image is a uint8 array of shape \(180, 160\); it must be uint8 \(H, W, 1\)"
    ):
        align(image()[..., 0], PLACES)
    with pytest.raises(DataError, match="the image is a float64 array of shape"):
        align(image() / 2, PLACES)
    with pytest.raises(
        DataError, match=r"the points of the image have the shape \(2, 5\); it must be \(5, 2\), x and y of"
    ):
        align(image(), PLACES.T)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "points.csv holds no row; each image must have one, name,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5. Fill it"),
        (",".join(COLUMNS), "points.csv holds no row"),
        (
            "a.png,1,2,3",
            "row 1 of .*points.csv has 3 columns behind the name: 1,2,3; they must be ten numbers, x and y of",
        ),
        ("\na.png,1,2,3,4,5,6,7,8,9,x", "row 2 of .* has 10 columns behind the name: .*,x; they must be ten"),
        ("a.png,1,2,3,4,5,6,7,8,9,10,11", "row 1 of .* has 11 columns"),
        ("a.png" + ",1" * 10 + "\nb.png" + ",1" * 10 + "\na.png" + ",2" * 10, "has a.png a second time, in row 3"),
        (
            '"a.png,1',
            "cannot read .*points.csv: unexpected end of data; it must be a CSV file with the columns name,x1",
        ),
        (b"\xff\xfe\x00", "cannot read .*points.csv: 'utf-8' codec can't decode"),
        (None, "cannot read .*points.csv: No such file or directory; it must be a CSV file"),
    ],
)
def test_files_that_hold_no_points(tmp_path, text, error):
    if text is not None:
        (tmp_path / "points.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=error):
        read_points(tmp_path / "points.csv")


def test_points_are_read(tmp_path):
    rows = f"{','.join(COLUMNS)}\r\n" + '"a, b/1.jpg",' + ",".join(map(str, range(10))) + "\r\n\r\n"
    for text in (rows.encode("utf-8-sig"), rows.partition("\n")[2].encode()):
        (tmp_path / "points.csv").write_bytes(text)
        (found,) = read_points(tmp_path / "points.csv").items()
        assert found[0] == "a, b/1.jpg"
        np.testing.assert_array_equal(found[1], np.arange(10).reshape(5, 2))


def folder(tmp_path, names=("Ada/1.png", "Ada/2.png", "Bo/1.jpg"), rows=None):
    """Images with one face each, and their points."""
    lines = [",".join(COLUMNS)]
    for seed, name in enumerate(names):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(seed)).save(path)
        lines.append(",".join([name, *map(str, (PLACES + seed).ravel())]))
    (tmp_path / "points.csv").write_text("\n".join(lines if rows is None else rows(lines)))
    return ["align", f"{tmp_path}/faces", "--points", f"{tmp_path}/points.csv", "--out", f"{tmp_path}/aligned"]


def test_the_command_aligns_a_folder(tmp_path, capsys):
    main([*folder(tmp_path), "--size", "64"])
    assert f"3 images of 64 x 64 pixels are in {tmp_path}/aligned" in capsys.readouterr().out
    for seed, name in enumerate(("Ada/1.png", "Ada/2.png")):
        with Image.open(tmp_path / "aligned" / name) as file:
            np.testing.assert_array_equal(np.asarray(file), align(image(seed), PLACES + seed, 64))
    assert sorted(path.name for path in (tmp_path / "aligned").rglob("*.png")) == ["1.png", "1.png", "2.png"]
    with pytest.raises(SystemExit, match="--out .*aligned holds files already, such as"):
        main(folder(tmp_path))


def test_the_command_turns_photographs_upright(tmp_path):
    arguments = folder(tmp_path, ("a.jpg",))
    stored = image(5, (160, 180, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    Image.fromarray(stored).save(tmp_path / "faces" / "a.jpg", exif=exif, quality=100, subsampling=0)
    main([*arguments, "--exif"])
    with Image.open(tmp_path / "faces" / "a.jpg") as file:
        pixels = np.rot90(np.asarray(file), -1)
    with Image.open(tmp_path / "aligned" / "a.png") as file:
        np.testing.assert_array_equal(np.asarray(file), align(np.ascontiguousarray(pixels), PLACES))


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            lambda lines: [*lines[:2], lines[3].replace("Bo", "Cy")],
            "2 images of .*faces have no row in .*points.csv: Ada/2.png, Bo/1.jpg; 1 rows of .*csv have no image "
            "in .*faces: Cy/1.jpg. Each image must have a row that begins with its path below the folder. Add what is",
        ),
        (
            lambda lines: lines[:-1],
            "1 images of .*faces have no row in .*points.csv: Bo/1.jpg. Each image must have a row",
        ),
        (
            lambda lines: [lines[1].replace("62.0", "-62.0"), lines[2], lines[3].replace("82.0", "nan")],
            "2 of 3 images cannot be aligned, so none was:\n  the left eye of .*Ada/1.png is at .-62, 80., "
            "outside the image of 160 x 180 .*\n  the left eye of .*faces/Bo/1.jpg is at .64.0, nan., which",
        ),
    ],
)
def test_the_command_checks_all_before_it_writes(tmp_path, rows, text):
    with pytest.raises(SystemExit, match=f"(?s)error: {text}"):
        main(folder(tmp_path, rows=rows))
    assert not list(tmp_path.glob("aligned*"))


def test_more_that_the_command_refuses(tmp_path):
    arguments = folder(tmp_path, ("a.png", "a.jpg"))
    with pytest.raises(SystemExit, match="a.png and a.jpg would both be written as a.png. Rename one"):
        main(arguments)
    with pytest.raises(SystemExit, match="size = -3 must be at least 1, such as 112"):
        main([*arguments, "--size", "-3"])
    with pytest.raises(SystemExit, match="--threads = 0 must be at least 1"):
        main([*arguments, "--threads", "0"])
    with pytest.raises(SystemExit, match=r"nowhere is not a folder; it must hold the images that .*points.csv names"):
        main([arguments[0], f"{tmp_path}/nowhere", *arguments[2:]])
    (tmp_path / "faces" / "a.jpg").write_bytes(b"no image")
    (tmp_path / "points.csv").write_text((tmp_path / "points.csv").read_text().replace("a.jpg", "b.jpg"))
    (tmp_path / "faces" / "a.jpg").rename(tmp_path / "faces" / "b.jpg")
    with pytest.raises(
        SystemExit, match="1 of 2 images cannot be aligned, so none was:\n  cannot read .*b.jpg: cannot ident"
    ):
        main(arguments)


def test_an_image_that_ends_early_is_named_and_the_others_are_written(tmp_path, capsys):
    arguments = folder(tmp_path)
    data = (tmp_path / "faces" / "Ada" / "1.png").read_bytes()
    (tmp_path / "faces" / "Ada" / "1.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(SystemExit, match="error: 1 of 3 images could not be read:\n  cannot read .*Ada/1.png: "):
        main(arguments)
    assert "2 images of 112 x 112 pixels are in" in capsys.readouterr().out
    assert len(list((tmp_path / "aligned").rglob("*.png"))) == 2


def test_the_order_of_the_points_is_that_of_the_template():
    assert POINTS[0] == "left eye"
    left, right, nose, mouth_left, mouth_right = TEMPLATE
    assert left[0] < nose[0] < right[0]
    assert mouth_left[0] < nose[0] < mouth_right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
