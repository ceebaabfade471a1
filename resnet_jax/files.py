"""Writing files so that a crash leaves the old one or the new one. Standard library only."""

from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file at `path` by one that holds `text`, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
