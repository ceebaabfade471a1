"""Servers on loopback in a thread of the tests, and a client of the standard library."""

import http.client
import io
import json
import threading
import time
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from resnet_jax.config import Preset, ServeConfig
from resnet_jax.data import load_image
from resnet_jax.models import create_model
from resnet_jax.run.network import Network
from resnet_jax.run.predict import Run
from resnet_jax.run.predictor import Predictor
from resnet_jax.serve.app import Service
from resnet_jax.serve.exported import Export
from resnet_jax.serve.opened import served_of
from resnet_jax.serve.server import Server, address_of, bind
from resnet_jax.tasks import assemble
from resnet_jax.tasks.table import settled, task_of
from resnet_jax.training.state import TrainState

from ..weights.networks import calm, random_variables

PRESET = Preset(resize=40, crop=33, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)


class Running(NamedTuple):
    address: str
    service: Service
    server: Server

    @property
    def place(self):
        return urlsplit(self.address).hostname, urlsplit(self.address).port

    def ask(self, path="/predict", body=None, method=None, headers=None, connection=None):
        own = connection or http.client.HTTPConnection(*self.place)
        own.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        response = own.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        if connection is None:
            own.close()
        return answer

    def metric(self, name):
        lines = self.ask("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@contextmanager
def serving(opened, *, wait="ready", exif=False, **options):
    """A server of a run, a network or an export, until the block ends."""
    patient = {"timeout": 1800, "upload_timeout": 1800}  # no test judges how fast a busy machine is
    config = ServeConfig(**{"port": 0, "batch_sizes": (1, 8), "cam": False, **patient, **options})
    service = Service(served_of(opened, config, exif=exif), config)
    with bind(config.host, config.port) as listening:
        running = Running(address_of(listening), service, Server(service))
        thread = threading.Thread(target=running.server.run, args=([listening],))
        thread.start()
        try:
            while wait and service.state != wait and thread.is_alive():
                time.sleep(0.005)
            yield running
        finally:
            running.server.stop()
            thread.join()
    assert not service.inside


def form(data, name="image", filename="photo.png"):
    """The body and the headers of a form with one file."""
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
    return head + data + b"\r\n--xyz--\r\n", {"Content-Type": "multipart/form-data; boundary=xyz"}


def photo(seed=0, size=(53, 47), kind="PNG", mode="RGB", **options):
    """The content of an image file: low frequencies, so that the classes of a random network differ."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(content, kind, **options)
    return content.getvalue()


class Gate:
    """A network whose thread waits until it is let through; it needs no compilation. Its first class is the mean of
    the pixels, as a share of 255."""

    def __init__(self):
        self.open = threading.Event()
        self.open.set()

    def served(self):
        def probabilities(pixels):
            assert self.open.wait(1800)
            share = pixels.reshape(len(pixels), -1).mean(axis=1) / 255
            return np.stack([share, 1 - share], axis=1).astype(np.float32)

        load = lambda data: load_image(data, PRESET)
        return Export(Predictor("a gate", ("light", "dark"), load, probabilities), PRESET, None, (33, 33))


def run_of(config, names):
    """A run as it is read back, with random parameters: to train or save one takes longer than all that is tested."""
    config = settled(config)
    model = assemble.build_model(config)
    variables = random_variables(model, channels=config.data.channels, image=(32, 32))
    state = TrainState(step=np.int32(7), opt_state=(), key=np.zeros(2, np.uint32), **variables)
    return Run(config, task_of(config), state, names)


@pytest.fixture(scope="session")
def tiny():
    """A network that compiles within a second."""
    model = create_model("cifar_resnet20", num_classes=7, stage_sizes=(1, 1, 1), width=4)
    names = ("cat", "dog", "crane", "crane", "</script><b>", "f", "g")
    return Network("a tiny network", model, calm(random_variables(model)), PRESET, names)
