"""`resnet_jax attention RUN image.png ...`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from resnet_jax.commands.analysed import ITS_OWN, Which, open_analysed
from resnet_jax.commands.heat_sheet import draw_heat
from resnet_jax.commands.seen import NO_FILES, ImageFiles, first_word_is_an_image, seen_of_files, seen_of_split
from resnet_jax.commands.sheet import SHOWN, check_picture, cut
from resnet_jax.display import plain_console

if TYPE_CHECKING:
    from resnet_jax.analysis.attention.deletion import Deletion
    from resnet_jax.commands.seen import Seen
    from resnet_jax.run.network import Network

_OPTIONS = {  # by name, and the method that each is for
    "stage": ("gradcam", "gradcam++"),
    "steps": ("integrated-gradients",),
    "baseline": ("integrated-gradients",),
    "window": ("occlusion",),
    "stride": ("occlusion",),
}


def attention(
    which: Which = ITS_OWN,
    files: ImageFiles = NO_FILES,
    out: Path = Path("attention.png"),
    method: Literal["gradcam", "gradcam++", "integrated-gradients", "occlusion"] = "gradcam",
    class_: Annotated[str | None, tyro.conf.arg(name="class")] = None,
    stage: str | None = None,
    split: str | None = None,
    images: int = 12,
    places: tuple[int, ...] = (),
    window: int | None = None,
    stride: int | None = None,
    steps: int | None = None,
    baseline: Literal["black", "mean", "white"] | None = None,
    seed: int = 0,
) -> None:
    """Draw where in images a network sees a class: each image, and its heat map over it.

    Under each image stands how sure the network is of the class, and how sure it is when the hottest fifth of the image
    is covered; for comparison, when a part of the same shape is covered elsewhere.

    Args:
        out: The PNG to write.
        method: Grad-CAM or Grad-CAM++ of a stage, integrated gradients, or occlusion.
        class_: The class to look for, by name or number; without it, for each image the one that the network names.
        stage: Of Grad-CAM: stem, stage1, stage2, ...; without it the last.
        split: Of the data set; without it the split to evaluate on.
        images: How many images of the data set, from its first.
        places: Instead, the images at these places of the split, from 0.
        window: Of occlusion: pixels of the square that covers; without it a seventh of the image.
        stride: Of occlusion: pixels from a square to the next; without it half of the window.
        steps: Of integrated gradients: gradients that are added up; without it 64.
        baseline: Of integrated gradients: the empty image; without it black.
        seed: Of the places of the parts that are covered for comparison.
    """
    from resnet_jax.analysis.attention.deletion import SHARE, deletion
    from resnet_jax.analysis.attention.gradcam import predicted
    from resnet_jax.analysis.attention.heat import map_of
    from resnet_jax.analysis.attention.methods import class_number, heat_maps
    from resnet_jax.analysis.attention.overlay import overlay
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.network import describe
    from resnet_jax.runtime.programs import remember_programs

    options = {"stage": stage, "steps": steps, "baseline": baseline, "window": window, "stride": stride}
    given = _of_method(method, options)
    which, words = first_word_is_an_image(which, files)
    if words and (which.data.name or split or places):
        raise ConfigError("images come from files or from a data set; name only one of them")
    if not 1 <= images <= SHOWN or len(places) > SHOWN or seed < 0:
        raise ConfigError(
            f"--images {images}, {len(places)} --places and --seed {seed}: images must be 1 to {SHOWN}, places at most "
            f"{SHOWN}, the seed at least 0"
        )
    check_picture(out)
    remember_programs()
    opened = open_analysed(which, data_needed=not words, or_embeds=False)
    network = opened.network
    stage_shown = map_of(network, stage) if method.startswith("gradcam") else ""
    chosen = None if class_ is None else class_number(class_, network.class_names, network.title)
    seen = seen_of_files(opened, words) if words else seen_of_split(which, opened, split, images, places)
    classes = predicted(network, seen.pixels, which.batch_size) if chosen is None else np.full(len(seen.pixels), chosen)
    heat = heat_maps(network, seen.pixels, classes, method, batch_size=which.batch_size, **given)
    told = deletion(network, seen.pixels, heat, classes, seed=seed, batch_size=which.batch_size)
    summary = (
        f"Mean probability of the class: {100 * told.before.mean():.1f} %; without the hottest {100 * SHARE:.0f} % of "
        f"the pixels {100 * told.without.mean():.1f} %, without as many elsewhere {100 * told.elsewhere.mean():.1f} %"
    )
    how = f"{method}{f' of {stage_shown}' if stage_shown else ''}"
    looked = "the class that the network names" if chosen is None else f"class {cut(network.class_names[chosen], 50)}"
    draw_heat(
        [(image, over) for image, over in zip(seen.pixels, overlay(seen.pixels, heat), strict=True)],
        _captions(network, seen, classes, told),
        f"{network.title}, on {seen.of}",
        f"{how}; looked for: {looked}; {describe(network.preset)}\n{summary}",
        ("counts least", "counts most for the class"),
        out,
    )
    console = plain_console()
    console.print(f"{network.title}, on {seen.of}: {how}, {looked}", soft_wrap=True)
    console.print(summary, soft_wrap=True)
    console.print(f"The picture is in {out}", soft_wrap=True)


def _of_method(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given. Raises a ConfigError for one of another method."""
    from resnet_jax.errors import ConfigError

    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if method not in _OPTIONS[name]:
            raise ConfigError(
                f"--{name} {value} is for --method {' or '.join(_OPTIONS[name])}, not for {method}; leave it out"
            )
    return given


def _captions(network: "Network", seen: "Seen", classes: np.ndarray, told: "Deletion") -> list[str]:
    captions = []
    for place, (name, truth) in enumerate(zip(seen.names, seen.truths, strict=True)):
        lines = [cut(name, 40), f"{cut(network.class_names[classes[place]], 28)}: {_percent(told.before[place])}"]
        lines += [f"truth: {cut(truth, 30)}"] if truth else []
        hidden, elsewhere = _percent(told.without[place]), _percent(told.elsewhere[place])
        captions.append("\n".join([*lines, f"without the hottest: {hidden}; elsewhere: {elsewhere}"]))
    return captions


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"
