"""Repositories of the Hugging Face hub, from a server of our own that speaks its protocol, without torch."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from resnet_jax.models import create_model
from resnet_jax.weights import save_weights

from .networks import random_variables

pytest.importorskip("huggingface_hub")

TIMM = {
    "architecture": "resnet18",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}
TRANSFORMERS = {
    "crop_pct": 0.875,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 224},
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        repository, _, name = self.path.lstrip("/").partition("/resolve/main/")
        files = self.server.repositories.get(repository)
        if files is None or name not in files:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if files is None else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(files[name]).hexdigest()}"')
        self.send_header("Content-Length", str(len(files[name])))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(files[name])

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    variables = random_variables(create_model("resnet18", num_classes=3))
    save_weights(path, variables, dtype=np.float16)
    hf = path.with_name("hf.safetensors")
    save_weights(hf, variables, layout="huggingface")
    return path.read_bytes(), hf.read_bytes()


@pytest.fixture
def hub(weights):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.repositories = {
            "timm/resnet18.test": {"model.safetensors": weights[0], "config.json": json.dumps(TIMM).encode()},
            "microsoft/resnet-18": {
                "model.safetensors": weights[1],
                "config.json": b"{}",
                "preprocessor_config.json": json.dumps(TRANSFORMERS).encode(),
            },
            "someone/empty": {"config.json": b"{}"},
        }
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run(code, endpoint, cache):
    """In a process where torch cannot be imported, and to which `endpoint` is the hub."""
    prelude = "import sys; sys.modules['torch'] = None; import resnet_jax as rn; from resnet_jax.weights import *\n"
    prelude += "from resnet_jax.errors import WeightsError\n"
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", prelude + code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hub_weights_load_without_torch_and_a_second_time_without_a_network(hub, tmp_path):
    code = """
for repository in ("timm/resnet18.test", "microsoft/resnet-18"):
    model, variables = rn.load_pretrained("resnet18", repository)
    print(model.num_classes, variables["params"]["conv1"]["kernel"].dtype, hub_preset(repository))
"""
    text = run(code, hub, tmp_path)
    timm, transformers = text.strip().splitlines()
    assert timm.startswith("3 float32 Preset(resize=235, crop=224, interpolation='bicubic', mean=(0.5, 0.5, 0.5)")
    assert transformers.startswith("3 float32 Preset(resize=256, crop=224, interpolation='bicubic', mean=(0.485,")
    assert run(code, "http://127.0.0.1:9", tmp_path) == text


def test_what_the_hub_cannot_give(hub, tmp_path):
    code = """
for call, repository in [(find_weights, "timm/none"), (find_weights, "someone/empty"), (hub_preset, "someone/empty")]:
    try:
        call(*(("resnet18",) if call is find_weights else ()), repository)
    except WeightsError as error:
        print(error)
"""
    missing, empty, silent = run(code, hub, tmp_path).strip().splitlines()
    assert "no repository 'timm/none'" in missing
    assert "'someone/empty' holds none of model.safetensors, pytorch_model.bin" in empty
    assert "'someone/empty' does not say how to prepare images" in silent


@pytest.mark.slow
def test_without_a_network_or_the_package(tmp_path):
    code = """
def attempt():
    try:
        find_weights("resnet18", "timm/resnet18.test")
    except WeightsError as error:
        print(error)
attempt()
sys.modules["huggingface_hub"] = None
attempt()
"""
    offline, absent = run(code, "http://127.0.0.1:9", tmp_path).strip().splitlines()
    assert "cannot reach the hub for model.safetensors of 'timm/resnet18.test'" in offline
    assert "install it with `pip install huggingface_hub`" in absent
