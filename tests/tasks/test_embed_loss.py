"""Losses of embeddings against plain references in float64, on one device and with centres split over several."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from resnet_jax.runtime.mesh import AXIS, make_mesh
from resnet_jax.tasks.embed import mined
from resnet_jax.tasks.embed.centres import BLOCKS, gathered, own_part, rows_for, softmax_loss
from resnet_jax.tasks.embed.margins import LEAST_SINE, adaface_margin, combined_margin, quality_of

CLASSES, EXAMPLES, SIZE, SCALE = 200, 16, 6, 32.0
MARGINS = {
    "arcface": (1.0, 0.5, 0.0),
    "cosface": (1.0, 0.0, 0.35),
    "sphereface": (1.35, 0.0, 0.0),
    "all": (1.1, 0.2, 0.1),
}
EDGES = np.array([-1.0, -1 + 1e-9, -0.9, -0.3, 0.0, 0.5, 0.95, 1 - 1e-9, 1.0])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed=0, classes=CLASSES):
    rng = np.random.default_rng(seed)
    points, centres = rng.normal(size=(EXAMPLES, SIZE)), rng.normal(size=(rows_for(classes), 2, SIZE))
    labels = rng.integers(0, classes, EXAMPLES)
    labels[:4] = [0, classes - 1, 7, 7]  # the first and the last class, and one that two examples share
    return points, labels.astype(np.int32), centres


def plain(points, labels, centres, change, classes=CLASSES, scale=SCALE):
    """The loss of each example, by NumPy alone."""
    near = points / np.linalg.norm(points, axis=1, keepdims=True)
    beside = centres / np.linalg.norm(centres, axis=-1, keepdims=True)
    cosines = np.einsum("ne,cse->ncs", near, beside)[:, :classes].max(axis=-1)
    logits, rows = scale * cosines, np.arange(len(labels))
    logits[rows, labels] = scale * change(cosines[rows, labels])
    top = logits.max(axis=1)
    return np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[rows, labels]


def over_devices(devices, law, points, labels, centres, *, classes=CLASSES, **options):
    """The losses and the gradients of their sum, with the rows of the centres on so many devices."""
    mesh = make_mesh(jax.devices()[:devices])
    split = PartitionSpec(AXIS)

    def share(points, labels, centres):
        def total(points, centres):
            everyone = gathered(points)
            losses, top1 = softmax_loss(
                everyone, gathered(labels), centres, law, classes=classes, scale=SCALE, precision="highest", **options
            )
            mine = own_part(losses, points)
            return jnp.sum(mine), (mine, own_part(top1, points))

        grads, found = jax.grad(total, argnums=(0, 1), has_aux=True)(points, centres)
        return grads, found

    run = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(split, split, split), out_specs=split, check_vma=False))
    return run(points, labels, centres)


@pytest.mark.parametrize("name", MARGINS)
def test_the_law_is_the_published_one_and_its_gradient_is_true(name):
    m1, m2, m3 = MARGINS[name]
    expected = np.cos(m1 * np.arccos(EDGES) + m2) - m3
    law = partial(combined_margin, m1=m1, m2=m2, m3=m3)
    np.testing.assert_allclose(law(jnp.asarray(EDGES)), expected, atol=1e-14)
    slopes = jax.vmap(jax.grad(lambda cosine: law(cosine[None])[0]))(jnp.asarray(EDGES))
    assert np.isfinite(slopes).all()
    inside = np.abs(EDGES) < 0.99
    sines = np.sqrt(1 - EDGES[inside] ** 2)
    true = m1 * np.sin(m1 * np.arccos(EDGES[inside]) + m2) / sines if (m1, m2) != (1, 0) else np.ones(inside.sum())
    np.testing.assert_allclose(slopes[inside], true, rtol=1e-12)
    steepest = np.ones(2) if (m1, m2) == (1, 0) else m1 * np.sin(m1 * np.arccos([-1.0, 1.0]) + m2) / LEAST_SINE
    np.testing.assert_allclose(slopes[jnp.array([0, -1])], steepest, rtol=1e-9, atol=1e-9)


def test_the_straight_gradient_is_that_of_the_cosine_itself():
    """insightface's: the margin is added where no gradient is recorded."""
    law = partial(combined_margin, m1=1.0, m2=0.5, m3=0.1, gradient="straight_through")
    np.testing.assert_allclose(law(jnp.asarray(EDGES)), np.cos(np.arccos(EDGES) + 0.5) - 0.1, atol=1e-14)
    slopes = jax.vmap(jax.grad(lambda cosine: law(cosine[None])[0]))(jnp.asarray(EDGES))
    np.testing.assert_array_equal(slopes, np.ones(len(EDGES)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_margins_stay_finite_in_few_bits(dtype):
    cosines = jnp.asarray(EDGES, dtype).astype(jnp.float32)
    value, slope = jax.vmap(jax.value_and_grad(lambda cosine: combined_margin(cosine[None], 1.0, 0.5, 0.0)[0]))(cosines)
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()


def test_adaface_is_the_published_one():
    """Kim et al.'s code, line by line in NumPy."""
    norms = np.array([0.5, 3.0, 19.0, 20.0, 22.0, 30.0, 50.0, 99.0, 150.0])
    mean, std, margin, h, eps = 20.0, 10.0, 0.4, 0.333, 1e-3
    scaler = np.clip((np.clip(norms, 0.001, 100) - mean) / (std + eps) * h, -1, 1)
    theta = np.arccos(np.clip(EDGES, -1 + eps, 1 - eps))
    expected = np.cos(np.clip(theta - margin * scaler, eps, np.pi - eps)) - (margin + margin * scaler)
    quality = quality_of(jnp.clip(norms, 0.001, 100.0), jnp.float64(mean), jnp.float64(std))
    np.testing.assert_allclose(adaface_margin(jnp.asarray(EDGES), quality, margin), expected, atol=1e-12)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("name", MARGINS)
def test_the_loss_over_split_centres_is_the_plain_one(name, devices):
    points, labels, centres = draw()
    m1, m2, m3 = MARGINS[name]
    law = partial(combined_margin, m1=m1, m2=m2, m3=m3)
    grads, (losses, _) = over_devices(devices, law, points, labels, centres)
    change = lambda cosine: np.cos(m1 * np.arccos(cosine) + m2) - m3
    np.testing.assert_allclose(losses, plain(points, labels, centres, change), rtol=1e-12)
    step, rng = 1e-6, np.random.default_rng(1)
    for grad, which in zip(grads, (0, 2), strict=True):
        given = [points, labels, centres]
        direction = rng.normal(size=given[which].shape)
        ends = []
        for sign in (1, -1):
            moved = [x + sign * step * direction if i == which else x for i, x in enumerate(given)]
            ends.append(plain(*moved, change).sum())
        np.testing.assert_allclose(np.sum(grad * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
    assert not np.any(grads[1][CLASSES:])  # rows of no class
    one_device = over_devices(1, law, points, labels, centres)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), (grads, losses), (
        one_device[0], one_device[1][0]))  # fmt: skip


def test_an_ordinary_softmax_has_products_without_lengths():
    points, labels, centres = draw()
    law = partial(combined_margin, m1=1.0, m2=0.0, m3=0.0)
    _, (losses, top1) = over_devices(4, law, points, labels, centres, cosines=False)
    logits = SCALE * np.einsum("ne,cse->ncs", points, centres)[:, :CLASSES].max(axis=-1)
    own = logits[np.arange(EXAMPLES), labels]
    top = logits.max(axis=1)
    expected = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - own
    np.testing.assert_allclose(losses, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(top1, own == top)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 0.0])
def test_embeddings_at_their_centre_opposite_and_across_have_finite_gradients(cosine):
    points, labels, centres = draw()
    across = np.eye(SIZE)[1]
    for i, label in enumerate(labels):
        centres[label] = np.eye(SIZE)[0] * 3
        points[i] = cosine * np.eye(SIZE)[0] * 2 if cosine else across
    for dtype in (np.float32, np.float64):
        law = partial(combined_margin, m1=1.0, m2=0.5, m3=0.0)
        given = (points.astype(dtype), labels, centres.astype(dtype))
        grads, (losses, _) = over_devices(2, law, *given)
        assert all(np.isfinite(leaf).all() for leaf in (*grads, losses))


def test_an_embedding_of_zeros_is_no_division_by_zero():
    points, labels, centres = draw()
    grads, (losses, _) = over_devices(2, partial(combined_margin, m1=1.0, m2=0.5, m3=0.0), points * 0, labels, centres)
    assert all(np.isfinite(leaf).all() for leaf in (*grads, losses))


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_drawn_centres_are_the_same_on_any_number_of_devices(share):
    classes = 3 * BLOCKS + 5
    points, labels, centres = draw(classes=classes)
    law = partial(combined_margin, m1=1.0, m2=0.3, m3=0.0)
    options = {"classes": classes, "share": share, "key": jax.random.key(3)}
    one = over_devices(1, law, points, labels, centres, **options)
    for devices in (2, 8):
        other = over_devices(devices, law, points, labels, centres, **options)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), other, one)
    touched = np.abs(np.asarray(one[0][1])).max(axis=(1, 2)) > 0
    assert touched[labels].all()  # the classes of the batch always count
    assert not touched[classes:].any()
    block = rows_for(classes) // BLOCKS
    per_block = touched.reshape(BLOCKS, block).sum(axis=1)
    assert per_block.max() <= max(1, round(share * block)) + EXAMPLES
    assert touched.sum() < 0.8 * classes
    everything = over_devices(2, law, points, labels, centres, classes=classes)
    assert np.all(np.asarray(one[1][0]) <= np.asarray(everything[1][0]) + 1e-12)  # fewer others can only lower the loss


