"""From a file to a network and back, and the command for it."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.errors import WeightsError
from resnet_jax.weights import read_state_dict, to_tensors, write_state_dict

from .networks import random_variables

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def network():
    model = rn.create_model("resnet18", num_classes=5)
    return model, random_variables(model, channels=4)


@pytest.fixture
def path(network, tmp_path):
    rn.save_weights(tmp_path / "a.pth", network[1], num_batches_tracked=11)
    return tmp_path / "a.pth"


def test_head_and_channels_come_from_the_file(network, path):
    model, variables = rn.load_pretrained("resnet18", path)
    assert model == network[0]
    assert int(variables.pop("num_batches_tracked")["bn1"]["count"]) == 11
    jax.tree.map(np.testing.assert_array_equal, variables, network[1])


def test_options_reach_the_network_and_a_head_that_is_asked_for_must_be_there(path):
    model, variables = rn.load_pretrained("resnet18", path, dtype=jnp.bfloat16, param_dtype=jnp.float16)
    assert model.dtype == jnp.bfloat16
    assert variables["params"]["fc"]["kernel"].dtype == jnp.float16
    with pytest.raises(WeightsError, match="to take them as they are pass num_classes=5"):
        rn.load_pretrained("resnet18", path, num_classes=7)


def test_load_weights_is_for_a_network_that_exists(network, path):
    variables = rn.load_weights(path, network[0], channels=4)
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], network[1]["params"]["fc"]["bias"])


@pytest.mark.parametrize("target", ["b.safetensors", "b.pth"])
def test_convert_recognises_the_network_and_keeps_every_bit(path, target, capsys):
    target = path.with_name(target)
    main(["convert", str(path), str(target)])
    assert "resnet18: wrote 122 arrays to" in capsys.readouterr().out
    before, after = read_state_dict(path), read_state_dict(target)
    assert before.keys() == after.keys()
    for key, array in before.items():
        assert array.dtype == after[key].dtype
        np.testing.assert_array_equal(array, after[key])


def test_convert_to_other_names_and_numbers(path):
    target = path.with_name("b.safetensors")
    main(["convert", str(path), str(target), "--layout", "huggingface", "--dtype", "bfloat16"])
    arrays = read_state_dict(target)
    assert str(arrays["classifier.1.weight"].dtype) == "bfloat16"
    counts = {array.dtype for key, array in arrays.items() if key.endswith("num_batches_tracked")}
    assert counts == {np.dtype(np.int64)}
    back = path.with_name("c.pth")
    main(["convert", str(target), str(back), "--layout", "torchvision", "--model", "resnet18"])
    assert read_state_dict(back).keys() == read_state_dict(path).keys()


@pytest.mark.slow
def test_convert_says_which_networks_are_written_alike(tmp_path, capsys):
    variables = random_variables(rn.create_model("resnet50", num_classes=2, width=64))
    rn.save_weights(tmp_path / "a.safetensors", variables)
    main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")])
    out = capsys.readouterr().out
    assert "The arrays of resnet50_v1 and resnetblur50 have the same names and shapes" in out
    assert "resnet50 is a guess: --model says which network it is" in out
    main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "--model", "resnetblur50"])
    assert capsys.readouterr().out.startswith("resnetblur50: wrote"), "asked for, and no guess"


def test_a_refusal_names_all_networks_that_fit_and_the_option_that_decides(tmp_path):
    variables = random_variables(rn.create_model("resnet50", num_classes=2, width=64))
    rn.save_weights(tmp_path / "a.safetensors", variables)
    with pytest.raises(
        WeightsError,
        match=r"looks like resnet50 or resnet50_v1 or resnetblur50, .*say which it is, load_pretrained\('resnet50', "
        r"\.\.\.\) or --model resnet50",
    ):
        rn.load_pretrained("resnet101", tmp_path / "a.safetensors")
    for name in ("resnet50", "resnet50_v1", "resnetblur50"):
        assert rn.load_pretrained(name, tmp_path / "a.safetensors")[0].num_classes == 2


def test_convert_makes_nothing_infinite(network, tmp_path):
    variables = jax.tree.map(np.array, network[1])
    variables["batch_stats"]["bn1"]["var"][3] = 1e5
    rn.save_weights(tmp_path / "a.safetensors", variables)
    command = ["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth"), "--dtype"]
    with pytest.raises(SystemExit, match=r"error: 1 arrays .* float16 cannot: bn1.running_var up to 1e\+05"):
        main([*command, "float16"])
    assert not (tmp_path / "b.pth").exists()
    main([*command, "bfloat16"])


def test_a_part_of_a_checkpoint_is_taken_everywhere(network, tmp_path):
    """By the words that the error advises."""
    states = {name: to_tensors(read_state_dict_of(network, tmp_path, factor)) for name, factor in (("a", 1), ("b", 2))}
    torch.save({"student": states["a"], "teacher": states["b"]}, tmp_path / "both.pth")
    with pytest.raises(WeightsError, match="several networks, .*say which: entry='teacher', or --entry teacher"):
        rn.load_pretrained("resnet18", tmp_path / "both.pth")
    _, variables = rn.load_pretrained("resnet18", tmp_path / "both.pth", entry="teacher")
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], 2 * network[1]["params"]["fc"]["bias"])
    main(["convert", str(tmp_path / "both.pth"), str(tmp_path / "one.pth"), "--entry", "teacher"])
    moco = {f"module.encoder_{name}.{key}": value for name, state in states.items() for key, value in state.items()}
    torch.save(moco, tmp_path / "moco.pth")
    with pytest.raises(WeightsError, match=r"lies under 'encoder_a.' or 'encoder_b.' .*--prefix encoder_a"):
        rn.load_pretrained("resnet18", tmp_path / "moco.pth")
    with pytest.raises(SystemExit, match="lies under 'encoder_a.' or 'encoder_b.' .*--prefix encoder_a"):
        main(["convert", str(tmp_path / "moco.pth"), str(tmp_path / "two.pth")])
    _, variables = rn.load_pretrained("resnet18", tmp_path / "moco.pth", prefix="module.encoder_b.")
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], 2 * network[1]["params"]["fc"]["bias"])
    main(["convert", str(tmp_path / "moco.pth"), str(tmp_path / "two.pth"), "--prefix", "module.encoder_b."])
    one, two = read_state_dict(tmp_path / "one.pth"), read_state_dict(tmp_path / "two.pth")
    assert all((one[key] == two[key]).all() for key in one)


def read_state_dict_of(network, folder, factor):
    rn.save_weights(folder / "x.safetensors", jax.tree.map(lambda x: np.asarray(x) * factor, network[1]))
    return read_state_dict(folder / "x.safetensors")


def test_convert_of_an_unknown_network(tmp_path):
    write_state_dict(tmp_path / "a.safetensors", {"w": np.ones(3)})
    with pytest.raises(SystemExit, match=r"error: .*a\.safetensors is of no network known here"):
        main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth")])


MEASURE = """
import os, sys, threading, time
import jax, torch
from resnet_jax.models import create_model
from resnet_jax.weights import from_torchvision, read_state_dict
from resnet_jax.weights.recognize import leaves_of

