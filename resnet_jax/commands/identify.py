"""`resnet_jax identify RUN index.npz photos/*.jpg`"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from tyro.conf import Positional

from resnet_jax.commands.compared import (
    AS_USUAL,
    Accepted,
    With,
    check_counts,
    check_enough,
    decide,
    note_of,
    open_embedder,
)
from resnet_jax.commands.predict import end
from resnet_jax.display import plain_console

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Asked:
    """An index, and images."""

    index: Positional[Path]
    """The file that enroll has written."""
    images: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE ...")]]
    """Image files, folders of them, or patterns such as 'photos/*.jpg'."""


def identify(
    which: With,
    asked: Annotated[Asked, tyro.conf.arg(name="")],
    top: int = 5,
    enough: Accepted = AS_USUAL,
    as_json: bool = False,
) -> None:
    """Name the nearest identities of an index for each image, or say that none is near enough.

    The threshold is that of verify: its rate of errors is that of one comparison, and an index of N identities is N
    comparisons. docs/embeddings.md says what this must not be used for.

    Args:
        top: How many identities are listed for each image.
        as_json: Print one JSON object for each image.
    """
    from resnet_jax.analysis.index import identify as search
    from resnet_jax.analysis.index import read_index
    from resnet_jax.errors import DataError
    from resnet_jax.run.embedding import embeddings
    from resnet_jax.run.predictor import expand
    from resnet_jax.runtime.programs import remember_programs

    check_enough(enough)
    check_counts([("--top", top)])
    if not asked.images:
        raise DataError(f"no images given; name one or more: resnet_jax identify {which.network} {asked.index} IMAGE")
    paths = expand(asked.images)
    remember_programs()
    embedder, opened = open_embedder(which)
    index = read_index(asked.index, embedder)
    decision = decide(which, enough, opened)
    broken: list[str] = []
    seen = embeddings(embedder, paths, which.batch_size, broken)
    found = search(index, seen.vectors, top) if seen.places else []
    table = Table(title=f"{embedder.network.title}: {len(index.names):,} identities of {asked.index}")
    table.add_column("image", overflow="fold")
    table.add_column("identity", style="bold", overflow="fold")
    table.add_column("nearest", overflow="fold")
    table.add_column("cosine", justify="right")
    for place, matches in zip(seen.places, found, strict=True):
        known = matches[0].cosine >= decision.threshold
        if as_json:
            nearest = [{"identity": match.name, "cosine": round(match.cosine, 6)} for match in matches]
            named = matches[0].name if known else None
            print(json.dumps({"image": str(paths[place]), "identity": named, "nearest": nearest}), flush=True)
        for rank, match in enumerate(matches):
            first = (str(paths[place]), match.name if known else UNKNOWN) if rank == 0 else ("", "")
            table.add_row(*first, match.name, f"{match.cosine:.4f}", end_section=rank == len(matches) - 1)
    if not as_json and table.row_count:
        console = plain_console()
        console.print(table)
        console.print(f"Unknown: no cosine of {decision.threshold:.4f} or more; {decision.words}")
        console.print(note_of(embedder, seen))
    end(broken, len(paths))