def test_another_step_draws_other_centres():
    points, labels, centres = draw()
    law = partial(combined_margin, m1=1.0, m2=0.3, m3=0.0)
    touched = [
        np.asarray(over_devices(2, law, points, labels, centres, share=0.5, key=jax.random.key(i))[0][1]).any(
            axis=(1, 2)
        )
        for i in (1, 2)
    ]
    assert np.any(touched[0] != touched[1])


def test_two_small_exchanges_beside_the_embeddings():
    """Counted in the compiled forward pass: embeddings and labels are gathered; the rest are N numbers each."""
    points, labels, centres = draw()
    mesh, split = make_mesh(jax.devices()[:4]), PartitionSpec(AXIS)
    law = partial(combined_margin, m1=1.0, m2=0.5, m3=0.0)

    def share(points, labels, centres):
        everyone = gathered(points), gathered(labels)
        losses, _ = softmax_loss(*everyone, centres, law, classes=CLASSES, scale=SCALE)
        return own_part(losses, points)

    run = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(split,) * 3, out_specs=split, check_vma=False))
    text = run.lower(points, labels, centres).as_text()
    assert text.count("stablehlo.all_reduce") == 2
    assert text.count("stablehlo.all_gather") == 2


def plain_triplet(points, labels, margin):
    near = points / np.linalg.norm(points, axis=1, keepdims=True)
    losses, weights = [], []
    for i, label in enumerate(labels):
        squares = ((near - near[i]) ** 2).sum(axis=1)
        own = [squares[j] for j in range(len(labels)) if labels[j] == label and j != i]
        other = [squares[j] for j in range(len(labels)) if labels[j] != label]
        counts = bool(own and other)
        losses.append(max(0.0, max(own) - min(other) + margin) if counts else 0.0)
        weights.append(counts)
    return losses, weights


