"""Masks of every kind that people have: read, or refused with the reason."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.mask_survey import SAMPLE, Classes, learn_code, parse_classes
from resnet_jax.data.masks import MaskCode, decode_mask, voc_colours
from resnet_jax.errors import DataError, ImageError

VALUES = np.array([[0, 1, 2, 255], [3, 3, 0, 1]], np.uint8)
FOUR = MaskCode(4)
# VOCdevkit's list, by hand: the 21 classes and the border.
_VOC = (
    "000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080 408080 c08080 "
    "004000 804000 00c000 80c000 004080"
)
VOC = {number: tuple(bytes.fromhex(colour)) for number, colour in enumerate(_VOC.split())} | {255: (224, 224, 192)}


def encode(pixels, mode=None, kind="PNG", palette=None):
    image = Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)
    if palette is not None:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def few_bits(values, bits):
    """A grey PNG of less than 8 bits, which Pillow reads and does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def decode(data, code=FOUR):
    return decode_mask(data, code, name="m.png")


def random_palette():
    return np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        encode(VALUES),
        encode(VALUES, palette=random_palette()),
        encode(VALUES.astype(np.uint16)),
        encode(VALUES.astype(np.int32), kind="TIFF"),
        encode(VALUES, kind="TIFF"),
        encode(VALUES, kind="BMP"),
        encode(np.stack([VALUES] * 3, axis=2)),
        encode(VALUES, "LA"),
    ],
    ids=["grey", "palette", "16 bits", "32 bits", "tiff", "bmp", "grey as colour", "grey and alpha"],
)
def test_values_are_classes(data):
    mask = decode(data)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, VALUES)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_few_bits_are_not_stretched(bits):
    """Pillow makes 0, 85, 170 and 255 of two bits."""
    values = np.arange(15).reshape(3, 5) % 2**bits
    np.testing.assert_array_equal(decode(few_bits(values, bits), MaskCode(16)), values)
    small = Image.fromarray(values.astype(np.uint8))
    small.putpalette(random_palette())
    buffer = io.BytesIO()
    small.save(buffer, "PNG", bits=bits)
    np.testing.assert_array_equal(decode(buffer.getvalue(), MaskCode(16)), values)


def test_voc_colours():
    colours = voc_colours()
    assert {number: colours[number] for number in VOC} == VOC
    assert len(set(colours)) == 256
    assert voc_colours(3) == colours[:3]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_looked_up(mode):
    code = MaskCode(21, colours=tuple((colour, number) for number, colour in VOC.items()))
    values = np.random.default_rng(0).choice(list(VOC), (9, 7))
    pixels = np.array([VOC[v] for v in values.ravel()], np.uint8).reshape(9, 7, 3)
    np.testing.assert_array_equal(decode(encode(pixels, mode), code), values)
    np.testing.assert_array_equal(decode(encode(values.astype(np.uint8)), code), values, "grey masks keep their values")
    pixels[2, 3], pixels[4, :2] = (1, 2, 3), (128, 0, 1)
    text = r"m.png has colours that belong to no class: \(1, 2, 3\), \(128, 0, 1\) \(3 pixels\); .*as NAME R G B"
    with pytest.raises(ImageError, match=text):
        decode(encode(pixels, mode), code)


def test_two_values():
    pixels = np.array([[0, 255, 255]], np.uint8)
    assert decode(encode(pixels), MaskCode(2)).tolist() == [[0, 255, 255]]
    assert decode(encode(pixels), MaskCode(2, binary=True)).tolist() == [[0, 1, 1]]
    assert decode(encode(np.stack([pixels] * 3, axis=2)), MaskCode(2, binary=True)).tolist() == [[0, 1, 1]]
    for code in (MaskCode(2), MaskCode(2, binary=True)):
        assert decode(encode(pixels, "1"), code).tolist() == [[0, 1, 1]]
    with pytest.raises(ImageError, match=r"m.png holds the value 1 \(2 pixels\); the other masks have only 0 and 255"):
        decode(encode(np.array([[0, 1, 1]], np.uint8)), MaskCode(2, binary=True))


def torn():
    return encode(np.random.default_rng(0).integers(0, 4, (50, 50), np.uint8))[:200]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            encode(VALUES + 2),
            r"m.png holds the value 4 \(3 pixels are too high\); .* must be 0..3, .*4 classes, or 255",
        ),
        (encode((VALUES.astype(np.uint16) == 3) * np.uint16(300)), "m.png holds the value 300 .*Correct the mask, or"),
        (encode(np.arange(36, dtype=np.uint8).reshape(2, 6, 3)), r"m.png is in colour \(\(0, 1, 2\), .* and 8 more\)"),
        (torn(), "cannot read m.png: .*complete image file, best a PNG. Replace it, or remove it with its image"),
        (b"", "cannot read m.png: it is empty, 0 bytes; a mask must be"),
        (b"no image", "cannot read m.png: cannot identify image file"),
        (encode(VALUES.astype(np.float32), kind="TIFF"), "m.png: its pixels are of Pillow's mode F; .*grey PNG"),
    ],
    ids=["too high", "16 bits too high", "in colour", "torn", "empty", "no image", "fractions"],
)
def test_what_is_refused(data, text):
    with pytest.raises(ImageError, match=text):
        decode(data)


