"""A stand-in for the Hugging Face Hub on the loopback: the two calls of its API that fetching a model makes."""

import contextlib
import hashlib
import http.server
import json
import re
import threading


class Hub:
    """What the server holds and was asked.

    Attributes:
      files: content by `OWNER/REPOSITORY/PATH`.
      claimed: hashes to give in place of the true ones, by the same names.
      stall: name of a file of which half is sent, until the event `stalled` is set and `go_on` is waited for.
      asked: (name, first byte) of every file asked for.
    """

    def __init__(self, files):
        self.files, self.claimed, self.stall, self.asked = files, {}, None, []
        self.stalled, self.go_on = threading.Event(), threading.Event()

    def listing(self, repository):
        names = [name for name in self.files if name.startswith(f"{repository}/")]
        if not names:
            return None
        files = []
        for name in names:
            data = self.files[name]
            entry = {"rfilename": name.removeprefix(f"{repository}/"), "size": len(data)}
            if name.endswith((".json", ".model")):
                entry["blobId"] = self.claimed.get(name) or hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            else:
                sha = self.claimed.get(name) or hashlib.sha256(data).hexdigest()
                entry |= {"blobId": "0" * 40, "lfs": {"sha256": sha, "size": len(data), "pointerSize": 100}}
            files.append(entry)
        return {"id": repository, "modelId": repository, "sha": "a" * 40, "siblings": files}


@contextlib.contextmanager
def serving(files):
    """The hub, and its address in HF_ENDPOINT's form."""
    hub = Hub(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, data, headers=()):
            self.send_response(status)
            for key, value in headers:
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if status != 404 and self.path.endswith(hub.stall or "?"):
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                hub.stalled.set()
                hub.go_on.wait(120)
                self.close_connection = True
                return
            self.wfile.write(data)

        def do_GET(self):
            path = self.path.partition("?")[0]
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.*)?", path):
                listing = hub.listing(found[1])
                if listing is None:
                    return self.answer(404, b"{}", [("X-Error-Code", "RepoNotFound")])
                return self.answer(200, json.dumps(listing).encode(), [("Content-Type", "application/json")])
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/a{40}/(.*)", path)
            name = f"{found[1]}/{found[2]}" if found else ""
            if name not in hub.files:
                return self.answer(404, b"", [("X-Error-Code", "EntryNotFound")])
            data, asked = hub.files[name], re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            hub.asked.append((name, start))
            headers = [("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")] if start else []
            return self.answer(206 if start else 200, data[start:], headers)

        do_HEAD = do_GET  # noqa: N815

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