def plain_contrastive(points, labels, temperature):
    near = points / np.linalg.norm(points, axis=1, keepdims=True)
    losses, weights = [], []
    for i, label in enumerate(labels):
        rest = [j for j in range(len(labels)) if j != i]
        total = np.log(sum(np.exp(near[i] @ near[j] / temperature) for j in rest))
        own = [j for j in rest if labels[j] == label]
        losses.append(np.mean([total - near[i] @ near[j] / temperature for j in own]) if own else 0.0)
        weights.append(bool(own))
    return losses, weights


@pytest.mark.parametrize(
    ("ours", "reference", "option"),
    [(mined.triplet_loss, plain_triplet, 0.2), (mined.contrastive_loss, plain_contrastive, 0.1)],
)
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2, 2, 3], [5] * 8, list(range(8))])
def test_losses_within_a_batch_are_the_plain_ones(ours, reference, option, labels):
    points, labels = np.random.default_rng(0).normal(size=(8, SIZE)), np.asarray(labels)
    losses, weights = ours(jnp.asarray(points), jnp.asarray(labels), option)
    expected, counts = reference(points, labels, option)
    np.testing.assert_allclose(losses, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(weights, counts)
    grads = jax.grad(lambda points: ours(points, jnp.asarray(labels), option)[0].sum())(jnp.asarray(points))
    assert np.isfinite(grads).all()


def test_equal_embeddings_have_finite_gradients_in_a_batch():
    points, labels = jnp.ones((4, SIZE)), jnp.array([0, 0, 1, 1])
    for loss, option in ((mined.triplet_loss, 0.2), (mined.contrastive_loss, 0.1)):
        assert np.isfinite(jax.grad(lambda points: loss(points, labels, option)[0].sum())(points)).all()
