"""Which frames a clip shows, and that all its frames are cropped and changed alike."""

import itertools
import json
import logging
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from resnet_jax.config import AugmentConfig, ClipConfig, DataConfig, Preset, PresetChange
from resnet_jax.config.checked import from_dict
from resnet_jax.data import eval_batches, load_source, train_batches
from resnet_jax.data.fills import Draws
from resnet_jax.data.video import Clip, EvalClip, TrainClip, VideoFile
from resnet_jax.data.video.sampling import eval_frames, train_frames
from resnet_jax.errors import ConfigError, DataError, ImageError
from resnet_jax.run.network import describe
from tests.data.video_files import pictures

T = 4


def constant(count, rate=25.0):
    return np.arange(count) / rate


def shown_by_a_player(times, moment):
    """The frame on the screen: the last that began. A tenth of a frame is forgiven."""
    allowed = 0.1 * np.median(np.diff(times))
    return max(i for i, time in enumerate(times) if time <= moment + allowed or i == 0)


@pytest.mark.parametrize(
    ("count", "rate", "step", "clips"), [*itertools.product([40, 61], [None, 12.5, 25.0, 50.0], [1, 3], [1, 5])]
)
def test_evaluation_takes_the_frames_of_torchvision(count, rate, step, clips, torchvision):
    """Beside torchvision's `VideoClips` and its `UniformClipSampler`."""
    from torchvision.datasets.video_utils import VideoClips

    config = ClipConfig(frames=T, rate=rate, step=step, eval_clips=clips)
    ours = eval_frames(constant(count), config)
    resampled = VideoClips._resample_video_idx(int(count * (rate or 25) / 25), 25.0, rate or 25.0)
    kept = torch.arange(count)[resampled][: int(count * (rate or 25) / 25)].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(kept, (T - 1) * step + 1)[:, ::step]
    starts = uniform_starts(len(windows), clips)
    np.testing.assert_array_equal(ours.indices, windows[starts])
    assert (ours.length == T).all()


def uniform_starts(count, clips):
    """Where `UniformClipSampler` takes its clips."""
    from torchvision.datasets.samplers import UniformClipSampler

    videos = type("", (), {"clips": [range(count)]})()
    sampler = UniformClipSampler.__new__(UniformClipSampler)
    sampler.video_clips, sampler.num_clips_per_video = videos, clips
    return list(sampler)


@pytest.mark.parametrize("rate", [7.0, 24.0, 60.0])
def test_variable_frame_rates_show_what_a_player_shows(rate):
    rng = np.random.default_rng(0)
    times = np.concatenate([[0], np.cumsum(rng.integers(10, 90, 79))]) / 1000
    config = ClipConfig(frames=T, rate=rate, step=2, eval_clips=3)
    ours = eval_frames(times, config)
    places = int((times[-1] + np.median(np.diff(times))) * rate)
    for row, start in zip(ours.indices, np.floor(np.linspace(0, places - (T - 1) * 2 - 1, 3)), strict=True):
        assert row.tolist() == [shown_by_a_player(times, (start + 2 * i) / rate) for i in range(T)]
    drawn = [train_frames(times, config, np.random.default_rng(i)).indices[0] for i in range(200)]
    assert all((np.diff(row) >= 0).all() and row[-1] < 80 for row in drawn)
    for row in drawn:  # its frames are 2 / rate apart, within the length of a frame
        assert abs(times[row[-1]] - times[row[0]] - (T - 1) * 2 / rate) < 0.1
    assert min(row[0] for row in drawn) < 5
    assert max(row[-1] for row in drawn) >= 76


def test_times_that_were_rounded_to_milliseconds_repeat_no_frame():
    times = np.round(np.arange(60) / 30, 3)
    assert eval_frames(times, ClipConfig(frames=60, rate=30.0, eval_clips=1)).indices[0].tolist() == [*range(60)]


def test_training_begins_anywhere():
    config = ClipConfig(frames=T, step=2)
    drawn = np.stack([train_frames(constant(10), config, np.random.default_rng(i)).indices[0] for i in range(300)])
    assert (np.diff(drawn) == 2).all()
    assert np.bincount(drawn[:, 0], minlength=4).min() > 50
    assert drawn.max() == 9


@pytest.mark.parametrize("rate", [None, 25.0])
def test_a_short_video_is_filled_up_with_its_last_frame(rate):
    config = ClipConfig(frames=T, step=2, rate=rate, eval_clips=2)
    for count, wanted, length in ((1, [0, 0, 0, 0], 1), (4, [0, 2, 2, 2], 2), (7, [0, 2, 4, 6], 4)):
        for shown in (
            eval_frames(constant(count), config),
            train_frames(constant(count), config, np.random.default_rng(0)),
        ):
            assert shown.indices[0].tolist() == wanted
            assert (shown.length == length).all()


