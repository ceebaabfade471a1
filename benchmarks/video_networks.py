"""Networks in space and time on this machine's CPU, beside PyTorch: `python benchmarks/video_networks.py`

Three engines take turns, each in a process of its own: this package; this package with XLA's own convolution of three
axes instead of `models/volume.py`'s form; and torchvision's network in eager PyTorch. The same weights and clips, so
the results must agree. Forward pass in evaluation, and the training step (SGD with momentum and weight decay).
"""

import argparse
import statistics
from typing import Any

import numpy as np
from turns import Run, take_turns

from resnet_jax.runtime.xla_flags import set_xla_flags

OURS, XLA, TORCH = "resnet_jax", "XLA's conv", "torch eager"


def prepare(engine: str, name: str, train: bool, batch_size: int, frames: int, size: int) -> Run:
    import torch
    from torch_peer import import_torchvision

    torch.manual_seed(0)
    module = getattr(import_torchvision().models.video, name)()
    clips = np.random.default_rng(0).normal(size=(batch_size, frames, size, size, 3)).astype(np.float32)
    labels = np.arange(batch_size) % 400
    prepared = _torch if engine == TORCH else _ours
    return prepared(module, name, clips, labels, train=train, own=engine == OURS)


def _torch(module: Any, name: str, clips: np.ndarray, labels: np.ndarray, *, train: bool, own: bool) -> Run:
    import torch

    x, y = torch.from_numpy(np.moveaxis(clips, -1, 1).copy()), torch.from_numpy(labels)
    module.train(train)
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)

    def step() -> np.ndarray:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach().numpy()

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return module(x).numpy()

    return step if train else forward


def _ours(module: Any, name: str, clips: np.ndarray, labels: np.ndarray, *, train: bool, own: bool) -> Run:
    import jax
    import jax.numpy as jnp
    import optax

    from resnet_jax.models import create_model, volume
    from resnet_jax.weights import from_torchvision

    if not own:
        forms = volume._forms
        volume._forms = lambda *fields: (forms(*fields)[-1],) * 3
    model = create_model(name)
    variables = from_torchvision({key: value.numpy() for key, value in module.state_dict().items()}, model)
    params, stats = variables["params"], variables["batch_stats"]
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(1e-3, momentum=0.9))
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False))

    def loss(params: Any, stats: Any) -> Any:
        seen = {"params": params, "batch_stats": stats}
        logits, moved = model.apply(seen, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), moved["batch_stats"]

    @jax.jit
    def update(params: Any, stats: Any, state: Any) -> Any:
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params, stats)
        changes, state = optimizer.update(gradient, state, params)
        return value, optax.apply_updates(params, changes), stats, state

    x, y = jnp.asarray(clips), jnp.asarray(labels)
    box = [params, stats, optimizer.init(params)]

    def step() -> np.ndarray:
        value, *box[:] = update(*box)
        return np.asarray(jax.block_until_ready(value))

    return step if train else lambda: np.asarray(apply({"params": params, "batch_stats": stats}, x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["r3d_18", "mc3_18", "r2plus1d_18"])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    set_xla_flags()  # the processes that take turns inherit the environment
    print(f"{asked.batch_size} clips of {asked.frames} frames of {asked.size} x {asked.size}; speed beside torch eager")
    print(f"{'network':<12} {'what':<8} {OURS:>16} {XLA:>16} {TORCH:>14}  difference")
    for name in asked.models:
        for train in (False, True):
            arguments = (name, train, asked.batch_size, asked.frames, asked.size)
            times = take_turns((OURS, XLA, TORCH), prepare, arguments, asked.rounds)
            seconds = {engine: statistics.median(found.seconds) for engine, found in times.items()}
            expected = times[TORCH].result
            difference = np.max(np.abs(times[OURS].result - expected)) / np.max(np.abs(expected))
            shown = [f"{seconds[engine]:6.2f} s {seconds[TORCH] / seconds[engine]:5.2f}x" for engine in (OURS, XLA)]
            what = "step" if train else "forward"
            print(
                f"{name:<12} {what:<8} {shown[0]:>16} {shown[1]:>16} {seconds[TORCH]:>12.2f} s  {difference:.0e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
