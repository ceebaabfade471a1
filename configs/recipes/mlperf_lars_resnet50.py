"""ResNet-50 on ImageNet-1k in 37 epochs with LARS: MLPerf's task, as it was run on a DGX A100.

    python train.py configs/recipes/mlperf_lars_resnet50.py --workdir runs/mlperf

Source: mlcommons/training_results_v1.1, Azure/benchmarks/resnet/implementations/mxnet/config_DGXA100.sh; the rules of
LARS and of the rate are those of mlcommons/training, image_classification/tensorflow2.
Expected: 75.9 % top-1, MLPerf's target, at which its runs end: at epoch 35 by that file. Not run here.
Hours: about half an hour on 8 A100, computed: 36 epochs at 3,350 images a second and GPU, which MLPerf 2.0's results
have.
Differs: bfloat16, where they scale the loss of float16. A random crop is torchvision's, with their smallest area, and
needs no box around an object. Channels are divided by their deviations. The rate reaches its end with the last update
of epoch 37; the reference's formula has one update more.
"""

from resnet_jax import AugmentConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig

PEAK = 10.5
BATCH = 8 * 408

config = Config(
    model=ModelConfig(
        name="resnet50",
        zero_init_residual=True,
        bn_group_size=408,  # the images of a GPU
        dtype="bfloat16",
    ),
    data=DataConfig(name="tfds:imagenet2012", eval_split="validation", augment=AugmentConfig(crop_min_area=0.05)),
    task=Classify(label_smoothing=0.1),
    optim=OptimConfig(
        optimizer="lars",
        lars_measure="sum_of_norms",
        base_lr=PEAK * 256 / BATCH,
        weight_decay=5e-5,
        no_decay=(r"bn", r"bias$"),
        schedule="polynomial",
        power=2.0,
        end_factor=1e-4 / PEAK,
        warmup_epochs=2.0,
        warmup_first=0,
    ),
    epochs=37.0,
    batch_size=BATCH,
    eval_batch_size=BATCH,
    log_every_steps=50,
)