def test_uniform_sampling_takes_one_frame_of_each_part():
    config = ClipConfig(frames=T, sampling="uniform", eval_clips=2)
    assert eval_frames(constant(40), config).indices.tolist() == [[2, 12, 22, 32], [7, 17, 27, 37]]
    drawn = np.stack([train_frames(constant(40), config, np.random.default_rng(i)).indices[0] for i in range(200)])
    assert (drawn // 10 == np.arange(T)).mean() > 0.97, "a tenth of a frame is forgiven"
    assert len(np.unique(drawn[:, 1])) >= 10
    short = eval_frames(constant(3), config)
    assert short.indices.tolist() == [[0, 1, 2, 2]] * 2
    assert short.length.tolist() == [3, 3]


def test_published_preparation_is_torchvisions(torchvision):
    """`VideoClassification` of 128 x 171, 112: the same pixels but for the last bit where float32 rounds otherwise."""
    from torchvision.transforms._presets import VideoClassification

    frames = pictures(3, 97, 131)
    preset = Preset(
        crop=112, mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989), exact=(128, 171), antialias=False
    )
    row = filled(EvalClip(preset, ClipConfig(frames=3, eval_clips=1)), Clip(frames))
    theirs = VideoClassification(crop_size=(112, 112), resize_size=(128, 171))(torch.tensor(frames).permute(0, 3, 1, 2))
    ours = (row["clip"][0] / 255 - preset.mean) / preset.std
    difference = np.abs(ours - theirs.permute(1, 2, 3, 0).numpy())
    assert difference.max() < 1.01 / 255 / min(preset.std)
    assert (difference < 1e-5).mean() > 0.999


def filled(fill, video, seed=0, position=0):
    row = {name: np.zeros(shape, dtype) for name, (shape, dtype) in fill.leaves.items()}
    fill({"video": video, "label": 3, "name": "x"}, Draws(seed, position), row)
    return row


def config_of(**changes):
    return DataConfig(name="moving_digits", image_size=32, eval_resize=40, clip=ClipConfig(frames=3, **changes))


@pytest.mark.parametrize("way", ["random_resized_crop", "train_resize", "middle", "policy"])
def test_all_frames_are_cropped_and_changed_alike(way):
    """A clip of equal frames stays one, and every clip is another."""
    config = config_of(train_resize=(40, 60) if way == "train_resize" else ())
    if way in ("middle", "policy"):
        policy = "trivial_augment_wide" if way == "policy" else "none"
        config = replace(config, augment=AugmentConfig(random_resized_crop=False, policy=policy))
    still = Clip(np.repeat(pictures(1), 8, 0))
    rows = [filled(TrainClip(config), still, position=i)["clip"] for i in range(6)]
    for clip in rows:
        assert clip.shape == (3, 32, 32, 3)
        assert (clip == clip[:1]).all()
        assert clip.std() > 5
    different = len({clip.tobytes() for clip in rows})
    assert different == 1 if way == "middle" else different >= 4
    again = filled(TrainClip(config), still, position=2)["clip"]
    np.testing.assert_array_equal(again, rows[2])


def test_a_training_crop_has_the_sizes_that_were_asked_for():
    """A frame whose pixels say where they are tells the size it was resized to."""
    ramp = np.repeat(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], 100, 0).repeat(3, 2)[None]
    sides = []
    for position in range(60):
        clip = filled(TrainClip(config_of(train_resize=(40, 60))), Clip(ramp.repeat(4, 0)), position=position)["clip"]
        sides.append(31 * 255 / 2 / np.ptp(clip[0, 0, :, 0].astype(float)))
    assert 38 < min(sides) < 45
    assert 55 < max(sides) < 64


@pytest.mark.parametrize("shape", [(60, 100), (100, 60)])
def test_three_crops_are_the_two_ends_and_the_middle(shape):
    frames = pictures(3, *shape)
    preset = Preset(resize=60, crop=48)
    row = filled(EvalClip(preset, ClipConfig(frames=3, eval_clips=2, eval_crops=3)), Clip(frames))["clip"]
    assert row.shape == (6, 3, 48, 48, 3)
    if shape[0] > shape[1]:
        row, frames = row.swapaxes(2, 3), frames.swapaxes(1, 2)
    for crop, left in enumerate((0, 26, 52)):
        np.testing.assert_array_equal(row[crop], frames[:, 6:54, left : left + 48])
        np.testing.assert_array_equal(row[3 + crop], row[crop])
    one = filled(
        EvalClip(preset, ClipConfig(frames=3, eval_clips=2)), Clip(frames if shape[1] > 60 else frames.swapaxes(1, 2))
    )
    middle = one["clip"][0] if shape[1] > 60 else one["clip"][0].swapaxes(1, 2)
    np.testing.assert_array_equal(middle, row[1])


