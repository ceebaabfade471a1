"""Networks as StableHLO: one program for CPUs, NVIDIA GPUs and TPUs, which JAX runs without this package."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Array

from resnet_jax.compress import Folded
from resnet_jax.compress.quantize.store import from_arrays, to_arrays
from resnet_jax.data import normalize
from resnet_jax.export.job import DESCRIPTION, Job, check_packages, new_folder
from resnet_jax.models.forms import PLATFORMS

PROGRAM, WEIGHTS, README = "program.stablehlo", "weights.safetensors", "README.md"

_README = """# {title}

Written by resnet_jax {version}. To run it, `pip install jax safetensors flatbuffers`; it needs nothing else.
It was written with jax {jax}. JAX promises to read such a file for six months.

```python
import jax, jax.export, numpy as np
from safetensors.numpy import load_file

program = jax.export.deserialize(open("{program}", "rb").read())
weights = load_file("{weights}")
{name} = np.zeros({shape}, np.{dtype})
{output} = program.call(weights, {name})["{output}"]
```

- Before the program, {outside}.
- Inside the program, {inside}.
- Platforms: {platforms}. The names of the classes are in `export.json`.
"""


def write_stablehlo(job: Job, out: Path) -> Folded:
    """Writes the program, its weights, `export.json` and how to call it into the new folder `out`.

    The weights lie beside the program, since XLA compiles a program with constants of that size slowly.

    Returns:
      how many norms were folded and kept.

    Raises:
      ConfigError: flatbuffers is not installed, or `out` holds something.
    """
    from safetensors.numpy import save

    from resnet_jax import __version__

    check_packages("stablehlo")
    folded = job.folded()
    with new_folder(out) as folder:
        weights = (
            to_arrays(job.quantized.variables)
            if job.quantized
            else {name: np.asarray(leaf) for name, leaf in flatten_dict(dict(folded.variables), sep="/").items()}
        )
        (folder / PROGRAM).write_bytes(bytes(exported(job, folded.model, weights).serialize()))
        (folder / WEIGHTS).write_bytes(save(weights))
        shape = job.shape("N" if job.batch is None else job.batch)
        (folder / DESCRIPTION).write_text(job.description("stablehlo", shape, [PROGRAM, WEIGHTS], folded))
        named = {"program": PROGRAM, "weights": WEIGHTS, "platforms": ", ".join(PLATFORMS), "output": job.output}
        kind = {"name": job.input, "dtype": "uint8" if job.with_preprocessing else "float32"}
        (folder / README).write_text(
            _README.format(
                title=job.network.title,
                version=__version__,
                jax=jax.__version__,
                shape=job.shape(job.batch or 1),
                outside=job.outside,
                inside=job.inside,
                **named,
                **kind,
            )
        )
    return folded


def exported(job: Job, model: Any, weights: dict[str, np.ndarray]) -> export.Exported:
    """`(weights, images) -> {"logits"}` for all platforms.

    Args:
      model: is not looked at where the job is in integers.
      weights: the variables of `model`, by names such as `params/conv1/kernel`; of a quantised one as in its file.
    """

    def run(weights: dict[str, Array], images: Array) -> dict[str, Array]:
        x = normalize(images, job.preset) if job.with_preprocessing else images
        if job.quantized:
            given = job.quantized.model.apply(from_arrays(weights, job.quantized.scales), x)
        else:
            given = model.apply(unflatten_dict(weights, sep="/"), x, train=False)
        return {job.output: given[job.output] if isinstance(given, dict) else given}

    batch = "n" if job.batch is None else job.batch
    shape = export.symbolic_shape(", ".join(map(str, job.shape(batch))))
    images = jax.ShapeDtypeStruct(shape, np.uint8 if job.with_preprocessing else np.float32)
    like = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), weights)
    return export.export(jax.jit(run), platforms=PLATFORMS)(like, images)
