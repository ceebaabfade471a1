"""Masks over HTTP: those of `predict`, on canvases that are compiled once."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.run import predictor
from resnet_jax.run.masks import mask_predictor_of
from resnet_jax.serve.pixels import canvases_of, placed_on

from .conftest import form, photo, run_of, serving
from .test_answers import COMPILED

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

NAMES = ("background", *"0123456789")
ASPECTS = ("1:1", "4:3", "2:3")
OPTIONS = (
    *("--model.name", "unet_cifar_resnet8", "--model.width-multiplier", "0.125", "--task.loss", "cross_entropy"),
    *("--batch-size", "8", "--eval-batch-size", "8", "--epochs", "1", "--optim.warmup-epochs", "0"),
)


@pytest.fixture(scope="module")
def run(short_runs, compile_quickly):
    return run_of(rn.load_config("configs/segment/digits.py", OPTIONS), NAMES)


@pytest.fixture(scope="module")
def server(run):
    with serving(run, aspects=ASPECTS, batch_sizes=(2,)) as running:
        yield running


def mask_in(answer):
    kind, _, content = answer["mask"].partition(";base64,")
    assert kind == "data:image/png"
    return base64.b64decode(content)


def values(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_masks_are_those_of_the_command_predict(server, run, tmp_path, capsys, monkeypatch):
    """Images of each shape that there is a canvas for."""
    photos = [photo(i, size=size) for i, size in enumerate([(96, 96), (400, 300), (200, 300), (40, 40)])]
    for i, data in enumerate(photos):
        (tmp_path / f"{i}.png").write_bytes(data)
    files = [str(tmp_path / f"{i}.png") for i in range(len(photos))]
    monkeypatch.setattr(predictor, "open_named", lambda *_, **__: run)
    cli.main(["predict", "a run", *files, "--out", str(tmp_path / "out"), "--as-json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for i, (data, line) in enumerate(zip(photos, lines, strict=True)):
        answer = server.ask("/predict", data)
        assert answer.status == 200, answer.text
        found = answer.json
        expected = (tmp_path / "out" / f"{i}.png").read_bytes()
        assert len(line["classes"]) > 1
        assert (values(mask_in(found)) == values(expected)).mean() > 0.999, "ties, to rounding"
        assert [one["class"] for one in found["classes"]] == list(line["classes"])
        for one in found["classes"]:
            same = line["classes"][one["class"]]
            assert one["share"] == pytest.approx(same["share"], abs=1e-3)
            assert one["probability"] == pytest.approx(same["probability"], abs=1e-3)
        assert server.ask("/segment", data).body == mask_in(found)
        body, headers = form(data)
        assert server.ask("/segment", body, headers=headers).headers["content-type"] == "image/png"


def test_other_shapes_lie_on_the_next_canvas(server, run):
    """A longer image is shrunk until it fits. The oracle is the network on that canvas."""
    masks = mask_predictor_of(run)
    for size, small, canvas in (((110, 100), (105, 96), (128, 96)), ((500, 100), (128, 26), (128, 96))):
        data = photo(9, size=size)
        resized = Image.open(io.BytesIO(data)).resize(small, Image.Resampling.BILINEAR)
        pixels = np.full((1, canvas[1], canvas[0], 3), 128, np.uint8)
        pixels[0, : small[1], : small[0]] = np.asarray(resized)
        mask = np.asarray(masks.predict(pixels)["mask"])[0, : small[1], : small[0]]
        expected = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        found = values(server.ask("/segment", data).body)
        assert found.shape == size[::-1]
        assert (found == expected).mean() > 0.999


def test_many_shapes_at_a_time_compile_nothing(server):
    sizes = [((96, 96), (128, 96), (64, 96))[i % 3] for i in range(24)]
    photos = [photo(i, size=size) for i, size in enumerate(sizes)]
    alone = [server.ask("/segment", data).body for data in photos]
    before, batches = len(COMPILED), server.metric("resnet_jax_batch_images_count")
    with ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(lambda data: server.ask("/segment", data), photos))
    assert {answer.status for answer in answers} == {200}
    for answer, expected in zip(answers, alone, strict=True):
        assert (values(answer.body) == values(expected)).mean() > 0.999
    assert len(COMPILED) == before
    assert server.metric("resnet_jax_batch_images_count") - batches < 24, "some shared a batch"


def test_what_is_told_of_masks(server):
    info = server.ask("/info").json
    assert (info["answer"], info["cam"], info["classes"]) == ("mask", False, list(NAMES))
    refused = server.ask("/predict?cam=true", photo())
    assert refused.status == 400
    assert refused.text.endswith(
        "is served without Grad-CAM; leave cam out. It is there of a run or weights that classify"
    )
    assert server.ask("/segment?top=1", photo()).text == "/segment has no parameters; leave them out, or use /predict"
    assert len(server.ask("/predict?top=1", photo()).json["classes"]) == 1


def test_canvases():
    assert canvases_of(("1:1", "4:3", "3:4", "16:9"), 520) == [(544, 544), (544, 704), (544, 928), (704, 544)]
    canvases = [(64, 64), (64, 96), (96, 64)]
    assert placed_on((60, 64), canvases) == ((60, 64), (64, 64))
    assert placed_on((60, 65), canvases) == ((60, 65), (64, 96))
    assert placed_on((60, 192), canvases) == ((30, 96), (64, 96))
    assert placed_on((5000, 1), canvases) == ((96, 1), (96, 64))
