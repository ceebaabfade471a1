"""PatchCore beside plain references, and what it finds in generated images."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from PIL import Image
from sklearn.metrics import roc_auc_score

from resnet_jax.analysis.anomalies import coreset as module
from resnet_jax.analysis.anomalies.coreset import coreset, nearest, projection
from resnet_jax.analysis.anomalies.detector import Detector, fit, heat_of, open_detector, save, score
from resnet_jax.analysis.anomalies.measure import auroc, masks_of
from resnet_jax.analysis.anomalies.patches import patches, usual_stages
from resnet_jax.config import Preset
from resnet_jax.data import normalize
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.models import create_model
from resnet_jax.run.network import Network

from ..weights.networks import random_variables

pytestmark = pytest.mark.usefixtures("compile_quickly")


def tiny(name="cifar_resnet20", side=15, seed=1, **options):
    model = create_model(name, **{"num_classes": 3, "stage_sizes": (1, 1, 1), "width": 4, **options})
    preset = Preset(resize=side, crop=side, mean=(0.3,), std=(0.4,))
    return Network("tiny", model, random_variables(model, 1, (side, side), seed), preset, tuple("abc"))


def textures(count, seed, side=15, defect=False):
    """Stripes with noise; a defect is a square in which they run across."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, (count, 1, 1))
    images = 128 + 80 * np.sin(np.arange(side)[None, :, None] * 1.6 + phase) + rng.normal(size=(count, side, side)) * 8
    masks = np.zeros(images.shape, bool)
    for image, mask in zip(images, masks, strict=True):
        top, left = rng.integers(1, side - 5, 2)
        if defect:
            mask[top : top + 4, left : left + 4] = True
            image[mask] = image.T[mask]
    return np.clip(images, 0, 255).astype(np.uint8)[..., None], masks


def in_batches(images, size=4):
    return lambda: (images[start : start + size] for start in range(0, len(images), size))


def fitted(network, images, **options):
    return fit(network, network.preset, in_batches(images), len(images), good="good", **options)


def greedy(features, count):
    """Algorithm 1 of the paper, in float64."""
    features = np.asarray(features, np.float64)
    chosen = [int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmax())]
    while len(chosen) < count:
        to_chosen = ((features[:, None] - features[None, chosen]) ** 2).sum(axis=-1)
        chosen.append(int(to_chosen.min(axis=1).argmax()))
    return chosen


def distances(queries, bank):
    return np.linalg.norm(np.asarray(queries, np.float64)[:, None] - np.asarray(bank, np.float64)[None], axis=-1)


def test_the_coreset_is_the_plain_greedy_choice():
    features = np.random.default_rng(0).normal(size=(217, 13)).astype(np.float32)
    assert coreset(features, 40).tolist() == greedy(features, 40)
    same = np.repeat(features[:5], 10, axis=0)
    assert len(coreset(same, 20)) == 5, "equal patches are kept once"


def test_a_projection_nearly_keeps_distances():
    features = np.random.default_rng(0).normal(size=(50, 700)).astype(np.float32)
    made = features @ projection(700, 128, seed=0)
    assert made.shape == (50, 128)
    ratio = (distances(made, made) / np.maximum(distances(features, features), 1e-9))[~np.eye(50, dtype=bool)]
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert ratio.std() < 0.1
    np.testing.assert_array_equal(projection(60, 128, seed=0), np.eye(60))
    assert not np.array_equal(projection(700, 128, seed=0), projection(700, 128, seed=1))


def test_the_nearest_are_those_of_a_plain_search(monkeypatch):
    rng = np.random.default_rng(0)
    bank = (rng.normal(size=(37, 9)) + 50).astype(np.float32)
    queries = np.concatenate([bank[:3], bank[3:6] + np.float32(1e-3), (rng.normal(size=(20, 9)) + 50).astype("f")])
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 37 * 5)  # blocks of five, and one in the last
    found, places = nearest(queries, bank, 4)
    right = distances(queries, bank)
    np.testing.assert_array_equal(places, right.argsort(axis=1)[:, :4])
    np.testing.assert_allclose(found, np.sort(right, axis=1)[:, :4], rtol=1e-5, atol=1e-4)
    assert not found[:3, 0].any()


@pytest.mark.parametrize("side", [15, pytest.param(16, marks=pytest.mark.slow)])
def test_patches_are_those_of_torch(side):
    torch = pytest.importorskip("torch")
    network = tiny(side=side)
    images, _ = textures(3, 0, side)
    run = jax.jit(lambda v, x: network.model.apply(v, x, train=False, features=True))
    out = run(network.variables, normalize(jnp.asarray(images), network.preset))
    parts = []
    for stage in ("stage1", "stage2", "stage3"):
        x = torch.tensor(np.asarray(out[stage]).transpose(0, 3, 1, 2))
        smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        parts.append(torch.nn.functional.interpolate(smooth, (side, side), mode="bilinear", align_corners=False))
    right = torch.cat(parts, dim=1).numpy().transpose(0, 2, 3, 1)
    found = list(patches(network, in_batches(images, 2), ("stage1", "stage2", "stage3")))
    assert [len(part) for part in found] == [2, 1]
    np.testing.assert_allclose(np.concatenate(found), right, rtol=1e-4, atol=1e-4 * right.max())
    (pooled,) = patches(network, in_batches(images), ("pooled",))
    np.testing.assert_allclose(pooled[:, 0, 0], out["pooled"], rtol=1e-4, atol=1e-5)


