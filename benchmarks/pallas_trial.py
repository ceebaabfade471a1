"""Kernels of our own for a GPU: what they would move, whether they are right, and how fast they are.

    python benchmarks/pallas_trial.py --target h100:1      # for a GPU that is not there: MB beside XLA's
    python benchmarks/pallas_trial.py                      # on a GPU: milliseconds beside XLA's
    python benchmarks/pallas_trial.py --tiny               # anywhere: interpreted, against the plain form

XLA for GPUs leaves two sums and masks of a bottleneck block in kernels of their own (docs/performance.md, "What holds
the rest"). Here each is one Triton kernel, written with Pallas, at the size of the first stage of ResNet-50:

    sum       relu(x @ w + shift + shortcut)                 the end of a block
    mask      where(output > 0, gradient @ w + shortcut, 0)  the gradient that the block before it gets

`resnet_jax` does not use them: nobody has timed them on a GPU. They need the packages of the extra `aot-gpu` to compile
without a device; AOT_GPU names an environment that has them, as for `make test-aot`.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout that is not installed

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

ROWS, INNER, OUTER = 128 * 56 * 56, 64, 256  # pixels of 128 images, channels before and after
TILE = 128


def _sum_kernel(x: Any, w: Any, shift: Any, shortcut: Any, out: Any) -> None:
    product = jnp.dot(x[...], w[...], preferred_element_type=jnp.float32)
    out[...] = jnp.maximum(product + shift[...] + shortcut[...].astype(jnp.float32), 0).astype(out.dtype)


def _mask_kernel(x: Any, w: Any, shortcut: Any, output: Any, out: Any) -> None:
    product = jnp.dot(x[...], w[...], preferred_element_type=jnp.float32) + shortcut[...].astype(jnp.float32)
    out[...] = jnp.where(output[...] > 0, product, 0).astype(out.dtype)


def fused(kernel: Callable, x: jax.Array, w: jax.Array, *others: jax.Array, interpret: bool = False) -> jax.Array:
    """(M, K), (K, N) and arrays (M, N) or (1, N) -> (M, N), a tile at a time. TILE divides M and N."""
    (rows, inner), outer = x.shape, w.shape[1]
    tile = pl.BlockSpec((TILE, TILE), lambda i, j: (i, j))
    row = pl.BlockSpec((1, TILE), lambda i, j: (0, j))
    options: dict[str, Any] = {"interpret": True}
    if not interpret:
        from jax.experimental.pallas import triton

        options = {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=2)}
    return pl.pallas_call(
        kernel,
        grid=(rows // TILE, outer // TILE),
        in_specs=[
            pl.BlockSpec((TILE, inner), lambda i, j: (i, 0)),
            pl.BlockSpec((inner, TILE), lambda i, j: (0, j)),
            *(tile if other.shape[0] == rows else row for other in others),
        ],
        out_specs=tile,
        out_shape=jax.ShapeDtypeStruct((rows, outer), x.dtype),
        **options,
    )(x, w, *others)


def plain_sum(x: jax.Array, w: jax.Array, shift: jax.Array, shortcut: jax.Array) -> jax.Array:
    """What `_sum_kernel` computes, but that the product is rounded, as in the network."""
    return jnp.maximum((x @ w).astype(jnp.float32) + shift + shortcut.astype(jnp.float32), 0).astype(x.dtype)


def plain_mask(x: jax.Array, w: jax.Array, shortcut: jax.Array, output: jax.Array) -> jax.Array:
    """What `_mask_kernel` computes, but that the product is rounded, as in the network."""
    return jnp.where(output > 0, (x @ w).astype(jnp.float32) + shortcut.astype(jnp.float32), 0).astype(x.dtype)


KINDS = {"sum": (_sum_kernel, plain_sum), "mask": (_mask_kernel, plain_mask)}


def shapes(kind: str, rows: int, dtype: Any, sharding: Any = None) -> list[jax.ShapeDtypeStruct]:
    """Of the arguments of a kind."""
    last = [((1, OUTER), jnp.float32), ((rows, OUTER), dtype)] if kind == "sum" else [((rows, OUTER), dtype)] * 2
    all_of_them = [((rows, INNER), dtype), ((INNER, OUTER), dtype), *last]
    return [jax.ShapeDtypeStruct(shape, kind, sharding=sharding) for shape, kind in all_of_them]


def lower(devices: Sequence[jax.Device], kind: str, ours: bool) -> jax.stages.Lowered:
    """For `resnet_jax.cost.aot`."""
    kernel, plain = KINDS[kind]
    run = (lambda *arrays: fused(kernel, *arrays)) if ours else plain
    return jax.jit(run).lower(*shapes(kind, ROWS, jnp.bfloat16, jax.sharding.SingleDeviceSharding(devices[0])))


def difference(kind: str, *, interpret: bool, rows: int, dtype: Any) -> float:
    """The largest difference between the kernel and the plain form, relative to the largest number."""
    kernel, plain = KINDS[kind]
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=one.shape), one.dtype) for one in shapes(kind, rows, dtype)]
    ours, expected = (np.asarray(y, np.float64) for y in (fused(kernel, *arrays, interpret=interpret), plain(*arrays)))
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def milliseconds(kind: str, ours: bool, steps: int = 50) -> float:
    """Of one call on the device at hand, the median of many."""
    kernel, plain = KINDS[kind]
    run = jax.jit(lambda *arrays: fused(kernel, *arrays)) if ours else jax.jit(plain)
    arrays = [jnp.ones(one.shape, one.dtype) for one in shapes(kind, ROWS, jnp.bfloat16)]
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        run(*arrays).block_until_ready()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times[steps // 5 :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="compile for a GPU that is not there, such as h100:1")
    parser.add_argument("--tiny", action="store_true", help="interpret the kernels on small arrays")
    options = parser.parse_args()
    if not options.target and not options.tiny and jax.default_backend() != "gpu":
        sys.exit("there is no GPU here; --target h100:1 compiles for one, and --tiny compares with the plain form")
    for kind in KINDS:
        if options.target:
            from resnet_jax.cost.aot import compile_ahead
            from resnet_jax.cost.targets import parse_target

            folder = os.environ.get("AOT_GPU")
            python = str(Path(folder) / "bin" / "python") if folder else sys.executable
            call = f"{Path(__file__).resolve()}:lower"
            moved = [
                compile_ahead(parse_target(options.target), call, kind, ours, python=python).hbm_bytes / 1e6
                for ours in (True, False)
            ]
            print(f"{kind}: {moved[0]:.0f} MB in one kernel, {moved[1]:.0f} MB in XLA's kernels alone")
        elif options.tiny:
            print(f"{kind}: differs by {difference(kind, interpret=True, rows=256, dtype=jnp.float32):.1e}")
        else:
            off = difference(kind, interpret=False, rows=ROWS, dtype=jnp.bfloat16)
            times = [milliseconds(kind, ours) for ours in (True, False)]
            print(f"{kind}: {times[0]:.3f} ms in one kernel, {times[1]:.3f} ms in XLA's kernels; differs by {off:.1e}")


if __name__ == "__main__":
    main()
