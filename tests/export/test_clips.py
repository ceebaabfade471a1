"""Networks that see clips, as ONNX run by onnxruntime and as StableHLO, beside the networks themselves."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import export
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.compress import fold
from resnet_jax.config import ClipConfig
from resnet_jax.errors import ConfigError, DataError, ModelError
from resnet_jax.export.graph import Graph
from resnet_jax.export.job import Job
from resnet_jax.export.onnx_file import onnx_model, write_onnx
from resnet_jax.export.stablehlo import PROGRAM, write_stablehlo
from resnet_jax.serve.exported import open_export

from .conftest import images_of, network_of, outputs_of

pytestmark = pytest.mark.usefixtures("compile_quickly")

EXACT = 1e-5  # of the largest logit
SMALL = {"width_multiplier": 0.25}
TWO = SMALL | {"stage_sizes": (1, 1)}
HEAD = TWO | {"hidden": 8}
CASES = {
    "r3d_18": TWO,
    "mc3_18": TWO,
    "r2plus1d_18": TWO,
    "r3d_34": TWO,
    "r3d_50": TWO | {"time_padding": "border", "se_ratio": 4},
    "resnet50": TWO | {"time": "3d", "stem": "i3d", "shortcut": "average_pool", "pool": "avgmax"},
    "resnetblur18": TWO | {"time": "3d"},
    "resnet26d": SMALL | {"time": "2+1d", "stage_sizes": (1, 1, 1), "output_stride": 8},
    "resnetv2_50": TWO | {"time": "mixed"},
    "cifar_resnet20": {"time": "3d", "stage_sizes": (1, 1), "weight_standardization": True, "act": "gelu"},
    "mean": TWO | {"grid": 2},
    "lstm": HEAD | {"layers": 2},
    "gru": HEAD,
    "transformer": HEAD | {"heads": 2, "layers": 2, "max_frames": 6},
}
SLOW = ("mc3_18", "r3d_34", "resnetblur18", "cifar_resnet20", "resnetv2_50")
CLIPS = ClipConfig(frames=5, rate=12.5)


def job_of(name, **fields):
    options = CASES[name]
    if name in ("mean", "lstm", "gru", "transformer"):
        name, options = "resnet18", options | {"frames": name}
    return Job(network_of(name, **options), **{"size": (33, 47), "clips": CLIPS, **fields})


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_onnx_computes_the_same(name):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    job = job_of(name)
    folded = fold(job.network.model, job.network.variables)
    model = onnx_model(job, folded.model, folded.variables, Graph())
    assert {node.domain for node in model.graph.node} == {""}, "standard operators only"
    session = onnxruntime.InferenceSession(model.SerializeToString())
    _, clips = images_of(job, count=2)
    assert clips.shape == (2, 5, 33, 47, 3)
    (logits,) = session.run(["logits"], {"clips": clips.transpose(0, 4, 1, 2, 3)})
    expected = outputs_of(job, clips)
    assert logits.shape == expected.shape == (2, 7)
    assert np.abs(logits - expected).max() <= EXACT * np.abs(expected).max()


def test_onnx_takes_frames_as_bytes(tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    job = job_of("r2plus1d_18", with_preprocessing=True, batch=1)
    write_onnx(job, tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    pixels, clips = images_of(job, count=1)
    (logits,) = session.run(["logits"], {"pixels": pixels})
    expected = outputs_of(job, clips)
    assert np.abs(logits - expected).max() <= EXACT * np.abs(expected).max()
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["input"] == {"name": "pixels", "dtype": "uint8", "shape": [1, 5, 33, 47, 3]}
    assert ClipConfig(**facts["clip"]) == CLIPS
    said = "clips of 5 frames of 12.5 frames per second; images: shorter side 40 pixels (bilinear), centre 33: 33 x 47 "
    assert facts["preparation"]["outside"] == f"{said}pixels, RGB"
    with pytest.raises(ConfigError, match="takes clips of 5 frames, and the server answers images; run the program"):
        open_export(tmp_path / "out")


@pytest.mark.parametrize("name", ["r2plus1d_18", pytest.param("gru", marks=pytest.mark.slow)])
def test_stablehlo_computes_the_same(name, tmp_path):
    from safetensors.numpy import load_file

    job = job_of(name)
    write_stablehlo(job, tmp_path / "out")
    program = export.deserialize(bytearray((tmp_path / "out" / PROGRAM).read_bytes()))
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    _, clips = images_of(job, count=2)
    given = np.asarray(jax.jit(program.call)(weights, clips)["logits"])
    expected = outputs_of(job, clips)
    assert np.abs(given - expected).max() <= EXACT * np.abs(expected).max()
    assert "clips = np.zeros((1, 5, 33, 47, 3), np.float32)" in (tmp_path / "out" / "README.md").read_text()


def test_what_the_program_is_given_of_a_video(tmp_path):
    """Frames as evaluation shows them; a short video is filled up with its last frame."""
    frames = np.random.default_rng(0).integers(0, 256, (6, 33, 33, 3)).astype(np.uint8)
    for folder, count in (("long", 6), ("short", 2)):
        (tmp_path / folder).mkdir()
        for i, frame in enumerate(frames[:count]):
            Image.fromarray(frame).save(tmp_path / folder / f"{i}.png")
    preset, clips = rn.Preset(resize=33, crop=33), ClipConfig(frames=3, eval_clips=2)
    pixels, lengths = rn.read_clips(tmp_path / "long", preset, clips)
    np.testing.assert_array_equal(pixels, frames.reshape(2, 3, 33, 33, 3))
    assert lengths.tolist() == [3, 3]
    pixels, lengths = rn.read_clips(tmp_path / "short", preset, replace(clips, eval_clips=1))
    np.testing.assert_array_equal(pixels[0], frames[[0, 1, 1]])
    assert lengths.tolist() == [2]
    for name in "ab":
        (tmp_path / "several").mkdir(exist_ok=True)
        (tmp_path / "several" / f"{name}.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"several holds 2 videos; name one of them, such as .*a.mp4"):
        rn.read_clips(tmp_path / "several", preset, clips)


def test_the_command(tmp_path, capsys):
    pytest.importorskip("onnx")
    rn.save_weights(tmp_path / "own.safetensors", network_of("r3d_18").variables)
    words = ["export", "--weights", str(tmp_path / "own.safetensors"), "--model", "r3d_18", "--format", "onnx"]
    cli.main([*words, "--out", str(tmp_path / "out"), "--size", "32", "32"])
    assert "before the program: clips of 16 frames of 15 frames per second; images: " in capsys.readouterr().out
    shape = lambda out: json.loads((tmp_path / out / "export.json").read_text())["input"]["shape"]
    assert shape("out") == ["N", 3, 16, 32, 32]
    cli.main([*words, "--out", str(tmp_path / "eight"), "--size", "32", "32", "--frames", "8"])
    assert shape("eight") == ["N", 3, 8, 32, 32]
    with pytest.raises(SystemExit, match="ClipConfig.frames = 0 is out of range; it must be >= 1"):
        cli.main([*words, "--out", str(tmp_path / "none"), "--frames", "0"])


def test_frames_of_a_network_for_images(tmp_path):
    rn.save_weights(tmp_path / "own.safetensors", network_of("cifar_resnet20").variables)
    words = ["export", str(tmp_path / "own.safetensors"), "--format", "stablehlo", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="--frames = 8 is for networks that see clips, and cifar_resnet20 of .* leave"):
        cli.main([*words, "--frames", "8"])
    with pytest.raises(SystemExit, match="leave --batch, --size, --frames and --with-preprocessing out"):
        cli.main([*words[:3], "huggingface", *words[4:], "--frames", "8"])


def test_more_frames_than_positions():
    job = job_of("transformer", clips=ClipConfig(frames=7))
    folded = fold(job.network.model, job.network.variables)
    with pytest.raises(ModelError, match="clips have 7 frames, and the Transformer has positions for 6; pass max_fra"):
        onnx_model(job, folded.model, folded.variables, Graph())
