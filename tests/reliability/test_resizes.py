"""A run whose images grow, stopped on both sides of the change: it goes on as if nothing had happened."""

import dataclasses
import io

import pytest
from rich.console import Console

import resnet_jax as rn
from resnet_jax.training import loop

from .conftest import assert_same_run, config, state_of

pytestmark = pytest.mark.usefixtures("compile_quickly")


class Stopped(Exception):
    pass


def growing():
    """Eleven steps; the seventh is the first with images of 8 pixels."""
    digits = config()
    augment = dataclasses.replace(digits.data.augment, train_size=6, resizes=(rn.Resize(epoch=0.5, size=8),))
    return dataclasses.replace(digits, data=dataclasses.replace(digits.data, augment=augment))


@pytest.mark.parametrize(
    "interrupted",
    [
        # The sizes of the images that are seen until the run stops, each time.
        pytest.param(([6] * 5,), id="before"),
        pytest.param(([6] * 5, [6, 6, 6, 8, 8, 8]), id="on both sides", marks=pytest.mark.slow),
    ],
)
def test_a_run_continues_exactly_across_the_change(tmp_path, tiny, monkeypatch, interrupted):
    """It goes back to step 3, and from step 8 to step 6, behind which the size changes."""
    sizes, said, stops = [], io.StringIO(), []
    put_batch = loop.put_batch

    def seen(batch, sharding):
        sizes.append(batch["image"].shape[1])
        if stops and len(sizes) == stops[0]:
            raise Stopped("here")
        return put_batch(batch, sharding)

    monkeypatch.setattr(loop, "put_batch", seen)
    rn.train(growing(), tmp_path / "straight", console=Console(file=said))
    assert sizes == [6] * 6 + [8] * 5
    assert said.getvalue().count("compiling the training step") == 2
    trained = tmp_path / "stopped"
    for expected in interrupted:
        stops[:], sizes[:] = [len(expected)], []
        with pytest.raises(Stopped, match="here"):
            rn.train(growing(), trained)
        assert sizes == expected
    stops[:], sizes[:] = [], []
    rn.train(growing(), trained)
    assert sizes == ([6] * 3 if len(interrupted) == 1 else []) + [8] * 5
    assert_same_run(trained, tmp_path / "straight")
    assert int(state_of(trained).step) == 11
