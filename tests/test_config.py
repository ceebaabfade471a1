"""Wrong configs stop before any work, with the value, the rule and the remedy."""

import dataclasses
import json
from typing import Literal

import pytest

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, ModelConfig, OptimConfig, Start, load_config
from resnet_jax.config.checked import Checked, differences, from_dict
from resnet_jax.config_files import check_same_run, save_config, saved_config
from resnet_jax.errors import ConfigError

HEADER = "from resnet_jax import *\n"


def mixing(batch_size, **options):
    return Config(batch_size=batch_size, data=DataConfig(augment=AugmentConfig(cutmix_alpha=1.0, **options)))


@pytest.fixture
def write(tmp_path):
    def write(text, name="experiment.py"):
        path = tmp_path / name
        path.write_text(HEADER + text)
        return path

    return write


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OptimConfig(base_lr="0.1"), r"OptimConfig.base_lr = '0.1' must be float, not str"),
        (lambda: OptimConfig(base_lr=0), r"OptimConfig.base_lr = 0 is out of range; it must be > 0"),
        (lambda: OptimConfig(momentum=1.0), r"momentum = 1.0 is out of range; it must be >= 0 and < 1"),
        (lambda: OptimConfig(base_lr=float("nan")), "base_lr = nan must be a finite number"),
        (lambda: OptimConfig(drop_epochs=[30]), "drop_epochs = .30. must be a tuple of float values, not list"),
        (lambda: OptimConfig(drop_epochs=(30, "60")), r"drop_epochs\[1\] = '60' must be float, not str"),
        (lambda: OptimConfig(schedule="cosin"), "must be one of 'step', 'cosine', 'polynomial', 'constant'"),
        (lambda: ModelConfig(num_classes=True), "num_classes = True must be int, not bool"),
        (lambda: Config(batch_size=64.0), "batch_size = 64.0 must be int, not float"),
        (lambda: Config(model="resnet50"), "Config.model = 'resnet50' must be ModelConfig, not str"),
        (lambda: DataConfig(directory=3), "directory = 3 must be str or None, not int"),
        (lambda: DataConfig(channels=1), r"mean = .* has 3 values; it must have one for each of the 1 channels"),
        (lambda: AugmentConfig(hue=0.6), r"AugmentConfig.hue = 0.6 is out of range; it must be >= 0 and <= 0.5"),
        (lambda: AugmentConfig(rand_magnitude=31), r"rand_magnitude = 31 is out of range; it must be >= 0 and <= 30"),
        (lambda: AugmentConfig(policy="randaugment"), "must be one of 'none', 'trivial_augment_wide', 'rand_augment'"),
        (lambda: AugmentConfig(mixup_alpha=0.2, mix_group_size=1), "mix_group_size = 1 leaves an image no partner"),
        (
            lambda: DataConfig(
                channels=1, mean=(0.5,), std=(0.5,), augment=AugmentConfig(saturation=0.4, lighting=0.1)
            ),
            "saturation, lighting change colours, and images of channels = 1 have none; set them to 0",
        ),
        (
            lambda: DataConfig(augment=AugmentConfig(train_size=300, random_resized_crop=False)),
            "train_size = 300 without random_resized_crop must be at most eval_resize = 256",
        ),
        (lambda: mixing(batch_size=100, mix_group_size=32), r"into groups of 32 .*the nearest that are: 96 or 128"),
        (lambda: mixing(batch_size=1), r"batch_size = 1 cannot be cut into groups of 1 .*the nearest that are: 2"),
        (lambda: mixing(batch_size=30, mix_group_size=15, mix_law="timm"), "the group must be even. Change"),
        (lambda: DataConfig(image_size=300), "eval_resize = 256 must be at least image_size = 300"),
        (lambda: CheckpointConfig(keep_last=0), "keep_last = 0 is out of range; it must be >= 1"),
        (
            lambda: Config(batch_size=100, model=ModelConfig(bn_group_size=32)),
            "batch_size = 100 is not divisible by model.bn_group_size = 32; the nearest that are: 96 or 128",
        ),
    ],
)
def test_wrong_values_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_integers_are_welcome_where_floats_are_asked():
    assert Config(epochs=90).epochs == 90


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = Config(epoch=3)", "unknown field of Config 'epoch'. Did you mean 'epochs'"),
        (
            "config = Config(optim=OptimConfig(baselr=1.0))",
            "unknown field of OptimConfig 'baselr'. Did you mean 'base_lr'",
        ),
        ("config = Config(epochs='3')", "Config.epochs = '3' must be float"),
        ("cfg = Config()", "must define `config = .*`; it defines nothing of that name"),
        ("config = {}", "it defines a dict"),
    ],
)
def test_wrong_files_are_refused(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_suggests_its_neighbour(write):
    path = write("config = Config()")
    with pytest.raises(ConfigError, match=r"experimnt.py does not exist.* Did you mean .*experiment.py"):
        load_config(path.with_name("experimnt.py"))


def test_overrides(write):
    path = write("config = Config(epochs=3)")
    config = load_config(path, ["--optim.base-lr", "0.2", "--optim.drop-epochs", "1", "2", "--data.augment.no-flip"])
    assert (config.epochs, config.optim.base_lr, config.optim.drop_epochs) == (3, 0.2, (1, 2))
    assert not config.data.augment.flip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.base-lrr", "1"], r"--optim\.base-lr FLOAT"),
        (["--optim.base-lr", "fast"], "could not convert string to float: 'fast'"),
        (["--optim.momentum", "1.5"], r"OptimConfig\.momentum = 1\.5 is out of range"),
        (["--model.dtype", "float8"], "invalid choice"),
    ],
)
def test_wrong_overrides_are_refused(write, arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write("config = Config()"), arguments)


