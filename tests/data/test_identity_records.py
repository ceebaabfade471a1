"""`rec:`: insightface's record files, whole and damaged."""

import pickle
import re
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import fingerprint, list_splits, load_source
from resnet_jax.data.sources.recordio import RecordFile
from resnet_jax.data.transforms import decode
from resnet_jax.errors import DataError, ImageError
from tests.data.record_files import MAGIC, framed, packed, png, write_identities, write_records


def load(folder, split="train", **options):
    return load_source(DataConfig(name=f"rec:{folder}", **options), split)


@pytest.mark.parametrize("label", [float, lambda label: [float(label), 1.0]], ids=["one label", "two labels"])
def test_images_and_labels_are_those_of_the_file(tmp_path, label):
    labels = write_identities(tmp_path, label=label)
    source = load(tmp_path)
    assert (len(source), source.class_names, source.splits) == (9, ("0", "1", "2"), ("train",))
    np.testing.assert_array_equal(source.labels(), labels)
    for i in reversed(range(9)):
        example = source[i]
        assert example["label"] == labels[i]
        assert example["image"] == png(i)[0]
        assert example["name"] == f"record {i + 1} of {tmp_path}/train.rec"
        np.testing.assert_array_equal(decode(example["image"], 3, name="x"), png(i)[1])
    assert list_splits(DataConfig(name=f"rec:{tmp_path}")) == ["train"]
    with pytest.raises(IndexError, match="out of range"):
        source[9]


def test_an_older_file_has_images_alone(tmp_path):
    write_records(tmp_path, [(i, packed(float(i % 4), png(i)[0])) for i in (3, 0, 2, 1, 5, 4)])
    source = load(tmp_path)
    assert (len(source), source.class_names) == (6, ("0", "1", "2", "3"))
    assert [source[i]["image"] for i in range(6)] == [png(i)[0] for i in range(6)]
    np.testing.assert_array_equal(source.labels(), [0, 1, 2, 3, 0, 1])
    write_records(
        tmp_path, [(i, packed([float(i), 1.0], png(i)[0])) for i in range(3)]
    )  # key 0 is an image all the same
    assert load(tmp_path).labels().tolist() == [0, 1, 2]
    for label in (float("nan"), 1e30, -1.0):
        write_records(tmp_path, [(0, packed(0.0)), (1, packed(label))])
        with pytest.raises(
            DataError, match="record 1 of .* has the label .*; labels must be whole numbers in 0..16777215"
        ):
            load(tmp_path)


def test_property_says_how_many_identities_there_are(tmp_path):
    write_identities(tmp_path)
    (tmp_path / "property").write_text("5,112,96\n")
    assert load(tmp_path).class_names == tuple("01234")
    (tmp_path / "property").write_text("2,112,112")
    with pytest.raises(
        DataError,
        match=r"record \d of .*train.rec has the label 2; labels must be whole numbers in 0..1. If there are more than "
        r"2 identities, write `identities,height,width` into a file .*/property",
    ):
        load(tmp_path)
    for text in ("93431 112 112", "0,112,112", "", "1,2", "99999999,112,112"):
        (tmp_path / "property").write_text(text)
        with pytest.raises(DataError, match="property: .*; it must be three numbers, identities,height,width, such as"):
            load(tmp_path)


def test_any_content_comes_back(tmp_path):
    """Also where it holds the magic number, at the beginning, at the end, twice in a row, and out of step."""
    rng = np.random.default_rng(0)
    contents = [MAGIC, MAGIC * 2, b"abcd" + MAGIC, MAGIC + b"x", b"ab" + MAGIC + b"c", b"1234" + MAGIC * 3 + b"5", b""]
    contents += [rng.bytes(n) + MAGIC * int(rng.integers(0, 3)) + rng.bytes(n % 7) for n in range(40)]
    write_records(tmp_path, list(enumerate(contents)))
    file = RecordFile(tmp_path / "train.rec")
    assert [file.read(i) for i in range(len(contents))] == contents
    places = np.array([5, 0, 46, 3, 20])
    for count in (1, 4, 28, 40):
        expected = [list(contents[i][:count].ljust(count, b"\0")) for i in places]
        assert file.beginnings(places, count).tolist() == expected


def test_threads_and_processes_share_a_source(tmp_path):
    labels = write_identities(tmp_path, counts=(40, 1, 30))
    source = pickle.loads(pickle.dumps(load(tmp_path)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.__getitem__, [*range(71)] * 3))
    assert [one["label"] for one in found] == labels * 3
    assert [one["image"] for one in found[:71]] == [png(i)[0] for i in range(71)]
    assert fingerprint(source) == fingerprint(load(tmp_path))


