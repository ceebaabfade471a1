"""`lfw:`: pairs in the order of LFW's list, and lists that do not fit the images."""

import pickle

import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import leaves_of, list_splits, load_source
from resnet_jax.errors import DataError, ImageError
from tests.data.record_files import png

FOLDS = [
    "Ada_L\t1\t2\nBo\t1\t3\nAda_L\t1\tBo\t2\nBo\t3\tAda_L\t2\n",
    "Bo\t2\t3\nAda_L\t2\t1\nBo\t1\tAda_L\t1\nAda_L\t2\tBo\t1\n",
]
IMAGES = {("Ada_L", 1): 0, ("Ada_L", 2): 1, ("Bo", 1): 2, ("Bo", 2): 3, ("Bo", 3): 4}


LIST = "2\t2\n" + "".join(FOLDS)


def write(root, text=LIST, suffix=".png"):
    for (name, number), seed in IMAGES.items():
        (root / name).mkdir(exist_ok=True)
        (root / name / f"{name}_{number:04}{suffix}").write_bytes(png(seed)[0])
    (root / "pairs.txt").write_text(text)
    return load_source(DataConfig(name=f"lfw:{root}"), "test")


@pytest.mark.parametrize("separator", ["\t", " "])
def test_pairs_come_in_the_order_of_the_list(tmp_path, separator):
    (tmp_path / "Cy").mkdir()
    (tmp_path / "Cy" / "Cy_0001.png").write_bytes(b"not in the list")
    source = write(tmp_path, f"{LIST}\n".replace("\t", separator))
    seeds = [0, 1, 2, 4, 0, 3, 4, 1, 3, 4, 1, 0, 2, 0, 1, 2]
    assert [source[i]["image"] for i in range(16)] == [png(seed)[0] for seed in seeds]
    assert source.same.tolist() == [True, True, False, False] * 2
    assert [source[i]["same"] for i in range(4)] == [True] * 4
    assert source[3]["name"] == f"{tmp_path}/Bo/Bo_0003.png"
    assert (len(source), leaves_of(source)) == (16, ("image", "same"))
    assert list_splits(DataConfig(name=f"lfw:{tmp_path}")) == ["test"]
    again = pickle.loads(pickle.dumps(source))
    assert again[5]["image"] == source[5]["image"]
    with pytest.raises(DataError, match="no label, as only of pairs it is known"):
        source.labels()
    (tmp_path / "Bo" / "Bo_0003.png").unlink()
    with pytest.raises(ImageError, match="cannot read .*Bo_0003.png: No such file or directory"):
        source[3]


def test_folds_are_tenths_of_the_list(tmp_path):
    """The pairs of fold k are what `np.array_split` calls the k-th part, which the verification takes for a fold."""
    source = write(tmp_path, "10 2\n" + "".join(FOLDS * 5))
    parts = np.array_split(np.arange(len(source.same)), 10)
    names = [[source[2 * pair]["name"] for pair in part] for part in parts]
    assert names[0] == names[2] == names[8]
    assert names[0] != names[1] == names[3]


def test_unknown_images_are_listed(tmp_path):
    write(tmp_path)
    text = (tmp_path / "pairs.txt").read_text()
    (tmp_path / "pairs.txt").write_text(
        text.replace("Bo\t1\t3", "Bo\t1\t7").replace("Ada_L\t1\tBo\t2", "../Bo\t1\tCy\t2")
    )
    with pytest.raises(
        DataError,
        match=r"pairs.txt names 3 of 16 images that are not in .*: Bo/Bo_0007 \(line 3\), ../Bo/../Bo_0001 \(line 4\), "
        r"Cy/Cy_0002 \(line 4\); each must be there as NAME/NAME_0001.jpg, or with another ending of an image. Fetch",
    ):
        load_source(DataConfig(name=f"lfw:{tmp_path}"), "test")
    (tmp_path / "pairs.txt").write_text(text.replace("Bo", "Cy"))
    with pytest.raises(DataError, match=r"names 8 of 16 images .*: Cy/Cy_0001 \(line 3\), .* and 3 more; each must be"):
        load_source(DataConfig(name=f"lfw:{tmp_path}"), "test")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "",
            "begins with the line ''; it must be two numbers, the folds and the pairs of each kind in a fold, such as",
        ),
        ("Bo\t1\t2\n", "begins with the line 'Bo.t1.t2'; it must be two numbers"),
        ("2\t2\n" + FOLDS[0], "holds 4 pairs, and its first line says 2 folds of 2 pairs of each kind, 8; they must"),
        ("0\t0\n", "holds 0 pairs, .*at least one. Fetch it again"),
        ("1\t1\nBo\t1\t2\nBo\tx\tAda_L\t1\n", "line 3 of .*pairs.txt is 'Bo.tx.tAda_L.t1'; it must be a name and two"),
        (
            "1\t1\nBo\t1\n",
            "line 2 of .*pairs.txt is 'Bo.t1'; it must be a name and two numbers, or a name and a number",
        ),
    ],
)
def test_lists_that_are_no_lists(tmp_path, text, error):
    with pytest.raises(DataError, match=error):
        write(tmp_path, text)


def test_what_the_folder_must_hold(tmp_path):
    with pytest.raises(
        DataError, match="cannot read .*pairs.txt: No such file.*; `lfw:PATH` must name a folder with LFW"
    ):
        load_source(DataConfig(name=f"lfw:{tmp_path}"), "test")
    write(tmp_path)
    with pytest.raises(DataError, match="unknown split of lfw:.* 'tset'. Did you mean 'test'"):
        load_source(DataConfig(name=f"lfw:{tmp_path}"), "tset")
    (tmp_path / "Bo" / "Bo_0002.jpg").write_bytes(b"x")
    with pytest.raises(
        DataError, match="Bo_0002.jpg and .*Bo_0002.png are both image 2 of Bo; a pair could mean either"
    ):
        load_source(DataConfig(name=f"lfw:{tmp_path}"), "test")
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot read .*pairs.txt: 'utf-8' codec can't decode"):
        load_source(DataConfig(name=f"lfw:{tmp_path}"), "test")
