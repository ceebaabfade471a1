"""`verification:` and the pairs of `lfw:`: what is read, and that nothing of a hostile pickle runs."""

import copyreg
import functools
import json
import os
import pickle
import pickletools
import re
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.config import DataConfig
from resnet_jax.data import fingerprint, leaves_of, list_splits, load_source
from resnet_jax.data.sources import inert_pickle
from resnet_jax.data.sources.inert_pickle import PickleError
from resnet_jax.data.sources.verification import _read
from resnet_jax.data.transforms import decode
from resnet_jax.errors import DataError, ImageError
from tests.data.record_files import png, write_identities

IMAGES = [png(i)[0] for i in range(6)]
SAME = [True, False, True]


def load(path, split="lfw", **options):
    return load_source(DataConfig(name=f"verification:{path}", **options), split)


def python2(images, same):
    """As Python 2 writes strings by protocol 2: with their length in four bytes, `BINSTRING`."""
    strings = b"".join(b"T" + struct.pack("<i", len(image)) + image + b"q\x00" for image in images)
    truths = b"".join(b"\x88" if one else b"\x89" for one in same)
    return b"\x80\x02]q\x01(" + strings + b"e]q\x02(" + truths + b"e\x86q\x03."


AS_ARRAY = [
    lambda data: data,
    lambda data: np.frombuffer(data, np.uint8),
    lambda data: np.frombuffer(data, np.uint8).copy(),
]
TRUTHS = [
    list(SAME),
    tuple(SAME),
    [1, 0, 1],
    [np.True_, np.False_, np.True_],
    [np.int64(1), np.int64(0), np.int64(1)],
    np.array(SAME),
    np.array([1, 0, 1], ">i2"),
]


@pytest.mark.parametrize("protocol", range(1, 6))
def test_what_python_and_numpy_write_is_read(tmp_path, protocol):
    path = tmp_path / "lfw.bin"
    for written in AS_ARRAY:
        for truths in TRUTHS:
            path.write_bytes(pickle.dumps(([written(image) for image in IMAGES], truths), protocol))
            source = load(path)
            assert (len(source), leaves_of(source), source.splits) == (6, ("image", "same"), ("lfw",))
            assert [source[i]["image"] for i in range(6)] == IMAGES
            assert [source[i]["same"] for i in range(6)] == [True, True, False, False, True, True]
    np.testing.assert_array_equal(decode(source[5]["image"], 3, name="x"), png(5)[1])
    assert source[5]["name"] == f"image 5 of {path}"
    with pytest.raises(IndexError, match="6"):
        source[6]


def test_what_python_2_writes_is_read(tmp_path):
    path = tmp_path / "lfw.bin"
    path.write_bytes(python2(IMAGES, SAME))
    assert pickle.loads(path.read_bytes(), encoding="bytes") == (IMAGES, SAME)
    source = pickle.loads(pickle.dumps(load(path)))  # as worker processes get it
    assert [source[i]["image"] for i in range(6)] == IMAGES
    assert source.same.tolist() == SAME
    assert fingerprint(source) == fingerprint(load(path))
    with pytest.raises(
        DataError, match="no label, as only of pairs it is known .*leaves are image and same. Use it for"
    ):
        source.labels()


def test_splits_are_the_files(tmp_path):
    for name in ("lfw", "agedb_30", "._lfw"):
        (tmp_path / f"{name}.bin").write_bytes(pickle.dumps((IMAGES, SAME)))
    assert list_splits(DataConfig(name=f"verification:{tmp_path}")) == ["agedb_30", "lfw"]
    assert load(tmp_path, "agedb_30").splits == ("agedb_30", "lfw")
    with pytest.raises(DataError, match="unknown split of verification:.* 'test'. Known: agedb_30, lfw."):
        load(tmp_path, "test")
    with pytest.raises(
        DataError, match="absent is no file or folder; it must be a file such as lfw.bin, or a folder of"
    ):
        load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match="empty is a folder without a file SPLIT.bin; it must be a file such as lfw.bin"
    ):
        load(tmp_path / "empty")
    write_identities(tmp_path)
    config = DataConfig(name=f"rec:{tmp_path}")
    assert list_splits(config) == ["train", "agedb_30", "lfw"]
    assert load_source(config, "train").splits == ("train", "agedb_30", "lfw")
    assert load_source(config, "lfw")[3]["image"] == IMAGES[3]


