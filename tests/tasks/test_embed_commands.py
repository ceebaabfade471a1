"""The commands with a network for embeddings: verify, enroll, identify, evaluate, and what others say to it."""

import functools
import json
import shutil
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.analysis import index as indices
from resnet_jax.analysis.index import read_index, write_index
from resnet_jax.commands import compared
from resnet_jax.config_files import save_config
from resnet_jax.data import load_source
from resnet_jax.data.sources import digit_numbers
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.files import open_folder
from resnet_jax.run import embedding, verification
from resnet_jax.run.embedding import embedder_of
from resnet_jax.run.named import network_of
from resnet_jax.run.predict import CLASS_NAMES, open_checkpoints
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks import assemble
from resnet_jax.tasks.embed.loss import without_own
from resnet_jax.tasks.table import task_of

pytestmark = pytest.mark.usefixtures("compile_quickly", "short_runs")

OPTIONS = (
    *("--model.name", "embed_cifar_resnet8", "--model.width-multiplier", "1", "--task.embedding-size", "6"),
    *("--eval-batch-size", "104"),
)
GREY = ("--preset.mean", "0.25", "--preset.std", "0.25")


def save_run(where, seed=0):
    """A run as it is saved, with random parameters and statistics that spread its embeddings."""
    config = rn.load_config("configs/embed/digits.py", OPTIONS)
    task, where = task_of(config), open_folder(where)
    where.mkdir()
    save_config(config, where)
    (where / CLASS_NAMES).write_text(json.dumps([f"{i:02}" for i in range(80)]))
    state = assemble.init_state_of(config, task, make_mesh())(jax.random.key(seed))
    model, source = assemble.build_model(config), load_source(config.data, "unseen")
    images = np.stack([source[i]["image"] for i in range(100)]) / np.float32(255)
    network = without_own(state.eval_variables)
    raw = looking(model)(network, images * 4 - 1)
    spread = {"mean": raw.mean(axis=0), "var": raw.var(axis=0)}
    state = state.replace(batch_stats={**state.batch_stats, "features": spread})
    with open_checkpoints(config, where, task.best) as checkpoints:
        checkpoints.save(0, state, {}, {task.best: 0.5})
    return where


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_numbers, "LENGTHS", {"train": 100, "test": 100, "known": 80, "unseen": 100})
        yield save_run(tmp_path_factory.mktemp("runs") / "numbers")


@pytest.fixture(scope="module")
def run(folder):
    return rn.load_run(folder)


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "others", seed=1)