def allocated():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024

model = create_model("resnet152")
jax.block_until_ready(jax.numpy.ones(3) + 1)
peak, done, before = [0], [], allocated()
def watch():
    while not done:
        peak[0] = max(peak[0], allocated())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
variables = jax.block_until_ready(from_torchvision(read_state_dict(sys.argv[1]), model))
seconds = time.perf_counter() - start
done.append(True)
watcher.join()
print((peak[0] - before) / os.path.getsize(sys.argv[1]), seconds)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's account of memory")
@pytest.mark.parametrize("suffix", [pytest.param(".pth", marks=pytest.mark.slow), ".safetensors"])
def test_conversion_of_resnet152_allocates_less_than_twice_its_file(torchvision, tmp_path, suffix):
    """The file itself is mapped: its pages are the system's cache, which it takes back when it needs them."""
    path = tmp_path / f"resnet152{suffix}"
    module = torchvision.models.resnet152()
    write_state_dict(path, {key: tensor.numpy() for key, tensor in module.state_dict().items()})
    del module
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    times_the_file, seconds = map(float, done.stdout.split())
    print(f"{times_the_file:.2f} times the file, {seconds:.2f} s")
    assert times_the_file < 1.5


def test_tensors_of_every_dtype_have_their_own_memory():
    arrays = {"a": np.asarray(jnp.ones(3)), "b": np.asarray(jnp.ones(3, jnp.bfloat16))}
    tensors = to_tensors(arrays)
    tensors["a"].add_(1)
    assert tensors["b"].dtype == torch.bfloat16
    assert float(arrays["a"][0]) == 1