class Reduced:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def hostile(mark):
    """Values whose pickles would make the folder `mark`, or prepare it, if Python read them; and what each names."""
    command, code = f"mkdir {mark}", f"__import__('os').mkdir({mark!r})"
    return {
        "os.system": (Reduced(os.system, (command,)), "posix.system"),
        "subprocess": (Reduced(subprocess.getoutput, (command,)), "(subprocess|commands).getoutput"),
        "eval": (Reduced(eval, (code,)), "builtins.eval"),
        "exec": (Reduced(exec, (code,)), "builtins.exec"),
        "getattr": (getattr, "builtins.getattr"),
        "import": (Reduced(__import__, ("os",)), "builtins.__import__"),
        "partial": (Reduced(functools.partial, (os.system, command)), "functools.partial"),
        "a pickle in a pickle": (
            Reduced(pickle.loads, (pickle.dumps(Reduced(os.system, (command,))),)),
            "_?pickle.loads",
        ),
        "called later": (Reduced(list, (Reduced(map, (os.system, [command])),)), "builtins.list"),
        "copyreg": (Reduced(copyreg._reconstructor, (dict, object, None)), "copy_?reg._reconstructor"),
        "a state": (Reduced(np.dtype, ("u1",), {"x": 1}), "the instruction EMPTY_DICT"),
        "in an array": (np.array([Reduced(os.system, (command,))] * 6, object), "posix.system"),
        "behind images": ([*IMAGES, Reduced(os.system, (command,))], "posix.system"),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", hostile(""))
def test_a_hostile_pickle_is_refused_by_name_and_nothing_runs(tmp_path, name, protocol):
    mark, path = tmp_path / "ran", tmp_path / "lfw.bin"
    value, refused = hostile(str(mark))[name]
    for whole in (value, (IMAGES, value), (value, SAME)):
        path.write_bytes(pickle.dumps(whole, protocol))
        with pytest.raises(DataError, match="cannot read .*lfw.bin: it ") as error:
            load(path)
        text = str(error.value).replace("__builtin__", "builtins")
        assert re.search(f"it (names|holds) {refused}", text), text
        assert "and nothing of it was run. Fetch it from where you trust" in text
        assert not mark.exists()


def test_the_hostile_pickles_of_this_test_would_run(tmp_path):
    for name in ("os.system", "eval", "a pickle in a pickle"):
        mark = tmp_path / name.replace(" ", "_")
        pickle.loads(pickle.dumps((IMAGES, hostile(str(mark))[name][0])))
        assert mark.exists()


@pytest.mark.parametrize(
    ("program", "text"),
    [
        # Instructions that build, import or call by other ways than REDUCE
        (b"(cos\nsystem\no.", "it names os.system, and a set of images names nothing but bytes and arrays"),
        (b"(S'mkdir x'\nios\nsystem\n.", "the instruction STRING, at byte 1"),
        (b"(ios\nsystem\n.", "the instruction INST"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "the instruction NEWOBJ"),
        (b"\x80\x04cnumpy\nndarray\n)}\x92.", "the instruction EMPTY_DICT"),
        (b"\x80\x02cnumpy\nndarray\no.", "the instruction OBJ"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"Pid\n.", "the instruction PERSID"),
        (b"\x80\x02NQ.", "the instruction BINPERSID"),
        (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "it names os.system,"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", "it names numpy.ndarray.dumps,"),
        (b"\x80\x04K\x01K\x02\x93.", "it is damaged: a name is no text"),
        # State that is given to what may be named: a second time, and to a name itself
        (b"\x80\x02cnumpy\ndtype\nNb.", "it changes the state of what it has made already"),
        (b"\x80\x02cnumpy\ndtype\n)R)b)b.", "it changes the state of what it has made already"),
        (b"\x80\x02K\x01)R.", "it is damaged: it calls what is no function"),
        (b"\x80\x02cnumpy\ndtype\nNR.", "it is damaged: it calls what is no function"),
        # Programs that are no programs
        (b"", "it is cut short: 1 bytes are declared at byte 0 of 0"),
        (b"\xff", "it holds the byte 0xff, which is no instruction, at byte 0"),
        (b"\x80\x06N.", "its protocol is newer than 5"),
        (b".", "it is damaged: values are missing"),
        (b"e.", "it is damaged: values are missing"),
        (b"(0.", "it is damaged: values are missing"),
        (b"N(q\x00.", "it is damaged: values are missing"),
        (b"NNa.", "it is damaged: it appends to what is no list"),
        (b"h\x05.", "it is damaged: nothing is remembered as 5"),
        (b"Ix\n.", "it is damaged: 'x' is no number"),
        (b"I1", "it is damaged: a line has no end"),
        (b"cos.", "it is damaged: a line has no end"),
        # Sizes that are declared and not there, and other ways to fill memory
        (b"\x80\x04B\xff\xff\xff\xff", "it is cut short: 4294967295 bytes are declared at byte 7 of 7"),
        (b"\x80\x04\x8e" + b"\xff" * 8, "it is cut short: 18446744073709551615 bytes are declared"),
        (b"\x80\x05\x96" + b"\x00" * 6 + b"\x01\x00", "it is cut short: 281474976710656 bytes are declared"),
        (b"\x80\x02T\xff\xff\xff\xff", "it is cut short: 4294967295 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "it holds a whole number of 2147483647 bytes"),
        (b"\x80\x02\x8a\x09" + b"\x01" * 9, "it holds a whole number of 9 bytes"),
        (b"\x80\x02N" + b"2" * 100 + b".", "the instruction DUP"),
        (b"\x80\x02]q\x00" + b"h\x00" * 999 + b"t.", "it is damaged: values are missing"),
    ],
)
def test_programs_by_hand(tmp_path, program, text):
    path = tmp_path / "lfw.bin"
    path.write_bytes(program)
    with pytest.raises(DataError, match=f"cannot read .*lfw.bin: .*{re.escape(text)}"):
        load(path)


def refusal(data):
    """The text with which data are refused; any other error is a failure of the test."""
    try:
        _read(data)
    except PickleError as error:
        return str(error)
    return ""


def test_every_instruction_is_read_or_refused():
    assert {chr(code) for code in (*inert_pickle._SPANS, *inert_pickle._PUT)} <= {op.code for op in pickletools.opcodes}
    for code in range(256):
        for before in (b"", b"(", b"NN", b"](N", b"cnumpy\ndtype\n)"):
            for after in (b"", b"\x00" * 9, b"1\n1\n.", b"\xff" * 9):
                assert refusal(b"\x80\x04" + before + bytes([code]) + after)


def test_damage_ends_in_a_text():
    rng = np.random.default_rng(0)
    wholes = [
        pickle.dumps((images, truths), protocol)
        for protocol in (2, 4, 5)
        for images in ([b"abc", b"de"], [np.frombuffer(b"abc", np.uint8)] * 2)
        for truths in ([True], np.array([True]))
    ]
    assert not any(map(refusal, wholes))
    for _ in range(3000):
        data = bytearray(wholes[rng.integers(len(wholes))])
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        refusal(bytes(data))


def bytes_as(name, *arguments):
    """A pickle that calls a name with arguments instead of the bytes of each image."""
    marked = b"".join(arguments)
    call = b"c" + name + b"\n(" + marked + b"tR"
    return b"\x80\x04](" + call * 2 + b"e](\x88e\x86."


def test_calls_that_may_be_named_mean_nothing_else(tmp_path):
    path = tmp_path / "lfw.bin"
    dtype = b"cnumpy\ndtype\n(U\x02u1\x89\x88tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    objects = dtype.replace(b"u1", b"O8")
    array = lambda shape, kind, raw: bytes_as(b"numpy.core.numeric\n_frombuffer", raw, kind, shape, b"U\x01C")
    path.write_bytes(array(b"K\x02\x85", dtype, b"U\x02ab"))
    assert load(path)[0]["image"] == b"ab"
    for program in (
        bytes_as(b"_codecs\nencode", b"X\x02\x00\x00\x00abX\x03\x00\x00\x00zip"),  # a codec that unpacks
        bytes_as(b"_codecs\nencode", b"X\x02\x00\x00\x00ab"),
        bytes_as(b"_codecs\nencode", b"K\x05X\x06\x00\x00\x00latin1"),
        bytes_as(b"builtins\nbytes", b"J\xff\xff\xff\x7f"),  # two gigabytes of zeros
        bytes_as(b"numpy\nndarray", b"J\xff\xff\xff\x7f"),
        bytes_as(b"numpy\ndtype", b"U\x02u1"),
        array(b"K\x02K\x02\x86", dtype, b"U\x04abcd"),  # pixels
        array(b"K\x02\x85", objects, b"U\x02ab"),
        array(b"K\x02\x85", b"N", b"U\x02ab"),
        array(b"N", dtype, b"U\x02ab"),
        array(b"U\x01x\x85", dtype, b"U\x02ab"),
        array(b"K\x02\x85", dtype, b"X\x02\x00\x00\x00ab"),
        array(b"K\x02\x85", dtype, b"N"),
    ):
        path.write_bytes(program)
        with pytest.raises(
            DataError, match="lfw.bin: its image 0 is not bytes. It must be the pickle of a list of encoded"
        ):
            load(path)
    truths = (
        b"c"
        + b"numpy.core.numeric\n_frombuffer\n("
        + b"U\x01\x01"
        + dtype
        + b"\x8a\x06"
        + b"\xff" * 5
        + b"\x7f\x85U\x01CtR"
    )
    path.write_bytes(b"\x80\x04](U\x01aU\x01be" + truths + b"\x86.")
    with pytest.raises(DataError, match="lfw.bin: the size of an array is not that of its numbers. It must be"):
        load(path)


def test_the_work_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "lfw.bin"
    monkeypatch.setattr(inert_pickle, "MOST_STEPS", 1000)
    path.write_bytes(b"\x80\x02" + b"N0" * 5000 + b".")
    with pytest.raises(DataError, match="lfw.bin: it has more than 1,000 instructions. It must be"):
        load(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "it holds something else than images and truths about pairs"),
        ((IMAGES, SAME, 1), "it holds something else than images and truths about pairs"),
        ((b"abc", SAME), "it holds something else than images and truths about pairs"),
        (([*IMAGES[:3], "text"], [True, True]), "its image 3 is not bytes"),
        ((IMAGES, [1, 0, 2]), "its truths about pairs are no list of booleans"),
        ((IMAGES, [1, 0, None]), "its truths about pairs are no list of booleans"),
        ((IMAGES, 3), "its truths about pairs are no list of booleans"),
        ((IMAGES, np.array([[1, 0, 1]])), "its truths about pairs are no list of booleans"),
        ((IMAGES, np.array([1, 0, 3])), "its truths about pairs are no list of booleans"),
        (
            (IMAGES[:5], SAME),
            "holds 5 images, and 3 truths about pairs; there must be at least one truth, and two images",
        ),
        ((IMAGES, SAME[:2]), "holds 6 images, and 2 truths about pairs; there must be"),
        (([], []), "holds 0 images, and 0 truths about pairs; there must be at least one"),
    ],
)
def test_values_that_are_no_pairs(tmp_path, value, text):
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=f"lfw.bin:? {text}"):
        load(tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "lfw.bin"
    whole = pickle.dumps((IMAGES, SAME), 4)
    for cut in range(0, len(whole) - 1, 61):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="cannot read .*lfw.bin: it "):
            load(path)
    path.write_bytes(whole)
    source = load(path)
    path.unlink()
    with pytest.raises(
        ImageError, match="cannot read image 2 of .*lfw.bin: .*No such file or directory.*Fetch the file"
    ):
        source[2]
    path.write_bytes(
        b"\x80\x04](" + b"c_codecs\nencode\n(X\x02\x00\x00\x00\xc4\x80X\x06\x00\x00\x00latin1tR" * 2 + b"e](\x88e\x86."
    )
    with pytest.raises(ImageError, match="image 0 of .*: a text stands for bytes, and is not of bytes"):
        load(path)[0]


