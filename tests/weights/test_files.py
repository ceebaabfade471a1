"""Weight files, good and bad."""

import argparse
import builtins
import os
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from resnet_jax.errors import WeightsError
from resnet_jax.weights import files
from resnet_jax.weights.files import read_state_dict, to_tensors, write_state_dict

torch = pytest.importorskip("torch")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(3, 4, 5, 2)).astype(np.float32),
        "half": rng.normal(size=7).astype(np.float16),
        "brain": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        "double": rng.normal(size=()),
        "bn.num_batches_tracked": np.array(12, np.int64),
    }


@pytest.fixture
def no_torch(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert got[key].dtype == array.dtype
        assert got[key].shape == array.shape
        np.testing.assert_array_equal(got[key], array)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_what_is_written_is_read(arrays, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    write_state_dict(path, arrays)
    assert_same(read_state_dict(path), arrays)
    assert os.listdir(tmp_path) == [path.name]


def test_safetensors_agrees_with_its_library_and_needs_no_torch(arrays, tmp_path, no_torch):
    write_state_dict(tmp_path / "a.safetensors", arrays)
    assert_same(load_file(tmp_path / "a.safetensors"), arrays)
    save_file(arrays, tmp_path / "b.safetensors")
    assert_same(read_state_dict(tmp_path / "b.safetensors"), arrays)


def test_transposed_views_are_written_in_their_own_order(tmp_path):
    view = np.arange(24, dtype=np.float32).reshape(2, 3, 4).T
    write_state_dict(tmp_path / "a.safetensors", {"a": view})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.safetensors")["a"], view)


@pytest.mark.parametrize("is_zip", [True, False])
def test_both_formats_of_torch(arrays, tmp_path, is_zip):
    torch.save(to_tensors(arrays), tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    assert_same(read_state_dict(tmp_path / "a.pth"), arrays)


def test_the_name_does_not_decide_what_a_file_is(arrays, tmp_path):
    write_state_dict(tmp_path / "a.safetensors", arrays)
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth"), arrays)
    torch.save(to_tensors(arrays), tmp_path / "b.pth")
    (tmp_path / "b.pth").rename(tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"is a PyTorch file in spite of its name; rename it"):
        read_state_dict(tmp_path / "b.safetensors")


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_training_checkpoint_is_unwrapped(arrays, tmp_path, entry, prefix):
    network = {prefix + key: tensor for key, tensor in to_tensors(arrays).items()}
    if entry == "model_ema":
        network["n_averaged"] = torch.tensor(3)
    rest = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}, "args": argparse.Namespace(lr=0.1)}
    torch.save({entry: network, **rest}, tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth"), arrays)


def test_of_several_networks_one_must_be_named(arrays, tmp_path):
    averaged = {f"module.{key}": 2 * tensor for key, tensor in to_tensors(arrays).items()}
    torch.save({"model": to_tensors(arrays), "model_ema": averaged}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"several networks, model, model_ema; say which: entry='model_ema', or --entry"
    ):
        read_state_dict(tmp_path / "a.pth")
    got = read_state_dict(tmp_path / "a.pth", entry="model_ema")
    np.testing.assert_array_equal(got["conv.weight"], 2 * arrays["conv.weight"])
    with pytest.raises(WeightsError, match=r"no state dictionary in 'best'; it has model, model_ema"):
        read_state_dict(tmp_path / "a.pth", entry="best")


STEM = {"conv1.weight": np.ones((4, 3, 3, 3), np.float32), "bn1.weight": np.ones(4, np.float32)}


def prefixed(prefix, arrays=STEM):
    return {prefix + key: value for key, value in to_tensors(arrays).items()}


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "module.encoder.", "backbone.0.", "_orig_mod.module.", "module.model."]
)
@pytest.mark.parametrize("entry", [None, "net", "network", "model_state_dict", "ema"])
def test_prefixes_and_entries_of_other_programs(tmp_path, prefix, entry):
    content = {entry: prefixed(prefix), "optimizer": {"state": {}}, "epoch": 3} if entry else prefixed(prefix)
    torch.save(content, tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth"), STEM)


def test_a_part_of_the_keys_is_taken_on_request(tmp_path):
    """As MoCo saves its two encoders and a queue."""
    both = prefixed("module.encoder_q.") | prefixed("module.encoder_k.", {k: 2 * a for k, a in STEM.items()})
    torch.save({"state_dict": both | {"module.queue": torch.ones(3)}}, tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth", prefix="module.encoder_q."), STEM)
    assert read_state_dict(tmp_path / "a.pth", prefix="module.encoder_k.")["bn1.weight"][0] == 2
    with pytest.raises(WeightsError, match=r"no key that starts with 'encoder.'; there is encoder_k., encoder_q"):
        read_state_dict(tmp_path / "a.pth", prefix="encoder")


def test_averages_and_compiled_networks_in_any_order(tmp_path):
    def network():
        module = torch.nn.Sequential()
        module.conv1, module.bn1 = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
        return module

    average, compiled = torch.optim.swa_utils.AveragedModel, torch.compile
    expected = network().state_dict().keys()
    for wrap in (
        average,
        compiled,
        lambda module: average(compiled(module)),
        lambda module: compiled(average(module)),
        lambda module: torch.nn.DataParallel(compiled(average(module))),
    ):
        torch.save(wrap(network()).state_dict(), tmp_path / "a.pth")
        assert read_state_dict(tmp_path / "a.pth").keys() == expected
    part = network()
    part.conv1 = compiled(part.conv1)
    torch.save(part.state_dict(), tmp_path / "a.pth")
    assert read_state_dict(tmp_path / "a.pth").keys() == expected


def test_a_part_of_a_network_is_no_network(arrays, tmp_path):
    write_state_dict(tmp_path / "model-00001-of-00002.safetensors", arrays)
    with pytest.raises(WeightsError, match="is one of 2 parts of a network, says its name; .*as one"):
        read_state_dict(tmp_path / "model-00001-of-00002.safetensors")
    write_state_dict(tmp_path / "model-00001-of-00001.safetensors", arrays)
    assert_same(read_state_dict(tmp_path / "model-00001-of-00001.safetensors"), arrays)


def test_a_training_checkpoint_of_parameters(arrays, tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.ones(3))}, tmp_path / "a.pth")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "a.pth")["w"], np.ones(3))


