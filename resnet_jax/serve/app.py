"""The HTTP API: paths, statuses and the state of the server."""

import asyncio
import io
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnet_jax import __version__
from resnet_jax.config import ServeConfig
from resnet_jax.errors import ImageError
from resnet_jax.serve.asked import Asked, Served, asked_by, why_not_decoded
from resnet_jax.serve.metrics import Metrics
from resnet_jax.serve.pixels import Pixels
from resnet_jax.serve.uploads import RETRY_AFTER, Uploads, check_header
from resnet_jax.serve.work import Work

log = logging.getLogger("resnet_jax")

T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
_TYPES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_SAFE = {  # the page asks nobody but this server
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_GONE = 499  # nginx's number for a client that did not wait for its answer; nobody is sent it


class Service:
    """A network, and the requests that it answers.

    Args:
      served: the network.
      limits: what is refused.
      sizes: of batches.
      say: is told, in one line, what happens.

    Attributes:
      app: the ASGI application.
      state: what `/ready` says.
      answered: requests that got an answer.
      failure: why the programs could not be compiled.
    """

    def __init__(self, served: Served, limits: ServeConfig, say: Callable[[str], None] = log.info) -> None:
        self.served, self.limits = served, limits
        self.state: Literal["compiling", "ready", "stopping"] = "compiling"
        self.inside = self.answered = 0
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._say = say
        sizes = served.programs[0].sizes
        self.metrics = Metrics(sizes, lambda: self.inside, lambda: self.state == "ready")
        self._uploads = Uploads(limits)
        self.app = self._application()

    def stop(self) -> None:
        """From now on `/ready` says no. Requests that come all the same are answered."""
        self.state = "stopping"

    def _application(self) -> Starlette:
        routes = [
            Route("/predict", self._predict, methods=["POST"]),
            Route("/segment", self._segment, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._tell_metrics),
            Route("/info", self._info),
            Route("/", _page("page.html")),
            *(Route(f"/{name}", _page(name)) for name in ("page.css", "page.js")),
        ]
        handlers: dict[Any, Any] = {
            404: _unknown,
            405: _wrong_method,
            ClientDisconnect: _gone,
            Exception: _failed,
        }
        watched = Middleware(_Watched, service=self, paths={route.path for route in routes})
        app = Starlette(routes=routes, exception_handlers=handlers, middleware=[watched], lifespan=self._lifespan)
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._work = Work(self.limits.threads, self.metrics.computed)
        compiling = asyncio.create_task(self._compile())
        yield
        self.stop()
        await compiling
        self._work.close()

    async def _compile(self) -> None:
        started = time.perf_counter()
        try:
            await self._work.compile(self.served.programs, lambda: self.state == "compiling")
            if self.state == "compiling":
                await self.served.answer(_example(), Asked(cam=self.served.cam), self._work)  # what is loaded late
        except Exception as error:
            self.failure = error
            self.on_failure()
            return
        if self.state == "compiling":
            self.state = "ready"
            self._say(f"ready after {time.perf_counter() - started:.1f} s")

    async def _predict(self, request: Request) -> Response:
        asked = asked_by(request.query_params, self.served)
        return JSONResponse(await self._of_image(request, lambda data: self.served.answer(data, asked, self._work)))

    async def _segment(self, request: Request) -> Response:
        served = self.served
        if not isinstance(served, Pixels):
            raise HTTPException(404, f"{served.title} names classes of whole images and has no masks; use /predict")
        if request.query_params:
            raise HTTPException(400, "/segment has no parameters; leave them out, or use /predict")
        png = await self._of_image(request, lambda data: served.png(data, self._work))
        return Response(png, media_type="image/png")

    async def _of_image(self, request: Request, answer: Callable[[bytes], Awaitable[T]]) -> T:
        """The answer to the image that a request brings, or an HTTPException that says why there is none."""
        if not self._work.computing:
            raise HTTPException(503, "the network is still compiled; try again later", {"Retry-After": "5"})
        self._check_queue()
        with self._uploads.counted() as own:
            data = await self._uploads.read(request, own)
            self._check_queue()
            self.inside += 1
            try:
                async with asyncio.timeout(self.limits.timeout):
                    await self._work.in_pool(check_header, data, self.limits.max_pixels)
                    return await answer(data)
            except ImageError as error:
                raise why_not_decoded(error) from error
            except TimeoutError as error:
                seconds = self.limits.timeout
                raise HTTPException(504, f"there was no answer within {seconds:g} seconds; try again later") from error
            finally:
                self.inside -= 1

    def _check_queue(self) -> None:
        if self.inside >= self.limits.queue:
            raise HTTPException(503, f"{self.inside} requests wait already; try again later", RETRY_AFTER)

    async def _health(self, _: Request) -> Response:
        if self.state == "ready" and not self._work.computing:
            return PlainTextResponse("nothing is computed any more; start the server anew", 500)
        return PlainTextResponse("alive")

    async def _ready(self, _: Request) -> Response:
        return PlainTextResponse(self.state, 200 if self.state == "ready" else 503)

    async def _tell_metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def _info(self, _: Request) -> Response:
        served = self.served
        names = ("max_bytes", "max_pixels", "queue", "timeout", "upload_timeout")
        return JSONResponse(
            {
                "network": served.title,
                "answer": served.kind,
                "cam": served.cam,
                "preparation": served.note,
                "preset": asdict(served.preset),
                "classes": list(served.class_names),
                "limits": {name: getattr(self.limits, name) for name in names},
                "batch_sizes": list(served.programs[0].sizes),
                "state": self.state,
                "resnet_jax": __version__,
            }
        )


class _Watched:
    """Counts requests, and asks clients to close their connections once the server stops."""

    def __init__(self, app: ASGIApp, service: Service, paths: set[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status, service = time.perf_counter(), 500, self._service

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if service.state == "stopping":
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, sender)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            service.answered += status != _GONE
            service.metrics.answered(path, status, time.perf_counter() - started)


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = (PAGE / name).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, media_type=_TYPES[name], headers=_SAFE)

    return page


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    own = error.detail if error.detail != "Not Found" else ""
    path = ascii(request.url.path[:80])
    text = own or f"there is no {path}; the paths are /predict, /segment, /info, /health, /ready, /metrics and /"
    return PlainTextResponse(text, 404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    text = f"{request.url.path} does not take {request.method[:20]}; it takes {allowed}"
    return PlainTextResponse(text, 405, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse("the server failed; its log says why", 500)


def _example() -> bytes:
    """A photograph of noise."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(noise).save(content, "JPEG")
    return content.getvalue()
