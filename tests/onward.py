"""The other end of what Postern tells of callers, for tests/onward.rs.

    verify AUDIENCE    reads JSON from stdin, `jwks` and `tokens`, and prints what PyJWT believes of each token, or null
    collect            takes spans by OTLP/HTTP: prints its port, then each body on a line of its own
"""

import http.server
import json
import sys


def verify(audience):
    import jwt

    asked = json.load(sys.stdin)
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(asked["jwks"]).keys}

    def believed(token):
        try:
            key = keys[jwt.get_unverified_header(token)["kid"]]
            required = {"require": ["exp", "iat", "aud", "sub", "iss"]}
            return jwt.decode(token, key, algorithms=["ES256"], audience=audience, options=required)
        except jwt.InvalidTokenError:
            return None

    print(json.dumps([believed(token) for token in asked["tokens"]]))


class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fits = self.path == "/v1/traces" and self.headers["content-type"] == "application/json"
        self.send_response(200 if fits else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        if fits:
            print(json.dumps(body), flush=True)

    def log_message(self, *_):
        pass


def collect():
    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    {"verify": verify, "collect": collect}[sys.argv[1]](*sys.argv[2:])