# Bad input


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4:UserWarning")
@pytest.mark.parametrize("make", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, make):
    trap = str(tmp_path / "executed")
    content = {"conv.weight": torch.ones(3), "x": Attack(trap)}
    path = tmp_path / "a.pth"
    if make == "pickle":
        path.write_bytes(pickle.dumps({"x": Attack(trap)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=make == "zip")
    with pytest.raises(WeightsError, match=r"was refused: .* nothing of it was run"):
        read_state_dict(path)
    assert not os.path.exists(trap)
    torch.load(path, weights_only=False) if make != "pickle" else pickle.loads(path.read_bytes())
    assert os.path.exists(trap)  # the attack is a real one


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file(arrays, tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    arrays["big"] = np.ones((100, 100), np.float32)
    write_state_dict(path, arrays)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"damaged .*fetch it again"):
        read_state_dict(path)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_truncated_torch_file(arrays, tmp_path, is_zip, part):
    path = tmp_path / "a.pth"
    torch.save(to_tensors(arrays), path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"damaged .*fetch it again"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; the download failed"),
        (b"  <!DOCTYPE html><html>Sign in</html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x00\x01\x02\x03 nonsense of some kind", "neither a safetensors nor a PyTorch file"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{not json", "damaged or cut short"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_state_dict(path)


def test_no_such_file(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no file .*gone\.pth"):
        read_state_dict(tmp_path / "gone.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dictionary"),
        ({"epoch": 3, "w": torch.ones(2)}, r"no state dictionary: epoch are not arrays"),
        ({}, "it is empty"),
    ],
)
def test_a_torch_file_without_a_state_dictionary(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "a.pth")


def test_safetensors_of_an_unknown_type(tmp_path):
    save_file({"a": np.zeros(2, np.complex64)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a type that no network here has: \{'a': 'C64'\}"):
        read_state_dict(tmp_path / "a.safetensors")


def test_without_torch_a_pth_says_what_to_install(arrays, tmp_path, no_torch):
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightsError, match=r"torch is needed to read a\.pth; install it with `pip install torch`, or"):
        read_state_dict(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"torch is needed to write b\.pth"):
        write_state_dict(tmp_path / "b.pth", arrays)
    with pytest.raises(WeightsError, match="torch is needed to make tensors"):
        to_tensors(arrays)


def test_a_folder_that_is_not_there(arrays, tmp_path):
    with pytest.raises(WeightsError, match="there is no folder .*absent to write a.pth into; make it, or correct"):
        write_state_dict(tmp_path / "absent" / "a.pth", arrays)


def test_an_unknown_ending_is_not_written(arrays, tmp_path):
    with pytest.raises(WeightsError, match=r"must end in \.safetensors, \.pth or \.pt"):
        write_state_dict(tmp_path / "a.npz", arrays)


def test_a_failed_write_leaves_the_old_file(arrays, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_state_dict(path, arrays)
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_state_dict(path, {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
