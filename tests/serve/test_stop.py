"""A server that is told to stop answers what it has accepted, and ends."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.errors import ConfigError
from resnet_jax.serve import server
from resnet_jax.serve.server import address_of, bind, is_open_to_others

from ..weights.networks import calm, random_variables
from .conftest import Gate, photo, serving
from .test_uploads import head, later, light, read_all

ROOT = Path(__file__).parents[2]


def test_what_was_accepted_is_answered(monkeypatch):
    monkeypatch.setattr(server, "LINGER", 1800)  # ends when no connection is idle any more
    gate = Gate()
    with serving(gate.served()) as running, ThreadPoolExecutor(40) as clients:
        idle, half = (http.client.HTTPConnection(*running.place) for _ in range(2))
        assert running.ask("/ready", connection=idle).status == 200
        assert running.ask("/ready", connection=half).status == 200
        new = socket.create_connection(running.place)  # connected, and has not asked yet
        gate.open.clear()
        waiting = [clients.submit(running.ask, "/predict", light(level)) for level in range(30)]
        later(lambda: running.service.inside == 30)
        body = light(51)
        half.send(head(Content_Length=len(body)) + body[:20])  # an upload that has begun
        running.server.stop()
        later(lambda: not running.server.servers[0].is_serving())
        with pytest.raises(ConnectionRefusedError, match="refused"):
            socket.create_connection(running.place)
        stopping = running.ask("/ready", connection=idle)
        assert (stopping.status, stopping.text, stopping.headers["connection"]) == (503, "stopping", "close")
        new.sendall(head(Content_Length=len(body)) + body)
        later(lambda: running.service.inside == 31)
        half.send(body[20:])
        later(lambda: running.service.inside == 32)
        assert running.server.server_state.connections, "it waits"
        gate.open.set()
        answers = [one.result() for one in waiting]
        assert {answer.status for answer in answers} == {200}
        shares = sorted(min(one["probability"] for one in answer.json["classes"]) for answer in answers)
        np.testing.assert_allclose(shares, np.arange(30) / 255, atol=1e-6)
        for said in (read_all(new), read_all(half.sock)):
            assert said.startswith("HTTP/1.1 200")
            assert "connection: close" in said
            assert '"probability":0.8' in said


def test_it_can_be_stopped_while_it_compiles():
    gate = Gate()
    gate.open.clear()
    with serving(gate.served(), wait=None, batch_sizes=(1, 2, 4)) as running:
        later(lambda: hasattr(running.server, "servers"))
        running.server.stop()
        gate.open.set()
    assert running.service.failure is None
    assert not running.service._work.computing, "the other programs were left out"


def test_a_program_that_cannot_be_compiled_ends_it():
    export = Gate().served()

    def fails(pixels):
        raise RuntimeError("no memory")

    object.__setattr__(export.predictor, "probabilities", fails)
    with serving(export, wait="stopping") as running:
        later(lambda: not running.server.server_state.connections)
    assert str(running.service.failure) == "no memory"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    rn.save_weights(path, calm(random_variables(rn.create_model("cifar_resnet20", num_classes=7))))
    return path


class Process:
    """The command, in a process of its own."""

    def __init__(self, *words):
        quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "COLUMNS": "80", "XLA_FLAGS": ""}
        command = [sys.executable, "-u", "-m", "resnet_jax", "serve", *map(str, words), "--port", "0"]
        command += ["--timeout", "1800", "--upload-timeout", "1800"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | quick, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines = []
        while not self.lines or not self.lines[-1].startswith("ready"):
            line = self.process.stdout.readline()
            assert line, self.lines
            self.lines.append(line.rstrip("\n"))
        self.place = re.search(r"http://([\d.]+):(\d+)$", self.lines[-1]).groups()

    def end(self):
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(1800)


def test_sigterm_under_load_loses_nothing(weights):
    running = Process(weights, "--model", "cifar_resnet20", "--batch-sizes", "1", "8", "--no-cam")
    assert running.lines[:-1] == [
        f"cifar_resnet20 of {weights}: 7 classes, without Grad-CAM",
        "images: shorter side 32 pixels (bilinear), centre 32",
        "compiling 2 programs, for batches of 1, 8",
    ]
    answered, lost = [], []
    many = threading.Event()

    def client(seed):
        connection = http.client.HTTPConnection(*running.place)
        connection.connect()
        data = photo(seed)
        while True:
            try:
                connection.request("POST", "/predict", data)
                response = connection.getresponse()
                answered.append((seed, response.status, response.read()))
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
                return
            if len(answered) > 200:
                many.set()
            if response.will_close:  # the server has said that it ends
                return

    with ThreadPoolExecutor(32) as clients:
        load = [clients.submit(client, seed) for seed in range(32)]
        assert many.wait(1800)
        running.process.send_signal(signal.SIGTERM)
        for one in load:
            one.result()
    assert running.end() == 0
    assert not lost
    assert {status for _, status, _ in answered} == {200}
    assert len({(seed, body) for seed, _, body in answered}) < 32 * 3, (
        "each client gets the same again, but for rounding"
    )
    assert running.lines[4].startswith("SIGTERM: no new connections; ")
    assert running.lines[-1] == f"{len(answered)} requests were answered"


@pytest.mark.slow
def test_a_second_signal_ends_at_once(weights):
    running = Process(weights, "--model", "cifar_resnet20", "--batch-sizes", "1", "--no-cam")
    with socket.create_connection(running.place) as connection:
        connection.sendall(head(Content_Length=1000) + b"some")
        running.process.send_signal(signal.SIGINT)
        while not running.process.stdout.readline().startswith("SIGINT: no new connections; "):
            pass
        running.process.send_signal(signal.SIGINT)
        assert running.end() == 128 + signal.SIGINT


@pytest.mark.slow
def test_new_connections_under_load(weights):
    """Without keep-alive: from the signal on clients are refused, and nobody who was let in is left without answer."""
    running = Process(weights, "--model", "cifar_resnet20", "--batch-sizes", "1", "8", "--no-cam")
    answered, lost, refused = [], [], []
    many = threading.Event()

    def client(seed):
        data = photo(seed)
        while True:
            connection = http.client.HTTPConnection(*running.place)
            try:
                connection.connect()
            except OSError:
                refused.append(seed)
                return
            try:
                connection.request("POST", "/predict", data)
                answered.append(connection.getresponse().status)
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
            connection.close()
            if len(answered) > 300:
                many.set()

    with ThreadPoolExecutor(32) as clients:
        load = [clients.submit(client, seed) for seed in range(32)]
        assert many.wait(1800)
        running.process.send_signal(signal.SIGTERM)
        for one in load:
            one.result()
    assert running.end() == 0
    assert set(answered) == {200}
    assert len(refused) == 32
    assert len(lost) <= 1, "who connects in the very moment when the port is closed"


def test_a_port_that_is_taken_is_told_before_the_network_is_read():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        text = f"--port {port} of 127.0.0.1 is in use by another program; choose another, or 0 for any that is free"
        with pytest.raises(SystemExit, match=text):
            cli.main(["serve", "there_is_no_such_network", "--port", str(port)])


def test_hosts():
    with pytest.raises(ConfigError, match=r"--host no\.such\.host\.invalid is no address of this machine: .*give one"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(ConfigError, match=r"cannot listen on --host 192\.0\.2\.1 --port 0: .*give an address of this"):
        bind("192.0.2.1", 0)
    with bind("0.0.0.0", 0) as everybody, bind("127.0.0.1", 0) as own:
        assert is_open_to_others(everybody)
        assert not is_open_to_others(own)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address_of(own))
