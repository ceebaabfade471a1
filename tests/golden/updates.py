"""Six updates in three settings, on 1 and 2 devices: what `test_golden.py` compares with `stored.json`.

    python tests/golden/updates.py --store          # compute all of it anew and write `stored.json`

To be stored anew by a commit that changes the numerics on purpose, and that says so. It runs as a process of its own,
with the same flags of XLA wherever it is started from: a flag may change how a convolution rounds.
"""

import hashlib
import json
import os
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from resnet_jax import AugmentConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig
from resnet_jax.models import ResNet, create_model
from resnet_jax.runtime.mesh import make_mesh, put_batch, split_batch
from resnet_jax.survival.digests import by_name, digest_arrays
from resnet_jax.tasks.assemble import assemble
from resnet_jax.tasks.classify.task import classify
from resnet_jax.training.state import TrainState

FLAGS = "--xla_force_host_platform_device_count=2"
STORED = Path(__file__).with_name("stored.json")
UPDATES, IMAGES, SIDE = 6, 16, 8
DEVICES = (1, 2)
# Of a CPU: what decides the instructions that XLA chooses, and so how sums round.
CODE = r"(sse|avx|amx|fma|f16c|bmi|neon|asimd|sve|fp16|bf16)"

PLAIN = AugmentConfig(random_resized_crop=False, shift_pixels=1)
MIXED = AugmentConfig(random_resized_crop=False, shift_pixels=1, mixup_alpha=0.5, cutmix_alpha=1.0, mix_group_size=4)
SGD = OptimConfig(warmup_epochs=0.0, nesterov=True)
LARGE_BATCH = OptimConfig(
    optimizer="lamb", base_lr=0.1, no_decay=("bn",), ema_decay=0.9, ema_every_steps=2, warmup_epochs=0.0,
    clip_norm=0.5, shard_state=True,
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "groups": {"bn_group_size": 4},
    "everything": {"bn_group_size": 4, "accumulate": 2, "augment": MIXED, "optim": LARGE_BATCH, "smoothing": 0.0},
}


def make_config(
    exact: bool,
    bn_group_size: int = 0,
    accumulate: int = 1,
    augment: AugmentConfig = PLAIN,
    optim: OptimConfig = SGD,
    smoothing: float = 0.1,
) -> Config:
    mean, std = ((0.0,), (1.0,)) if exact else ((0.3,), (0.4,))
    return Config(
        model=ModelConfig(num_classes=10, bn_group_size=bn_group_size),
        data=DataConfig(image_size=SIDE, channels=1, mean=mean, std=std, augment=augment),
        task=Classify(label_smoothing=smoothing),
        optim=optim,
        batch_size=IMAGES,
        accumulate=accumulate,
        epochs=10,
    )


def batch_of(step: int, exact: bool) -> dict[str, np.ndarray]:
    """`exact`: black and white, with which the augmentation, that is in float32 always, has nothing to round."""
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 1), np.uint8)
    return {
        "image": np.where(images < 128, 0, 255).astype(np.uint8) if exact else images,
        "label": rng.integers(0, 10, IMAGES).astype(np.int32),
    }


@cache
def first_state(config: Config, model: ResNet) -> TrainState:
    """Compiled once for all numbers of devices."""
    mesh = make_mesh(jax.devices()[:1])
    return jax.device_get(assemble(config, classify(config, model), mesh, num_images=64).init_state(jax.random.key(3)))


def train(setting: str, devices: int, *, exact: bool) -> dict[str, Any]:
    """All arrays after six updates, and the metrics of each of the six."""
    config = make_config(exact, **SETTINGS[setting])
    dtype = jnp.float64 if exact else jnp.float32
    model = create_model(
        "cifar_resnet29",
        num_classes=10,
        width=4,
        stage_sizes=(1,),
        bn_group_size=config.model.bn_group_size,
        stochastic_depth=0.3,
        param_dtype=dtype,
    )
    mesh = make_mesh(jax.devices()[:devices])
    training = assemble(config, classify(config, model), mesh, num_images=64)
    like, metrics = training.init_state.eval_shape(jax.random.key(3)), []
    state = jax.device_put(first_state(config, model), jax.tree.map(lambda leaf: leaf.sharding, like))
    for step in range(UPDATES):
        state, found = training.train_step(state, put_batch(batch_of(step, exact), split_batch(mesh)))
        metrics.append(found)
    return {
        "parameters": state.params,
        "statistics": state.batch_stats,
        "optimizer": state.opt_state,
        "averages": state.ema or {},
        "metrics": metrics,
    }


def digests(found: dict[str, Any]) -> dict[str, str]:
    """Of each kind of result, one digest of the names and bytes of all its arrays."""
    text = {kind: json.dumps(sorted(digest_arrays(tree).items())) for kind, tree in found.items()}
    return {kind: hashlib.sha256(text.encode()).hexdigest()[:32] for kind, text in text.items()}


def values(found: dict[str, Any]) -> dict[str, list[float]]:
    """Of each array: its length, and its products with two fixed directions. None of them can miss a change."""
    return {name: _project(np.asarray(leaf, np.float64).reshape(-1)) for name, leaf in by_name(found).items()}


def _project(array: np.ndarray) -> list[float]:
    places = np.arange(array.size)
    return [float(np.linalg.norm(array)), *(float(array @ np.cos(rate * places + 1)) for rate in (0.7, 2.3))]


def kind_of_cpu() -> dict[str, str]:
    """Where the same program gives the same bits: the processor, as far as XLA sees it, and the version of XLA."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    said = {name: re.search(rf"^{name}\s*: (.*)$", text, re.M) for name in ("vendor_id", "cpu family", "model")}
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M)
    features = sorted(word for word in flags[1].split() if re.match(CODE, word)) if flags else []
    return {
        "machine": platform.machine(),
        **{name: match[1] if match else platform.processor() for name, match in said.items()},
        "features": " ".join(features),
        "jaxlib": jaxlib.__version__,
    }


NAMES = tuple(f"{setting} on {devices}" for setting in SETTINGS for devices in DEVICES)
# Each setting once, and both numbers of devices: half of the time.
SOME = ("plain on 1", "groups on 2", "everything on 2")


def train_as(name: str, *, exact: bool) -> dict[str, Any]:
    setting, devices = name.split(" on ")
    return train(setting, int(devices), exact=exact)


def everything(kinds: list[str], names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    jax.config.update("jax_disable_most_optimizations", True)  # these programs run for milliseconds
    report: dict[str, Any] = {"cpu": kind_of_cpu()}
    if "bits" in kinds:
        report["bits"] = {name: digests(train_as(name, exact=False)) for name in names}
    if "float64" in kinds:
        with jax.enable_x64(True):
            report["float64"] = {name: values(train_as(name, exact=True)) for name in names}
    return report


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = f"{os.environ.get('GOLDEN_XLA_FLAGS', '')} {FLAGS}".strip()  # JAX has no devices yet
    jax.config.update("jax_platforms", "cpu")
    if "--store" in sys.argv:
        stored = everything(["bits", "float64"])
        # The numbers of devices agree, which a test sees: one is enough.
        stored["float64"] = {setting: stored["float64"][f"{setting} on 1"] for setting in SETTINGS}
        STORED.write_text(json.dumps(stored, indent=1) + "\n")
        print(f"{STORED} is written")
    else:
        print(json.dumps(everything(sys.argv[1:2], tuple(sys.argv[2:]) or NAMES)))
