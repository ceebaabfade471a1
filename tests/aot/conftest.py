"""The environments whose compilers the tests here use, and what was measured with them."""

import fcntl
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAFFIC = Path(__file__).parent / "traffic.json"


def pytest_addoption(parser):
    parser.addoption(
        "--store-traffic", action="store_true", help="write what programs move into tests/aot/traffic.json"
    )


@pytest.fixture(scope="session")
def python_for():
    """The Python of the environment with the compiler of a kind of device, `tpu` or `gpu`; skips without one."""

    def find(kind):
        variable = f"AOT_{kind.upper()}"
        folder = ROOT / os.environ.get(variable, f".venv-aot-{kind}")
        python = folder / "bin" / "python"
        if not python.exists():
            pytest.skip(f"no compiler of {kind.upper()}s: {python} is not there; `make test-aot` makes it")
        return python

    return find


@pytest.fixture
def traffic(request):
    """A ratchet: `traffic(key, bytes)` fails where a program moves more than is stored, or stores it."""
    # Tests that stand elsewhere may be asked for, and then this file's option is not known.
    storing = request.config.getoption("--store-traffic", default=False)

    def check(key, count):
        if storing:
            with TRAFFIC.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # the other workers store theirs
                stored = json.load(file) | {key: count}
                file.seek(0)
                file.truncate()
                file.write(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
            return
        stored = json.loads(TRAFFIC.read_text())
        assert key in stored, f"no figure is stored for {key}: make test-aot AOT='--store-traffic -k ...'"
        assert count <= SLACK * stored[key], f"{key}: {count / 1e9:.3f} GB, and {stored[key] / 1e9:.3f} GB is stored"

    return check


# What another order of the same kernels may add.
SLACK = 1.01