def test_commands_look_at_pairs(tmp_path, capsys):
    write_identities(tmp_path)
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([IMAGES[0], *IMAGES[:5]], SAME)))
    main(["data", "info", f"rec:{tmp_path}", "--as-json"])
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert splits["train"] == {"images": 9, "classes": {"0": 3, "1": 2, "2": 4}}
    assert splits["lfw"] == {"images": 6, "classes": {"different": 2, "same": 4}}
    with pytest.raises(SystemExit, match="1"):  # the images of both sets are alike here, so the test says nothing
        main(["data", "check", f"rec:{tmp_path}"])
    out = capsys.readouterr().out
    assert "lfw: 6 images in 2 classes" in out
    assert "more than once" not in out  # an image may be in several pairs
    assert "5 images are in both train and lfw; leave them out of one:" in out
    main(["data", "show", f"verification:{tmp_path}", "--split", "lfw", "--out", str(tmp_path / "pairs.png")])
    assert "6 examples of" in capsys.readouterr().out
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.width > picture.height  # four columns: the images of a pair stand side by side
    with pytest.raises(SystemExit, match="split 'lfw' gives no label: its examples have image, same, and data prepare"):
        main(["data", "prepare", f"rec:{tmp_path}", "--short-side", "8", "--out", str(tmp_path / "small")])