def test_the_middle_stages():
    assert usual_stages(tiny()) == ("stage1", "stage2")
    assert usual_stages(tiny("resnet18", stage_sizes=(1, 1, 1, 1), side=32)) == ("stage2", "stage3")
    assert usual_stages(tiny(stage_sizes=(1, 1))) == ("stage1",)
    assert usual_stages(tiny(stage_sizes=(1,))) == ("stage1",)


@pytest.mark.parametrize("neighbours", [0, 5])
def test_scores_are_those_of_a_plain_reference(neighbours):
    network = tiny()
    good, (others, _) = textures(6, 0)[0], textures(3, 1, defect=True)
    detector = fitted(network, good, share=0.05)
    assert detector.stages == ("stage1", "stage2")
    every = np.concatenate(list(patches(network, in_batches(good), detector.stages)))
    every = every.reshape(-1, every.shape[-1])
    assert every.shape == (6 * 15 * 15, 4 + 8)
    right = every[sorted(greedy(every, round(0.05 * len(every))))]
    np.testing.assert_array_equal(detector.bank, right)

    found = score(detector, network, in_batches(others), neighbours=neighbours)
    queries = np.concatenate(list(patches(network, in_batches(others), detector.stages)))
    for image, patch, value, small in zip(others, queries, found.images, found.maps, strict=True):
        assert image.shape == (15, 15, 1)
        flat = patch.reshape(-1, patch.shape[-1]).astype(np.float64)
        near = distances(flat, right)
        np.testing.assert_allclose(small.ravel(), near.min(axis=1), rtol=1e-4, atol=1e-4)
        worst = near.min(axis=1).argmax()
        star = near[worst].argmin()
        expected = near[worst, star]
        if neighbours:  # equation 7
            around = distances(right[[star]], right)[0].argsort()[:neighbours]
            assert star in around
            expected *= 1 - np.exp(near[worst, star]) / np.exp(near[worst, around]).sum()
        assert value == pytest.approx(expected, rel=1e-4)


def test_more_than_128_features_are_projected_for_the_choice_only():
    network = tiny("cifar_resnet20", width=64)
    good, _ = textures(5, 0)
    detector = fitted(network, good, stages=("stage2", "stage3"), share=0.2, seed=3)
    every = np.concatenate(list(patches(network, in_batches(good), detector.stages)))
    every = every.reshape(-1, 128 + 256)
    right = greedy(every @ projection(384, 128, 3), round(0.2 * len(every)))
    np.testing.assert_array_equal(detector.bank, every[sorted(right)])
    whole = fitted(network, good, stages=("stage2", "stage3"), share=1.0)
    np.testing.assert_array_equal(whole.bank, every)


def test_heat_maps_are_enlarged_and_smoothed():
    maps = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    torch = pytest.importorskip("torch")
    large = torch.nn.functional.interpolate(torch.tensor(maps)[:, None], (56, 56), mode="bilinear")[:, 0].numpy()
    right = [scipy.ndimage.gaussian_filter(one, sigma=1.0) for one in large]  # 4 pixels at 224 are 1 at 56
    np.testing.assert_allclose(heat_of(maps, 56), right, atol=1e-5)


def test_planted_defects_are_found():
    network = tiny()
    good, (fine, _), (bad, masks) = textures(20, 0)[0], textures(15, 1), textures(15, 2, defect=True)
    anomalous = np.arange(30) >= 15
    images = np.concatenate([fine, bad])
    truth = np.concatenate([np.zeros_like(masks), masks])

    def measure(detector):
        found = score(detector, network, in_batches(images))
        heat = heat_of(found.maps, 15)
        return auroc(anomalous, found.images), auroc(truth.ravel(), heat.ravel(), "pixels")

    found = measure(fitted(network, good))
    assert found[0] > 0.98
    assert found[1] > 0.9
    broken = measure(fitted(network, bad, share=1.0))  # takes the defects for good
    assert broken[0] < 0.5
    assert broken[1] < 0.5
    pooled = fitted(network, good, stages=("pooled",), share=1.0)
    assert pooled.bank.shape == (20, 16)
    assert not pooled.has_maps
    assert measure(pooled)[0] > 0.8


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    anomalous = rng.random(40) < 0.3
    scores = (rng.normal(size=40) + anomalous).round(1)  # with ties
    wins = [(a > b) + (a == b) / 2 for a in scores[anomalous] for b in scores[~anomalous]]
    assert auroc(anomalous, scores) == pytest.approx(np.mean(wins))
    assert auroc(anomalous, scores) == roc_auc_score(anomalous, scores)
    with pytest.raises(DataError, match="all 40 images are good; an AUROC needs both good and anomalous ones"):
        auroc(anomalous & False, scores)
    with pytest.raises(DataError, match="all 40 pixels are anomalous; an AUROC needs both"):
        auroc(anomalous | True, scores, "pixels")


