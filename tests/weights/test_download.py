"""Downloads from a server of our own that can break off, refuse and lie."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from resnet_jax.errors import WeightsError
from resnet_jax.weights import catalog, download, find_weight_set, find_weights

CONTENT = os.urandom(300_000)
HASH = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path; `breaks` answers break off half-way, `ranges` says whether it can resume."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks, self.ranges, self.requests, self.sent, self.status = 0, True, [], 0, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/net-{HASH}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(asked)
        if server.status:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            body = body[: len(body) // 2]
        server.sent += len(body)  # before they leave: who has read them all may ask at once
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


@pytest.fixture
def published(server, monkeypatch):
    """The set of `resnet18`, as if this server published it."""
    weights = replace(find_weight_set("resnet18"), file=f"net-{HASH}.pth")
    monkeypatch.setattr(catalog, "WEIGHT_SETS", (weights,))
    monkeypatch.setattr(catalog, "_URL", server.url.rsplit("/", 1)[0] + "/")
    return weights


def test_a_set_is_downloaded_once(server, published, cache):
    path = find_weights("resnet18", "IMAGENET1K_V1")
    assert path == cache / published.file
    assert path.read_bytes() == CONTENT
    assert find_weights("resnet18") == path
    assert server.requests == [None]
    assert os.listdir(cache) == [published.file]


@pytest.mark.parametrize("breaks", [1, 2])
def test_a_broken_download_is_resumed(server, published, breaks):
    server.breaks = breaks
    assert find_weights("resnet18").read_bytes() == CONTENT
    assert server.requests[1] == "bytes=150000-"
    assert len(server.requests) == breaks + 1
    assert server.sent == len(CONTENT)  # nothing twice


def test_a_later_run_resumes_too(server, published, cache):
    server.breaks = 3
    with pytest.raises(WeightsError, match="connection broke after"):
        find_weights("resnet18")
    part = cache / f"{published.file}.part"
    done = part.stat().st_size
    assert CONTENT.startswith(part.read_bytes())
    server.requests.clear()
    assert find_weights("resnet18").read_bytes() == CONTENT
    assert server.requests == [f"bytes={done}-"]
    assert not part.exists()


def test_a_server_that_cannot_resume_starts_over(server, published):
    server.breaks, server.ranges = 1, False
    assert find_weights("resnet18").read_bytes() == CONTENT


def test_a_whole_part_is_only_checked(server, published, cache):
    cache.mkdir()
    (cache / f"{published.file}.part").write_bytes(CONTENT)
    assert find_weights("resnet18").read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_not_kept(server, published, cache):
    cache.mkdir()
    (cache / f"{published.file}.part").write_bytes(b"not the start of it")
    with pytest.raises(WeightsError, match=rf"is damaged: its SHA-256 begins with \w{{8}}, not {HASH}"):
        find_weights("resnet18")
    assert os.listdir(cache) == []
    assert find_weights("resnet18").read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_not_used(published, cache):
    cache.mkdir()
    (cache / published.file).write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=rf"{published.file} is damaged: .* delete it"):
        find_weights("resnet18")


def test_the_cache_of_torch_is_used(server, published, tmp_path):
    path = tmp_path / "torch" / "hub" / "checkpoints" / published.file
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert find_weights("resnet18") == path
    assert server.requests == []


def test_a_refusal_is_not_tried_again(server, published):
    server.status = 403
    with pytest.raises(WeightsError, match=r"cannot download http://.*\(HTTP Error 403"):
        find_weights("resnet18")
    assert len(server.requests) == 1


def test_without_a_network_it_says_which_file_to_put_where(server, published, cache):
    server.shutdown()
    server.server_close()
    place = str(cache / published.file)
    with pytest.raises(
        WeightsError, match=rf"cannot download http://.*/{published.file} .*put it at {place} .*{HASH}\)"
    ):
        find_weights("resnet18")
    (cache / published.file).write_bytes(CONTENT)
    assert find_weights("resnet18").read_bytes() == CONTENT


def test_processes_that_share_a_cache_download_once(server, published, cache):
    arguments = [server.url, str(cache / published.file), HASH]
    code = "import sys, pathlib; from resnet_jax.weights.download import download as get\n"
    code += "get(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3])"
    processes = [subprocess.Popen([sys.executable, "-c", code, *arguments]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (cache / published.file).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_the_default_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNET_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "resnet_jax"


# Sources that are no published set


@pytest.mark.parametrize("source", ["gone.pth", "./gone", "/no/such/file.safetensors"])
def test_a_file_that_is_not_there(source):
    with pytest.raises(WeightsError, match=f"there is no file {source}"):
        find_weights("resnet18", source)


def test_a_source_that_means_nothing():
    with pytest.raises(WeightsError, match=r"unknown weight set of resnet18 'IMAGENET_V1'\. Did you mean"):
        find_weights("resnet18", "IMAGENET_V1")
