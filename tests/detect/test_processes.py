"""Detections are gathered from all processes: an evaluation on two gives what one gives."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.data.sources import digit_scenes
from resnet_jax.runtime.mesh import make_mesh, replicated

from ..training.test_processes import launch
from .test_task import in_float64, make_config, random_state

EVALUATE = """
import importlib, json
jax.config.update("jax_disable_most_optimizations", True)
print(json.dumps(importlib.import_module("tests.detect.test_processes").numbers()))
"""


def numbers():
    """How right a random network is on 7 scenes, in batches of 4. It names all places, so some are right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes, "LENGTHS", {"train": 16, "test": 7})
        config = make_config("retinanet_resnet18_fpn")
        config = replace(config, task=replace(config.task, topk_candidates=1000, detections_per_img=200))
        task = in_float64(config)
        state = jax.device_put(random_state(config, task), replicated(make_mesh()))
        return rn.evaluate(config, state, task=task)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(compile_quickly):
    with jax.enable_x64(True):
        expected = numbers()
    assert expected["count"] == 7
    assert expected["box_ap50"] > 0
    for said in launch(EVALUATE, 2):
        found = json.loads(said.splitlines()[-1])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
