"""Names that users gave (paths, classes, data sets), shown as they are on terminals and in figures.

Rich would read `[0.1]` and `:smile:` in them as markup, Matplotlib `$...$` as a formula. A file name on Linux may be
bytes that are no text; Python holds them as surrogates, which neither a terminal nor a font can show.
"""

from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(**options: Any) -> "Console":
    """A console that prints every text as it is."""
    from rich.console import Console

    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})


def in_figure(name: str) -> str:
    """A name as Matplotlib must be given it, with a replacement sign for bytes that are no text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("$", r"\$")


def print_anything(*streams: TextIO) -> None:
    """Lets `print` show what a stream's encoding lacks as an escape such as `\\udcff`, where it would raise."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)  # what captures output in a test may have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
