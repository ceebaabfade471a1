"""Images that cannot be read: left out, counted, named; and everything that may be wrong with a file."""

import io
import json
import logging
import socket
import subprocess
import sys
from functools import partial
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import AugmentConfig, DataConfig, Preset
from resnet_jax.data import eval_batches, found_by_any_host, load_source, train_batches
from resnet_jax.data.broken import BrokenImages
from resnet_jax.data.decode import MAX_PIXELS, decode_image, to_channels
from resnet_jax.data.transforms import decode, decode_random_crop, resize_and_center_crop
from resnet_jax.errors import DataError, ImageError

SMALL = {"image_size": 16, "eval_resize": 16, "threads": 3}


def encoded(seed=0, file_format="JPEG", size=(40, 48)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


class Files:
    """`count` small JPEGs, of which some are cut short. The label of each is its index."""

    def __init__(self, count, broken=()):
        self.files = [encoded(i) for i in range(count)]
        for index in broken:
            self.files[index] = self.files[index][:100]
        self.class_names = tuple(map(str, range(count)))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return {"image": self.files[index], "label": index, "name": f"file {index}"}


def labels(source, count, hosts=1, **config):
    options = DataConfig(**SMALL, **config)
    shares = [
        train_batches(source, options, batch_size=6, seed=0, process_index=p, process_count=hosts) for p in range(hosts)
    ]
    return np.concatenate([next(share)["label"] for _ in range(count) for share in shares]), shares


def test_the_next_image_of_the_order_takes_the_place_of_a_broken_one():
    whole, _ = labels(Files(20), 10)
    found, (batches,) = labels(Files(20, broken=(3, 7)), 10, max_broken_fraction=0.1)
    orders = whole.reshape(3, 20)
    for order, seen in zip(orders, found.reshape(3, 20), strict=True):
        expected = list(order)
        for i in reversed(range(20)):
            if order[i] in (3, 7):
                expected[i] = next(x for x in [*order[i:], *order] if x not in (3, 7))
        assert list(seen) == expected
    assert len(batches.broken) == 2


def test_leaving_out_is_the_same_on_any_hosts_and_after_resuming():
    source = Files(20, broken=(3, 7))
    alone, _ = labels(source, 10, max_broken_fraction=0.1)
    for hosts in (2, 3):
        np.testing.assert_array_equal(labels(source, 10, hosts, max_broken_fraction=0.1)[0], alone)
    resumed = train_batches(source, DataConfig(**SMALL, max_broken_fraction=0.1), batch_size=6, seed=0)
    resumed.set_state({"position": 30})
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in islice(resumed, 5)]), alone[30:])


def test_each_broken_image_is_named_once_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        labels(Files(20, broken=(3,)), 20, max_broken_fraction=0.1)
    assert [record.getMessage() for record in caplog.records if "leaving out" in record.getMessage()] == [
        next(record.getMessage() for record in caplog.records)
    ]
    assert "leaving out image 3: cannot read file 3" in caplog.text


def test_too_many_broken_images_stop_the_run():
    source = Files(20, broken=(1, 2, 3))
    expected = "3 of 20 images cannot be read, more than max_broken_fraction = 0.1 .*first: cannot read file .*Mend the"
    with pytest.raises(DataError, match=expected):
        labels(source, 10, max_broken_fraction=0.1)
    with pytest.raises(DataError, match="1 of 20 images cannot be read, more than max_broken_fraction = 0.001"):
        labels(source, 10)


def test_a_data_set_with_nothing_to_read_ends():
    with pytest.raises(DataError, match="5 of 5 images cannot be read"):
        labels(Files(5, broken=range(5)), 1, max_broken_fraction=0.99)


def test_evaluation_leaves_nothing_out():
    with pytest.raises(ImageError, match="cannot read file 3: .*replace or remove the file"):
        list(eval_batches(Files(20, broken=(3,)), DataConfig(**SMALL, max_broken_fraction=0.5), batch_size=4))


def test_what_was_left_out_is_remembered_by_a_run_that_goes_on():
    source, config = Files(20, broken=(3, 7)), DataConfig(**SMALL, max_broken_fraction=0.1)
    before = train_batches(source, config, batch_size=6, seed=0)
    list(islice(before, 5))
    state = json.loads(json.dumps(before.get_state()))
    assert [index for index, _ in state["broken"]] == [3, 7]
    after = train_batches(source, config, batch_size=6, seed=0)
    after.set_state(state)
    assert after.broken.reasons == before.broken.reasons
    after.set_state({"position": 0})
    assert len(after.broken) == 2, "going back in the data does not make images whole"


GATHER = """
import sys, jax
process, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from resnet_jax.data import found_by_any_host
mine = [{}, {7: "torn", 30: "burnt"}][process] | {12: "leer \u00e4"}
assert found_by_any_host(mine) == {7: "torn", 12: "leer \u00e4", 30: "burnt"}
print("agreed")
"""


def test_all_hosts_together_know_what_is_broken():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    start = partial(subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    both = [start([sys.executable, "-c", GATHER, str(process), port]) for process in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=3000)
        assert "agreed" in said, said
    assert found_by_any_host({9: "b", 2: "a"}) == {2: "a", 9: "b"}


class Failing(Files):
    def __init__(self, error):
        super().__init__(20)
        self.error = error

    def __getitem__(self, index):
        if index == 11:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [RuntimeError("the disk is gone"), MemoryError("no memory left"), SystemExit("bye")])
