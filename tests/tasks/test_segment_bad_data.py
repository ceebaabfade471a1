"""What is wrong with a data set for segmentation is said before anything is trained or written."""

from dataclasses import replace

import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.data import load_source
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.tasks.table import task_of
from tests.data.test_pairs import save, write

SIZE = (20, 30)


def config_of(root, **data):
    config = rn.load_config(
        "configs/segment/nuclei.py", ["--data.name", f"pairs:{root}", "--model.num-classes", "3", "--epochs", "1"]
    )
    return replace(config, data=replace(config.data, **data))


FAULTS = {
    "size": (
        np.zeros((30, 20), np.uint8),
        r"the mask of .*/{split}/images/1.jpg has 30 x 20 pixels and the image 20 x 30; they must be equal",
    ),
    "value": (
        np.full(SIZE, 9, np.uint8),
        r".*/{split}/masks/1.png holds the value 9 \(600 pixels are too high\); a mask's values must be 0..2, one for",
    ),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mask_that_cannot_be_used(tmp_path, split, fault):
    mask, text = FAULTS[fault]
    save(write(tmp_path / "data") / split / "masks" / "1.png", mask)
    text = r"^1 of 3 images cannot be read, more than max_broken_fraction = 0.001 allows. The first: " + text
    with pytest.raises(DataError, match=text.format(split=split)):
        rn.train(config_of(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_mask_in_colours_of_no_class(tmp_path):
    for number in range(3):
        save(write(tmp_path / "data") / "train" / "masks" / f"{number}.png", np.full((*SIZE, 3), (1, 2, 3), np.uint8))
    with pytest.raises(DataError, match=r"are in colour \(\(1, 2, 3\)\), .*Write classes.txt, one line NAME R G B for"):
        rn.train(config_of(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_without_masks(tmp_path):
    write(tmp_path / "data")
    for number in (0, 2):
        (tmp_path / "data" / "test" / "masks" / f"{number}.png").unlink()
    with pytest.raises(DataError, match=r"^2 images have no mask: .*/test/images/0.jpg, .*/test/images/2.jpg. Each im"):
        rn.train(config_of(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_number_of_classes(tmp_path):
    write(tmp_path / "data")
    config = config_of(tmp_path / "data")
    for classes in (2, 11):
        with pytest.raises(ConfigError, match=rf"^model.num_classes = {classes}, but pairs:.* has 3 classes, .* = 3$"):
            rn.train(replace(config, model=replace(config.model, num_classes=classes)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_as_many_faults_as_are_allowed_are_left_to_training(tmp_path):
    save(write(tmp_path) / "train" / "masks" / "1.png", FAULTS["size"][0])
    config = config_of(tmp_path, max_broken_fraction=0.4)
    task_of(config).check_source(load_source(config.data, "train"))


def test_an_image_smaller_than_the_crop_is_filled_up(tmp_path):
    """At its right and bottom, with pixels that do not count."""
    write(tmp_path)
    config = config_of(tmp_path, image_size=48, eval_resize=48)
    config = replace(config, task=replace(config.task, min_scale=0.5, max_scale=0.5))
    fill = task_of(config).fills[0]
    example = load_source(config.data, "train")[0]
    row = {name: np.zeros(shape, dtype) for name, (shape, dtype) in fill.leaves.items()}
    fill(example, rn.data.fills.Draws(0, 0), row)
    assert (row["mask"][24:] == 255).all()
    assert (row["mask"][:, 36:] == 255).all()
    assert set(np.unique(row["mask"][:24, :36])) == {0, 1, 2, 255}
    assert (row["image"][24:] == np.round(255 * np.array(config.data.mean))).all()
