"""Exact evaluation: every image counts once, padding never, and all that follows from the counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from PIL import Image

from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.tasks.classify.confusion import plot_confusion
from resnet_jax.tasks.classify.look import make_look
from resnet_jax.tasks.classify.measure import make_measure, report, report_in_detail
from resnet_jax.tasks.classify.report import EvalReport
from resnet_jax.training.evaluate import Measured, make_evaluate, make_pass, real_sums

VARIABLES = {"scale": jnp.ones(())}


class Constant:
    """A stand-in for a network, whose logits are its images' first pixels."""

    def apply(self, variables, images, *, train):
        return images[:, 0, :, 0] * variables["scale"]


def prepare(key, batch):
    """Padding is made of 255, and what comes of it may be anything."""
    assert key is None
    images = batch["image"]
    return {**batch, "image": jnp.where(images == 255, jnp.nan, images.astype(jnp.float32) / 64)}


def split(count, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.int32)
    images = rng.integers(0, 255, (count, 1, classes, 1), np.uint8)
    images[np.arange(count), 0, labels, 0] |= 0b10000000  # better than chance
    return np.where(images == 255, 254, images).astype(np.uint8), labels


def batches_of(images, labels, size):
    def batches():
        for start in range(0, len(labels), size):
            real = len(labels[start : start + size])
            pad = lambda x, value: np.concatenate(
                [x[start : start + size], np.full((size - real, *x.shape[1:]), value, x.dtype)]
            )
            weight = (np.arange(size) < real).astype(np.float32)
            yield {"image": pad(images, 255), "label": pad(labels, 0), "weight": weight}

    return batches


def logits_of(images):
    return images[:, 0, :, 0].astype(np.float32) / np.float32(64)


def reference_report(logits, labels):
    """Counted one image at a time, in float64."""
    logits = logits.astype(np.float64)
    confusion, hits5, losses, calibration = np.zeros((logits.shape[1],) * 2, int), 0, [], np.zeros((3, 15))
    for row, label in zip(logits, labels, strict=True):
        order = np.argsort(-row, kind="stable")
        confusion[label, order[0]] += 1
        hits5 += label in order[:5]
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        losses.append(-np.log(probabilities[label]))
        # Guo et al. 2017: bin m holds the probabilities in ((m - 1) / M, m / M].
        which = next(m for m in range(15) if probabilities[order[0]] <= (m + 1) / 15 + 1e-12)
        calibration[:, which] += [1, probabilities[order[0]], order[0] == label]
    return EvalReport(
        loss=float(np.mean(losses)),
        top1=np.trace(confusion) / len(labels),
        top5=hits5 / len(labels),
        count=len(labels),
        confusion=confusion,
        calibration=calibration,
    )


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("count", "size"), [(21, 8), (1797, 64)])
def test_every_image_counts_once(devices, count, size):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    images, labels = split(count)
    expected = reference_report(logits_of(images), labels)
    split_of = {"mesh": mesh, "batches": batches_of(images, labels, size), "count": count}
    short = make_evaluate(make_measure(make_look(Constant()), prepare), report, **split_of)(VARIABLES)
    measure = make_measure(make_look(Constant()), prepare, in_detail=True)
    detail = report_in_detail(*make_pass(measure, **split_of)(VARIABLES))
    assert short["count"] == detail.count == count
    for name in ("loss", "top1", "top5"):
        assert short[name] == pytest.approx(getattr(expected, name), rel=1e-5)
        assert getattr(detail, name) == short[name]
    np.testing.assert_array_equal(detail.confusion, expected.confusion)
    assert detail.confusion.sum() == count
    np.testing.assert_allclose(detail.calibration, expected.calibration, rtol=1e-5, atol=1e-5)
    assert detail.calibration_error == pytest.approx(expected.calibration_error, rel=1e-4)
    assert 0.1 < detail.top1 < 0.9, "the test should see hits and mistakes"


def keep_rows(variables, batch, real):
    """Of every image a vector, its place and two bytes; and a sum of vectors in which padding would be nan."""
    first = prepare(None, batch)["image"][:, 0, :3, 0]
    rows = {"vector": first.astype(jnp.bfloat16), "label": batch["label"], "corner": batch["image"][:, :1, :2]}
    return Measured(real_sums({"vectors": first}, real), rows)


