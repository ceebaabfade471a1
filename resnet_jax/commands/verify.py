"""`resnet_jax verify RUN a.jpg b.jpg`"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from resnet_jax.commands.compared import AS_USUAL, Accepted, With, check_enough, decide, note_of, open_embedder
from resnet_jax.display import plain_console


@dataclass(frozen=True)
class Two:
    """Two image files."""

    first: Positional[Annotated[Path, tyro.conf.arg(metavar="IMAGE")]]
    """An image file."""
    second: Positional[Annotated[Path, tyro.conf.arg(metavar="IMAGE")]]
    """Another one."""


def verify(
    which: With,
    images: Annotated[Two, tyro.conf.arg(name="")],
    enough: Accepted = AS_USUAL,
    as_json: bool = False,
) -> None:
    """Say whether two images are of one identity: the cosine of their embeddings, and the decision at a rate of errors.

    The threshold comes from the split that the run was evaluated on. The run's folder keeps the embeddings of that
    split. docs/embeddings.md says what this must not be used for.

    Args:
        as_json: Print one JSON object.
    """
    from resnet_jax.errors import DataError
    from resnet_jax.run.embedding import embeddings
    from resnet_jax.runtime.programs import remember_programs

    check_enough(enough)
    remember_programs()
    embedder, opened = open_embedder(which)
    broken: list[str] = []
    seen = embeddings(embedder, [images.first, images.second], which.batch_size, broken)
    if broken:
        raise DataError("\n  ".join(broken))
    decision = decide(which, enough, opened)
    cosine = float(seen.vectors[0] @ seen.vectors[1])
    same = cosine >= decision.threshold
    if as_json:
        print(json.dumps({"cosine": round(cosine, 6), "same": same, **decision.facts}))
        return
    console = plain_console()
    console.print(embedder.network.title, style="bold", soft_wrap=True)
    console.print(f"cosine     {cosine:.4f}")
    console.print(f"threshold  {decision.threshold:.4f}, {decision.words}")
    console.print(f"decision   {'the same identity' if same else 'different identities'}", style="bold")
    console.print(note_of(embedder, seen))