def test_a_thread_that_dies_is_reported_with_its_cause(error):
    batches = train_batches(Failing(error), DataConfig(**SMALL), batch_size=6, seed=0)
    with pytest.raises(type(error), match=str(error)):
        list(islice(batches, 10))


def test_broken_images_are_counted_once():
    broken = BrokenImages(1000, 0.002)
    broken.add(5, "torn")
    broken.add(5, "torn")
    broken.add(6, "burnt")
    assert (len(broken), 5 in broken, 7 in broken) == (2, True, False)
    with pytest.raises(DataError, match=r"3 of 1000 images .* = 0.002 allows. The first: torn. Mend the data set, or"):
        broken.add(7, "lost")


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1)])
def test_an_image_too_long_to_be_resized_is_refused(shape):
    with pytest.raises(ImageError, match=f"resized to 256 on its shorter side: .*more than {MAX_PIXELS:,}.*Shrink or"):
        resize_and_center_crop(np.zeros((*shape, 3), np.uint8), Preset())


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "JPEG"])
def test_bombs_are_refused_before_they_go_off(file_format):
    """The header promises far more pixels than the file holds."""
    data = bytearray(encoded(0, file_format, (40, 48)))
    if file_format == "PNG":
        import zlib

        data[16:24] = (60000).to_bytes(4) + (50000).to_bytes(4)
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    elif file_format == "BMP":
        data[18:26] = (60000).to_bytes(4, "little") + (50000).to_bytes(4, "little")
    elif file_format == "GIF":
        data[6:10] = b"\xff\xff\xff\xff"
    else:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match=r"cannot read a file: .*(bomb|pixels)"):
        decode(bytes(data), 3, name="a file")


def test_pixels_of_the_wrong_kind():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    np.testing.assert_array_equal(to_channels(grey, 3, name="x"), np.repeat(grey, 3, -1))
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_channels(colour, 1, name="x")[..., 0], Image.fromarray(colour).convert("L"))
    for wrong in (np.zeros((5, 4, 4), np.uint8), np.zeros((3, 4), np.uint8), np.zeros((3, 4, 3), np.float32)):
        with pytest.raises(ImageError, match=r"image 3 is a .* array of shape .*; it must be uint8 .*Convert it"):
            to_channels(wrong, 3, name="image 3")
    with pytest.raises(ImageError, match=r"shape \(3, 4, 4\); .*channels first are PyTorch's layout: convert it by"):
        to_channels(np.zeros((3, 4, 4), np.uint8), 3, name="image 3")


def mutate(rng, number):
    """A file with something wrong with it, and what that is."""
    file_format = ("JPEG", "PNG", "GIF", "WEBP", "BMP")[rng.integers(5)]
    data = bytearray(encoded(number, file_format, (20, 24)))
    kind = ("flips", "truncated", "header", "empty", "hole", "garbage")[rng.integers(6)]
    if kind == "flips":
        for at in rng.integers(0, len(data), rng.integers(1, 9)):
            data[at] ^= 1 << rng.integers(8)
    elif kind == "truncated":
        data = data[: rng.integers(len(data))]
    elif kind == "header":  # huge dimensions among them
        at = rng.integers(0, 64)
        data[at : at + 4] = b"\xff" * 4
    elif kind == "empty":
        data = bytearray()
    elif kind == "hole":
        start = rng.integers(len(data))
        data = data[:start] + data[start + rng.integers(1, 200) :]
    else:
        data = bytearray(rng.bytes(rng.integers(1, 500)))
    suffix = ("jpg", "png", "gif", "webp", "bmp")[rng.integers(5)]  # often the wrong one
    return bytes(data), suffix


@pytest.mark.filterwarnings("ignore")  # Pillow's own, about what it finds in the files
def test_two_thousand_mutated_files_are_all_accounted_for(tmp_path):
    """They neither crash nor hang the pipeline; each is read or refused, and the same way every time."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "train" / "any"
    folder.mkdir(parents=True)
    for number in range(2000):
        data, suffix = mutate(rng, number)
        (folder / f"{number:04}.{suffix}").write_bytes(data)
    source = load_source(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(source) == 2000

    def read(index):
        example = source[index]
        try:
            crop = decode_random_crop(example["image"], np.random.default_rng(index), 16, 0.08, 3, name=example["name"])
        except ImageError:
            return None
        assert crop.shape == (16, 16, 3)
        return crop.tobytes()

    def evaluated(index):
        """As evaluation does it: to the byte what Pillow makes of the file, or its refusal."""
        example = source[index]
        try:
            expected = decode_image(example["image"], 3, name="a file")
        except ImageError:
            with pytest.raises(ImageError, match="a file"):
                decode(example["image"], 3, name="a file")
        else:
            np.testing.assert_array_equal(decode(example["image"], 3, name="a file"), expected)

    for index in range(2000):
        evaluated(index)
    first = [read(index) for index in range(2000)]
    unreadable = {index for index in range(2000) if first[index] is None}
    assert 600 < len(unreadable) < 1800, "the test must have both kinds"
    config = DataConfig(
        name=f"folder:{tmp_path}", max_broken_fraction=0.95, augment=AugmentConfig(crop_min_area=0.08), **SMALL
    )
    batches = train_batches(source, config, batch_size=100, seed=0)
    seen = [next(batches) for _ in range(20)]
    assert sum(len(batch["label"]) for batch in seen) == 2000
    assert {index for index in range(2000) if index in batches.broken} == unreadable
    assert read(0) == first[0]
    again = train_batches(source, config, batch_size=100, seed=0)
    np.testing.assert_array_equal(next(again)["image"], seen[0]["image"])
