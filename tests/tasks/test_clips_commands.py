"""The commands with a network for videos: evaluate, predict and its picture, and what others say to it."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import ClipConfig, DataConfig, Preset, cli
from resnet_jax.config_files import save_config
from resnet_jax.data import load_source
from resnet_jax.data.sources import moving_digits
from resnet_jax.data.video import VideoFile
from resnet_jax.files import open_folder
from resnet_jax.run.clips import evaluate_video_network, video_predictor_of
from resnet_jax.run.network import Network
from resnet_jax.run.predict import CLASS_NAMES, open_checkpoints
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks import assemble
from resnet_jax.tasks.table import task_of

from ..weights.networks import random_variables

pytest.importorskip("av")
from ..data.video_files import write_video

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")
OPTIONS = (
    *("--model.name", "cifar_resnet8", "--model.stage-sizes", "1", "--model.width-multiplier", "1"),
    *("--task.hidden", "6", "--task.grid", "1", "--eval-batch-size", "104"),
)
NAMES = tuple(moving_digits.MOTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run as it is saved, with random variables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving_digits, "LENGTHS", {"train": 16, "test": 24})
        where = open_folder(tmp_path_factory.mktemp("runs") / "digits")
        where.mkdir()
        config = rn.load_config("configs/clips/digits_lstm.py", OPTIONS)
        task = task_of(config)
        save_config(config, where)
        (where / CLASS_NAMES).write_text(json.dumps(NAMES))
        state = assemble.init_state_of(config, task, make_mesh())(jax.random.key(0))
        drawn = random_variables(assemble.build_model(config), channels=1, image=(2, 40, 40))
        drawn = jax.tree.map(jax.numpy.asarray, drawn)
        state = state.replace(params=drawn["params"], batch_stats=drawn["batch_stats"])
        with open_checkpoints(config, where, task.best) as checkpoints:
            checkpoints.save(0, state, {}, {task.best: 0.5})
        yield where


@pytest.fixture(scope="module")
def frames():
    """Two clips of moving digits, one after the other: 16 frames."""
    source = load_source(rn.DataConfig(name="moving_digits"), "test")
    return np.concatenate([source[i]["video"].frames for i in (0, 1)])


@pytest.fixture(scope="module")
def videos(frames, tmp_path_factory):
    """The same as a file and as a folder of frames, and a file that is no video."""
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "two.mp4", np.repeat(frames, 3, axis=-1), rate=10)
    (root / "frames").mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame[..., 0]).save(root / "frames" / f"{i}.png")
    (root / "bad.mp4").write_bytes(b"no video")
    return root


def by_hand(folder, frames):
    run = rn.load_run(folder)
    images = (frames.reshape(2, 8, 40, 40, 1) / np.float32(255) - 0.25) / 0.25
    logits = jax.jit(partial(run.model.apply, train=False))(run.state.eval_variables, images)
    return np.asarray(jax.nn.softmax(logits))


def test_a_run_is_evaluated_by_videos_and_clips(folder, capsys, tmp_path):
    cli.main(["evaluate", str(folder), "--as-json", "--per-class"])
    numbers = json.loads(capsys.readouterr().out)
    run = rn.load_run(folder)
    expected = rn.evaluate(run.config, run.state)
    for name in ("loss", "top1", "top5", "clip_top1", "clip_top5", "count"):
        assert numbers[name] == pytest.approx(expected[name], rel=1e-5)
    assert [*numbers["per_class"]] == [*NAMES]
    cli.main(["evaluate", str(folder), "--confusion", str(tmp_path / "c.png")])
    shown = capsys.readouterr().out
    assert "clip top-1" in shown
    assert "calibration" in shown  # no word of a heading is cut
    assert "videos" in shown
    assert (tmp_path / "c.png").exists()


def test_a_video_is_predicted_over_time(folder, videos, frames, capsys, tmp_path):
    """From a folder of frames as by hand, from an encoded file nearly so; and a picture."""
    picture, said = tmp_path / "strips.png", by_hand(folder, frames)
    command = ["predict", str(folder), str(videos / "frames"), str(videos / "two.mp4"), "--top", "8"]
    cli.main([*command, "--as-json", "--sheet", str(picture)])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(clip["start"], clip["end"]) for clip in first["clips"]] == [(0, 0.28), (0.32, 0.6)]  # 25 in a second
    assert [(clip["start"], clip["end"]) for clip in second["clips"]] == [(0, 0.7), (0.8, 1.5)]
    for one, atol in ((first, 1e-5), (second, 0.2)):
        rows = np.array([[clip["classes"][name] for name in NAMES] for clip in one["clips"]])
        np.testing.assert_allclose(rows, said, atol=atol)
        whole = [one["classes"][name] for name in NAMES]
        np.testing.assert_allclose(whole, rows.mean(axis=0), atol=1e-5)
    assert Image.open(picture).size[0] > 600
    cli.main(command[:3])
    table = capsys.readouterr().out
    assert "0.0 to 0.3" in table
    assert "0.3 to 0.6" in table
    assert "all" in table


def test_what_cannot_be_read_is_said(folder, videos, capsys):
    with pytest.raises(SystemExit, match=r"1 of 2 videos:\n.*bad\.mp4"):
        cli.main(["predict", str(folder), str(videos / "frames"), str(videos / "bad.mp4")])
    assert "0.0 to 0.3" in capsys.readouterr().out  # the name of the folder may be cut in two lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "RUN", "nowhere.mp4"], "there is no nowhere.mp4; name a video, or a folder of videos or of the"),
        (
            ["predict", "RUN", "VIDEO", "--out", "x"],
            "--out is for masks, and cifar_resnet8 after 0 steps names",
        ),
        (["evaluate", "RUN", "--roc", "x.png"], "--roc draws how well pairs of images are told apart by embeddings"),
        (["attention", "RUN", "VIDEO"], "names a class for a video, and this is for networks that look at single ima"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, videos, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"RUN": str(folder), "VIDEO": str(videos / "two.mp4")}
    with pytest.raises(SystemExit, match=said):
        cli.main([given.get(word, word) for word in words])


def test_weights_without_a_run_are_evaluated_on_a_folder_of_videos(videos, frames, tmp_path):
    """A network of three axes; classes of the folder are found by name among those of the network."""
    model = rn.create_model("cifar_resnet20", time="3d", stage_sizes=(1,), width=4, num_classes=3)
    variables = random_variables(model, image=(4, 40, 40))
    for name in ("b", "c"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(2):
            write_video(tmp_path / "test" / name / f"{i}.mp4", np.repeat(frames[i * 4 : i * 4 + 9], 3, axis=-1))
    preset = Preset(resize=40, crop=40)
    network = Network("tiny", model, variables, preset, ("a", "b", "c"))
    clip = ClipConfig(frames=4, eval_clips=2)
    seen = evaluate_video_network(network, DataConfig(name=f"videos:{tmp_path}", clip=clip), 2)
    assert seen.videos.count == 4
    assert seen.videos.confusion.sum(axis=1).tolist() == [0, 2, 2]
    predictor = video_predictor_of(network, clip)
    files = [tmp_path / "test" / name / f"{i}.mp4" for name in ("b", "c") for i in range(2)]
    read = [VideoFile(file).read(np.arange(9)) for file in files]
    rows = np.stack([np.stack([one[:4], one[5:9]]) for one in read]).reshape(8, 4, 40, 40, 3)
    shares = np.asarray(predictor.probabilities(rows, np.full(8, 4, np.int32))).reshape(4, 2, 3)
    labels = np.array([1, 1, 2, 2])
    assert seen.videos.loss == pytest.approx(-np.log(shares.mean(axis=1)[np.arange(4), labels]).mean(), rel=1e-4)
    assert seen.clips["clip_top1"] == pytest.approx((shares.argmax(axis=-1) == labels[:, None]).mean())
