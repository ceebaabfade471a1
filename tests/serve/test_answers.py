"""What a server answers is what `predict` says, whatever the batch that an image fell into."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.analysis.attention.gradcam import grad_cam
from resnet_jax.analysis.attention.overlay import overlay
from resnet_jax.run.predictor import open_to_predict, predictor_of
from resnet_jax.serve.work import size_for, up_to

from ..weights.networks import calm, random_variables
from .conftest import PRESET, form, photo, run_of, serving

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture(scope="module")
def server(compile_quickly, tiny):
    with serving(tiny, cam=True) as running:
        yield running


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return photo(3, kind="JPEG", exif=exif)


def deep_grey():
    values = np.random.default_rng(5).integers(0, 65536, (40, 44)).astype(np.uint16)
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()


def animated():
    frames = [Image.open(io.BytesIO(photo(seed))).convert("RGB") for seed in (1, 2)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    return content.getvalue()


FILES = {
    "plain.png": photo(0),
    "turned.jpg": turned(6),
    "deep.png": deep_grey(),
    "two_frames.gif": animated(),
    "cmyk.jpg": photo(4, kind="JPEG", mode="CMYK"),
    "palette.png": photo(6, mode="P"),
    "long.webp": photo(7, size=(200, 20), kind="WEBP", lossless=True),
}


@pytest.mark.parametrize("exif", [False, True])
def test_answers_are_those_of_the_command_predict(exif, tmp_path, capsys):
    model = rn.create_model("cifar_resnet8", num_classes=7)
    rn.save_weights(tmp_path / "own.safetensors", calm(random_variables(model)))
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    words = [str(tmp_path / "own.safetensors"), *(["--exif"] if exif else []), "--model", "cifar_resnet8"]
    cli.main(["predict", *words, "--as-json", "--top", "7", *(str(tmp_path / name) for name in FILES)])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({json.dumps({**one, "image": ""}) for one in said}) == len(FILES), "the answers differ"
    with serving(open_to_predict(words[0], model="cifar_resnet8", exif=exif), exif=exif, batch_sizes=(1,)) as running:
        for expected, (name, data) in zip(said, FILES.items(), strict=True):
            found = running.ask("/predict?top=7", data).json["classes"]
            expected.pop("image")
            assert [one["class"] for one in found] == list(expected), name
            np.testing.assert_allclose([one["probability"] for one in found], list(expected.values()), atol=1.01e-6)
        assert running.ask("/info").json["preset"]["exif"] is exif


def test_a_form_says_the_same_as_a_body(server):
    body, headers = form(photo())
    raw = server.ask("/predict", photo())
    assert raw.status == 200
    assert server.ask("/predict", body, headers=headers).json == raw.json
    for kind in ("image/png", "application/octet-stream", "application/x-www-form-urlencoded"):
        assert server.ask("/predict", photo(), headers={"Content-Type": kind}).json == raw.json
    assert len(raw.json["classes"]) == 3
    assert len(server.ask("/predict?top=1", photo()).json["classes"]) == 1


def test_the_picture_is_the_grad_cam(server, tiny):
    plain = server.ask("/predict?cam=true", photo(2)).json
    assert plain["cam"]["number"] == plain["classes"][0]["number"]
    pixels = rn.data.load_image(photo(2), PRESET)[None]
    for label in (plain["cam"]["number"], 5):
        found = server.ask(f"/predict?cam=true&class={label}", photo(2)).json["cam"]
        kind, _, content = found["picture"].partition(";base64,")
        (expected,) = overlay(pixels, grad_cam(tiny, pixels, np.array([label])))
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert kind == "data:image/png"
        assert np.abs(drawn.astype(int) - expected).max() <= 1, "rounding"
        assert found["number"] == label


def test_200_clients_at_a_time_are_each_answered_right(server, tiny):
    """None is lost, nothing is compiled, and the batch that an image fell into changes nothing but rounding."""
    photos = [photo(seed, size=(40 + seed % 9, 60 - seed % 7)) for seed in range(200)]
    predictor = predictor_of(tiny)
    alone = [np.asarray(predictor.probabilities(predictor.load(data)[None]))[0] for data in photos]
    assert len({tuple(row) for row in alone}) == 200
    before, batches = len(COMPILED), server.metric("resnet_jax_batch_images_count")
    with ThreadPoolExecutor(200) as clients:
        answers = list(clients.map(lambda data: server.ask("/predict?top=7", data), photos))
    assert [answer.status for answer in answers] == [200] * 200
    worst = 0.0
    for answer, row in zip(answers, alone, strict=True):
        rows = answer.json["classes"]
        assert rows[0]["number"] == row.argmax()
        worst = max(worst, *(abs(one["probability"] - row[one["number"]]) for one in rows))
    assert worst <= 2e-6, "answers are rounded to 6 digits"
    assert len(COMPILED) == before, "nothing was compiled"
    assert server.metric("resnet_jax_batch_images_count") - batches < 200, "some shared a batch"
    jax.jit(lambda x: x * len(photos) + before)(1.5)
    assert len(COMPILED) > before, "compilations are counted"


def test_grad_cams_of_many_compile_nothing(server):
    before = len(COMPILED)
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda seed: server.ask("/predict?cam=true", photo(seed)), range(40)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["cam"]["picture"] for answer in answers}) == 40
    assert len(COMPILED) == before


def test_the_size_of_a_batch():
    sizes = (1, 8, 32)
    assert [size_for(count, sizes) for count in (1, 3, 4, 7, 8, 9, 15, 16, 17, 32, 40)] == [
        1,
        1,
        8,
        8,
        8,
        8,
        8,
        32,
        32,
        32,
        32,
    ]
    assert [size_for(count, (4,)) for count in (1, 4, 9)] == [4, 4, 4]
    assert [size_for(count, (2, 16)) for count in (1, 3, 8)] == [2, 2, 16]
    assert up_to(8, sizes) == [1, 8]
    assert up_to(8, (16, 32)) == [16]


def test_info_and_states(server, tiny):
    info = server.ask("/info").json
    assert (info["network"], info["answer"], info["cam"], info["state"]) == (tiny.title, "classes", True, "ready")
    assert info["classes"] == ["cat", "dog", "crane (2)", "crane (3)", "</script><b>", "f", "g"]
    assert info["preset"]["crop"] == 33
    assert info["batch_sizes"] == [1, 8]
    assert info["limits"]["max_bytes"] == 20_000_000
    assert server.ask("/health").text == "alive"
    assert server.ask("/ready").text == "ready"


def test_metrics(server):
    server.ask("/predict", photo())
    server.ask("/predict", b"no image")
    server.ask("/somewhere")
    text = server.ask("/metrics").text
    for line in (
        'resnet_jax_requests_total{path="/predict",status="200"}',
        'resnet_jax_requests_total{path="/predict",status="415"}',
        'resnet_jax_requests_total{path="other",status="404"}',
        'resnet_jax_request_seconds_bucket{le="0.1",path="/predict"}',
        'resnet_jax_batch_images_bucket{le="8.0"}',
        "resnet_jax_padding_images_total",
        "resnet_jax_queue 0.0",
        "resnet_jax_ready 1.0",
    ):
        assert line in text


def test_a_run_answers_as_predict():
    """Its own preparation decides: grey images of 8 pixels."""
    config = rn.load_config("configs/digits.py", ["--model.name", "cifar_resnet8"])
    opened = run_of(config, tuple("0123456789"))
    predictor = predictor_of(opened)
    row = np.asarray(predictor.probabilities(predictor.load(photo(1))[None]))[0]
    with serving(opened, batch_sizes=(4,), cam=True) as running:
        found = running.ask("/predict?top=10&cam=true", photo(1)).json
        info = running.ask("/info").json
    assert (info["network"], info["preset"]["mean"]) == ("cifar_resnet8 after 7 steps", list(config.data.mean))
    assert len(found["classes"]) == 10
    for one in found["classes"]:
        assert abs(one["probability"] - row[one["number"]]) <= 2e-6
    assert found["cam"]["picture"].startswith("data:image/png")
