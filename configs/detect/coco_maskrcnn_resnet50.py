"""Mask R-CNN over ResNet-50 on COCO, from ImageNet's weights: torchvision's recipe.

    python train.py configs/detect/coco_maskrcnn_resnet50.py --data.name coco:/data/coco

`coco/annotations/instances_train2017.json` and `coco/train2017/*.jpg` are COCO's files. The recipe is that of
torchvision's published weights, which have 37.9 % box AP and 34.6 % mask AP: 8 GPUs of 2 images, SGD with momentum
0.9, a rate of 0.02 that falls to a tenth after 16 and after 22 of 26 epochs, a linear warm-up of 1000 updates, images
mirrored at random, and batches of images that are all wide or all high. The norms of the backbone are frozen, and so
are its first convolution and its first stage. This project has not run it to the end.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig, Start

config = Config(
    model=ModelConfig(name="maskrcnn_resnet50_fpn", num_classes=91, norm="frozen", zero_init_residual=False),
    start=Start(weights="IMAGENET1K_V1"),
    task=Detect(train_canvases=4),
    data=DataConfig(
        name="coco:coco",
        train_split="train2017",
        eval_split="val2017",
        augment=AugmentConfig(random_resized_crop=False, flip=True),
    ),
    optim=OptimConfig(
        base_lr=0.02 * 256 / 16,  # for 256 images; this is 0.02 for 16
        weight_decay=1e-4,
        schedule="step",
        drop_epochs=(16.0, 22.0),
        warmup_epochs=1000 * 16 / 118287,  # 1000 updates, of 118,287 images
        warmup_start=0.001,
        warmup_first=0,
    ),
    checkpoint=CheckpointConfig(every_epochs=1.0),
    epochs=26.0,
    batch_size=16,
    eval_batch_size=8,
)
