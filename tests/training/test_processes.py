"""Several processes over the loopback: the same training, and a start that fails early and says why."""

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.errors import EXIT_CRASHED, ConfigError
from resnet_jax.runtime.hosts import Hosts

from . import test_devices as devices

ROOT = Path(__file__).parent.parent.parent
DEVICES = 4

# What every process does first; `body` follows.
START = """
import pickle, sys
import jax
jax.config.update("jax_num_cpu_devices", {local})
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.config.update("jax_enable_x64", True)
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.hosts import Hosts, check_same_everywhere, join
rank = int(sys.argv[1])
join(Hosts(coordinator="127.0.0.1:{port}", processes={processes}, process=rank, join_seconds=2400))
"""

# Training as `test_devices` does it, in parts and with the optimizer's state split over all devices.
TRAIN = """
import importlib, jax.numpy as jnp
test = importlib.import_module("tests.training.test_devices")
jax.config.update("jax_disable_most_optimizations", True)
config = test.make_config(accumulate=2, optim=test.SPLIT)
result = test.train(config, None, param_dtype=jnp.float64, stochastic_depth=0.5)
if rank == 0:
    pickle.dump(result, open({out!r}, "wb"))
"""

# Rows of a split of 21 examples in batches of 8: each process knows its own, and all get all in order.
ROWS = """
import jax.numpy as jnp, numpy as np
from resnet_jax.training.evaluate import Measured, make_pass, real_sums
from resnet_jax.runtime.mesh import make_mesh
def batches():
    for start in (0, 8, 16):
        places = np.split(np.arange(start, start + 8), jax.process_count())[rank]
        yield {{"place": places, "weight": (places < 21).astype(np.float32)}}
def measure(variables, batch, real):
    place = batch["place"].astype(jnp.float64)
    rows = {{"place": place + 1 / 3, "pair": place[:, None] * jnp.ones(2)}}
    return Measured(real_sums({{"place": place}}, real), rows)
sums, rows = make_pass(measure, make_mesh(), batches, count=21)({{}})
np.testing.assert_array_equal(rows["place"], np.arange(21) + 1 / 3)
np.testing.assert_array_equal(rows["pair"], np.arange(21)[:, None] * np.ones(2))
assert sums["place"] == 210
print("all rows")
"""

DISAGREE = """
check_same_everywhere({{"config": "the same", "code": "1"}})
try:
    check_same_everywhere({{"config": "batch_size " + str(rank // 2), "code": "1", "workdir": "runs/" + str(rank)}})
except ConfigError as error:
    print(error)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(body, processes, **values):
    """What each of the processes prints. They have `DEVICES` devices together."""
    code = (START + body).format(port=free_port(), processes=processes, local=DEVICES // processes, **values)
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=3000) for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(map("\n".join, outputs))
    return [out for out, _ in outputs]


@pytest.fixture(scope="module")
def one_process(compile_quickly):
    """The same training on one device of this process."""
    with jax.enable_x64(True):
        config = devices.make_config(optim=replace(devices.SPLIT, shard_state=False))
        return devices.train(config, 1, param_dtype=jnp.float64, stochastic_depth=0.5)


def test_two_processes_train_as_one_in_float64_and_compare_what_they_are_about_to_do(one_process, tmp_path):
    first, second = launch(DISAGREE + ROWS + TRAIN, 2, out=str(tmp_path / "result"))
    devices.assert_same(pickle.loads((tmp_path / "result").read_bytes()), one_process)
    for rank, text in enumerate((first, second)):
        assert "all rows" in text
        assert "do not agree, and nothing was begun. These differ from process 0:\n  workdir: process 1\n" in text
        assert f"Here (process {rank}): config batch_size 0, code 1, workdir runs/{rank}" in text


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_one_and_four_processes(one_process, processes, tmp_path):
    outputs = launch(DISAGREE + ROWS + TRAIN, processes, out=str(tmp_path / "result"))
    devices.assert_same(pickle.loads((tmp_path / "result").read_bytes()), one_process)
    if processes == 4:
        assert "config: process 2, 3\n  workdir: process 1, 2, 3\n" in outputs[3]


def alone(**hosts):
    """A process that joins others which are not there; its exit status and what it complains about."""
    code = f"from resnet_jax.runtime.hosts import Hosts, join\njoin(Hosts(**{hosts!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=3000)
    return done.returncode, done.stderr


def test_a_coordinator_that_does_not_answer():
    address = f"127.0.0.1:{free_port()}"
    status, complaint = alone(coordinator=address, processes=2, process=1, join_seconds=2)
    assert status == EXIT_CRASHED, complaint
    assert f"process 1 of 2 has waited 2 s for the others at the coordinator {address}, and gives up" in complaint


@pytest.mark.slow
def test_a_process_that_is_never_started():
    address = f"127.0.0.1:{free_port()}"
    status, complaint = alone(coordinator=address, processes=2, process=0, join_seconds=2)
    assert status == EXIT_CRASHED, complaint
    assert f"process 0 of 2 has waited 2 s for the others at the coordinator {address}" in complaint
    assert "all have the same number of processes" in complaint


@pytest.mark.slow
def test_processes_that_were_told_different_numbers():
    """Neither trains: one is refused by the coordinator, the others wait for a process that nobody starts."""
    address = f"127.0.0.1:{free_port()}"
    code = "import sys\nfrom resnet_jax.runtime.hosts import Hosts, join\nprocess, processes = map(int, sys.argv[1:])\n"
    code += f"join(Hosts(coordinator={address!r}, processes=processes, process=process, join_seconds=10))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, *pair], env=environment, stderr=subprocess.PIPE, text=True)
        for pair in (("0", "2"), ("3", "4"))
    ]
    complaints = [process.communicate(timeout=3000)[1] for process in started]
    assert all(process.returncode != 0 for process in started)
    assert "all have the same number of processes" in complaints[0]
    assert "process 3 of 4" in complaints[1]


def test_outside_of_a_cluster():
    status, complaint = alone(distributed=True)
    assert status != 0
    assert "--distributed found no other processes: coordinator_address should be defined" in complaint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"processes": 2}, "processes = 2 and process = 0 go with a coordinator; add --coordinator HOST:PORT"),
        ({"coordinator": "10.0.0.1:80", "processes": 2, "process": 2}, "process = 2 must be less than processes = 2"),
        ({"coordinator": "10.0.0.1", "processes": 2}, "coordinator = '10.0.0.1' must be HOST:PORT"),
    ],
)
def test_wrong_addresses_and_numbers(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Hosts(**wrong)
