"""Heads over the frames of a clip: beside torch's modules, masks for short videos, names of arrays, refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.errors import ModelError, WeightsError
from resnet_jax.models import create_model, init
from resnet_jax.models.frames.network import HEADS
from resnet_jax.weights import from_torchvision, to_torchvision

from ..weights.networks import random_variables

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("compile_quickly")
WIDTH, CLASSES = 12, 5


def network(frames, **options):
    fields = {"frames": frames, "num_classes": CLASSES, "hidden": 8, "heads": 2, "max_frames": 9}
    cnn = {"stage_sizes": (1,), "width": WIDTH}
    return create_model("cifar_resnet20", **{**cnn, **fields, **options})


def variables_of(model, seed=0):
    """Any numbers of a size at which gates and attention are neither shut nor open."""
    drawn = random_variables(model, channels=1, image=model.sides, seed=seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), drawn)


def their_head(model, arrays):
    """The head in torch's own modules, with strictly these arrays: a function of features and lengths."""
    modules = {"classifier": torch.nn.Linear(WIDTH if model.frames == "mean" else model.hidden, CLASSES)}
    if model.frames in ("lstm", "gru"):
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[model.frames]
        modules[model.frames] = kind(WIDTH, model.hidden, model.layers, batch_first=True)
    if model.frames == "transformer":
        layer = torch.nn.TransformerEncoderLayer(
            *(model.hidden, model.heads, 4 * model.hidden, 0.0, "gelu"), batch_first=True, norm_first=True
        )
        last = torch.nn.LayerNorm(model.hidden)
        modules |= {
            "transformer": torch.nn.TransformerEncoder(layer, model.layers, last, enable_nested_tensor=False),
            "project": torch.nn.Linear(WIDTH, model.hidden),
            "token": torch.nn.Embedding(1, model.hidden),
            "positions": torch.nn.Embedding(model.max_frames + 1, model.hidden),
        }
    head = torch.nn.ModuleDict(modules).double()
    head.load_state_dict({key: torch.from_numpy(x) for key, x in arrays.items() if not key.startswith("cnn.")})

    def compute(x, lengths):
        real = torch.arange(x.shape[1]) < lengths[:, None]
        if model.frames == "transformer":
            token = head["token"].weight.expand(len(x), 1, -1)
            x = torch.cat([token, head["project"](x)], 1) + head["positions"].weight[: x.shape[1] + 1]
            hidden = torch.cat([torch.zeros(len(x), 1, dtype=bool), ~real], 1)
            return head["classifier"](head["transformer"](x, src_key_padding_mask=hidden)[:, 0])
        if model.frames != "mean":
            x, _ = head[model.frames](x)
        return head["classifier"]((x * real[..., None]).sum(1) / lengths[:, None])

    return compute, head


