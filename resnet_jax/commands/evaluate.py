"""`python -m resnet_jax evaluate DIR`"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from tyro.conf import Positional

from resnet_jax.commands.evaluate_boxes import show_boxes
from resnet_jax.commands.evaluate_masks import show_masks
from resnet_jax.commands.evaluate_pairs import show_pairs
from resnet_jax.commands.evaluate_refused import (
    refuse_classes,
    refuse_confusion,
    refuse_curves,
    refuse_for_boxes,
    refuse_roc,
)
from resnet_jax.commands.sheet import check_picture
from resnet_jax.config import AS_PUBLISHED, ClipConfig, DataConfig, PresetChange
from resnet_jax.display import distinct, plain_console

if TYPE_CHECKING:
    from resnet_jax.compress import Folded


@dataclass(frozen=True)
class EvalData:
    """What weights without a run are evaluated on; as in a config."""

    name: str = ""
    """The data set, such as folder:PATH, tfds:NAME or parquet:PATH; of a folder without splits, all images."""
    directory: str | None = None
    """Where TFDS data lives."""
    eval_split: str = "test"
    """The split."""
    holdout: float = 0.0
    """Of a folder without splits: evaluate the share that a run with this holdout does not train on."""
    clip: ClipConfig = ClipConfig(rate=15.0)
    """Of a network for videos: which frames it sees. Published accuracies are of 5 clips of 16 frames, 15 in a
    second."""
    exif: bool = False
    """Turn photographs upright, as EXIF says how the camera was held; published accuracies are measured without."""


def evaluate(
    workdir: Positional[Path | None] = None,
    checkpoint: Literal["last", "best"] = "last",
    per_class: bool = False,
    confusion: Path | None = None,
    roc: Path | None = None,
    curves: Path | None = None,
    as_json: bool = False,
    weights: str | None = None,
    model: str | None = None,
    data: EvalData = EvalData(),
    batch_size: int | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    fold: bool = False,
    preset: PresetChange = AS_PUBLISHED,
) -> None:
    """Evaluate a trained run on its test split, or published weights on any data set; every image counts exactly once.

    Of a network that finds objects it prints COCO's average precision of boxes and masks.
    Of a network for segmentation it prints mIoU, the share of the pixels that are right, and the loss. Of a network for
    embeddings it prints how well pairs of images are told apart: accuracy over ten folds, rank-1, mAP, and the pairs of
    one identity that are accepted at each rate of false accepts. Of a network for videos it prints how often the class
    of a video is right, by the mean over its clips, and that of a single clip.

    Args:
        workdir: The folder that `train.py --workdir` filled.
        checkpoint: The newest checkpoint, or the one with the best top-1 accuracy, average precision, mIoU or
            accuracy of verification.
        per_class: Also print the accuracy of each class, or its average precision, or of a segmentation its IoU, the
            worst first.
        confusion: Also draw the confusion matrix and the calibration as this PNG; of a classification.
        roc: Also draw the accepted pairs at each rate of false accepts, and the cosines, as this PNG; of embeddings.
        curves: Also draw precision against recall as this PNG; of a network that finds objects.
        as_json: Print one JSON object instead of tables.
        weights: Instead of a run: a published set such as IMAGENET1K_V2 (with --model), a weight file, or a repository
            of the Hugging Face hub such as timm/resnet50.a1_in1k. Images are prepared as whoever published it says.
        model: The network that the weights are for; without it the one that a file's keys and shapes are those of.
        data: With --weights: what to evaluate on.
        batch_size: With --weights: images that are evaluated together, 64 by default, 8 of a segmentation or of videos,
            and 2 of a network that finds objects. The result does not depend on it.
        entry: With --weights: which part of a training checkpoint to take, such as model_ema.
        prefix: With --weights: take the keys that begin with it, such as module.encoder_q., without it.
        fold: Fold batch normalisation into the convolutions first, as export does, and say how many norms. By default
            the network is evaluated as it was trained.
        preset: With --weights: how images are prepared, where it is not as the weights say, or they say nothing.
    """
    from resnet_jax.compress import fold as fold_norms
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.named import detects, embeds, sees_videos, segments

    if (workdir is None) == (weights is None):
        raise ConfigError(
            "evaluate the folder of a run, or weights on a data set: resnet_jax evaluate DIR, or resnet_jax evaluate "
            "--model resnet50 --weights IMAGENET1K_V2 --data.name folder:PATH"
        )
    for picture in (confusion, roc, curves):
        if picture is not None:
            check_picture(picture)
    of_clips: dict[str, float] = {}
    if workdir is not None:
        if model or entry or prefix or data != EvalData() or preset != AS_PUBLISHED:
            raise ConfigError(
                f"--model, --entry, --prefix, --preset and --data are for --weights; {workdir} says itself what it was "
                "trained on"
            )
        from resnet_jax.run.predict import load_run

        trained = load_run(workdir, checkpoint)
        step, trained_on = int(trained.state.step), trained.config.data
        title, note = f"{trained.title}, on {trained_on.name} {trained_on.eval_split}", ""
        if not detects(trained):
            refuse_curves(curves, trained.title)
        if segments(trained):
            refuse_confusion(confusion, trained.title)
            refuse_roc(roc, trained.title)
            if fold:
                raise ConfigError(
                    f"--fold is for networks that name one class for a whole image, and for --weights; {trained.title} "
                    "names a class for each pixel. Leave it out, or convert the run to a file and evaluate that"
                )
            from resnet_jax.run.evaluate import evaluate as evaluate_all

            numbers = evaluate_all(trained.config, trained.state)
            several = [one.name for one in trained.config.evaluations]
            title = trained.title if any(several) else title
            show_masks(numbers, several, title=title, note=note, step=step, per_class=per_class, as_json=as_json)
            return
        if detects(trained):
            refuse_for_boxes(confusion, roc, fold, trained.title)
            from resnet_jax.run.judged import judge_evaluation

            judged = {one.name: judge_evaluation(trained, one) for one in trained.config.evaluations}
            title = trained.title if any(judged) else title
            show_boxes(judged, title=title, note=note, step=step, per_class=per_class, curves=curves, as_json=as_json)
            return
        folded = fold_norms(trained.model, trained.state.eval_variables) if fold else None
        note = _counted(folded) if folded else ""
        if embeds(trained):
            refuse_classes(confusion, per_class, trained.title)
            from resnet_jax.run.verification import verify_evaluation

            verified = {one.name: verify_evaluation(trained, one, folded) for one in trained.config.evaluations}
            title = trained.title if any(verified) else title
            show_pairs(verified, title=title, note=note, step=step, roc=roc, as_json=as_json)
            return
        refuse_roc(roc, trained.title)
        class_names = trained.class_names
        if sees_videos(trained):
            from resnet_jax.run.clips import evaluate_videos

            report, of_clips = evaluate_videos(trained.config, trained.state, folded)
        else:
            from resnet_jax.run.evaluate import evaluate_in_detail

            report = evaluate_in_detail(trained.config, trained.state, folded)
    else:
        assert weights is not None
        if not data.name or (batch_size is not None and batch_size < 1):
            raise ConfigError(
                f"--data.name = {data.name!r} and --batch-size = {batch_size}: say what to evaluate the weights on, "
                "such as --data.name folder:PATH, and at least 1 image at a time"
            )
        from resnet_jax.run.evaluate_network import all_of_a_folder, evaluate_masks, evaluate_network
        from resnet_jax.run.network import describe, load_network

        network, step = load_network(weights, model, entry=entry, prefix=prefix, preset=preset), None
        config = all_of_a_folder(DataConfig(**vars(data)))
        split = data.eval_split if config.name == data.name else "(all)"
        title, class_names = f"{network.title}, on {data.name} {split}", tuple(network.class_names)
        note = describe(network.preset)
        if detects(network):
            refuse_for_boxes(confusion, roc, fold, network.title)
            if preset.crop or preset.interpolation:
                raise ConfigError(f"{network.title} sees whole images, resized bilinearly; leave --preset.crop out")
            from resnet_jax.run.judged import judge_data

            found_boxes = {"": judge_data(network, config, batch_size or 2)}
            show_boxes(
                found_boxes, title=title, note=note, step=None, per_class=per_class, curves=curves, as_json=as_json
            )
            return
        refuse_curves(curves, network.title)
        if fold:
            smaller = fold_norms(network.model, network.variables)
            network = dataclasses.replace(network, model=smaller.model, variables=smaller.variables)
            note = f"{note}; {_counted(smaller)}"
        if segments(network):
            refuse_confusion(confusion, network.title)
            refuse_roc(roc, network.title)
            if preset.crop or preset.interpolation:
                raise ConfigError(
                    f"{network.title} sees whole images, resized bilinearly; leave --preset.crop and "
                    "--preset.interpolation out"
                )
            numbers = evaluate_masks(network, config, batch_size or 8)
            show_masks(numbers, [""], title=title, note=note, step=None, per_class=per_class, as_json=as_json)
            return
        if embeds(network):
            refuse_classes(confusion, per_class, network.title)
            from resnet_jax.run.embedding import embedder_of
            from resnet_jax.run.verification import verify_data

            found = verify_data(embedder_of(network, exif=data.exif), config, batch_size or 64)
            show_pairs({"": found}, title=title, note=note, step=None, roc=roc, as_json=as_json)
            return
        refuse_roc(roc, network.title)
        if sees_videos(network):
            from resnet_jax.run.clips import evaluate_video_network

            report, of_clips = evaluate_video_network(network, config, batch_size or 8)
        else:
            report = evaluate_network(network, config, batch_size or 64)
    if confusion is not None:
        from resnet_jax.tasks.classify.confusion import plot_confusion

        plot_confusion(report, class_names, confusion, f"{title}: top-1 {report.top1:.2%}")
    images = report.confusion.sum(axis=1)
    if as_json:
        whole = {name: getattr(report, name) for name in ("loss", "top1", "top5", "count", "calibration_error")}
        # A class without images has no accuracy.
        accuracies = [float(x) if n else None for x, n in zip(report.per_class, images, strict=True)]
        classes = {"per_class": dict(zip(distinct(class_names), accuracies, strict=True))} if per_class else {}
        print(json.dumps({**({} if step is None else {"step": step}), **whole, **of_clips, **classes}))
        return
    table = Table(title=title, caption=note)
    shares = {"top-1": report.top1, "top-5": report.top5}
    if of_clips:
        shares |= {"clip top-1": of_clips["clip_top1"], "clip top-5": of_clips["clip_top5"]}
    for heading in (*shares, "loss", "calibration error", "videos" if of_clips else "images"):
        # Where the table is too wide, headings go to a second line, and no word of them is cut.
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    table.add_row(
        *(f"{100 * value:.2f} %" for value in shares.values()),
        f"{report.loss:.4f}",
        f"{100 * report.calibration_error:.2f} %",
        f"{report.count}",
    )
    console = plain_console()
    console.print(table)
    if per_class:
        table = Table(title="Accuracy by class")
        for heading, justify in (("class", "left"), ("top-1", "right"), ("right", "right"), ("images", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        seen = [i for i, count in enumerate(images) if count or workdir is not None]  # a few of 1000, maybe
        for i in sorted(seen, key=lambda i: report.per_class[i] if images[i] else 2):
            accuracy = f"{100 * report.per_class[i]:.2f} %" if images[i] else ""
            table.add_row(class_names[i], accuracy, f"{report.confusion[i, i]}", f"{images[i]}")
        console.print(table)
    if confusion is not None:
        console.print(f"The confusion matrix is in {confusion}", soft_wrap=True)


def _counted(folded: "Folded") -> str:
    return f"norms: {folded.folded} folded into convolutions, {folded.kept} kept"
