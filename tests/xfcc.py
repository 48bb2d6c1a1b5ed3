"""Reads X-Forwarded-Client-Cert elements, one a line, by Envoy's grammar, and prints their values in hexadecimal digits.

A quoted value ends at the first quote without a backslash before it, and \\" is the only escape that Envoy knows. Postern
escapes backslashes, too, and all that is no printable ASCII as %XX.
"""

import re
import sys
from urllib.parse import unquote_to_bytes

PAIR = re.compile(r'([A-Za-z]+)="((?:[^"\\]|\\"|\\(?!"))*)"(;|$)')


def values(element):
    at = 0
    while at < len(element):
        pair = PAIR.match(element, at)
        assert pair, f"no pair at {at} of {element!r}"
        at = pair.end()
        yield unquote_to_bytes(re.sub(r"\\([\"\\])", r"\1", pair.group(2)))


for line in sys.stdin.buffer.read().decode("ascii").split("\n"):
    if line:
        print(" ".join(value.hex() for value in values(line)))
