"""From a request to the bytes of an image, within limits. A bad upload is told why, and costs nobody else anything."""

import asyncio
import io
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import cache

from PIL import Image, UnidentifiedImageError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from resnet_jax.config import ServeConfig

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
RETRY_AFTER = {"Retry-After": "1"}
_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Types of a body that is an image as it is; the last is what `curl --data-binary` says."""
_FORM = "multipart/form-data"
_MOST_FIELDS, _MOST_OF_A_FIELD = 16, 10_000  # beside the file of a form


class Uploads:
    """Reads bodies.

    Attributes:
      held: bytes that all requests hold now.
    """

    def __init__(self, limits: ServeConfig) -> None:
        self.held = 0
        self._limits = limits

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """The bytes of one request. Within it, what is added to the list counts as held."""
        own = [0]
        try:
            yield own
        finally:
            self.held -= own[0]

    async def read(self, request: Request, own: list[int]) -> bytes:
        """The bytes of the image that a request brings, as its body or as the file of a form.

        Args:
          own: of `counted`.

        Raises:
          HTTPException: 400, 408, 413, 415 or 503, with the reason.
          ClientDisconnect: nobody is there any more.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (*_RAW, _FORM) and not kind.startswith("image/"):
            raise HTTPException(
                415,
                f"a body of type {kind[:80]} is no image; send the file itself, or a form: curl -F image=@photo.jpg",
            )
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and int(length) > self._limits.max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.upload_timeout):
                data = await (self._form if kind == _FORM else self._body)(request, own)
        except TimeoutError as error:
            seconds = self._limits.upload_timeout
            raise HTTPException(408, f"the upload took longer than {seconds:g} seconds; send it again") from error
        if not data:
            raise HTTPException(400, "the image is empty, 0 bytes; send the content of a file")
        return data

    async def _body(self, request: Request, own: list[int]) -> bytes:
        return b"".join([part async for part in self._parts(request, own)])

    async def _form(self, request: Request, own: list[int]) -> bytes:
        parser = MultiPartParser(
            request.headers,
            self._parts(request, own),
            max_files=1,
            max_fields=_MOST_FIELDS,
            max_part_size=_MOST_OF_A_FIELD,
        )
        parser.spool_max_size = self._limits.max_bytes + 1  # nothing is written to the disk
        try:
            form = await parser.parse()
        except (MultiPartException, FormParserError) as error:
            raise HTTPException(400, f"the form cannot be read: {error}") from error
        try:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(400, "the form holds no whole file; send one: curl -F image=@photo.jpg")
            return await files[0].read()
        finally:
            await form.close()

    async def _parts(self, request: Request, own: list[int]) -> AsyncGenerator[bytes, None]:
        limits = self._limits
        async for part in request.stream():
            own[0] += len(part)
            self.held += len(part)
            if own[0] > limits.max_bytes:
                raise self._too_large()
            if self.held > limits.held_bytes:
                raise HTTPException(503, "too many uploads at a time; try again later", RETRY_AFTER)
            yield part

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the upload is larger than {self._limits.max_bytes:,} bytes; send a smaller file")


@cache
def formats() -> list[str]:
    """Of images that strangers send. Pillow knows more, and some of them start other programs."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # Pillow can be built without some


def check_header(data: bytes, max_pixels: int) -> None:
    """Looks at the header of an image file. Nothing is decoded.

    Raises:
      HTTPException: 413, 415 or 422, with the reason.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as file:
            width, height = file.size
    except Image.DecompressionBombError as error:
        raise HTTPException(413, f"the image has more than {max_pixels:,} pixels; shrink it") from error
    except UnidentifiedImageError as error:
        known = f"{', '.join(formats()[:-1])} or {formats()[-1]}"
        raise HTTPException(415, f"this is no image that is known here; send a file of {known}") from error
    except Exception as error:  # Pillow's plugins raise anything on broken files
        raise HTTPException(422, f"the header of the image is damaged: {error}; send a complete file") from error
    if width * height > max_pixels:
        raise HTTPException(413, f"the image has {width:,} x {height:,} pixels, more than {max_pixels:,}; shrink it")
