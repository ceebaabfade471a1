"""Shows names that users gave (paths, classes, data sets) as they are, on terminals and in figures.

Rich would read `[0.1]` and `:smile:` in a name as markup, and Matplotlib would read `$...$` as a formula. On Linux a
file name may hold bytes that are not text. Python keeps them as surrogates, which neither a terminal nor a font can
show.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(**options: Any) -> "Console":
    """A console that prints every text as it is."""
    from rich.console import Console

    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})


def in_figure(name: str) -> str:
    """A name in the form that Matplotlib shows as it is, with a replacement sign for bytes that are not text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("$", r"\$")


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Names that are all different, for the keys of a JSON object: some lists of ImageNet's classes have `crane` twice.

    A name that occurs twice, or that is among `taken`, gets its number behind it: `crane (134)` and `crane (517)`.
    """
    counts = Counter([*names, *taken])
    return [f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names)]


def bytes_of(count: float) -> str:
    """A number of bytes in the unit in which it has three digits: `820 KB`, `3.21 MB`, `12.3 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            digits = 0 if unit == "B" or count >= 100 else 1 if count >= 10 else 2
            return f"{count:,.{digits}f} {unit}"
        count /= 1000
    raise AssertionError(count)


def print_anything(*streams: TextIO) -> None:
    """Lets `print` write an escape such as `\\udcff` where a stream cannot encode a character, instead of raising."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)  # the stream that a test captures may have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
