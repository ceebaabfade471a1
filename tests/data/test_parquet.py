import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.data.sources.parquet import ROW_GROUPS_IN_MEMORY
from resnet_jax.data.transforms import decode
from resnet_jax.errors import DataError

NAMES = ["ant", "bee", "cow"]


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def described(names=NAMES):
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write(path, first, count, *, struct=True, image="image", label="label", labels=None, metadata=None, rows=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [png(first + i) for i in range(count)]
    images = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)] if struct else files
    labels = [(first + i) % 3 for i in range(count)] if labels is None else labels
    table = pa.table({image: images, label: labels})
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=rows)


def config(folder, **options):
    return DataConfig(name=f"parquet:{folder}", **options)


@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize(("struct", "image"), [(True, "image"), (False, "image"), (True, "img")])
def test_shards_are_one_list(tmp_path, folder, struct, image):
    for shard, (first, count) in enumerate([(0, 20), (20, 1), (21, 29)]):
        path = tmp_path / folder / f"train-{shard:05}-of-00003.parquet"
        write(path, first, count, struct=struct, image=image, metadata=described())
    write(tmp_path / folder / "test-00000-of-00001.parquet", 50, 9, image=image, metadata=described())
    source = load_source(config(tmp_path), "train")
    assert len(source) == 50
    assert source.class_names == tuple(NAMES)
    assert sorted(source.splits) == ["test", "train"]
    for i in np.random.default_rng(0).permutation(50):
        example = source[int(i)]
        assert example["image"] == png(int(i))
        assert example["label"] == i % 3
    assert list(source.labels()) == [i % 3 for i in range(50)]
    assert (decode(source[3]["image"], 3, name="x") == (3, 0, 7)).all()
    for outside in (50, -1):
        with pytest.raises(IndexError, match=str(outside)):
            source[outside]


def test_only_a_few_row_groups_are_in_memory(tmp_path):
    write(tmp_path / "train-0.parquet", 0, 300, rows=3, metadata=described())
    source = load_source(config(tmp_path), "train")
    for i in range(300):
        source[i]
    assert source._rows._read_group.cache_info().currsize == ROW_GROUPS_IN_MEMORY


