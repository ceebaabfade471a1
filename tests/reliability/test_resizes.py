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


def test_a_run_continues_exactly_across_the_change(tmp_path, tiny, monkeypatch):
    """Stopped after steps 4 and 8, it goes back to steps 3 and 6. Behind the latter the size changes."""
    sizes, said = [], io.StringIO()
    put_batch = loop.put_batch

    def seen(batch, sharding):
        sizes.append(batch["image"].shape[1])
        if stops and len(sizes) > stops[0]:
            raise Stopped("here")
        return put_batch(batch, sharding)

    monkeypatch.setattr(loop, "put_batch", seen)
    stops = []
    rn.train(growing(), tmp_path / "straight", console=Console(file=said))
    assert sizes == [6] * 6 + [8] * 5
    assert said.getvalue().count("compiling the training step") == 2
    trained = tmp_path / "stopped"
    for stop, expected in ((4, [6] * 5), (5, [6, 6, 6, 8, 8, 8])):
        stops[:], sizes[:] = [stop], []
        with pytest.raises(Stopped, match="here"):
            rn.train(growing(), trained)
        assert sizes == expected
    stops[:], sizes[:] = [], []
    rn.train(growing(), trained)
    assert sizes == [8] * 5
    assert_same_run(trained, tmp_path / "straight")
    assert int(state_of(trained).step) == 11
