"""Sources of videos, and what `data info`, `data check`, `data show` and a run make of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli import main
from resnet_jax.config import ClipConfig, DataConfig
from resnet_jax.data import eval_batches, fingerprint, list_splits, load_source, train_batches
from resnet_jax.data.sources.videos import open_path
from resnet_jax.data.video import EvalClip, FrameFolder, TrainClip
from resnet_jax.errors import DataError, ImageError
from tests.data.video_files import decoded, pictures, write_video


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_frames(folder, frames, ending="png"):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"frame{number}.{ending}")
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two splits of two classes: files of several kinds, a folder of frames, and what is no video."""
    root = tmp_path / "set"
    for split in ("train", "test"):
        for name in ("left", "right"):
            (root / split / name).mkdir(parents=True)
    write_video(root / "train" / "left" / "a.mp4", pictures(12, seed=1))
    write_video(root / "train" / "left" / "b.AVI", pictures(12, seed=2), codec="mpeg4")
    write_video(root / "train" / "right" / "deep.mkv", pictures(4, seed=3))
    write_frames(root / "train" / "right" / "more" / "walk", pictures(12, seed=4))
    (root / "train" / "right" / "notes.txt").write_text("none")
    write_video(
        root / "test" / "left" / "c.webm", pictures(9, seed=5), codec="libvpx", options={"deadline": "realtime"}
    )
    write_video(root / "test" / "right" / "d.gif", pictures(9, seed=6), codec="gif", pixels="rgb8")
    return root


def config_of(name, **changes):
    return DataConfig(name=name, image_size=32, eval_resize=40, clip=ClipConfig(frames=4, eval_clips=2), **changes)


def test_a_folder_of_videos(folder, caplog):
    config = config_of(f"videos:{folder}")
    assert list_splits(config) == ["test", "train"]
    train = load_source(config, "train")
    assert train.class_names == ("left", "right")
    assert train.labels().tolist() == [0, 0, 1, 1]
    names = [train[i]["name"].removeprefix(f"{folder}/train/") for i in range(4)]
    assert names == ["left/a.mp4", "left/b.AVI", "right/deep.mkv", "right/more/walk"]
    assert "files that are no videos are not read (1 files: 1 .txt)" in caplog.text
    for index in range(3):
        path, video = train[index]["name"], train[index]["video"]
        np.testing.assert_array_equal(video.read(np.arange(4)), decoded(path)[1][:4])
    np.testing.assert_array_equal(train[3]["video"].read(np.arange(12)), pictures(12, seed=4))
    assert fingerprint(train) == fingerprint(load_source(config, "train")) != fingerprint(load_source(config, "test"))


def test_batches_of_a_folder(folder):
    """A video that is shorter than a clip says so, and a broken one is left out."""
    config = config_of(f"videos:{folder}")
    config = replace(config, clip=replace(config.clip, step=2), max_broken_fraction=0.3)
    (folder / "train" / "left" / "a.mp4").write_bytes(b"")
    source = load_source(config, "train")
    batches = train_batches(source, config, batch_size=4, seed=0, fill=TrainClip(config))
    lengths = {label: [] for label in range(2)}
    for _ in range(3):
        batch = next(batches)
        for label, length in zip(batch["label"], batch["length"], strict=True):
            lengths[int(label)].append(int(length))
    assert set(lengths[0]) == {4}
    assert set(lengths[1]) == {2, 4}
    assert list(batches.broken.reasons) == [0]
    assert "a.mp4" in batches.broken.reasons[0]
    (batch,) = eval_batches(
        load_source(config, "test"), config, batch_size=2, fill=EvalClip(config.preset, config.clip)
    )
    assert batch["clip"].shape == (2, 2, 4, 32, 32, 3)
    assert len(fingerprint(source)) == 64, "a broken video does not stop it"