def test_evaluation_reads_a_video_in_parts_and_each_frame_once():
    class Counted(Clip):
        def read(self, indices):
            read.append(indices.tolist())
            return super().read(indices)

    read = []
    fill = EvalClip(Preset(resize=66, crop=66), ClipConfig(frames=4, eval_clips=5), labels=(0, 1, 2, 7))
    row = filled(fill, Counted(pictures(11)))
    assert row["label"] == 7
    assert row["length"].tolist() == [4] * 5
    assert [*itertools.chain(*read)] == [*range(11)]
    assert max(map(len, read)) == 4
    plain = Clip(pictures(11)[:, :, 16:82])
    np.testing.assert_array_equal(row["clip"][4], plain.frames[7:11])


def test_batches_of_clips_continue_exactly_and_do_not_depend_on_hosts():
    config = config_of(rate=20.0)
    config = replace(config, channels=1, mean=(0.5,), std=(0.5,))
    source = load_source(config, "train")
    options = {"batch_size": 8, "seed": 3, "fill": TrainClip(config)}
    batches = train_batches(source, config, **options)
    first, second, third = (next(batches) for _ in range(3))
    resumed = train_batches(source, config, **options)
    resumed.set_state({"position": 16})
    assert {name: array.shape for name, array in first.items()} == {
        "clip": (8, 3, 32, 32, 1),
        "length": (8,),
        "label": (8,),
    }
    np.testing.assert_array_equal(next(resumed)["clip"], third["clip"])
    halves = [next(train_batches(source, config, **options, process_index=i, process_count=2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([half["clip"] for half in halves]), first["clip"])
    assert not np.array_equal(first["clip"], second["clip"])


class Broken:
    """A source whose second video is a file that cannot be read."""

    class_names, splits, leaves = ("a", "b"), ("train",), ("video", "label")

    def __len__(self):
        return 6

    def labels(self):
        return np.arange(6) % 2

    def __getitem__(self, index):
        video = VideoFile(os.devnull) if index == 1 else Clip(pictures(5, seed=index))
        return {"video": video, "label": index % 2, "name": f"video {index}"}


def test_a_broken_video_is_left_out_in_training_and_an_error_in_evaluation(caplog):
    config = replace(config_of(), max_broken_fraction=0.2)
    with caplog.at_level(logging.WARNING):
        batches = train_batches(Broken(), config, batch_size=6, seed=0, fill=TrainClip(config))
        for _ in range(2):
            next(batches)
    assert list(batches.broken.reasons) == [1]
    assert f"leaving out image 1: cannot read {os.devnull}" in caplog.text
    with pytest.raises(ImageError, match=f"cannot read {os.devnull}"):
        list(eval_batches(Broken(), config, batch_size=3, fill=EvalClip(config.preset, config.clip)))
    strict = replace(config, max_broken_fraction=0.1)
    with pytest.raises(DataError, match="1 of 6 images cannot be read, more than max_broken_fraction = 0.1 allows"):
        next(train_batches(Broken(), strict, batch_size=6, seed=0, fill=TrainClip(strict)))


def test_old_configs_have_no_clips():
    config = DataConfig(clip=ClipConfig(eval_resize=(256, 300), antialias=False))
    saved = json.loads(json.dumps(asdict(config)))
    assert from_dict(DataConfig, saved) == config
    assert config.preset.exact == (256, 300)
    del saved["clip"]
    assert from_dict(DataConfig, saved) == DataConfig()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ClipConfig(eval_resize=(128,)), r"ClipConfig.eval_resize = \(128,\) has 1 values; it must have two"),
        (
            lambda: ClipConfig(train_resize=(9, 8)),
            "ClipConfig.train_resize = .* its smaller number first; exchange them",
        ),
        (lambda: ClipConfig(sampling="uniform", step=2), "step = 2 and rate = None are for sampling = 'dense'"),
        (lambda: ClipConfig(frames=0), "ClipConfig.frames = 0 is out of range; it must be >= 1"),
        (lambda: config_of(train_resize=(30, 60)), r"DataConfig.clip.train_resize = \(30, 60\) must be at least 32"),
        (lambda: config_of(eval_resize=(31, 60)), r"DataConfig.clip.eval_resize = \(31, 60\) must be at least 32"),
    ],
)
def test_what_clips_cannot_be(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_a_change_of_the_resize_replaces_exact_sides():
    preset = Preset(crop=112, exact=(128, 171))
    assert PresetChange(resize=140).applied(preset).exact is None
    with pytest.raises(ConfigError, match="preset.crop = 130 must be at most preset.resize = 128"):
        PresetChange(crop=130).applied(preset)


def test_a_preparation_of_images_is_saved_as_before():
    """Stores of features that were made before videos are compared with it."""
    old = {"resize", "crop", "interpolation", "mean", "std", "squash", "crop_rounds_down", "exif"}
    assert Preset().as_json().keys() == old
    preset = Preset(crop=112, exact=(128, 171), antialias=False)
    saved = json.loads(json.dumps(preset.as_json()))
    assert (
        Preset(**{name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}) == preset
    )
    assert describe(preset) == "images: 128 x 171 pixels (bilinear), centre 112"