def test_a_detector_is_kept_for_its_network(tmp_path):
    network = tiny()
    detector = fitted(network, textures(4, 0)[0])
    save(detector, tmp_path / "d")
    again = open_detector(tmp_path / "d", network, network.preset)
    np.testing.assert_array_equal(again.bank, detector.bank)
    assert replace(again, bank=0) == replace(detector, bank=0)
    save(detector, tmp_path / "d")  # in place of the old one
    for other, text in (
        (tiny(seed=2), "is a detector of other weights than tiny: distances would mean nothing"),
        (replace(network, model=network.model.clone(act="silu")), "is a detector of other network than tiny"),
    ):
        with pytest.raises(ConfigError, match=text):
            open_detector(tmp_path / "d", other, other.preset)
    with pytest.raises(ConfigError, match="a detector of other preparation of images than tiny"):
        open_detector(tmp_path / "d", network, replace(network.preset, mean=(0.5,)))
    (tmp_path / "d" / "bank.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"the detector in .*d cannot be read: .*Fit it again"):
        open_detector(tmp_path / "d", network, network.preset)
    with pytest.raises(DataError, match=r"holds no detector \(detector.json\); name a folder that `anomalies fit`"):
        open_detector(tmp_path, network, network.preset)


def test_what_cannot_be_fitted_or_scored(tmp_path):
    network = tiny()
    good, _ = textures(4, 0)
    for text, error, call in (
        ("a share of 0 of the patches cannot be kept", ConfigError, lambda: fitted(network, good, share=0)),
        (
            "has no stage 'stage4'; did you mean 'stage3'",
            ConfigError,
            lambda: fitted(network, good, stages=("stage4",)),
        ),
        ("pooled is no map, and", ConfigError, lambda: fitted(network, good, stages=("stage1", "pooled"))),
        ("images are uint8 of 2 channels; tiny sees uint8", DataError, lambda: fitted(network, good[..., [0, 0]])),
        ("there is no good image to learn from", DataError, lambda: fitted(network, good[:0])),
    ):
        with pytest.raises(error, match=text):
            call()
    detector = fitted(network, good)
    for wrong in (1, len(detector.bank) + 1):
        with pytest.raises(DataError, match=rf"{wrong} neighbours cannot be weighed against a bank of 90 patches"):
            score(detector, network, in_batches(good), neighbours=wrong)
    overflow = replace(
        network,
        variables={
            **network.variables,
            "params": network.variables["params"]
            | {"conv1": {"kernel": network.variables["params"]["conv1"]["kernel"] * np.nan}},
        },
    )
    with pytest.raises(DataError, match="the features of image 0 are not finite"):
        fitted(overflow, good)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="mine belongs to something else: it holds thesis.tex and no detector.json"):
        save(detector, tmp_path / "mine")
    with pytest.raises(ConfigError, match="thesis.tex is a file; a detector is written into a folder"):
        save(detector, tmp_path / "mine" / "thesis.tex")
    with pytest.raises(ConfigError, match="a detector is written to a disk, which gs://a/b is not"):
        save(detector, "gs://a/b")


def test_masks_follow_their_images(tmp_path):
    image, mask = tmp_path / "test" / "cut" / "003.png", tmp_path / "ground_truth" / "cut" / "003_mask.png"
    fine = tmp_path / "test" / "good" / "000.png"
    drawn = np.zeros((40, 60), np.uint8)
    drawn[10:20, 20:40] = 255
    preset = Preset(resize=20, crop=16, mean=(0.3,), std=(0.4,))
    given = (tmp_path, "test", [str(fine), str(image)], np.array([False, True]), preset)
    for path, pixels in ((image, drawn), (fine, drawn)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    assert masks_of(*given) is None
    mask.parent.mkdir(parents=True)
    with pytest.raises(DataError, match=r"003.png has no mask .*003_mask.png; put it there"):
        masks_of(*given)
    Image.fromarray(drawn[:39]).save(mask)
    with pytest.raises(DataError, match=r"003_mask.png has 60 x 39 pixels, and its image 60 x 40; they must be of"):
        masks_of(*given)
    Image.fromarray(drawn).save(mask)
    found = masks_of(*given)
    right = np.zeros((2, 16, 16), bool)  # half as large, and 2 rows and 7 columns are cut off
    right[1, 3:8, 3:13] = True
    np.testing.assert_array_equal(found, right)


def test_a_detector_says_what_it_has():
    detector = Detector(np.zeros((2, 3)), ("stage1",), "good", 1, {})
    assert detector.has_maps
    assert not replace(detector, stages=("logits",)).has_maps
