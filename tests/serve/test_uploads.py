"""Bad uploads are told why, within limits, and good ones go on meanwhile."""

import collections
import contextlib
import http.client
import io
import json
import random
import re
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from resnet_jax.serve import server as server_module

from .conftest import Gate, form, photo, serving


def light(level, size=(40, 40)):
    """An image whose answer is known."""
    content = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(content, "PNG")
    return content.getvalue()


def claims(width, height):
    """A PNG whose header claims a size."""
    data = bytearray(light(0))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def fractions():
    content = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.float32)).save(content, "TIFF")
    return content.getvalue()


@pytest.fixture(scope="module")
def server():
    with serving(Gate().served(), max_bytes=300_000, max_pixels=1_000_000, threads=2) as running:
        yield running


@pytest.fixture(scope="module")
def impatient():
    with serving(Gate().served(), upload_timeout=0.5) as running:
        yield running


def raw(server, content, *, end=False):
    """All that the server sends for these bytes, until it closes the connection."""
    with socket.create_connection(server.place) as connection:
        connection.sendall(content)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


def head(path="/predict", **headers):
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_until(connection, end):
    said = ""
    while not said.endswith(end):
        said += connection.recv(65536).decode()
    return said


def jpeg():
    return photo(1, size=(300, 200), kind="JPEG")