@pytest.mark.slow
def test_worker_processes_give_the_same_clips(folder):
    config = config_of(f"videos:{folder}")
    source = load_source(config, "train")
    here, there = (
        next(train_batches(source, replace(config, workers=workers), batch_size=4, seed=0, fill=TrainClip(config)))
        for workers in (0, 1)
    )
    for name, array in here.items():
        np.testing.assert_array_equal(array, there[name])


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    write_frames(tmp_path / "x", pictures(12))
    video = FrameFolder(str(tmp_path / "x"), [f"frame{i}.png" for i in (10, 12, 2, 1, 3, 11, 4, 5, 6, 7, 8, 9)], 10.0)
    np.testing.assert_array_equal(video.read(np.array([9, 1, 1])), pictures(12)[[9, 1, 1]])
    np.testing.assert_allclose(video.times(), np.arange(12) / 10)
    Image.fromarray(pictures(1, 50, 50)[0]).save(tmp_path / "x" / "frame3.png")
    with pytest.raises(ImageError, match="the frames of .*x are of 50 x 50 and 66 x 98 pixels; all must have one size"):
        video.read(np.arange(12))
    (tmp_path / "x" / "frame3.png").unlink()
    with pytest.raises(ImageError, match="cannot read .*frame3.png: No such file or directory; it was there when"):
        video.read(np.arange(12))
    shutil.rmtree(tmp_path / "x")
    (tmp_path / "x").mkdir()
    with pytest.raises(ImageError, match="x holds no image; a folder of frames must hold some. Fill or remove it"):
        open_path(str(tmp_path / "x"), 10.0)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_of(source):
    return [(source[i]["name"].rpartition("/")[2], source.class_names[source[i]["label"]]) for i in range(len(source))]


def test_ucf101(tmp_path):
    videos, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    touch(*(videos / name / f"v_{name}_g0{i}_c01.avi" for name in ("Archery", "Biking") for i in (1, 2)))
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g02_c01.avi 1\nBiking/v_Biking_g02_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\nBiking/v_Biking_g01_c01.avi\n")
    (lists / "trainlist02.txt").write_text("Biking/v_Biking_g01_c01.avi 2\r\n")
    config = config_of(f"ucf101:{tmp_path}")
    assert names_of(load_source(config, "train")) == [
        ("v_Archery_g02_c01.avi", "Archery"),
        ("v_Biking_g02_c01.avi", "Biking"),
    ]
    assert names_of(load_source(config, "test")) == [
        ("v_Archery_g01_c01.avi", "Archery"),
        ("v_Biking_g01_c01.avi", "Biking"),
    ]
    assert names_of(load_source(config, "train2")) == [("v_Biking_g01_c01.avi", "Biking")]
    (videos / "Biking" / "v_Biking_g01_c01.avi").rename(videos / "Biking" / "v_Biking_g01_c01.mp4")  # converted
    assert names_of(load_source(config, "train2")) == [("v_Biking_g01_c01.mp4", "Biking")]
    (videos / "Biking" / "v_Biking_g01_c01.mp4").unlink()
    with pytest.raises(
        DataError, match="1 of the 1 videos of .*trainlist02.txt are not there, the first is .*g01_c01.avi"
    ):
        load_source(config, "train2")
    with pytest.raises(DataError, match="unknown split of ucf101:.* 'val'"):
        load_source(config, "val")
    (lists / "testlist02.txt").write_text("Archer/v_Archery_g01_c01.avi\n")
    with pytest.raises(DataError, match="testlist02.txt names Archer/.*, of a class that classInd.txt does not have"):
        load_source(config, "test2")
    shutil.rmtree(lists)
    with pytest.raises(DataError, match="has no list classInd.txt in .*; the official lists say which video"):
        load_source(config, "train")


def test_hmdb51(tmp_path):
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    for name in ("brush_hair", "cartwheel"):
        touch(*(tmp_path / "hmdb51_org" / name / f"{i}.avi" for i in "abc"))
        (lists / f"{name}_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \nc.avi 0 \n")
        (lists / f"{name}_test_split3.txt").write_text("a.avi 2 \nb.avi 1 \nc.avi 1 \n")
    config = config_of(f"hmdb51:{tmp_path}")
    assert names_of(load_source(config, "train")) == [("a.avi", "brush_hair"), ("a.avi", "cartwheel")]
    assert names_of(load_source(config, "test")) == [("b.avi", "brush_hair"), ("b.avi", "cartwheel")]
    assert [name for name, _ in names_of(load_source(config, "train3"))] == ["b.avi", "c.avi"] * 2
    with pytest.raises(DataError, match=r"hmdb51:.* has no list \*_test_split2.txt"):
        load_source(config, "train2")