def test_json_round_trip(tmp_path):
    config = Config(epochs=3, optim=OptimConfig(no_decay=("bn", "bias$"), drop_epochs=(1.5,)))
    save_config(config, tmp_path)
    assert saved_config(tmp_path) == config


def test_older_runs_still_load(tmp_path):
    """Their augmentation lay among the fields of `data`."""
    old = json.loads(json.dumps(dataclasses.asdict(Config())))
    del old["data"]["augment"]
    old["data"] |= {"random_resized_crop": False, "crop_min_area": 0.25, "shift_pixels": 3, "flip": False}
    (tmp_path / "config.json").write_text(json.dumps(old))
    expected = AugmentConfig(random_resized_crop=False, crop_min_area=0.25, shift_pixels=3, flip=False)
    assert saved_config(tmp_path) == Config(data=DataConfig(augment=expected))


def test_older_runs_keep_the_head_that_fitted(tmp_path):
    """Before, the names of the classes decided nothing."""
    for weights, head in (("IMAGENET1K_V1", "fitting"), ("", "same_classes")):
        old = json.loads(json.dumps(dataclasses.asdict(Config(start=Start(weights=weights)))))
        del old["start"]["head"]
        (tmp_path / "config.json").write_text(json.dumps(old))
        assert saved_config(tmp_path).start == Start(weights=weights, head=head)


def test_from_dict_refuses_unknown_fields():
    with pytest.raises(ConfigError, match="unknown field of OptimConfig 'momentun'. Did you mean 'momentum'"):
        from_dict(Config, {"optim": {"momentun": 0.9}})


def test_another_config_is_refused_and_listed(tmp_path):
    assert not check_same_run(Config(), tmp_path)
    save_config(Config(), tmp_path)
    assert check_same_run(Config(), tmp_path)
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    other = dataclasses.replace(Config(), epochs=3, optim=OptimConfig(base_lr=0.2))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"(?s)optim.base_lr: 0.1 \(saved\) != 0.2 \(asked\).*epochs: 90.0 .* != 3"):
        check_same_run(other, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert differences(other, other) == []


@pytest.mark.parametrize("text", ["", "[]", "3", '{"epochs": "x"}', '{"optim": 3}', '{"epoch": 3}'])
def test_a_damaged_config_json_is_an_error_of_ours(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="is not a config of this version"):
        saved_config(tmp_path)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match="holds no run.*python train.py --workdir"):
        saved_config(tmp_path)
    assert json.dumps(dataclasses.asdict(Config()))


def test_a_run_that_has_saved_nothing_may_begin_anew(tmp_path):
    """With any config, also the one that an error advised; a run that has saved something is kept."""
    save_config(Config(), tmp_path)
    other = Config(seed=3)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "00000003.orbax-checkpoint-tmp").mkdir()
    assert not check_same_run(other, tmp_path)
    assert check_same_run(Config(), tmp_path)
    for saved in ("00000003", "damaged-00000003"):
        (tmp_path / "checkpoints" / saved).mkdir()
        with pytest.raises(ConfigError, match="holds a run with another config"):
            check_same_run(other, tmp_path)
        assert check_same_run(dataclasses.replace(Config(), data=DataConfig(max_broken_fraction=0.5)), tmp_path)
        (tmp_path / "checkpoints" / saved).rmdir()


@dataclasses.dataclass(frozen=True, kw_only=True)
class One(Checked):
    kind: Literal["one"] = "one"
    size: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other(Checked):
    kind: Literal["other"] = "other"
    side: float = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder(Checked):
    task: One | Other = One()


def test_a_field_that_holds_one_of_several_classes():
    assert from_dict(Holder, {"task": {"kind": "other", "side": 3.0}}) == Holder(task=Other(side=3.0))
    for holder in (Holder(), Holder(task=Other())):
        assert from_dict(Holder, json.loads(json.dumps(dataclasses.asdict(holder)))) == holder
    with pytest.raises(ConfigError, match="kind 'otter'.*other"):
        from_dict(Holder, {"task": {"kind": "otter"}})
    assert differences(Holder(), Holder(task=Other())) == [
        "task.kind: 'one' (saved) != 'other' (asked)",
        "task.size: 1 (saved) != None (asked)",
        "task.side: None (saved) != 2.0 (asked)",
    ]
