"""A server that speaks as much of Google Cloud Storage's JSON API as its clients need: no folders, no appending.

An object is put as a whole or not at all; a folder can only be renamed object by object. As there.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TIME = "2026-01-01T00:00:00.000Z"
NOT_FOUND = {"error": {"code": 404, "message": "Not Found"}}


class Bucket(dict):
    """`{"bucket/name": bytes}`, served at `url`; counts what was put where."""

    def __init__(self):
        super().__init__()
        self.puts = []
        self.full = False  # refuse to store anything
        self._generations, self._uploads = itertools.count(1), {}
        self._generation = {}

    def put(self, name, content):
        self[name], self._generation[name] = content, next(self._generations)
        self.puts.append(name)

    def describe(self, name):
        bucket, _, path = name.partition("/")
        md5 = base64.b64encode(hashlib.md5(self[name]).digest()).decode()
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": path,
            "size": str(len(self[name])),
            "md5Hash": md5,
            "generation": str(self._generation[name]),
            "metageneration": "1",
            "updated": TIME,
            "timeCreated": TIME,
        }

    def files(self, prefix):
        return {name.removeprefix(prefix): content for name, content in self.items() if name.startswith(prefix)}


@contextlib.contextmanager
def serve(bucket):
    """Gives the URL."""
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        if not isinstance(sys.exception(), ConnectionError):  # of a client that asked twice, or was killed
            super().handle_error(request, address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self):
        path, query = self._target()
        if match := re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)", path):
            name = f"{match[1]}/{match[2]}"
            if name not in self.bucket:
                self._answer(404, NOT_FOUND)
            elif query.get("alt") == "media":
                self._send_content(name)
            else:
                self._answer(200, self.bucket.describe(name))
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
            self._answer(200, self._list(match[1], query))
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/?", path):
            self._answer(200, {"kind": "storage#bucket", "id": match[1], "name": match[1], "storageClass": "STANDARD"})
        else:
            self._answer(404, NOT_FOUND)

    def do_POST(self):
        path, query = self._target()
        body = self._body()
        if "upload_id" in query:
            self._continue_upload(query["upload_id"], body)
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)/(rewrite|move)To(?:/b/[^/]+)?/o/(.+)", path):
            self._copy(f"{match[1]}/{match[2]}", f"{match[1]}/{match[4]}", match[3])
        elif match := re.fullmatch(r"(?:/resumable)?/upload/storage/v1/b/([^/]+)/o/?", path):
            kind = query["uploadType"]
            if kind == "media":
                self._store(f"{match[1]}/{query['name']}", body, query)
            elif kind == "multipart":
                described, content = _parts(body, self.headers["Content-Type"])
                self._store(f"{match[1]}/{described['name']}", content, query)
            else:
                name = query.get("name") or json.loads(body)["name"]
                key = str(next(self.bucket._generations))
                self.bucket._uploads[key] = (f"{match[1]}/{name}", b"")
                location = f"http://{self.headers['Host']}{path}?uploadType=resumable&upload_id={key}"
                self._answer(200, {}, Location=location)
        else:
            self._answer(404, NOT_FOUND)

    do_PUT = do_POST  # of a part of an upload: some clients say the one, some the other

    def do_DELETE(self):
        path, _ = self._target()
        match = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path)
        found = self.bucket.pop(f"{match[1]}/{match[2]}", None)
        self._answer(404 if found is None else 204, None)

    def _continue_upload(self, key, part):
        name, content = self.bucket._uploads[key]
        self.bucket._uploads[key] = name, content + part
        if self.headers.get("Content-Range", "").endswith("/*"):
            self._answer(308, {}, Range=f"bytes=0-{len(content + part) - 1}")
        else:
            self._store(name, content + part, {})

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _store(self, name, content, query):
        if self.bucket.full:
            self._answer(403, {"error": {"code": 403, "message": "The quota of the bucket is used up"}})
        elif query.get("ifGenerationMatch") == "0" and name in self.bucket:
            self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        else:
            self.bucket.put(name, content)
            self._answer(200, self.bucket.describe(name))

    def _copy(self, source, target, how):
        if source not in self.bucket:
            self._answer(404, NOT_FOUND)
            return
        self.bucket.put(target, self.bucket[source])
        if how == "move":
            del self.bucket[source]
        described = self.bucket.describe(target)
        self._answer(200, described if how == "move" else {"done": True, "resource": described})

    def _list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.bucket.files(f"{bucket}/")):
            if not name.startswith(prefix) or not query.get("startOffset", "") <= name < query.get("endOffset", "\x7f"):
                continue
            inner = name[len(prefix) :]
            if delimiter and delimiter in inner:
                prefixes.add(prefix + inner.split(delimiter)[0] + delimiter)
            else:
                items.append(self.bucket.describe(f"{bucket}/{name}"))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _send_content(self, name):
        content, status = self.bucket[name], 200
        headers = {"x-goog-generation": str(self.bucket._generation[name])}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
            status, headers["Content-Range"] = 206, f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        self._send(status, content, "application/octet-stream", headers)

    def _answer(self, status, values, **headers):
        self._send(status, b"" if values is None else json.dumps(values).encode(), "application/json", headers)

    def _send(self, status, content, kind, headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _target(self):
        url = urlsplit(self.path)
        return unquote(url.path), {name: values[0] for name, values in parse_qs(url.query).items()}

    def log_message(self, *_):
        pass


def _parts(body, kind):
    """The description and the content of an upload in two parts."""
    boundary = re.search(r"boundary=[\"']?([^\"';]+)", kind)[1].encode()
    _, first, second, _ = body.split(b"--" + boundary, 3)
    described, content = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in (first, second))
    return json.loads(described), content.removesuffix(b"\n").removesuffix(b"\r")
