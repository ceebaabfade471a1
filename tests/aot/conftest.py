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
        "--store-traffic", action="store_true", help="write the figures of programs into tests/aot/traffic.json"
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
def ratchet(request):
    """`ratchet(key, figures)` fails where one of a program's figures is larger than what is stored, or stores them."""
    # Tests that stand elsewhere may be asked for, and then this file's option is not known.
    storing = request.config.getoption("--store-traffic", default=False)

    def check(key, figures):
        if storing:
            with TRAFFIC.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # the other workers store theirs
                stored = json.load(file) | {key: figures}
                file.seek(0)
                file.truncate()
                file.write(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
            return
        stored = json.loads(TRAFFIC.read_text()).get(key)
        if not stored:
            pytest.skip(f"it compiles; no traffic is stored for {key}: make test-aot AOT='--store-traffic -k ...'")
        more = {name: (count, stored[name]) for name, count in figures.items() if count > SLACK * stored[name]}
        assert not more, f"{key}: (now, stored): {more}"

    return check


# What another order of the same kernels may add.
SLACK = 1.01
