"""What a request asks for beside its image, and what every network that is served can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.exceptions import HTTPException

from resnet_jax.config import Preset
from resnet_jax.errors import ImageError, unknown_name
from resnet_jax.serve.work import Program, Work

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Asked:
    """The parameters of a request.

    Attributes:
      top: how many classes to name; None = as usual.
      cam: whether to add the Grad-CAM.
      label: the class that it is to be of, by its number; None = the one that the network names.
    """

    top: int | None = None
    cam: bool = False
    label: int | None = None


class Served(Protocol):
    """A network as requests see it.

    Attributes:
      kind: what the answer is.
      note: how images are prepared, for people.
      programs: all that are to be compiled before it is ready.
    """

    kind: str
    title: str
    class_names: Sequence[str]
    preset: Preset
    note: str
    cam: bool
    programs: Sequence[Program]

    async def answer(self, data: bytes, asked: Asked, work: Work) -> dict[str, Any]:
        """The answer to an image, for JSON.

        Args:
          data: the content of an image file.

        Raises:
          ImageError: it cannot be decoded.
          HTTPException: this network cannot do what is asked.
        """


def asked_by(query: Mapping[str, str], served: Served) -> Asked:
    """Reads the parameters of a request. Raises an HTTPException with status 400 that says what is wrong."""
    count = len(served.class_names)
    for name in query:
        if name not in ("top", "cam", "class"):
            raise HTTPException(400, unknown_name("parameter", name, ("top", "cam", "class")))
    cam = query.get("cam", "false").lower()
    if cam not in _BOOLEANS:
        raise HTTPException(400, f"cam = {query['cam']!r} must be true or false")
    if _BOOLEANS[cam] and not served.cam:
        raise HTTPException(
            400,
            f"{served.title} is served without Grad-CAM; leave cam out. It is there of a run or weights that classify",
        )
    if "class" in query and not _BOOLEANS[cam]:
        raise HTTPException(400, "class is for the Grad-CAM; add cam=true, or leave class out")
    top, label = _number(query, "top", 1, count), _number(query, "class", 0, count - 1)
    return Asked(top, _BOOLEANS[cam], label)


def _number(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    if name not in query:
        return None
    text = query[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or not low <= int(text) <= high:
        raise HTTPException(400, f"{name} = {text!r} must be a whole number from {low} to {high}")
    return int(text)


def why_not_decoded(error: ImageError) -> HTTPException:
    """What a client is told of an image that cannot be decoded."""
    reason = f"{error.__cause__}" if error.__cause__ else f"{error}"
    return HTTPException(422, f"the image cannot be decoded: {reason}; send a complete file")