def test_kinetics(tmp_path, caplog):
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text(
        head + 'playing drums,abc-123_x,5,15,train\nabseiling,0gone,1,11,train\n"hurling, sport",whole,0,10,train\n'
    )
    (tmp_path / "annotations" / "kinetics_400_val.csv").write_text(head + "abseiling,vvv,12,22,val\n")
    touch(tmp_path / "train" / "playing drums" / "abc-123_x_000005_000015.mp4", tmp_path / "train" / "whole.mkv")
    touch(tmp_path / "val" / "vvv_000012_000022.mp4")
    config = config_of(f"kinetics:{tmp_path}")
    assert sorted(list_splits(config)) == ["train", "val"]
    train = load_source(config, "train")
    assert train.class_names == ("abseiling", "hurling, sport", "playing drums")
    assert names_of(train) == [("abc-123_x_000005_000015.mp4", "playing drums"), ("whole.mkv", "hurling, sport")]
    assert "split 'train', 1 of 3 videos are not there" in caplog.text
    assert names_of(load_source(config, "val")) == [("vvv_000012_000022.mp4", "abseiling")]
    (tmp_path / "val" / "vvv_000012_000022.mp4").unlink()
    with pytest.raises(DataError, match="none of the 1 videos of .*val.csv is below .*val; their files must be called"):
        load_source(config, "val")
    (tmp_path / "annotations" / "train.csv").write_text("label,id\nx,y\n")
    with pytest.raises(
        DataError, match="train.csv has no column 'youtube_id'; its first line must be label,youtube_id"
    ):
        load_source(config, "val")
    shutil.rmtree(tmp_path / "annotations")
    with pytest.raises(DataError, match="kinetics:.* has no list; there must be .*train.csv"):
        list_splits(config)


def test_folders_that_do_not_fit(folder):
    config = config_of(f"videos:{folder}")
    with pytest.raises(DataError, match="unknown split of videos:.* 'val'"):
        load_source(config, "val")
    with pytest.raises(
        DataError, match=r"gone is not a folder; it must hold SPLIT/CLASS/\*.mp4. Correct `videos:PATH`"
    ):
        list_splits(config_of(f"videos:{folder}/gone"))
    (folder / "test" / "up").mkdir()
    with pytest.raises(DataError, match="the classes of .* differ"):
        load_source(config, "train")
    shutil.copytree(
        folder / "train" / "right" / "more" / "walk", folder / "train" / "up"
    )  # frames, not a folder of them
    with pytest.raises(
        DataError, match=r"1 class folders of .*train hold no video: up; .*each video.* \(13 files: 12 .png"
    ):
        load_source(config, "train")


def test_commands(folder, capsys, tmp_path):
    name = f"videos:{folder}"
    main(["data", "info", name])
    out = capsys.readouterr().out.replace("\n", " ")
    assert "train: 4 to 12 frames, half have at least 12" in out
    assert "(of 4 videos)" in out
    main(["data", "info", name, "--as-json"])
    assert json.loads(capsys.readouterr().out)["splits"]["train"] == {"videos": 4, "classes": {"left": 2, "right": 2}}
    main(["data", "check", name, "--sheet", str(tmp_path / "sheet.png")])
    out = capsys.readouterr().out
    assert "split train: 4 videos in 2 classes\n  4 to 12 frames, half have at least 12; " in out
    assert "shorter side: 66 to 66 pixels" in out
    assert "4 videos of its 2 classes are drawn" in out
    shutil.copy(folder / "train" / "left" / "a.mp4", folder / "test" / "left" / "again.mp4")
    (folder / "train" / "left" / "a2.mp4").write_bytes((folder / "train" / "left" / "a.mp4").read_bytes()[:500])
    with pytest.raises(SystemExit, match="1"):
        main(["data", "check", name])
    out = capsys.readouterr().out
    assert "1 cannot be read:\n    cannot read" in out
    assert "1 videos are in both test and train" in out
    main(["data", "show", name, "--split", "train", "--images", "1", "--out", str(tmp_path / "x.png")])
    picture = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    assert picture.shape[1] > 8 * 90, "eight of its frames"
    with pytest.raises(SystemExit, match="split 'test' has videos, and records hold images; only the frames of a clip"):
        main(["data", "prepare", name, "--out", str(tmp_path / "out"), "--short-side", "32"])


def test_the_divisions_of_ucf101_are_not_compared_with_each_other(tmp_path, capsys):
    """A video that is trained on in one division is tested on in another."""
    (tmp_path / "classInd.txt").write_text("1 A\n2 B\n")
    for number, name in enumerate("AB"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            write_video(tmp_path / name / f"{i}.avi", pictures(3, seed=2 * number + i), codec="mpeg4")
    for division, first in ((1, 0), (2, 1), (3, 0)):
        for kind, i in (("train", first), ("test", 1 - first)):
            (tmp_path / f"{kind}list0{division}.txt").write_text(f"A/{i}.avi 1\nB/{i}.avi 2\n")
    main(["data", "check", f"ucf101:{tmp_path}"])
    assert "in both" not in capsys.readouterr().out
    (tmp_path / "testlist02.txt").write_text("A/1.avi\nB/0.avi\n")
    with pytest.raises(SystemExit, match="1"):
        main(["data", "check", f"ucf101:{tmp_path}"])
    assert "1 videos are in both train2 and test2" in capsys.readouterr().out
