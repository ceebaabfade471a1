"""Mask R-CNN, second version, over ResNet-50 on COCO, with large-scale jitter: after torchvision's recipe.

    python train.py configs/detect/coco_maskrcnn_resnet50_v2_lsj.py --data.name coco:/data/coco

torchvision's published weights have 47.4 % box AP and 41.8 % mask AP. They come from 32 GPUs of 2 images, SGD with
momentum 0.9, a rate of 0.1 that falls to a tenth after 352 and after 384 of 400 epochs, a weight decay of 4e-5, and
images resized by 0.1 to 2 on squares of 1024 pixels (Ghiasi et al. 2021, arXiv:2012.07177). Norms are trained, with
statistics of the whole batch, as SyncBN's; all of the backbone is trained. This project has not run it to the end.
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, Detect, ModelConfig, OptimConfig, Start

config = Config(
    model=ModelConfig(name="maskrcnn_resnet50_fpn_v2", num_classes=91, zero_init_residual=False, dtype="bfloat16"),
    start=Start(weights="IMAGENET1K_V2"),
    task=Detect(jitter=(0.1, 2.0), canvas=1024, trainable_backbone_layers=5),
    data=DataConfig(
        name="coco:coco",
        train_split="train2017",
        eval_split="val2017",
        augment=AugmentConfig(random_resized_crop=False, flip=True),
    ),
    optim=OptimConfig(
        base_lr=0.1 * 256 / 64,  # for 256 images; this is 0.1 for 64
        weight_decay=4e-5,
        schedule="step",
        drop_epochs=(352.0, 384.0),
        warmup_epochs=1000 * 64 / 118287,  # 1000 updates, of 118,287 images
        warmup_start=0.001,
        warmup_first=0,
    ),
    checkpoint=CheckpointConfig(every_epochs=2.0),
    epochs=400.0,
    eval_every_epochs=8.0,
    batch_size=64,
    eval_batch_size=8,
)