@pytest.fixture(scope="module")
def weights(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "numbers.safetensors"
    cli.main(["convert", str(folder), str(path)])
    return path


@pytest.fixture(scope="module")
def photos(folder, tmp_path_factory):
    """known/NAME/0.png ... of six numbers, and asked/NAME.png."""
    root, source = tmp_path_factory.mktemp("photos"), load_source(rn.DataConfig(name="digit_numbers"), "test")
    labels = source.labels()
    for name in range(6):
        place = root / "known" / f"n{name}"
        place.mkdir(parents=True)
        (root / "asked").mkdir(exist_ok=True)
        # No number has two images among a hundred, so one is turned a little to be another image of the same.
        image = Image.fromarray(source[int(np.flatnonzero(labels == 7 * name)[0])]["image"][..., 0])
        for i, angle in enumerate((0, 4, -4)):
            image.rotate(angle).save(place / f"{i}.png")
        image.rotate(2).resize((32 + 8 * (name == 0), 32)).save(root / "asked" / f"n{name}.png")
    return root


@functools.cache
def looking(model):
    return jax.jit(lambda variables, images: model.apply(variables, images, train=False))


def vectors_of(run, paths, flip=False):
    """Embeddings by hand, in the way that the docs describe."""
    images = np.stack([np.asarray(Image.open(path).convert("L"), np.float32)[..., None] for path in paths])
    images = (images / 255 - 0.25) / 0.25
    network = network_of(run)
    look = partial(looking(run.model), network.variables)
    found = np.asarray(look(images) + (look(images[:, :, ::-1]) if flip else 0), np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def failure(*words):
    with pytest.raises(SystemExit, match="^error: ") as caught:
        cli.main([str(word) for word in words])
    return " ".join(str(caught.value).split())


def printed(capsys, *words):
    capsys.readouterr()
    cli.main([str(word) for word in words])
    return capsys.readouterr().out


def refuse(*_, **__):
    raise AssertionError("the split was looked at again")


def test_verify_tells_the_cosine_and_the_decision_at_a_rate(run, folder, photos, capsys, monkeypatch):
    a, b, c = photos / "known/n1/0.png", photos / "known/n1/1.png", photos / "known/n2/0.png"
    one = json.loads(printed(capsys, "verify", folder, a, b, "--far", 0.01, "--as-json"))
    vectors = vectors_of(run, [a, b, c])
    assert one["cosine"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-5)
    source = load_source(run.config.data, "unseen")
    images = np.stack([source[i]["image"] for i in range(100)])
    network = network_of(run)
    found = np.asarray(looking(run.model)(network.variables, ((images / 255 - 0.25) / 0.25).astype(np.float32)))
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines, same = found @ found.T, source.labels()[:, None] == source.labels()[None]
    others = cosines[np.triu(~same, 1)]
    assert (one["far"], one["split"], one["pairs"]) == (0.01, "digit_numbers unseen", 4950)
    assert len(others) == 4750
    assert np.sum(others >= one["threshold"] - 1e-6) == 47  # of 47.5 that the rate allows
    assert one["tar"] == pytest.approx(np.mean(cosines[np.triu(same, 1)] >= one["threshold"] - 1e-6), abs=1e-12)
    assert one["same"] == (one["cosine"] >= one["threshold"])

    kept = (folder / verification.FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(verification, "split_and_pass", lambda *args: (source, refuse))
        text = printed(capsys, "verify", folder, a, c, "--far", 0.01)
    assert f"cosine     {vectors[0] @ vectors[2]:.4f}" in text
    assert f"threshold  {one['threshold']:.4f}, FAR 0.01: at most 1 % of 4,750 pairs of different" in text
    assert "of 200 pairs of one identity, on digit_numbers unseen" in " ".join(text.split())
    assert "images: shorter side 32 pixels (bilinear), centre 32\n" in text
    (folder / verification.FILE).write_bytes(kept[: len(kept) // 2])  # damaged: computed again
    assert json.loads(printed(capsys, "verify", folder, a, b, "--far", 0.01, "--as-json")) == one
    assert (folder / verification.FILE).read_bytes()[:4] == kept[:4]
    assert len((folder / verification.FILE).read_bytes()) == len(kept)


@pytest.mark.slow
def test_what_is_kept_is_of_this_checkpoint(folder, other, photos, tmp_path, capsys):
    """The file of another run counts for nothing."""
    a, b = photos / "known/n1/0.png", photos / "known/n2/0.png"
    words = ("verify", other, a, b, "--far", 0.1, "--as-json")
    before = json.loads(printed(capsys, *words))
    printed(capsys, "verify", folder, a, b, "--far", 0.1)
    shutil.copy(folder / verification.FILE, other / verification.FILE)
    assert json.loads(printed(capsys, *words)) == before


def test_a_folder_that_cannot_be_written_to(run, monkeypatch, caplog):
    def full(*_):
        raise rn.errors.StorageError("the disk is full")

    monkeypatch.setattr(verification, "write_atomically", full)
    at = verification.operating_point(run, "no_such_folder", 0.1)
    assert at.others == 4750
    assert "the disk is full. The embeddings of digit_numbers unseen are computed anew each time" in caplog.text


def test_a_threshold_that_is_given(folder, photos, capsys):
    a = photos / "known/n1/0.png"
    text = printed(capsys, "verify", folder, a, a, "--threshold", 0.5)
    assert "cosine     1.0000" in text
    assert "threshold  0.5000, as given" in text
    assert "decision   the same identity" in text
    assert "decision   different identities" in printed(
        capsys, "verify", folder, a, photos / "asked/n0.png", "--threshold", 1
    )
    text = printed(capsys, "verify", folder, a, photos / "asked/n0.png", "--threshold", 1)
    assert "1 of 2 had another size than 32 x 32" in " ".join(text.split())


def test_what_verify_refuses(folder, weights, photos, tmp_path, monkeypatch):
    a = photos / "known/n1/0.png"
    text = failure("verify", folder, a, a)
    assert text == (
        "error: --far = 0.001: digit_numbers unseen has 4,750 pairs of different identities, too few pairs: 10 false "
        "accepts at this rate need 10,000. Choose --far 0.0022 or more, give --threshold, or evaluate the run on more "
        "images"
    )
    assert "--far = 1.0 is a rate of false accepts; it must lie between 0 and 1" in failure(
        "verify", folder, a, a, "--far", 1
    )
    text = failure("verify", folder, a, a, "--far", 0.1, "--threshold", 0.2)
    assert text == "error: --far 0.1 and --threshold 0.2 both say which cosine is enough; leave one out"
    text = failure("verify", folder, a, a, "--threshold", 2)
    assert text == "error: --threshold = 2 is a cosine; it must lie between -1 and 1"
    assert "--batch-size = 0 must be at least 1" in failure("verify", folder, a, a, "--batch-size", 0)
    assert f"cannot read {tmp_path}/none.png" in failure("verify", folder, a, tmp_path / "none.png")
    text = failure("verify", folder, a, a, "--flip", "True")
    assert "--flip is for weights without a run; embed_cifar_resnet8 after 0 steps was evaluated with" in text
    assert "task.eval_flip = False, and compares images likewise. Leave it out" in text
    text = failure("verify", weights, a, a, *GREY)
    assert f"embed_cifar_resnet8 of {weights} comes without a run, so nothing says which cosine is enough" in text
    assert f"resnet_jax evaluate --weights {weights} --data.name folder:PATH" in text
    assert "for images of 1 channels, and nothing says how to prepare those" in failure("verify", weights, a, a)
    model = rn.create_model("cifar_resnet8")
    network = replace(network_of(rn.load_run(folder)), title="a classifier", model=model)
    with pytest.raises(ConfigError, match="^a classifier gives no embeddings, .* name a run whose task is Embed, or"):
        embedder_of(network)
    assert verification._remedy(9) == "Give --threshold, or evaluate the run on more images"


def test_weights_without_a_run(run, weights, photos, capsys):
    """Mirror images are added, as insightface does, unless one says otherwise."""
    a, b = photos / "known/n1/0.png", photos / "known/n2/0.png"
    words = ("verify", weights, a, b, "--threshold", 0.5, *GREY)
    for options, flip in (((), True), (("--flip", "False"), False)):
        vectors = vectors_of(run, [a, b], flip)
        found = json.loads(printed(capsys, *words, *options, "--as-json"))
        assert found["cosine"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-5)
    assert "mirror images added" in printed(capsys, *words)


@pytest.mark.parametrize("suffix", [".npz", pytest.param(".safetensors", marks=pytest.mark.slow)])
def test_enroll_and_identify(run, folder, weights, photos, tmp_path, capsys, suffix):
    out = tmp_path / f"index{suffix}"
    text = printed(capsys, "enroll", folder, photos / "known", "--out", out)
    assert f"{out} holds 6 identities, the mean of each from 18 images" in text.replace("\n", "")
    index = read_index(out, embedder_of(run))
    for place, name in enumerate(index.names):
        total = vectors_of(run, sorted((photos / "known" / name).iterdir())).sum(axis=0)
        np.testing.assert_allclose(index.vectors[place], total / np.linalg.norm(total), atol=1e-5)
        assert index.lengths[place] == pytest.approx(np.linalg.norm(total), rel=1e-5)
    asked = sorted((photos / "asked").iterdir())
    lines = printed(capsys, "identify", folder, out, photos / "asked", "--threshold", 0.9, "--top", 2, "--as-json")
    cosines = vectors_of(run, asked[1:]) @ index.vectors.T  # the first is not of the network's size
    for path, line, row in zip(asked[1:], map(json.loads, lines.splitlines()[1:]), cosines, strict=True):
        order = np.argsort(-row)[:2]
        assert line["image"] == str(path)
        assert [one["identity"] for one in line["nearest"]] == [index.names[i] for i in order]
        assert [one["cosine"] for one in line["nearest"]] == pytest.approx(row[order], abs=1e-5)
        assert line["identity"] == (index.names[order[0]] if row[order[0]] >= 0.9 else None)
    everyone = printed(capsys, "identify", folder, out, asked[1], "--threshold", 1)
    assert "unknown" in everyone
    assert sum(name in everyone for name in index.names) == 5
    # The same weights without their run are the same network.
    same = printed(
        capsys,
        "identify",
        weights,
        out,
        asked[1],
        "--threshold",
        0.9,
        "--top",
        2,
        "--as-json",
        "--flip",
        "False",
        *GREY,
    )
    assert json.loads(same)["nearest"] == json.loads(lines.splitlines()[1])["nearest"]


@pytest.mark.parametrize("keep", ["mean", pytest.param("all", marks=pytest.mark.slow)])
def test_adding_to_an_index(run, folder, photos, tmp_path, capsys, keep):
    """In two steps, with a known identity in both, as at once."""
    for part, (names, files) in {"a": (range(4), (0, 1)), "b": (range(3, 6), (2,)), "whole": ((), ())}.items():
        for name in names:
            for file in files:
                for root in (part, "whole"):
                    place = tmp_path / root / f"n{name}"
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(photos / f"known/n{name}/{file}.png", place / f"{file}.png")
    out, whole = tmp_path / "index.npz", tmp_path / "whole.npz"
    printed(capsys, "enroll", folder, tmp_path / "a", "--out", out, "--keep", keep)
    text = printed(capsys, "enroll", folder, tmp_path / "b", "--out", out, "--add")
    assert "3 images of 3 were added" in text.replace("\n", " ")
    printed(capsys, "enroll", folder, tmp_path / "whole", "--out", whole, "--keep", keep)
    found, expected = (read_index(path, embedder_of(run)) for path in (out, whole))
    assert found.names == expected.names == tuple(f"n{i}" for i in range(6))
    assert len(found.vectors) == (6 if keep == "mean" else 11)
    for place in range(6):
        mine, theirs = (x.vectors[x.identities == place] for x in (found, expected))
        np.testing.assert_allclose(np.sort(mine, axis=0), np.sort(theirs, axis=0), atol=1e-6)
    text = failure("enroll", folder, tmp_path / "b", "--out", out, "--add", "--keep", {"mean": "all"}.get(keep, "mean"))
    assert f"the index {out} has --keep {keep}; leave --keep out" in text


def test_the_nearest_identities_where_some_have_many_vectors(run, monkeypatch):
    """Against a plain search: 30 of the 40 vectors are of one identity."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = ["often"] * 30 + [f"n{i % 5}" for i in range(10)]
    index = indices.enrolled(embedder_of(run), vectors, names, "all")
    queries = rng.normal(size=(7, 6)).astype(np.float32)
    for query, found in zip(queries, indices.identify(index, queries, 3), strict=True):
        cosines = vectors @ query / np.linalg.norm(query)
        best = {name: max(c for c, n in zip(cosines, names, strict=True) if n == name) for name in names}
        expected = sorted(best.items(), key=lambda item: -item[1])[:3]
        assert [match.name for match in found] == [name for name, _ in expected]
        assert [match.cosine for match in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)


def test_an_index_that_cannot_be_used(run, folder, other, photos, tmp_path, capsys):
    out = tmp_path / "index.npz"
    printed(capsys, "enroll", folder, photos / "known", "--out", out)
    asked = ("identify", folder, out, photos / "asked/n1.png", "--threshold", 0.5)
    text = failure("identify", other, *asked[2:])
    assert f"error: {out} was made by another network, embed_cifar_resnet8 after 0 steps, with other weights" in text
    assert "Name the network that made it, or enrol the images with this one" in text
    embedder, whole = embedder_of(run), out.read_bytes()
    for path in (out, tmp_path / "index.safetensors"):
        index = read_index(out, embedder)
        write_index(index, path)
        content = bytearray(path.read_bytes())
        for broken in (content[: len(content) // 2], b"", b"\x00" * 100, _with_one_bit_changed(content, index)):
            path.write_bytes(bytes(broken))
            with pytest.raises(
                DataError, match=r"is no index, or is damaged: .*\. Enrol the images again, or bring back"
            ):
                read_index(path, embedder)
        out.write_bytes(whole)
    write_index(replace(index, vectors=index.vectors * np.float32(np.nan)), out)
    assert f"{out} holds embeddings that are not finite (infinite or not a number) or not of length 1" in failure(
        *asked
    )
    assert f"there is no index {tmp_path}/no.npz; make it with `resnet_jax enroll`" in failure(
        *asked[:2], tmp_path / "no.npz", *asked[3:]
    )
    assert "no images given; name one or more: resnet_jax identify" in failure("identify", folder, out)
    assert "--top = 0 must be at least 1" in failure(*asked, "--top", 0)


def _with_one_bit_changed(content, index):
    place = bytes(content).index(index.vectors[0].tobytes())
    changed = bytearray(content)
    changed[place] ^= 1
    return changed


def test_embeddings_that_are_not_finite(run, photos, tmp_path):
    embedder = replace(embedder_of(run), embed=lambda pixels: np.full((len(pixels), 6), np.nan, np.float32))
    with pytest.raises(DataError, match="the embedding of .*0.png is not finite .* may have diverged. Use an earlier"):
        embedding.embeddings(embedder, [photos / "known/n1/0.png"], 1, [])
    embedder = embedder_of(run)
    with pytest.raises(DataError, match="the embeddings of x cancel out, .* keep them all, by --keep all"):
        indices.enrolled(embedder, np.array([[1.0, 0], [-1, 0]], np.float32), ["x", "x"], "mean")


def test_what_enroll_refuses(folder, photos, tmp_path, capsys):
    known, out = photos / "known", tmp_path / "index.npz"
    text = failure("enroll", folder, known, "--out", tmp_path / "index.txt")
    assert "index.txt must end in .npz or .safetensors, which says how to write the index" in text
    assert "there is no folder" in failure("enroll", folder, known, "--out", tmp_path / "no" / "index.npz")
    assert f"{tmp_path}/none is no folder; name one that holds a folder of images for each" in failure(
        "enroll", folder, tmp_path / "none", "--out", out
    )
    mine = tmp_path / "mine"
    mine.mkdir()
    assert f"{mine} holds no folders; it must hold one for each identity" in failure(
        "enroll", folder, mine, "--out", out
    )
    (mine / "x").mkdir()
    assert "1 folders of" in (text := failure("enroll", folder, mine, "--out", out))
    assert "hold no image, the first is x; fill them, or remove them" in text
    (mine / "x" / "0.png").write_bytes(b"no image")
    assert "no image of x can be read: cannot read" in failure("enroll", folder, mine, "--out", out)
    assert f"there is no index {out}" in failure("enroll", folder, known, "--out", out, "--add")
    assert not out.exists()
    shutil.copy(photos / "known/n1/0.png", mine / "x" / "1.png")
    assert failure("enroll", folder, mine, "--out", out).startswith("error: 1 of 2 images: cannot read")
    assert "holds 1 identities, the mean of each from 1 images" in capsys.readouterr().out.replace("\n", "")
    text = failure("enroll", folder, known, "--out", out)
    assert text == f"error: --out {out} is there already; add to it by --add, or name another file"


def test_evaluate(run, folder, weights, tmp_path, capsys):
    numbers = rn.evaluate(run.config, run.state)
    found = json.loads(printed(capsys, "evaluate", folder, "--as-json"))
    assert found == pytest.approx({"step": 0, **numbers, "pairs": 4950}, abs=1e-6)
    assert {"tar_0.1", "tar_0.01"} == {name for name in found if name.startswith("tar")}
    picture = tmp_path / "roc.png"
    text = printed(capsys, "evaluate", folder, "--roc", picture, "--fold")
    assert f"{100 * numbers['accuracy']:.2f} ± {100 * numbers['deviation']:.2f} %" in text
    assert text.count("too few pairs") == 4
    assert "200 pairs of one identity, 4,750 of different ones" in " ".join(text.split())
    assert "norms: 7 folded into convolutions, 1 kept" in " ".join(text.split())
    with Image.open(picture) as image:
        assert image.size == (1440, 576)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(axis=1).sum() > 100, "both kinds of pairs are drawn"


@pytest.mark.slow
def test_evaluate_weights_without_a_run(run, weights, capsys):
    data = ("--data.name", "digit_numbers", "--data.eval-split", "unseen")
    without = json.loads(printed(capsys, "evaluate", "--weights", weights, *data, *GREY, "--as-json"))
    assert without["count"] == 100
    numbers = rn.evaluate(run.config, run.state)
    assert without["accuracy"] != numbers["accuracy"], "mirror images are added"
    text = failure("evaluate", "--weights", weights, *data, *GREY, "--confusion", "c.png")
    assert "--confusion and --per-class are about classes, and embed_cifar_resnet8 of" in text


@pytest.mark.slow
def test_several_evaluations_have_a_row_each(folder, tmp_path, capsys):
    where = tmp_path / "several"
    shutil.copytree(folder, where)
    saved = json.loads((where / "config.json").read_text())
    saved["evals"] = [{"name": "a", "split": "unseen"}, {"name": "b", "split": "unseen"}]
    (where / "config.json").write_text(json.dumps(saved))
    text = printed(capsys, "evaluate", where)
    assert [line.split()[1] for line in text.splitlines() if line.startswith(("│ a", "│ b"))] == [
        "a",
        "b",
    ]
    assert "false accepts, b" in text
    saved["evals"][1]["split"] = "test"
    (where / "config.json").write_text(json.dumps(saved))
    assert "0 of the 4,950 pairs are of one identity, and verification needs 10 pairs of one identity and 10 of " in (
        failure("evaluate", where)
    )


def test_what_other_commands_say(folder, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo = photos / "asked/n1.png"
    for words in (["predict", folder, photo], ["attention", folder, photo]):
        text = failure(*words)
        assert text == (
            "error: embed_cifar_resnet8 after 0 steps gives embeddings and names no class, and this is for networks "
            "that name one. To compare images use verify or identify, to keep embeddings use features --stages "
            "embedding (docs/embeddings.md)"
        )
    text = failure("evaluate", folder, "--per-class")
    assert "--confusion and --per-class are about classes, and embed_cifar_resnet8 after 0 steps names none" in text
    text = failure("probe", folder)
    assert "the classes of digit_numbers known and unseen are not the same" in text
    assert "--roc draws how well pairs of images are told apart by embeddings, and x gives none; leave it out" in (
        _refusal_of_roc()
    )
    text = printed(capsys, "features", folder, "--stages", "embedding", "--out", "features")
    assert "features/embedding.npy float32 (100, 6)" in " ".join(text.split())


def _refusal_of_roc():
    from resnet_jax.commands.evaluate_refused import refuse_roc

    with pytest.raises(ConfigError, match="--roc") as caught:
        refuse_roc(object(), "x")
    return str(caught.value)


def test_the_network_of_a_run_has_no_centres_and_no_names(run):
    network = network_of(run)
    assert "centres" in run.state.params
    assert "centres" not in network.variables["params"]
    assert network.class_names == ()


@pytest.mark.slow
def test_faces_are_prepared_as_insightface_does(tmp_path, photos, capsys):
    """112 x 112 pixels and numbers from -1 to 1; said where an image has another size."""
    from resnet_jax.models import variable_shapes
    from resnet_jax.run.network import load_network
    from resnet_jax.weights import save_weights

    model = rn.create_model("iresnet18", width_multiplier=1 / 64)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variable_shapes(model))
    save_weights(tmp_path / "face.safetensors", variables)
    from resnet_jax.run import network as networks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "create_model", lambda name, **_: model)
        found = load_network(str(tmp_path / "face.safetensors"), "iresnet18")
    assert (found.preset.resize, found.preset.crop, found.preset.squash) == (112, 112, False)
    assert found.preset.mean == found.preset.std == (0.5, 0.5, 0.5)
    assert found.class_names == ()
    seen = embedding.embeddings(
        replace(embedder_of(found), embed=lambda pixels: np.ones((len(pixels), 2))), [photos / "asked/n1.png"], 1, []
    )
    note = compared.note_of(embedder_of(found), seen)
    assert note == (
        "images: shorter side 112 pixels (bilinear), centre 112; 1 of 1 had another size than 112 x 112; mirror images "
        "added"
    )