@pytest.mark.parametrize(("devices", "count", "size"), [(1, 21, 8), (8, 21, 8), (8, 1797, 64), (4, 64, 64)])
def test_rows_are_kept_in_the_order_of_the_split(devices, count, size):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    images, labels = split(count)
    sums, rows = make_pass(keep_rows, mesh, batches_of(images, labels, size), count=count)({})
    first = images[:, 0, :3, 0].astype(np.float32) / 64
    np.testing.assert_array_equal(rows["vector"], first.astype(jnp.bfloat16))
    np.testing.assert_array_equal(rows["label"], labels)
    np.testing.assert_array_equal(rows["corner"], images[:, :1, :2])
    np.testing.assert_allclose(sums["vectors"], first.sum(0, dtype=np.float64), rtol=1e-6)
    assert sums["vectors"].dtype == np.float64
    assert (rows["label"].dtype, sums["count"]) == (np.int32, count)


@pytest.mark.parametrize("devices", [1, 8])
def test_rows_are_handed_over_as_they_come(devices):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    images, labels = split(45)
    given = []
    pass_of = lambda **keep: make_pass(keep_rows, mesh, batches_of(images, labels, 8), count=45, **keep)({})
    sums, rows = pass_of(keep=given.append)
    whole_sums, whole = pass_of()
    assert rows == {}, "nothing is kept in memory"
    assert [len(batch["label"]) for batch in given] == [8, 8, 8, 8, 8, 5]
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in given]), whole[name])
    np.testing.assert_array_equal(sums["vectors"], whole_sums["vectors"])
    short = make_pass(keep_rows, mesh, batches_of(images, labels, 8), count=46, keep=given.append)
    with pytest.raises(RuntimeError, match="evaluation saw 45 examples of 46"):
        short({})


def test_a_total_is_exact_where_float32_would_not_be():
    """Odd numbers up to 2**24 have no room beside a total in float32."""
    images, labels = split(64)
    measure = lambda variables, batch, real: Measured(real_sums({"x": jnp.full(8, 2.0**21 - 1)}, real), {})
    sums, _ = make_pass(measure, make_mesh(), batches_of(images, labels, 8), count=64)({})
    assert sums["x"] == 64 * (2**21 - 1)


def test_batches_that_lose_images_are_an_error():
    images, labels = split(21)
    wrong = make_evaluate(
        make_measure(make_look(Constant()), prepare), report, make_mesh(), batches_of(images, labels, 8), count=24
    )
    with pytest.raises(RuntimeError, match="evaluation saw 21 examples of 24"):
        wrong(VARIABLES)


def report_of(confusion, calibration):
    confusion = np.array(confusion)
    count = int(confusion.sum())
    top1 = float(np.trace(confusion) / count)
    return EvalReport(loss=0.1, top1=top1, top5=1.0, count=count, confusion=confusion, calibration=calibration)


def test_what_follows_from_the_counts():
    calibration = np.zeros((3, 15))
    calibration[:, 14] = [8, 7.6, 6]
    calibration[:, 7] = [4, 2.0, 3]
    report = report_of([[5, 1, 0], [2, 4, 0], [0, 0, 0]], calibration)
    np.testing.assert_array_equal(report.per_class, [5 / 6, 4 / 6, np.nan])
    assert report.calibration_error == pytest.approx(8 / 12 * abs(0.75 - 0.95) + 4 / 12 * abs(0.75 - 0.5))
    assert report.most_confused(5) == [(1, 0, 2), (0, 1, 1)]
    assert report.most_confused(1) == [(1, 0, 2)]


@pytest.mark.parametrize("classes", [3, 200])
def test_the_picture_shows_the_matrix(tmp_path, classes):
    confusion = 20 * np.eye(classes, dtype=int)
    calibration = np.zeros((3, 15))
    calibration[:, 12] = [20 * classes, 17 * classes, 20 * classes]
    names = [f"a class named {i}" for i in range(classes)]
    pictures = []
    for wrong in (0, 9):
        confusion[0, 1] = wrong
        plot_confusion(report_of(confusion, calibration), names, tmp_path / "c.png", "resnet50 on pets")
        with Image.open(tmp_path / "c.png") as image:
            pictures.append(np.asarray(image.convert("L"), np.int16))
    assert min(pictures[0].shape) >= 800
    assert pictures[0].std() > 5
    assert (pictures[0] != pictures[1]).any(), "a mistake must be seen"