def test_labels_are_read_in_pieces(tmp_path, monkeypatch):
    labels = write_identities(tmp_path, counts=(13, 8, 30))
    monkeypatch.setattr("resnet_jax.data.sources.recordio._AT_ONCE", 7)
    np.testing.assert_array_equal(load(tmp_path).labels(), labels)


@pytest.mark.slow  # as many records as such a set has
def test_numbers_that_float32_cannot_hold(tmp_path, monkeypatch):
    """Of a set of 2 ** 24 images, record 0 can say only nearly where they end."""
    images, identities = 2**24, 3
    first = images + 1
    assert np.float32(first) == images
    records = [packed([float(first), float(first + identities)]), packed(0.0, b"image"), packed([1.0, 2.0])]
    write_records(tmp_path, list(enumerate(records)))
    starts = [int(line.split()[1]) for line in (tmp_path / "train.idx").read_text().splitlines()]
    keys = np.arange(first + identities)
    positions = np.repeat(starts, [1, images, identities])  # all images are one record here
    monkeypatch.setattr(RecordFile, "_read_index", lambda self: (keys, positions))
    source = load(tmp_path)
    assert (len(source), len(source.class_names)) == (images, identities)
    assert source[images - 1]["name"] == f"record {images} of {tmp_path}/train.rec"
    monkeypatch.setattr(RecordFile, "_read_index", lambda self: (keys[:first], positions[:first]))
    (tmp_path / "property").write_text("7,112,112")  # no record is about an identity
    source = load(tmp_path)
    assert (len(source), len(source.class_names)) == (images, 7)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda rec, idx: idx.unlink(),
            "there is no .*train.idx; train.rec and train.idx must lie together. .*rec2idx.py",
        ),
        (
            lambda rec, idx: rec.write_bytes(rec.read_bytes()[:-9]),
            "cannot read record 12 of .*: the file ends within it",
        ),
        (
            lambda rec, idx: rec.write_bytes(rec.read_bytes()[:400]),
            r"train.idx has record \d at byte [\d,]+, and .*train.rec has 400 bytes; it is cut short, or the two are "
            "of different data sets. Fetch both again",
        ),
        (lambda rec, idx: rec.write_bytes(b""), "train.rec has 0 bytes; it is cut short"),
        (
            lambda rec, idx: idx.write_text(""),
            "cannot read .*train.idx: Empty CSV file; each line must be a key, a tab",
        ),
        (
            lambda rec, idx: idx.write_text("1\t0\n2 5\n"),
            "train.idx: .*Expected 2 columns, got 1.*; each line must be a key",
        ),
        (lambda rec, idx: idx.write_text("1\tx\n"), "train.idx: .*; each line must be a key, a tab and the position"),
        (
            lambda rec, idx: idx.write_text("1\t0\n1\t0\n"),
            "train.idx has the key 1 more than once. Make the index anew",
        ),
        (lambda rec, idx: idx.write_text("1\t-4\n"), "train.idx has record 1 at byte -4, and"),
        (
            lambda rec, idx: idx.write_text("".join(idx.read_text().splitlines(True)[3:])),
            "train.idx lacks 3 of the records 1 to 9, the first is 1; all must be there. Fetch it again, or make it",
        ),
        (
            lambda rec, idx: idx.write_text(re.sub(r"(?m)^7\t.*\n", "", idx.read_text())),
            "train.idx lacks 1 of the records 1 to 9, the first is 7",
        ),
        (
            lambda rec, idx: idx.write_text(re.sub(r"(?m)^12\t.*\n", "", idx.read_text())),
            "train.idx lacks 1 of the records 10 to 12, the first is 12",
        ),
    ],
)
def test_files_that_are_not_whole(tmp_path, change, text):
    write_identities(tmp_path)
    change(tmp_path / "train.rec", tmp_path / "train.idx")
    with pytest.raises(DataError, match=text):
        load(tmp_path)


