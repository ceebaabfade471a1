"""Commands look for garbage less often; a library leaves it alone."""

import subprocess
import sys


def test_commands_collect_seldom():
    code = """
import gc
before = gc.get_threshold()
import resnet_jax, resnet_jax.cli
assert gc.get_threshold() == before
resnet_jax.cli.main(["--version"])
print(gc.get_threshold())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "(50000, 20, 50)"
