"""Strict settings for every test: 8 virtual CPU devices, no silent rank promotion, torchvision importable."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The tests compile the same steps again and again, in this process, in xdist's workers and in subprocesses.
    folder = tempfile.mkdtemp(prefix="resnet_jax_tests_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
if "PYTEST_XDIST_WORKER" in os.environ:
    # There are as many workers as cores, so torch's threads would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest
from hypothesis import settings

from resnet_jax.models import create
from resnet_jax.run import result
from resnet_jax.runtime.garbage import collect_seldom
from resnet_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()

# The same examples in every run, so that a commit passes or fails once and for all. To look for new ones:
# pytest --hypothesis-profile=default.
settings.load_profile("ci")

jax.config.update("jax_numpy_rank_promotion", "raise")

gc.freeze()
collect_seldom()


@pytest.fixture(scope="module")
def compile_quickly():
    """For programs that run for milliseconds: LLVM spends less on them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def _old_objects_are_left_alone():
    """A collection looks at what the tests of the file make, not at all that JAX and torch have."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def collect_abandoned_readers(_old_objects_are_left_alone):
    """Where one reader finds damage, Orbax does not wait for the others; Python reports what they raise then."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def short_runs():
    """The network `cifar_resnet8` (`tests/small_digits.py`) is known, and no run draws its curves."""
    with pytest.MonkeyPatch.context() as patch:
        small = create.VARIANTS["cifar_resnet20"] | {"stage_sizes": (1, 1, 1)}
        patch.setattr(create, "VARIANTS", {**create.VARIANTS, "cifar_resnet8": small})
        patch.setattr(result, "plot_curves", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def torchvision():
    """The oracle. Its compiled operators may not fit the build of torch; its Python part is enough."""
    pytest.importorskip("torch")
    from resnet_jax.parity import import_torchvision

    return import_torchvision()