@pytest.mark.parametrize(("frames", "layers"), [("mean", 1), ("lstm", 1), ("lstm", 2), ("gru", 2), ("transformer", 2)])
def test_a_head_is_that_of_torch(float64, frames, layers):
    """Logits and the gradients of every array and of the features, 1e-10, for clips of several lengths."""
    model = network(frames, layers=layers)
    variables = variables_of(model)
    rng = np.random.default_rng(layers)
    x, weights, lengths = rng.normal(size=(4, 7, WIDTH)), rng.normal(size=(4, CLASSES)), np.array([7, 1, 4, 6])
    compute, head = their_head(model, to_torchvision(variables))
    theirs = torch.from_numpy(x).requires_grad_()
    out = compute(theirs, torch.from_numpy(lengths))
    (out * torch.from_numpy(weights)).sum().backward()

    def total(params, x):
        logits = model.apply({**variables, "params": params}, x, lengths, train=False)
        return jnp.sum(logits * weights), logits

    (_, ours), (of_params, of_x) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(variables["params"], x)
    np.testing.assert_allclose(ours, out.detach(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(of_x, theirs.grad, rtol=1e-10, atol=1e-10)
    of_params = to_torchvision({"params": jax.tree.map(np.asarray, of_params)})
    for name, parameter in head.named_parameters():
        np.testing.assert_allclose(of_params[name], parameter.grad, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("frames", HEADS)
def test_frames_behind_the_end_change_nothing(float64, frames):
    """Whatever lies there, and however many; the same clip alone, without padding, gives the same."""
    model, rng = network(frames), np.random.default_rng(0)
    variables = variables_of(model, 1)
    frame = (9, 11, 1) if frames == "mean" else (WIDTH,)  # images for one of them; features for the others
    clips, lengths = rng.normal(size=(3, 6, *frame)), np.array([4, 6, 1])
    look = jax.jit(lambda clips, lengths: model.apply(variables, clips, lengths, train=False))
    ours = look(clips, lengths)
    inside = (np.arange(6) < lengths[:, None]).reshape(3, 6, *[1] * len(frame))
    changed = np.where(inside, clips, 1e3 * rng.normal(size=clips.shape))
    np.testing.assert_allclose(look(changed, lengths), ours, rtol=1e-12, atol=1e-12)
    alone = jax.jit(lambda clip: model.apply(variables, clip, train=False))(clips[:1, :4])
    np.testing.assert_allclose(alone, ours[:1], rtol=1e-12, atol=1e-12)
    assert np.abs(look(clips, np.array([6, 6, 6])) - ours)[[0, 2]].max() > 1e-3


@pytest.mark.parametrize("frames", HEADS)
def test_order_counts_where_it_should(float64, frames):
    model, rng = network(frames), np.random.default_rng(0)
    variables, x = variables_of(model, 2), rng.normal(size=(2, 6, WIDTH))
    look = jax.jit(partial(model.apply, train=False))
    there, back = (look(variables, seen) for seen in (x, x[:, ::-1]))
    assert (np.abs(there - back).max() > 1e-3) == (frames != "mean")


def test_every_frame_is_an_image_for_the_network_below(float64):
    """Features are those of the network alone, with its batch statistics over all frames, and logits follow."""
    model, rng = network("lstm"), np.random.default_rng(0)
    variables, clips = variables_of(model), rng.normal(size=(2, 3, 9, 11, 1))
    below = {name: tree["cnn"] for name, tree in variables.items()}
    for train in (False, True):
        options = {"train": train, "mutable": ["batch_stats"]}
        ours, moved = jax.jit(partial(model.apply, features=True, **options))(variables, clips)
        theirs, theirs_moved = jax.jit(partial(model.cnn.apply, **options))(below, clips.reshape(6, 9, 11, 1))
        np.testing.assert_allclose(ours["features"].reshape(6, -1), theirs, rtol=1e-12, atol=1e-12)
        jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"]["cnn"], theirs_moved["batch_stats"])
        again = jax.jit(partial(model.apply, train=False))(variables, ours["features"])
        np.testing.assert_allclose(again, ours["logits"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frames", HEADS)
def test_arrays_go_to_pytorchs_names_and_back_strictly(frames):
    model = network(frames, layers=2)
    variables = random_variables(model, channels=1, image=model.sides)
    state_dict = to_torchvision(variables)
    back = from_torchvision(state_dict, model, channels=1)
    jax.tree.map(np.testing.assert_array_equal, {name: back[name] for name in variables}, variables)
    assert state_dict["cnn.layer1.0.conv1.weight"].shape == (WIDTH, WIDTH, 3, 3)
    more = {**state_dict, "lstm.weight_ih_l9": np.zeros((4, 4), np.float32)}
    less = {key: array for key, array in state_dict.items() if key != "classifier.weight"}
    for wrong in (more, less):
        with pytest.raises(WeightsError, match=r"lstm\.weight_ih_l9|classifier\.weight"):
            from_torchvision(wrong, model, channels=1)


@pytest.mark.parametrize("frames", ["lstm", "transformer"])
def test_dropout_belongs_to_the_place_in_the_batch(float64, frames):
    """A part of a batch draws what the whole batch draws there."""
    model, rng = network(frames, layers=2, dropout=0.4), np.random.default_rng(0)
    variables, x = variables_of(model), rng.normal(size=(4, 5, WIDTH))
    look = jax.jit(
        lambda x, places, key: model.apply(variables, x, train=True, positions=places, rngs={"dropout": key})
    )
    first, second = jax.random.split(jax.random.key(0))
    whole = look(x, jnp.arange(4), first)
    np.testing.assert_allclose(look(x[[2, 3, 2, 3]], jnp.array([2, 3, 2, 3]), first)[:2], whole[2:], rtol=1e-12)
    assert np.abs(look(x, jnp.arange(4), second) - whole).max() > 1e-3


def test_first_weights_are_torchs():
    """The bounds of the uniform distributions of a recurrent layer, and of attention."""
    params = init(network("gru", hidden=64), jax.random.key(0), channels=1)["params"]
    for leaf in jax.tree.leaves(params["gru"]):
        assert 0.9 / 8 < np.abs(leaf).max() <= 1 / 8
    params = init(network("transformer", hidden=64), jax.random.key(0), channels=1)["params"]["transformer"]
    first = params["layers_0"]["self_attn"]["in_proj"]
    assert 0.9 * (6 / (4 * 64)) ** 0.5 < np.abs(first["kernel"]).max() <= (6 / (4 * 64)) ** 0.5
    assert not np.any(first["bias"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": "attention"}, "frames = 'attention' must be one of 'mean', 'lstm', 'gru', 'transformer'"),
        ({"hidden": 9}, "hidden = 9 must be a multiple of heads = 2"),
        ({"layers": 0}, "layers = 0 must be at least 1"),
        ({"dropout": 1.0}, "dropout = 1.0 must be at least 0 and less than 1"),
        ({"hiden": 3}, "hiden"),
    ],
)
def test_what_cannot_be_built_is_refused(options, said):
    with pytest.raises(ModelError, match=said):
        network(**{"frames": "transformer", **options})


def test_calls_that_cannot_be_are_refused():
    model = network("transformer", dropout=0.1)
    variables = variables_of(model)
    with pytest.raises(ModelError, match="clips have 10 frames, and the Transformer has positions for 9; pass max_fra"):
        model.apply(variables, np.zeros((1, 10, WIDTH)), train=False)
    with pytest.raises(ModelError, match=r"clips have the shape \(1, 8, 8, 1\); they must be"):
        model.apply(variables, np.zeros((1, 8, 8, 1)), train=False)
    with pytest.raises(ModelError, match="dropout = 0.1 draws random numbers"):
        model.apply(variables, np.zeros((1, 5, WIDTH)), train=True)