def test_damage_is_named_by_its_record(tmp_path):
    write_identities(tmp_path, counts=(100, 100))
    whole = (tmp_path / "train.rec").read_bytes()
    starts = dict(map(int, line.split()) for line in (tmp_path / "train.idx").read_text().splitlines())
    source = load(tmp_path)

    def damage(at, data):
        (tmp_path / "train.rec").write_bytes(whole[:at] + data + whole[at + len(data) :])

    damage(starts[18], b"\0")
    with pytest.raises(
        ImageError,
        match=f"cannot read record 18 of .*train.rec: no record begins at byte {starts[18]:,}; train.idx must be its "
        "index, and both must be whole. Fetch both again",
    ):
        source[17]
    assert source[16]["label"] == 0
    with pytest.raises(ImageError, match="cannot read record 18 of"):
        source.labels()
    damage(starts[18] + 4, struct.pack("<I", 2 << 29 | 8))  # the middle of a record
    with pytest.raises(ImageError, match="record 18 of .*: no record begins at byte"):
        source[17]
    damage(starts[18] + 4, struct.pack("<I", 1 << 29 | 8))  # a first part that no other part follows
    with pytest.raises(ImageError, match=f"record 18 of .*: no part of it begins at byte {starts[18] + 16:,}"):
        source[17]
    damage(starts[18] + 4, struct.pack("<I", 2**29 - 1))
    with pytest.raises(ImageError, match="record 18 of .*: the file ends within it, at byte"):
        source[17]
    for value, shown in ((-1.0, "-1"), (0.5, "0.5"), (2.0, "2"), (float("nan"), "nan")):
        damage(starts[18] + 12, struct.pack("<f", value))
        with pytest.raises(
            DataError, match=f"record 18 of .* has the label {shown}; labels must be whole numbers in 0..1"
        ):
            source[17]
    damage(starts[1], b"\0")  # one of the records that are looked at when the file is opened
    assert len(load(tmp_path)) == 200
    damage(starts[1] + 12, struct.pack("<f", 7.0))
    with pytest.raises(DataError, match="record 1 of .* has the label 7"):
        load(tmp_path)  # the labels of some records are looked at before work begins
    (tmp_path / "train.rec").unlink()
    with pytest.raises(ImageError, match="cannot read record 1 of .*: No such file or directory. Restore the file"):
        source[0]


def test_record_0_must_make_sense(tmp_path):
    for told in ([0.0, 2.0], [5.0, 3.0], [3.0], [float("nan"), 2.0]):
        write_records(tmp_path, [(0, packed(told)), (1, packed(0.0, b"x"))])
        with pytest.raises(DataError, match="record 0 of .* says that images and identities end at .*; it must be two"):
            load(tmp_path)
    write_records(tmp_path, [(0, packed([1.0, 1.0]))])
    with pytest.raises(DataError, match="train.rec holds no image. Fetch it and its index again"):
        load(tmp_path)
    write_records(tmp_path, [(0, packed([3.0, 2.0**40])), (1, packed(0.0, b"x"))])
    with pytest.raises(DataError, match="record 0 .*says that the images end near record|lacks [\\d,]+ of the records"):
        load(tmp_path)


def test_splits(tmp_path, capsys):
    with pytest.raises(
        DataError, match="absent is no folder; it must hold train.rec and train.idx, .*Correct `rec:PATH`"
    ):
        load(tmp_path / "absent")
    with pytest.raises(DataError, match="is a folder without a file SPLIT.rec; it must hold train.rec"):
        load(tmp_path)
    write_identities(tmp_path)
    write_identities(tmp_path, counts=(2, 2), name="held")
    assert list_splits(DataConfig(name=f"rec:{tmp_path}")) == ["train", "held"]
    with pytest.raises(DataError, match="unknown split of rec:.* 'hold'. Did you mean 'held'"):
        load(tmp_path, "hold")
    with pytest.raises(
        DataError,
        match="the splits of rec:.* have different numbers of identities: train 3, held 2; the same label would mean "
        "two things. Set data.same_classes = False",
    ):
        load(tmp_path, eval_split="held")
    assert len(load(tmp_path, eval_split="held", same_classes=False)) == 9
    main(["data", "info", f"rec:{tmp_path}"])
    out = capsys.readouterr().out
    assert re.search(r"train +│ +9 │ +3 │ +2 │ +4", out)
    (tmp_path / "held.bin").write_bytes(b"")
    with pytest.raises(DataError, match="has held.rec and held.bin, two splits of one name. Rename one"):
        load(tmp_path)


def test_what_the_test_writes_is_what_the_format_says():
    assert framed(b"abcde") == MAGIC + struct.pack("<I", 5) + b"abcde\0\0\0"
    assert (
        framed(b"1234" + MAGIC + b"5")
        == MAGIC + struct.pack("<I", 1 << 29 | 4) + b"1234" + MAGIC + struct.pack("<I", 3 << 29 | 1) + b"5\0\0\0"
    )
