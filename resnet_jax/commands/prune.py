"""`python -m resnet_jax prune RUN --out DIR`"""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from tyro.conf import Positional

from resnet_jax.display import plain_console


def prune(
    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")],
    *,
    out: Path,
    sparsity: float | None = None,
    macs: float | None = None,
    by: Literal["bn_scale", "l1", "taylor"] = "bn_scale",
    which: Literal["inner", "all"] = "all",
    scope: Literal["layer", "global"] = "layer",
    floor: float = 0.1,
    multiple: int = 8,
    batches: int = 16,
    checkpoint: Literal["last", "best"] = "last",
) -> None:
    """Remove channels of a trained run for real, and write the smaller network as a run.

    It then wants fine-tuning: python train.py configs/mine.py --start.weights DIR, where mine.py is the config that the
    run was trained with. To go on in rounds, prune what was fine-tuned. docs/compress.md says more. Single weights
    become zero in training itself: train.py --optim.prune.sparsity 0.9.

    Args:
        run: The folder that `train.py --workdir` filled.
        out: A new folder for the smaller network.
        sparsity: The share of the channels that go, among those that may go.
        macs: Instead of --sparsity: the share of the multiply-accumulates that may stay. As few channels go as are
            needed for it.
        by: What a channel matters: the scale of its batch normalisation, the L1 norm of its filters, or what removing
            it changes in the loss, to first order.
        which: inner: the channels inside blocks. all: also those that blocks add to, which a whole stage shares.
        scope: layer: the same share of each layer. global: the worst of all layers.
        floor: With --scope global: the share of each layer that stays at least.
        multiple: What stays of each layer is rounded to multiples of it, since other numbers of channels are slow.
        batches: With --by taylor: batches of training images for the gradients.
        checkpoint: Of the run: the newest, or the one with the best top-1 accuracy or mIoU.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.export.job import check_out, new_folder

    if (sparsity is None) == (macs is None):
        raise ConfigError("say how much is to go: --sparsity 0.5, or --macs 0.35 for what may stay of the arithmetic")
    if sparsity is not None and not 0 < sparsity < 1:
        raise ConfigError(f"--sparsity = {sparsity:g} is the share of the channels that go; it must be between 0 and 1")
    if macs is not None and not 0 < macs < 1:
        raise ConfigError(f"--macs = {macs:g} is the share of the arithmetic that may stay; it must be between 0 and 1")
    if not 0 <= floor < 1:
        raise ConfigError(
            f"--floor = {floor:g} is the share of each layer that stays; it must be at least 0 and below 1"
        )
    if min(multiple, batches) < 1:
        raise ConfigError(f"--multiple = {multiple} and --batches = {batches} must be at least 1")
    check_out(out)

    from resnet_jax.compress import prune as remove
    from resnet_jax.run.evaluate import shown_names
    from resnet_jax.run.named import open_named
    from resnet_jax.run.predict import Run
    from resnet_jax.run.prune import gradients_of, macs_of, measured, smaller_run, with_widths, write_run
    from resnet_jax.tasks.table import task_of

    trained = open_named(run, checkpoint)
    if not isinstance(trained, Run):
        raise ConfigError(
            f"{run} is {trained.title} without a run, and nothing says on which images it is right; train a run that "
            "starts from these weights (python train.py ... --start.weights ...), and prune that"
        )
    whole = macs_of(trained.task)
    pruned = remove(
        trained.model,
        trained.state.eval_variables,
        (lambda net: macs_of(task_of(with_widths(trained, net))) <= macs * whole) if macs else 1 - (sparsity or 0),
        by=by,
        which=which,
        scope=scope,
        floor=floor,
        multiple=multiple,
        gradients=gradients_of(trained, batches) if by == "taylor" else None,
    )
    before, smaller = measured(trained), smaller_run(trained, pruned.model, pruned.variables)
    after = measured(smaller)
    how = {"sparsity": sparsity, "macs": macs, "by": by, "which": which, "scope": scope, "floor": floor}
    how |= {"multiple": multiple}
    with new_folder(out) as folder:
        write_run(smaller, folder, after.report, pruned={**how, "parameters": after.parameters, "of_macs": whole})

    console = plain_console()
    names = {name: shown for name, shown in shown_names(trained.config, trained.task).items() if name in after.report}
    table = Table(title=f"{trained.title}, on {trained.config.data.name}")
    for heading in ("", "before", "after", "share"):
        table.add_column(heading, justify="right" if heading else "left")
    for what, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("MACs", before.macs, after.macs),
    ):
        table.add_row(what, f"{old:,}", f"{new:,}", f"{new / old:.3f}")
    for name, shown in names.items():
        table.add_row(shown.label, shown.text(before.report[name]), shown.text(after.report[name]))
    console.print(table)
    widths = " ".join(map(str, smaller.config.model.widths))
    console.print(f"channels of the convolutions of the stem and of the branches: {widths}", soft_wrap=True)
    console.print(f"{out} is a run with the smaller network; fine-tune it with the config of {run}:", soft_wrap=True)
    console.print(f"python train.py CONFIG --start.weights {out} --workdir {out}-tuned", soft_wrap=True)
