"""CosFace with Partial FC over iresnet100 on Glint360K (`recognition/arcface_torch/configs/glint360k_r100.py`).

    python train.py configs/embed/glint360k_partialfc_iresnet100.py --data.name rec:/data/glint360k

360,232 identities, 17,091,657 images of 112x112 pixels. Each step compares with the classes of its batch and a tenth of
the others (An et al. 2022, arXiv:2203.15565, who lose nothing by it from 360,000 identities on). The centres are split
over the devices. This project has not run it to the end. Look at docs/embeddings.md before you use faces.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import Eval, load_config

base = load_config(Path(__file__).with_name("ms1mv3_arcface_iresnet100.py"))
config = replace(
    base,
    model=replace(base.model, num_classes=360_232),
    data=replace(base.data, name="rec:glint360k"),
    task=replace(base.task, margins=(1.0, 0.0, 0.4), sampled_share=0.1),
    optim=replace(base.optim, weight_decay=1e-4),
    evals=tuple(
        Eval(name=name, data="verification:glint360k", split=name, every_epochs=1.0)
        for name in ("lfw", "cfp_fp", "agedb_30")
    ),
)
