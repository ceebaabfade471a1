"""`resnet_jax report RUN --out report.html`"""

from pathlib import Path
from typing import Literal

from resnet_jax.commands.analysed import ITS_OWN, Which, bars, kept_in, open_analysed, split_of, teller
from resnet_jax.commands.sheet import check_output
from resnet_jax.display import bytes_of, plain_console


def report(
    which: Which = ITS_OWN,
    out: Path = Path("report.html"),
    split: str | None = None,
    images: int = 2000,
    mistakes: int = 24,
    method: Literal["tsne", "umap", "pca"] | None = None,
    seed: int = 0,
    features: Path | None = None,
) -> None:
    """Write one page about a network on a data set: what it confuses, its worst mistakes, and a map to explore.

    The page is one file and opens without a network: accuracies, a map of the images (the pointer shows an image and
    its nearest neighbours), the confusion matrix and the calibration, a table of the classes, the worst mistakes with
    Grad-CAM, the curves of the run, and how it was made.

    Args:
        out: The page, an .html file.
        split: The split; without it the one to evaluate on.
        images: On the map, at most; if there are more, a random sample.
        mistakes: Worst mistakes that are shown, at most.
        method: Of the map. Without it t-SNE if it is installed and there are enough images, else PCA.
        seed: Of the sample and of the map.
        features: A folder in which the features are kept and found again; without it they are not kept.
    """
    from resnet_jax.analysis.report.facts import gather
    from resnet_jax.analysis.report.origin import curves_of, making_of
    from resnet_jax.analysis.report.page import render
    from resnet_jax.errors import ConfigError
    from resnet_jax.files import write_atomically
    from resnet_jax.run.network import describe
    from resnet_jax.runtime.programs import remember_programs

    check_output(out, ".html", "report", "page")
    if images < 3 or mistakes < 0 or seed < 0:
        raise ConfigError(
            f"--images = {images} must be at least 3, --mistakes = {mistakes} and --seed = {seed} at least 0"
        )
    remember_programs()
    opened = open_analysed(which)
    config, chosen, shown = split_of(which, opened, split)
    with kept_in(features) as folder, bars() as progress:
        facts = gather(
            *(opened.network, config, chosen, folder),
            images=images,
            mistakes=mistakes,
            method=method,
            seed=seed,
            batch_size=which.batch_size,
            tell=teller(progress),
        )
    page = render(
        facts,
        data=shown,
        note=describe(opened.network.preset),
        curves=curves_of(opened.run) if opened.run else "",
        environment=making_of(opened.run) if opened.run else {},
    )
    write_atomically(out, page)
    found = f"top-1 {facts.verdicts.report.top1:.2%}, " if facts.verdicts else ""
    console = plain_console()
    console.print(f"{facts.title}, on {shown}: {found}{facts.count:,} images", soft_wrap=True)
    console.print(f"The report is in {out}, {bytes_of(len(page.encode()))}", soft_wrap=True)