# What the values of a data set mean.


def learn(masks, names=None, **options):
    files = [mask if isinstance(mask, bytes) else encode(np.array(mask, np.uint8)) for mask in masks]
    classes = names and Classes(tuple(names), **options)
    return learn_code(files.__getitem__, len(files), classes, "pairs:x")


def test_values_without_names(caplog):
    names, code = learn([[[0, 2]], [[1, 255]], [[4, 0]]])
    assert names == ("0", "1", "2", "3", "4")
    assert code == MaskCode(5)
    assert "pairs:x does not name its classes; its masks have the values 0 to 4" in caplog.text


@pytest.mark.parametrize("names", [None, ("ground", "crack")])
def test_0_and_255(names, caplog):
    """255 is a class only if nothing else but 0 is in the masks and there are two classes."""
    white = encode(np.array([[0, 255]], np.uint8), "1")
    assert learn([[[0, 0]], [[0, 255]], white], names)[1] == MaskCode(2, binary=True)
    assert "the masks have the values 0 and 255 alone, so 255 is class 1" in caplog.text
    caplog.clear()
    assert learn([[[0, 1]], [[0, 255]]], names)[1] == MaskCode(2)
    assert learn([white], names)[1] == MaskCode(2)
    assert "so 255 is class 1" not in caplog.text


def test_255_of_three_classes_is_not_counted():
    assert learn([[[0, 255]]], "abc")[1] == MaskCode(3)


def test_a_sample_without_class_1_is_not_enough():
    """One mask of 500 shows something."""
    masks = [[[0, 0]]] * 500
    masks[201] = [[0, 255]]
    spread = np.unique(np.linspace(0, 499, SAMPLE).astype(int))
    assert 201 not in spread
    assert learn(masks, "ab")[1].binary
    masks[201] = [[0, 1]]
    masks[302] = [[0, 255]]
    assert not learn(masks, "ab")[1].binary


def test_a_sample_is_enough_where_names_are_known():
    read = []
    learn_code(lambda i: read.append(i) or encode(VALUES), 5000, Classes(tuple("abcd")), "x")
    assert len(read) == SAMPLE
    assert {0, 4999} <= set(read)


def test_colours_are_recognised(caplog):
    coloured = encode(np.array([[VOC[0], VOC[7], VOC[255]], [VOC[0], VOC[0], VOC[3]]], np.uint8))
    names, code = learn([coloured])
    assert len(names) == 8
    assert "the masks are in colour and read by Pascal VOC's colours" in caplog.text
    assert decode(coloured, code).tolist() == [[0, 7, 255], [0, 0, 3]]
    _, code = learn([coloured], "abcdefghi")
    assert decode(coloured, code).tolist() == [[0, 7, 255], [0, 0, 3]]
    with pytest.raises(ImageError, match="m.png holds the value 9 .*must be 0..8"):
        decode(encode(np.array([[VOC[9], VOC[1]]], np.uint8)), code)


def test_other_colours_must_be_told(tmp_path):
    coloured = encode(np.array([[(9, 0, 0), (0, 8, 7), (1, 1, 1)]], np.uint8))
    text = r"the masks of pairs:x are in colour \(\(0, 8, 7\), \(1, 1, 1\), \(9, 0, 0\)\), .*one line NAME R G B"
    with pytest.raises(DataError, match=text):
        learn([coloured])
    told = parse_classes(["sky 0 8 7", "", " wet road  9,0,0 ", "- 1 1 1"], tmp_path / "classes.txt")
    assert told.names == ("sky", "wet road")
    _, code = learn([coloured], told.names, colours=told.colours)
    assert decode(coloured, code).tolist() == [[1, 0, 255]]


def test_masks_that_cannot_be_read_are_told_later():
    assert learn([b"x", [[0, 3]]])[1] == MaskCode(4)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (
            ["a 0 0 0", "b"],
            "only some lines of .*classes.txt give a colour, and 'b' gives none; .* Complete the colours",
        ),
        (["a 0 0 0", "b 0 0 0"], r"the colour \(0, 0, 0\) of 'b' in .*classes.txt is there twice; correct it"),
        (["a 0 0 0", "b 0 0 256"], r"the colour \(0, 0, 256\) of 'b' in .* has a value above 255; correct it"),
        (["a"], "classes.txt has 1 classes; masks need at least 2, .*at most 255"),
        ([str(i) for i in range(256)], "classes.txt has 256 classes; .*convert the masks"),
    ],
)
def test_classes_that_cannot_be(lines, text, tmp_path):
    with pytest.raises(DataError, match=text):
        parse_classes(lines, tmp_path / "classes.txt")


def test_numbers_of_objects_are_no_classes():
    many = np.arange(300, dtype=np.uint16).reshape(20, 15)
    with pytest.raises(DataError, match=re.escape("pairs:x, which does not name them, has 300 classes; masks need")):
        learn([encode(many)])
    with pytest.raises(DataError, match="which does not name them, has 1 classes; masks need at least 2"):
        learn([[[0, 0]]])
