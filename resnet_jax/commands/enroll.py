"""`resnet_jax enroll RUN FOLDER --out index.npz`"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from resnet_jax.commands.compared import With, note_of, open_embedder
from resnet_jax.commands.predict import end
from resnet_jax.commands.sheet import check_output
from resnet_jax.display import plain_console


@dataclass(frozen=True)
class Identities:
    """Images of known identities."""

    folder: Positional[Path]
    """A folder with a folder of images for each identity: FOLDER/NAME/*.jpg."""


def enroll(
    which: With,
    identities: Annotated[Identities, tyro.conf.arg(name="")],
    out: Path,
    keep: Literal["mean", "all"] | None = None,
    add: bool = False,
) -> None:
    """Write an index of known identities, for identify: the embeddings of a folder of images.

    The index says which network made it, and another network is refused.

    Args:
        out: The index, an .npz or .safetensors file.
        keep: One vector for each identity, the direction of the mean of its embeddings, or all of them; without it the
            mean, and with --add as in the index.
        add: Add to the index that --out names. New images of a known identity join those that it has.
    """
    from resnet_jax.analysis.index import enrolled, read_index, write_index
    from resnet_jax.errors import ConfigError, DataError
    from resnet_jax.run.embedding import embeddings, identities_in
    from resnet_jax.runtime.programs import remember_programs

    check_index(out)
    if out.exists() and not add:
        raise ConfigError(f"--out {out} is there already; add to it by --add, or name another file")
    found = identities_in(identities.folder)
    remember_programs()
    embedder, _ = open_embedder(which)
    before = read_index(out, embedder) if add else None
    if before and keep not in (None, before.keep):
        raise ConfigError(f"--keep {keep}: the index {out} has --keep {before.keep}; leave --keep out")
    paths = [path for files in found.values() for path in files]
    names = [name for name, files in found.items() for _ in files]
    broken: list[str] = []
    seen = embeddings(embedder, paths, which.batch_size, broken)
    read = [names[place] for place in seen.places]
    if lost := [name for name in found if name not in {*read}]:
        raise DataError(f"no image of {lost[0]} can be read: {broken[0]}")
    index = enrolled(embedder, seen.vectors, read, keep or "mean", before)
    write_index(index, out)
    console = plain_console()
    added = f"; {len(read):,} images of {len(found):,} were added" if add else f" from {len(read):,} images"
    vectors = "the mean of each" if index.keep == "mean" else f"all {len(index.vectors):,} embeddings"
    console.print(f"{out} holds {len(index.names):,} identities, {vectors}{added}", soft_wrap=True)
    console.print(f"{embedder.network.title}; {note_of(embedder, seen)}", soft_wrap=True)
    end(broken, len(paths))


def check_index(path: Path) -> None:
    """Raises where no index of this name can be written: said before the work."""
    from resnet_jax.analysis.index import SUFFIXES
    from resnet_jax.errors import ConfigError

    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {path} must end in {' or '.join(SUFFIXES)}, which says how to write the index")
    check_output(path, path.suffix.lower(), "index", f"file {path.suffix}")
