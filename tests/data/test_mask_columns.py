"""Masks in parquet files and in TensorFlow Datasets."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from resnet_jax.config import DataConfig
from resnet_jax.data import load_source
from resnet_jax.errors import DataError, ImageError

FIXTURES = Path(__file__).parent / "fixtures"
SEEN = (0, 1, 3, 255)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def example(number):
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (5, 6 + number, 3), np.uint8)
    return image, np.array(SEEN, np.uint8)[rng.integers(0, 4, image.shape[:2])]


def check(source, first, count):
    assert len(source) == count
    assert source.leaves == ("image", "mask")
    source = pickle.loads(pickle.dumps(source))
    for i in range(count):
        found = source[i]
        image, mask = example(first + i)
        assert found["image"] == png(image)
        np.testing.assert_array_equal(found["mask"], mask)
        assert found["name"].startswith(f"example {i} of ")
    for outside in (-1, count):
        with pytest.raises(IndexError, match=str(outside)):
            source[outside]
    with pytest.raises(DataError, match="has no single label here, as each of its pixels has a class"):
        source.labels()


# Parquet.


def write(path, first, count, *, column="mask", struct_of=True, change=lambda mask: mask, rows=2):
    pairs = [example(first + i) for i in range(count)]
    images, masks = [png(image) for image, _ in pairs], [png(change(mask)) for _, mask in pairs]
    if struct_of:
        images, masks = ([{"bytes": data, "path": "x"} for data in files] for files in (images, masks))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, column: masks, "id": list(range(count))}), path, row_group_size=rows)


def parquet(folder, split="train", **options):
    return load_source(DataConfig(name=f"parquet_masks:{folder}", **options), split)


@pytest.mark.parametrize(("column", "struct_of"), [("mask", True), ("annotation", False), ("label", True)])
def test_parquet(tmp_path, column, struct_of, caplog):
    write(tmp_path / "data" / "train-00000-of-00002.parquet", 0, 5, column=column, struct_of=struct_of)
    write(tmp_path / "data" / "train-00001-of-00002.parquet", 5, 2, column=column, struct_of=struct_of)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", 7, 3, column=column, struct_of=struct_of)
    source = parquet(tmp_path)
    assert source.class_names == ("0", "1", "2", "3")
    assert "does not name its classes; its masks have the values 0 to 3" in caplog.text
    assert sorted(source.splits) == ["train", "validation"]
    check(source, 0, 7)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree\nsign\n")
    source = parquet(tmp_path, "validation")
    assert source.class_names == ("sky", "road", "car", "tree", "sign")
    check(source, 7, 3)


def test_what_parquet_files_must_hold(tmp_path):
    write(tmp_path / "train-0.parquet", 0, 3)
    with pytest.raises(DataError, match="unknown split of parquet_masks:.* 'trian'. Did you mean 'train'"):
        parquet(tmp_path, "trian")
    write(tmp_path / "captions-0.parquet", 0, 3, column="caption")
    text = (
        r"has no images with masks: .* `image` and one of mask, .*has image \(struct.*, caption \(struct.*id \(int64\)"
    )
    with pytest.raises(DataError, match=text):
        parquet(tmp_path, "captions")
    write(tmp_path / "odd-0.parquet", 0, 3)
    write(tmp_path / "odd-1.parquet", 3, 3, column="annotation")
    with pytest.raises(DataError, match=r"in different columns: \[\('image', 'annotation'\), \('image', 'mask'\)\]"):
        parquet(tmp_path, "odd")
    write(tmp_path / "test-0.parquet", 0, 3, change=lambda mask: np.where(mask == 3, 9, mask))
    with pytest.raises(ImageError, match="the mask of example 0 of parquet_masks:.*'test' holds the value 9 .*0..3"):
        parquet(tmp_path, "test")[0]


# TensorFlow Datasets, written here without TensorFlow.


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def tf_example(features):
    """A `tf.train.Example`: Features (1), a map (1) of a name (1) to a Feature (2), a BytesList (1) of bytes (1)."""
    entries = [
        field(1, field(1, name.encode()) + field(2, field(1, field(1, data)))) for name, data in features.items()
    ]
    return field(1, b"".join(entries))


PACKAGE = "tensorflow_datasets.core.features."


def write_tfds(root, counts, *, mask="segmentation_mask", names=()):
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / "tiny_masks" / "1.0.0"
    folder.mkdir(parents=True)
    splits, first = [], 0
    for split, count in counts.items():
        writer = ArrayRecordWriter(str(folder / f"tiny_masks-{split}.array_record-00000-of-00001"), "group_size:1")
        for i in range(first, first + count):
            image, values = example(i)
            writer.write(tf_example({"image": png(image), mask: png(values)}))
        writer.close()
        first += count
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"filepathTemplate": template, "name": split, "numBytes": "1", "shardLengths": [str(count)]})
    info = {"fileFormat": "array_record", "moduleName": "x", "name": "tiny_masks", "splits": splits, "version": "1.0.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))

    def image_of(channels):
        shape = {"dimensions": ["-1", "-1", channels]}
        return {"dtype": "uint8", "encodingFormat": "png", "shape": shape}

    kinds = {"image": {"pythonClassName": f"{PACKAGE}image_feature.Image", "image": image_of("3")}}
    kinds[mask] = {"pythonClassName": f"{PACKAGE}image_feature.Image", "image": image_of("1")}
    if names:
        labelled = image_of("1") | {"label": {"numClasses": str(len(names))}}
        kinds[mask] = {"pythonClassName": f"{PACKAGE}labeled_image.LabeledImage", "image": labelled}
        (folder / f"{mask}.labels.txt").write_text("\n".join(names))
    features = {"featuresDict": {"features": kinds}, "pythonClassName": f"{PACKAGE}features_dict.FeaturesDict"}
    (folder / "features.json").write_text(json.dumps(features))
    return root


def tfds(root, split="train", **options):
    return load_source(DataConfig(name="tfds_masks:tiny_masks", directory=str(root), **options), split)


def test_tfds(tmp_path):
    source = tfds(write_tfds(tmp_path, {"train": 4, "test": 3}), "test")
    assert source.class_names == ("0", "1", "2", "3")
    assert source.splits == ("train", "test")
    check(source, 4, 3)
    check(tfds(tmp_path, "train[:2]"), 0, 2)
    assert len(tfds(tmp_path, "test", train_split="train[1:]")) == 3


def test_tfds_names_the_classes_of_a_labelled_image(tmp_path, caplog):
    names = ("sky", "road", "car", "tree", "sign")
    source = tfds(write_tfds(tmp_path, {"train": 2}, mask="annotation", names=names))
    assert source.class_names == names
    assert "does not name" not in caplog.text
    check(source, 0, 2)
    few = tfds(write_tfds(tmp_path / "few", {"train": 2}, names=names[:3]))
    with pytest.raises(ImageError, match="the mask of example 0 of tfds_masks:tiny_masks.* value 3 .*must be 0..2"):
        few[0]


def test_tfds_refuses_what_has_no_masks(tmp_path):
    config = DataConfig(name="tfds_masks:tiny_digits", directory=str(FIXTURES / "array_record"))
    with pytest.raises(
        DataError, match="tfds_masks:tiny_digits has no images with masks: .*label \\(ClassLabel\\). Choose"
    ):
        load_source(config, "train")
    with pytest.raises(DataError, match=r"tfds:tiny_masks has no split 'vall' \(.*must be one of train"):
        tfds(write_tfds(tmp_path, {"train": 2}), "vall")
    config = DataConfig(name="tfds:tiny_masks", directory=str(tmp_path))
    with pytest.raises(
        DataError, match="is no image classification data set: .*segmentation_mask .*tfds_masks:tiny_masks"
    ):
        load_source(config, "train")
