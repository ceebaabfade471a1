"""The sockets and signals of a server: where it listens, how it stops, and connections that bring nothing."""

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from resnet_jax.errors import ConfigError
from resnet_jax.serve.app import Service

SIGNALS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 2048
KEEP_ALIVE = 75  # seconds that an idle connection stays open; longer than the 60 of usual proxies, which close first
LINGER = 1.0  # seconds in which connections that were there at the end may still bring the request that is on its way
_UNREAD = 5.0  # seconds in which a client that was refused may send on, so that it reads the reason at last
_MARGIN = 10  # seconds for writing answers, beyond the limits


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      ConfigError: the port is taken or not allowed, or the host is no address of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host} is no address of this machine: {error}; give one, such as 127.0.0.1"
        ) from error
    family, _, _, _, address = found[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            text = f"--port {port} of {host} is in use by another program; choose another, or 0 for any that is free"
        elif error.errno == errno.EACCES:
            text = f"--port {port} is not allowed to you; choose one from 1024 to 65535"
        else:
            text = f"cannot listen on --host {host} --port {port}: {error.strerror}; give an address of this machine"
        raise ConfigError(text) from error
    listening.setblocking(False)
    return listening


def address_of(listening: socket.socket) -> str:
    """As people type it into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open_to_others(listening: socket.socket) -> bool:
    """Whether other machines can reach it."""
    return not ipaddress.ip_address(listening.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """Stops on the first signal when all is answered, and on the second at once.

    Args:
      say: is told, in one line, what happens.
    """

    def __init__(self, service: Service, say: Callable[[str], None] = lambda text: None) -> None:
        limits = service.limits
        longest = limits.upload_timeout + limits.timeout + _MARGIN

        class Bounded(_Bounded):
            head_seconds = limits.upload_timeout

        super().__init__(
            uvicorn.Config(
                service.app,
                http=Bounded,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                log_level="error",  # warnings tell of malformed requests, which anybody can send
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=int(longest),
                backlog=BACKLOG,
            )
        )
        self._service, self._say = service, say
        service.on_failure = self.stop

    def stop(self) -> None:
        """Begins to stop, as the first signal does."""
        self._service.stop()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, it does not raise the signal again at the end: a server that has answered all is well."""
        if threading.current_thread() is not threading.main_thread():  # as Python demands
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + number)
        self.stop()
        name, count = signal.Signals(number).name, self._service.inside
        self._say(f"{name}: no new connections; {count} requests are being answered. A second one ends at once")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts what has connected already, listens no more, and waits for the answers."""
        await asyncio.sleep(0.05)  # turns of the event loop, in which it accepts who waits at the door
        for server in self.servers:
            server.close()
        end = asyncio.get_running_loop().time() + LINGER
        while asyncio.get_running_loop().time() < end and any(map(_idle, self.server_state.connections)):
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def _idle(connection: Any) -> bool:
    return connection.cycle is None or connection.cycle.response_complete


class _Bounded(H11Protocol):
    """A connection that cannot be held open without a request, and whose client may end its side after it has asked."""

    head_seconds: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if _idle(self):
            return None
        if self.cycle.more_body:
            if not self.cycle.response_started:
                self.send_400_response("the upload has fewer bytes than its head says; send it again")
            return None
        self.cycle.keep_alive = False
        return True  # keep the other direction open for the answer

    def _watch(self) -> None:
        if not _idle(self):
            self._stop_timer()
        elif self._timer is None:
            unread = self.conn.our_state is h11.DONE  # the answer was sent before all was read
            self._timer = self.loop.call_later(_UNREAD if unread else self.head_seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not _idle(self) or self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:  # a head, but not the whole of it
            text = b"the head of the request took too long"
            head = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: "
            self.transport.write(head + b"%d\r\n\r\n" % len(text) + text)
        self.transport.close()
