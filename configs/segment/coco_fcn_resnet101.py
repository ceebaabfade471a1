"""FCN over ResNet-101 on COCO with the 21 classes of Pascal VOC, from ImageNet's weights: torchvision's recipe.

    python train.py configs/segment/coco_fcn_resnet101.py --data.name pairs:/data/coco_voc

`coco_voc/SPLIT/images/*.jpg` are COCO's images, `coco_voc/SPLIT/masks/*.png` the masks with VOC's classes.
torchvision's `references/segmentation/coco_utils.py` says which images and classes are taken. The recipe is the one of
torchvision's published weights, which have 63.7 % mIoU: 8 GPUs of 4 images, SGD with momentum 0.9, a rate of 0.02 that
falls as `(1 - t) ** 0.9`, ten times the rate for the auxiliary head, 30 epochs. Statistics are of the whole batch, as
SyncBN's. This project has not run it to the end.
"""

from resnet_jax import CheckpointConfig, Config, DataConfig, Group, ModelConfig, OptimConfig, Segment, Start

config = Config(
    model=ModelConfig(name="fcn_resnet101", num_classes=21, zero_init_residual=False, dtype="bfloat16"),
    start=Start(weights="IMAGENET1K_V2"),
    task=Segment(),
    data=DataConfig(
        name="pairs:coco_voc",
        train_split="train",
        eval_split="val",
        image_size=480,
        eval_resize=520,
    ),
    optim=OptimConfig(
        base_lr=0.02 * 256 / 32,  # for 256 images; this is 0.02 for 32
        weight_decay=1e-4,
        schedule="polynomial",
        power=0.9,
        warmup_epochs=0.0,
        groups=(Group(pattern=r"^aux_classifier/", rate=10.0),),
    ),
    checkpoint=CheckpointConfig(every_epochs=1.0),
    epochs=30.0,
    batch_size=32,
    eval_batch_size=8,
)