def test_threads_read_a_row_group_once(tmp_path):
    write(tmp_path / "train-0.parquet", 0, 64, rows=64, metadata=described())
    source = load_source(config(tmp_path), "train")
    together = threading.Barrier(8)

    def read(i):
        together.wait()
        return source[i]["image"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [png(i) for i in range(8)]
    assert source._rows._read_group.cache_info().misses == 1


def test_class_names_from_a_file_beside_the_data(tmp_path):
    write(tmp_path / "data" / "train-0.parquet", 0, 6)
    with pytest.raises(DataError, match=r"does not name its classes; .*names, one a line .* Write that file"):
        load_source(config(tmp_path), "train")
    (tmp_path / "names").write_text("red\ngreen\nblue\n")
    assert load_source(config(tmp_path), "train").class_names == ("red", "green", "blue")


def test_what_parquet_files_must_hold(tmp_path):
    with pytest.raises(DataError, match="is not a folder; it must hold SPLIT-.*Correct `parquet:PATH`"):
        load_source(config(tmp_path / "absent"), "train")
    write(tmp_path / "train-0.parquet", 0, 6, metadata=described())
    with pytest.raises(DataError, match="unknown split of parquet:.* 'trian'. Did you mean 'train'"):
        load_source(config(tmp_path), "trian")
    write(tmp_path / "nolabel-0.parquet", 0, 6, label="caption", metadata=described())
    with pytest.raises(DataError, match=r"no image classification data set: .* has image \(struct.*caption \(int"):
        load_source(config(tmp_path), "nolabel")
    write(tmp_path / "text-0.parquet", 0, 2, labels=["ant", "bee"], metadata=described())
    with pytest.raises(DataError, match=r"integer column `label`, but has .*label \(string\)"):
        load_source(config(tmp_path), "text")
    write(tmp_path / "high-0.parquet", 0, 3, labels=[0, 3, 1], metadata=described())
    with pytest.raises(DataError, match=r"1 examples of .* out of range, .* example 1 with 3; .*0\.\.2.*Correct them"):
        load_source(config(tmp_path), "high")
    write(tmp_path / "null-0.parquet", 0, 3, labels=[0, None, 1], metadata=described())
    with pytest.raises(DataError, match=r"1 examples of .* have no label .*Choose a labelled split"):
        load_source(config(tmp_path), "null")
    write(tmp_path / "test-0.parquet", 0, 3, metadata=described(["ant", "cow", "bee"]))
    with pytest.raises(DataError, match="'train' and 'test' have them in different orders"):
        load_source(config(tmp_path), "train")
    (tmp_path / "torn-0.parquet").write_bytes((tmp_path / "train-0.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match="cannot read .*torn-0.parquet: .*complete parquet file. Fetch it again"):
        load_source(config(tmp_path), "torn")


def test_images_that_lie_elsewhere(tmp_path):
    table = pa.table({"image": [{"bytes": None, "path": "/data/1.png"}], "label": [0]})
    column = pa.array([{"bytes": None, "path": "/data/1.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = table.set_column(0, "image", column).replace_schema_metadata(described())
    pq.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match="example 0 of parquet:.* holds no bytes, .*Export the data set with"):
        load_source(config(tmp_path), "train")[0]


def shards(folder, *numbers, of=3, split="train", **options):
    for number in numbers:
        write(folder / f"{split}-{number:05}-of-{of:05}.parquet", 10 * number, 10, metadata=described(), **options)


@pytest.mark.parametrize("there", [(0, 2), (0,), (1, 2)])
def test_a_file_that_never_arrived_is_missed(tmp_path, there):
    shards(tmp_path, *there)
    first = min({0, 1, 2} - {*there})
    with pytest.raises(
        DataError, match=rf"lacks {3 - len(there)} of its 3 files, the first is number 0000{first} .*Fetch"
    ):
        load_source(config(tmp_path), "train")
    shards(tmp_path, 0, 1, 2)
    assert len(load_source(config(tmp_path), "train")) == 30


def test_files_of_two_data_sets_are_not_mixed(tmp_path):
    shards(tmp_path / "a", 0, 1, of=2)
    shards(tmp_path / "a", 0, of=1)
    shards(tmp_path / "b", 0, 1, of=2)
    write(tmp_path / "b" / "train-more.parquet", 0, 3, metadata=described())
    shards(tmp_path / "c", 0, of=1)
    shards(tmp_path / "c" / "data", 0, of=1)
    write(tmp_path / "d" / "train-0.parquet", 0, 3, metadata=described())
    write(tmp_path / "d" / "data" / "train-0.parquet", 0, 3, metadata=described())
    write(tmp_path / "e" / "train-00000-of-00001-a09b74b3ef9c3b56.parquet", 0, 3, metadata=described())
    write(tmp_path / "e" / "train-00000-of-00001-b09b74b3ef9c3b56.parquet", 0, 3, metadata=described())
    for name in "abcde":
        with pytest.raises(DataError, match=r"are of more than one data set: .*train-.*, .*train-.*Remove"):
            load_source(config(tmp_path / name), "train")
    shards(tmp_path / "f", 0, 1, 2, of=2)
    with pytest.raises(DataError, match="has 3 files, and their names say 2. Remove"):
        load_source(config(tmp_path / "f"), "train")


@pytest.mark.parametrize("change", ["order", "names", "column", "kind"])
def test_every_file_of_a_split_has_the_schema_of_the_first(tmp_path, change):
    """The same label would mean two things, or pixels would be lost."""
    shards(tmp_path, 0, 1)
    other = {"order": NAMES[::-1], "names": [*NAMES, "dog"]}.get(change, NAMES)
    options = {"column": {"image": "img"}, "kind": {"struct": False}}.get(change, {})
    write(tmp_path / "train-00002-of-00003.parquet", 20, 10, metadata=described(other), **options)
    with pytest.raises(DataError, match=r"classes of .* differ|hold images in different ways: .*00002-of-00003.*Fetch"):
        load_source(config(tmp_path), "train")


def test_what_a_mac_leaves_beside_a_file_is_no_file(tmp_path):
    shards(tmp_path, 0, of=1)
    (tmp_path / "._train-00000-of-00001.parquet").write_bytes(b"x")
    assert load_source(config(tmp_path), "train").splits == ("train",)


def test_names_that_are_no_text(tmp_path):
    write(tmp_path / "train-0.parquet", 0, 6)
    (tmp_path / "names").write_bytes(b"red\n\xff\n")
    with pytest.raises(DataError, match="cannot read .*names: .*must be UTF-8, one name a line"):
        load_source(config(tmp_path), "train")


def test_as_many_examples_as_the_schema_promises(tmp_path):
    metadata = json.loads(described()["huggingface"])
    metadata["info"]["splits"] = {"train": {"name": "train", "num_examples": 40}}
    write(tmp_path / "train-0.parquet", 0, 30, metadata={"huggingface": json.dumps(metadata)})
    with pytest.raises(DataError, match="holds 30 examples, but its schema promises 40; .*Fetch them again"):
        load_source(config(tmp_path), "train")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"info": null}', '{"info": {"features": {"label": null}}}'])
def test_a_schema_that_says_nothing_of_use(tmp_path, text):
    write(tmp_path / "train-0.parquet", 0, 3, metadata={"huggingface": text})
    with pytest.raises(DataError, match="does not name its classes"):
        load_source(config(tmp_path), "train")
