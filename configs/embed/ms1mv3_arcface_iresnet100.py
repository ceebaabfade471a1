"""ArcFace over iresnet100 on MS1MV3: insightface's recipe (`recognition/arcface_torch/configs/ms1mv3_r100.py`).

    python train.py configs/embed/ms1mv3_arcface_iresnet100.py --data.name rec:/data/ms1m-retinaface-t1

93,431 identities, 5,179,510 images of 112x112 pixels, 20 epochs with 1,024 images in a batch. insightface publishes
99.83 % on LFW and 96.85 % TAR at FAR 1e-4 on IJB-C. This project has not run it to the end. Look at
docs/embeddings.md before you use faces.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, Embed, Eval, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(name="iresnet100", num_classes=93_431, zero_init_residual=False, bn_group_size=128),
    data=DataConfig(
        name="rec:ms1m-retinaface-t1",
        image_size=112,
        eval_resize=112,
        augment=AugmentConfig(random_resized_crop=False, flip=True),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    task=Embed(loss="margin", margins=(1.0, 0.5, 0.0), scale=64.0, gradient="straight_through"),
    optim=OptimConfig(
        base_lr=0.1 * 256 / 1024,  # for 256 images; this is 0.1 for 1,024
        weight_decay=5e-4,
        schedule="polynomial",
        power=1.0,
        warmup_epochs=0.0,
        clip_norm=5.0,
        clip_without=("^centres$",),
    ),
    evals=tuple(
        Eval(name=name, data="verification:ms1m-retinaface-t1", split=name, every_epochs=1.0)
        for name in ("lfw", "cfp_fp", "agedb_30")
    ),
    checkpoint=CheckpointConfig(every_epochs=1.0),
    epochs=20.0,
    batch_size=1024,
    eval_batch_size=512,
)
