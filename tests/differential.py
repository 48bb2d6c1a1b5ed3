"""A service that writes down every whole request as Python's http.server reads it, one JSON object a line.

Behind nginx or HAProxy, which say in `x-seen-*` how they have read it, those words count instead.
"""

import json
import posixpath
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOCK = threading.Lock()


def view(target):
    """The path as a file server takes it: escapes decoded, dots resolved."""
    path = urllib.parse.unquote_to_bytes(target.split("?", 1)[0].split("#", 1)[0])
    slash = b"/" if path.endswith(b"/") and path != b"/" else b""
    return posixpath.normpath(path) + slash


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            whole = b""
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                data = self.rfile.read(size)
                if len(data) < size or self.rfile.readline() != b"\r\n":
                    raise EOFError
                whole += data
                if size == 0:
                    return whole
        size = int(self.headers.get("content-length", "0"))
        whole = self.rfile.read(size)
        if len(whole) < size:
            raise EOFError
        return whole

    def answer(self):
        try:
            body = self.body()
        except (EOFError, ValueError, OSError):
            self.close_connection = True
            return
        values = lambda name: self.headers.get_all(name, [])
        folded = [name.lower().replace("_", "-").replace(".", "-") for name in self.headers.keys()]
        seen = values("x-seen-target")
        own = {"method": self.command, "target": self.path, "host": values("host"), "view": view(self.path).hex()}
        if seen:
            own = {"method": self.headers["x-seen-method"], "target": seen[0], "host": values("x-seen-host")}
            own["view"] = self.headers["x-seen-view"][1:-1].encode("latin-1").hex()
        own["id"] = values("x-request-id")
        own["apps"] = [value for name, value in self.headers.items() if name.lower() == "x-postern-app"]
        own["forged"] = [name for name in folded if name.startswith("x-postern-")].count("x-postern-app") - 1
        own["body"] = body.hex()
        with LOCK:
            print(json.dumps(own), flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        pass


server = Server((sys.argv[1], int(sys.argv[2])), Handler)
server.serve_forever()