BAD = {
    "empty": ({}, b"", 400, "the image is empty, 0 bytes; send the content of a file"),
    "text": ({}, b"hello" * 99, 415, "this is no image that is known here; send a file of .*JPEG, .* or WEBP"),
    "svg": ({}, b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no image that is known here"),
    "eps": ({}, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", 415, "no image that is known"),
    "json": ({"Content-Type": "application/json"}, b"{}", 415, "a body of type application/json is no image; send the"),
    "truncated png": ({}, photo()[:-40], 422, "the image cannot be decoded: .*; send a complete file"),
    "truncated jpeg": ({}, jpeg()[: len(jpeg()) // 2], 422, "the image cannot be decoded: image file is truncated"),
    "damaged header": ({}, photo()[:20], 422, "the header of the image is damaged: .*; send a complete file"),
    "fractions": ({}, fractions(), 422, "cannot be decoded: .*it holds fractions"),
    "many pixels": ({}, claims(1001, 1000), 413, "the image has 1,001 x 1,000 pixels, more than 1,000,000; shrink it"),
    "a bomb": ({}, claims(60000, 60000), 413, "the image has more than 1,000,000 pixels; shrink it"),
    "large": ({}, bytes(300_001), 413, "the upload is larger than 300,000 bytes; send a smaller file"),
    "large form": (*form(bytes(300_001))[::-1], 413, "the upload is larger than 300,000 bytes"),
    "empty file": (*form(b"")[::-1], 400, "the image is empty, 0 bytes"),
    "no boundary": (
        {"Content-Type": "multipart/form-data"},
        b"--x--",
        400,
        "the form cannot be read: Missing boundary",
    ),
    "no form": ({"Content-Type": "multipart/form-data; boundary=x"}, b"abc", 400, "the form cannot be read: ."),
    "cut form": (form(photo())[1], form(photo())[0][:-30], 400, "the form holds no whole file; send one: curl -F"),
    "no file": (
        form(b"")[1],
        form(b"x")[0].replace(b' filename="photo.png"', b""),
        400,
        "the form holds no whole file",
    ),
    "two files": (form(b"")[1], form(b"x")[0][:-9] + form(b"y")[0], 400, "cannot be read: Too many files"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_uploads(name, server):
    headers, body, status, text = BAD[name]
    answer = server.ask("/predict", body, headers=headers)
    assert (answer.status, bool(re.search(text, answer.text))) == (status, True), answer
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("top=0", "top = '0' must be a whole number from 1 to 2"),
        ("top=many", "top = 'many' must be a whole number from 1 to 2"),
        ("tpo=1", "unknown parameter 'tpo'. Did you mean 'top'?"),
        ("cam=perhaps", "cam = 'perhaps' must be true or false"),
        ("cam=true", "a gate is served without Grad-CAM; leave cam out. It is there of a run or weights that classify"),
        ("class=1", "class is for the Grad-CAM; add cam=true, or leave class out"),
    ],
)
def test_bad_parameters(query, text, server):
    answer = server.ask(f"/predict?{query}", light(3))
    assert (answer.status, answer.text) == (400, text)


def test_unknown_paths_and_methods(server):
    unknown = server.ask("/pictures")
    assert unknown.status == 404
    assert unknown.text.startswith("there is no '/pictures'; the paths are /predict, /segment, /info, /health")
    wrong = server.ask("/predict", method="GET")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert wrong.text == "/predict does not take GET; it takes POST"
    assert server.ask("/predict/", light(1)).status == 404, "no redirections"
    masks = server.ask("/segment", light(1))
    assert (masks.status, masks.text) == (404, "a gate names classes of whole images and has no masks; use /predict")


def test_a_large_length_is_refused_before_it_is_sent(server):
    with socket.create_connection(server.place) as connection:
        connection.sendall(head(Content_Length=300_001, Expect="100-continue"))
        said = connection.recv(65536).decode()
    assert said.startswith("HTTP/1.1 413"), "and not 100 Continue"


def test_chunks_without_an_end_are_refused_early(server, monkeypatch):
    """A body whose length nobody says. The client sees the reason though it sends on, and in the end it is cut off."""
    monkeypatch.setattr(server_module, "_UNREAD", 0.2)
    sent, said = 0, bytearray()

    def send_on(connection):
        nonlocal sent
        while sent < 30_000_000 or said:  # more than the buffers of two sockets hold
            with contextlib.suppress(BlockingIOError):
                sent += connection.send(b"1000\r\n" + bytes(4096) + b"\r\n")
            with contextlib.suppress(BlockingIOError):
                said.extend(connection.recv(65536))

    with socket.create_connection(server.place) as connection:
        connection.sendall(head(Transfer_Encoding="chunked"))
        connection.setblocking(False)
        with pytest.raises(ConnectionError, match="Broken pipe|reset by peer"):
            send_on(connection)
    assert said.startswith(b"HTTP/1.1 413")
    assert said.endswith(b"the upload is larger than 300,000 bytes; send a smaller file")
    assert server.service._uploads.held == 0


def test_a_slow_upload(impatient):
    with socket.create_connection(impatient.place) as connection:
        connection.sendall(head(Content_Length=1000) + b"some")
        said = read_until(connection, "the upload took longer than 0.5 seconds; send it again")
    assert said.startswith("HTTP/1.1 408")


def test_a_slow_head_and_a_silent_client(impatient):
    assert raw(impatient, b"POST /predict HT").endswith("the head of the request took too long")
    assert raw(impatient, b"") == "", "closed"


def test_an_upload_that_ends_early(server):
    said = raw(server, head(Content_Length=1000) + b"some", end=True)
    assert said.startswith("HTTP/1.1 400")
    assert "the upload has fewer bytes than its head says; send it again" in said


def test_a_client_that_ends_its_side_is_answered(server):
    body = light(51)
    said = raw(server, head(Content_Length=len(body)) + body, end=True)
    assert json.loads(said.partition("\r\n\r\n")[2])["classes"][1]["probability"] == 0.2


def test_what_is_not_http(server):
    assert raw(server, b"\x16\x03\x01 no HTTP\r\n\r\n").startswith("HTTP/1.1 400")
    assert raw(server, head(X="y" * 20_000)[:-4]).startswith("HTTP/1.1 400"), "a head without an end"


def test_bad_uploads_harm_nobody(server):
    """Good uploads are answered right while every kind of bad one comes, and clients that hang or vanish."""

    def bad(name):
        headers, body, status, _ = BAD[name]
        assert server.ask("/predict", body, headers=headers).status == status

    def vanish(_):
        with socket.create_connection(server.place) as connection:
            connection.sendall(head(Content_Length=1000) + b"some")

    levels = [seed * 7 % 256 for seed in range(200)]
    hanging = [socket.create_connection(server.place) for _ in range(20)]
    for connection in hanging:
        connection.sendall(head(Content_Length=1000) + b"some")
    with ThreadPoolExecutor(10) as mischief, ThreadPoolExecutor(10) as clients:
        others = [*mischief.map(bad, [*BAD] * 2), *mischief.map(vanish, range(40))]
        answers = list(clients.map(lambda level: server.ask("/predict?top=2", light(level)), levels))
    assert len(others) == 2 * len(BAD) + 40
    for connection in hanging:
        connection.close()
    for level, answer in zip(levels, answers, strict=True):
        assert answer.status == 200
        found = {one["class"]: one["probability"] for one in answer.json["classes"]}
        assert found["light"] == pytest.approx(level / 255, abs=1e-6)
    later(lambda: server.service._uploads.held == 0)
    assert server.metric('resnet_jax_requests_total{path="/predict",status="5') == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::PIL")
def test_files_with_random_damage(server):
    """Each is answered or told what is wrong. None of them is the server's own failure."""
    rng, statuses = random.Random(5), collections.Counter()
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000")
    files = [photo(seed, kind=kind) for seed, kind in enumerate(kinds)]
    for _ in range(2000):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 5, 30))):
            at = rng.randrange(1 + min(len(data), rng.choice((40, 200, len(data)))))
            change = rng.randrange(4)
            data[at : at + (1, 0, 9, len(data))[change]] = rng.randbytes((1, 5, 0, 1)[change])
        body, headers = form(bytes(data)) if rng.random() < 0.3 else (bytes(data), {})
        statuses[server.ask("/predict", body, headers=headers).status] += 1
    assert statuses.keys() - {400} == {200, 413, 415, 422}, statuses
    assert server.service._uploads.held == server.service.inside == 0


def later(condition):
    """Waits until something is so."""
    while not condition():
        time.sleep(0.002)


def test_a_full_queue_sends_away():
    gate = Gate()
    with serving(gate.served(), queue=3) as running, ThreadPoolExecutor(3) as clients:
        gate.open.clear()
        waiting = [clients.submit(running.ask, "/predict", light(level)) for level in (0, 51, 255)]
        later(lambda: running.service.inside == 3)
        refused = running.ask("/predict", light(9))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.text == "3 requests wait already; try again later"
        assert running.metric("resnet_jax_queue") == 3
        assert running.ask("/ready").status == 200
        gate.open.set()
        best = [one.result().json["classes"][0] for one in waiting]
        assert [(one["class"], one["probability"]) for one in best] == [("dark", 1), ("dark", 0.8), ("light", 1)]
        assert running.ask("/predict", light(9)).status == 200


def test_a_late_answer():
    gate = Gate()
    late = {"timeout": 0.2}
    with serving(gate.served(), **late) as running:
        gate.open.clear()
        answer = running.ask("/predict", light(9))
        gate.open.set()
        assert (answer.status, answer.text) == (504, "there was no answer within 0.2 seconds; try again later")
        later(lambda: running.ask("/predict", light(9)).status == 200)
        later(lambda: running.service.inside == 0)


def test_uploads_hold_bounded_memory():
    gate = Gate()
    with serving(gate.served(), max_bytes=1000, held_bytes=1500) as running:
        half = socket.create_connection(running.place)
        half.sendall(head(Content_Length=1000) + bytes(900))
        later(lambda: running.service._uploads.held == 900)
        refused = running.ask("/predict", bytes(800))
        assert (refused.status, refused.text) == (503, "too many uploads at a time; try again later")
        half.close()
        later(lambda: running.service._uploads.held == 0)
        assert running.ask("/predict", light(9)).status == 200


def test_a_batch_that_fails_costs_only_its_own(caplog):
    gate = Gate()
    export = gate.served()
    good = export.predictor.probabilities

    def sometimes(pixels):
        if (pixels == 77).all():
            raise RuntimeError("out of memory")
        return good(pixels)

    object.__setattr__(export.predictor, "probabilities", sometimes)
    with serving(export, batch_sizes=(1,)) as running:
        failed = running.ask("/predict", light(77))
        assert (failed.status, failed.text) == (500, "the server failed; its log says why")
        assert "a batch of 1 images failed" in caplog.text
        assert running.ask("/predict", light(9)).status == 200


def test_health_tells_when_nothing_is_computed_any_more():
    with serving(Gate().served()) as running:
        batches = running.service._work._batches
        assert running.ask("/health").status == 200
        batches.get_loop().call_soon_threadsafe(batches.cancel)
        later(batches.done)
        sick = running.ask("/health")
        assert (sick.status, sick.text) == (500, "nothing is computed any more; start the server anew")
        assert running.ask("/predict", light(9)).status == 503


def test_while_it_compiles():
    gate = Gate()
    gate.open.clear()
    with serving(gate.served(), wait=None) as running:
        assert running.ask("/health").status == 200
        early = running.ask("/ready")
        assert (early.status, early.text) == (503, "compiling")
        refused = running.ask("/predict", light(9))
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert refused.text == "the network is still compiled; try again later"
        assert running.ask("/info").json["state"] == "compiling"
        gate.open.set()
        later(lambda: running.ask("/ready").status == 200)
        assert running.ask("/predict", light(9)).status == 200


def test_one_connection_brings_many_requests(server):
    connection = http.client.HTTPConnection(*server.place)
    for level in (0, 51, 102):
        found = server.ask("/predict", light(level), connection=connection).json["classes"]
        assert found[0]["probability"] == pytest.approx(1 - level / 255, abs=1e-6)
        assert server.ask("/predict", b"", connection=connection).status == 400
    connection.close()
