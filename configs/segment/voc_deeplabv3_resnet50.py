"""DeepLabV3 over ResNet-50 on Pascal VOC 2012, from ImageNet's weights: torchvision's recipe for VOC.

    python train.py configs/segment/voc_deeplabv3_resnet50.py --data.name voc:/data/VOCdevkit/VOC2012

The recipe is that of torchvision's `references/segmentation` with its defaults: SGD with momentum 0.9, a rate of 0.01
for 8 images that falls as `(1 - t) ** 0.9`, ten times the rate for the auxiliary head, 30 epochs. This project has not
run it to the end.
"""

from resnet_jax import CheckpointConfig, Config, DataConfig, Group, ModelConfig, OptimConfig, Segment, Start

config = Config(
    model=ModelConfig(name="deeplabv3_resnet50", num_classes=21, zero_init_residual=False),
    start=Start(weights="IMAGENET1K_V2"),
    task=Segment(),
    data=DataConfig(
        name="voc:VOCdevkit/VOC2012",
        train_split="train",
        eval_split="val",
        image_size=480,
        eval_resize=520,
    ),
    optim=OptimConfig(
        base_lr=0.01 * 256 / 8,  # for 256 images; this is 0.01 for 8
        weight_decay=1e-4,
        schedule="polynomial",
        power=0.9,
        warmup_epochs=0.0,
        groups=(Group(pattern=r"^aux_classifier/", rate=10.0),),
    ),
    checkpoint=CheckpointConfig(every_epochs=1.0),
    epochs=30.0,
    batch_size=8,
    eval_batch_size=8,
)
