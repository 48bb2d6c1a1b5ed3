"""Holds a server against what RFC 9113 (and RFC 7541) demand of one, for tests/h2_conformance.rs.

    ADDRESS PORT BUNDLE CERTIFICATE KEY

Each case speaks raw frames over a connection of its own, as h2spec does. What may come of it is written beside it: most often a
GOAWAY or RST_STREAM with one of some codes, or the end of the connection. Behind a stream error the connection must go on.
The server must echo the bodies of POST /echo, and answer GET / with some bytes.
Prints one JSON object: the names of the cases, each with nothing or with what came instead.
"""

import json
import socket
import ssl
import struct
import sys

import h2.config
import h2.connection
import h2.events
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, PriorityFrame, PushPromiseFrame,
    RstStreamFrame, SettingsFrame, WindowUpdateFrame,
)

ADDRESS, PORT, BUNDLE, CERTIFICATE, KEY = sys.argv[1:6]

NO_ERROR, PROTOCOL, INTERNAL, FLOW, SETTINGS_TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 0xB
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE = 5.0
CASES = []

REQUEST = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "localhost")]
POST = [(":method", "POST"), (":scheme", "https"), (":path", "/echo"), (":authority", "localhost")]


def case(name, *outcomes):
    def keep(work):
        CASES.append((name, work, outcomes))
        return work
    return keep


def goaway(*codes):
    return [("GOAWAY", code) for code in codes] + [("CLOSED",)]


def reset(*codes):
    return [("RST_STREAM", code) for code in codes] + goaway(*codes)


# A malformed request: a stream error, a connection error, or an answer that says so (RFC 9113 8.1.1).
MALFORMED = reset(PROTOCOL) + [("STATUS", status) for status in (400, 405, 421, 431)]
SERVED = [("STATUS", 200)]


def raw(kind, flags, stream, payload=b"", length=None):
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Ended(Exception):
    pass


class Connection:
    """A connection whose client has said its preface and heard the server's."""

    def __init__(self, settings=None, preface=PREFACE, first=None):
        context = ssl.create_default_context(cafile=BUNDLE)
        context.load_cert_chain(CERTIFICATE, KEY)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((ADDRESS, int(PORT)), PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = context.wrap_socket(plain, server_hostname="localhost")
        assert self.tls.selected_alpn_protocol() == "h2"
        self.unread = b""
        self.encoder = Encoder()
        self.window = None
        frame = SettingsFrame(0, settings=settings or {}).serialize() if first is None else first
        self.send(preface + frame)

    def greet(self):
        """Reads the server's preface, which is SETTINGS, and what it says to ours."""
        first = self.frame()
        assert isinstance(first, SettingsFrame) and "ACK" not in first.flags, f"the server began with {first}"
        self.settings = first.settings
        self.send(SettingsFrame(0, flags=["ACK"]).serialize())
        return self

    def send(self, *pieces):
        for piece in pieces:
            try:
                self.tls.sendall(piece.serialize() if isinstance(piece, Frame) else piece)
            except OSError:
                return  # It shows on reading.

    def frame(self, patience=PATIENCE):
        """The next frame; raises when the connection has ended, or TimeoutError."""
        self.tls.settimeout(patience)
        while True:
            if len(self.unread) >= 9:
                head, length = Frame.parse_frame_header(memoryview(self.unread[:9]))
                if len(self.unread) >= 9 + length:
                    head.parse_body(memoryview(self.unread[9:9 + length]))
                    self.unread = self.unread[9 + length:]
                    return head
            try:
                more = self.tls.recv(65536)
            except (TimeoutError, socket.timeout):
                raise TimeoutError()
            except OSError:
                more = b""
            if not more:
                raise Ended()
            self.unread += more

    def headers(self, stream, fields, flags=("END_HEADERS", "END_STREAM")):
        return HeadersFrame(stream, self.encoder.encode(fields), flags=list(flags))

    def outcome(self, stream=1, patience=PATIENCE):
        """What becomes of a stream, or of the connection."""
        while True:
            try:
                frame = self.frame(patience)
            except Ended:
                return ("CLOSED",)
            except TimeoutError:
                return ("NOTHING",)
            if isinstance(frame, GoAwayFrame) and frame.error_code != NO_ERROR:
                return ("GOAWAY", frame.error_code)
            if isinstance(frame, RstStreamFrame) and frame.stream_id == stream:
                return ("RST_STREAM", frame.error_code)
            if isinstance(frame, HeadersFrame) and frame.stream_id == stream:
                return ("STATUS", status(frame.data))

    def settled(self, acknowledgements=1):
        """Waits until the server has taken our settings."""
        while acknowledgements:
            frame = self.frame()
            if isinstance(frame, SettingsFrame) and "ACK" in frame.flags:
                acknowledgements -= 1
        return self

    def lives(self, payload=b"are you?"):
        """Whether the connection goes on."""
        self.send(PingFrame(0, payload))
        while True:
            try:
                frame = self.frame()
            except (Ended, TimeoutError):
                return False
            if isinstance(frame, PingFrame) and "ACK" in frame.flags and frame.opaque_data == payload:
                return True


def status(block):
    """The status in the first field of a head; the server's table is not followed."""
    static = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
    if block[0] & 0x80:
        return static[block[0] & 0x7F]
    size = block[1] & 0x7F
    text = block[2:2 + size]
    if block[1] & 0x80:
        from hpack.huffman_table import decode_huffman
        text = decode_huffman(text)
    return int(text)


def ready(**how):
    return Connection(**how).greet().settled()


# 3.4 Connection preface


@case("3.4 a preface that is none", *goaway(PROTOCOL))
def _():
    return Connection(preface=b"INVALID CONNECTION PREFACE\r\n\r\n", first=b"").outcome()


@case("3.4 a preface without SETTINGS", *goaway(PROTOCOL))
def _():
    return Connection(first=raw(6, 0, 0, b"12345678")).outcome()


@case("3.4 the server begins with SETTINGS", ("OK",))
def _():
    Connection().greet()
    return ("OK",)


# 4.1, 5.5 Frames


@case("4.1 an unknown frame is ignored", ("OK",))
def _():
    c = ready()
    c.send(raw(0xEE, 0, 0, b"\0" * 8), raw(0x16, 0xFF, 3, b"abc"))
    return ("OK",) if c.lives() else ("DEAD",)


@case("4.1 undefined flags are ignored", ("OK",))
def _():
    c = ready()
    c.send(raw(6, 0x16, 0, b"flagged!"))
    while True:
        frame = c.frame()
        if isinstance(frame, PingFrame):
            return ("OK",) if frame.opaque_data == b"flagged!" else ("WRONG",)


@case("4.1 the reserved bit is ignored", ("OK",))
def _():
    c = ready()
    c.send(raw(6, 0, 0x80000000, b"reserved"))
    while True:
        frame = c.frame()
        if isinstance(frame, PingFrame):
            return ("OK",)


@case("5.5 an unknown frame within a field block", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, REQUEST, ["END_STREAM"]), raw(0x16, 0, 0, b"\0" * 8))
    return c.outcome()


# 4.2 Frame size


@case("4.2 DATA of the largest size is taken", *SERVED)
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), DataFrame(1, b"x" * 16384, flags=["END_STREAM"]))
    return c.outcome()


@case("4.2 DATA above the largest size", *reset(SIZE))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), raw(0, 1, 1, b"x" * 16385))
    return c.outcome()


@case("4.2 HEADERS above the largest size", *goaway(SIZE))
def _():
    c = ready()
    block = c.encoder.encode(REQUEST + [(f"x-{n}", "y" * 1000) for n in range(25)], huffman=False)
    c.send(raw(1, 5, 1, block))
    return c.outcome()


# 4.3 Field blocks


@case("4.3 a field block that cannot be read", *goaway(COMPRESSION))
def _():
    c = ready()
    c.send(raw(1, 5, 1, b"\x40"))
    return c.outcome()


@case("4.3 PRIORITY within a field block", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, REQUEST, ["END_STREAM"]), PriorityFrame(1, 0, 255, False))
    return c.outcome()


@case("4.3 HEADERS of another stream within a field block", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, REQUEST, ["END_STREAM"]), c.headers(3, REQUEST))
    return c.outcome()


@case("4.3.1 a table that grows beyond what was allowed", *goaway(COMPRESSION))
def _():
    c = ready()
    c.send(raw(1, 5, 1, b"\x3f\xe1\xff\x03" + c.encoder.encode(REQUEST)))
    return c.outcome()


# 5.1 Stream states


def on_idle(frame):
    c = ready()
    c.send(frame)
    return c.outcome()


@case("5.1 idle: DATA", *goaway(PROTOCOL, CLOSED))
def _():
    return on_idle(DataFrame(1, b"test", flags=["END_STREAM"]))


@case("5.1 idle: RST_STREAM", *goaway(PROTOCOL))
def _():
    return on_idle(RstStreamFrame(1, CANCEL))


@case("5.1 idle: WINDOW_UPDATE", *goaway(PROTOCOL))
def _():
    return on_idle(WindowUpdateFrame(1, 100))


@case("5.1 idle: CONTINUATION", *goaway(PROTOCOL))
def _():
    return on_idle(ContinuationFrame(1, b"\x82", flags=["END_HEADERS"]))


@case("5.1 idle: PRIORITY is taken", *SERVED)
def _():
    c = ready()
    c.send(PriorityFrame(3, 0, 255, False), c.headers(1, REQUEST))
    return c.outcome()


def half_closed(frame):
    """On a stream whose answer is held back by a window of nothing."""
    c = ready(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    c.send(c.headers(1, REQUEST), frame(c))
    while True:
        heard = c.outcome()
        if heard != ("STATUS", 200):
            return heard


@case("5.1 half-closed (remote): DATA", *reset(CLOSED))
def _():
    return half_closed(lambda c: DataFrame(1, b"test", flags=["END_STREAM"]))


@case("5.1 half-closed (remote): HEADERS", *reset(CLOSED))
def _():
    return half_closed(lambda c: c.headers(1, REQUEST))


@case("5.1 half-closed (remote): CONTINUATION", *reset(CLOSED, PROTOCOL))
def _():
    return half_closed(lambda c: ContinuationFrame(1, c.encoder.encode(REQUEST), flags=["END_HEADERS"]))


@case("5.1 half-closed (remote): WINDOW_UPDATE and PRIORITY are taken", ("OK",))
def _():
    c = ready(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    c.send(c.headers(1, REQUEST), PriorityFrame(1, 0, 7, False), WindowUpdateFrame(1, 1000))
    while True:
        frame = c.frame()
        if isinstance(frame, DataFrame) and frame.data:
            return ("OK",)


def after_reset(frame):
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), RstStreamFrame(1, CANCEL), frame(c))
    return c.outcome()


@case("5.1 closed by RST_STREAM: DATA", *reset(CLOSED))
def _():
    return after_reset(lambda c: DataFrame(1, b"test", flags=["END_STREAM"]))


@case("5.1 closed by RST_STREAM: HEADERS", *reset(CLOSED))
def _():
    return after_reset(lambda c: c.headers(1, REQUEST))


@case("5.1 closed by RST_STREAM: CONTINUATION", *reset(CLOSED, PROTOCOL))
def _():
    return after_reset(lambda c: ContinuationFrame(1, b"\x82", flags=["END_HEADERS"]))


def after_end(frame):
    c = ready()
    c.send(c.headers(1, REQUEST))
    while True:
        got = c.frame()
        if got.stream_id == 1 and "END_STREAM" in got.flags:
            break
    c.send(frame(c))
    return c


@case("5.1 closed by END_STREAM: DATA", *reset(CLOSED))
def _():
    return after_end(lambda c: DataFrame(1, b"test", flags=["END_STREAM"])).outcome()


@case("5.1 closed by END_STREAM: HEADERS", *reset(CLOSED, PROTOCOL))
def _():
    return after_end(lambda c: c.headers(1, REQUEST)).outcome()


@case("5.1 closed by END_STREAM: CONTINUATION", *goaway(CLOSED, PROTOCOL))
def _():
    return after_end(lambda c: ContinuationFrame(1, b"\x82", flags=["END_HEADERS"])).outcome()


@case("5.1 closed by END_STREAM: PRIORITY, WINDOW_UPDATE and RST_STREAM are ignored", ("OK",))
def _():
    c = after_end(lambda c: PriorityFrame(1, 0, 7, False))
    c.send(WindowUpdateFrame(1, 10), RstStreamFrame(1, CANCEL))
    return ("OK",) if c.lives() else ("DEAD",)


@case("5.1.1 a stream with an even number", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(2, REQUEST))
    return c.outcome(2)


@case("5.1.1 a stream with a lower number than one before", *goaway(PROTOCOL, CLOSED))
def _():
    c = ready()
    c.send(c.headers(5, REQUEST))
    assert c.outcome(5) == ("STATUS", 200)
    c.send(c.headers(3, REQUEST))
    return c.outcome(3)


@case("5.1.2 more streams than are allowed", *reset(PROTOCOL, REFUSED))
def _():
    c = ready()
    most = c.settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
    c.send(*(c.headers(2 * n + 1, POST, ["END_HEADERS"]) for n in range(most + 1)))
    return c.outcome(2 * most + 1)


@case("5.3.1 HEADERS that depend on themselves", *reset(PROTOCOL))
def _():
    c = ready()
    c.send(raw(1, 0x25, 1, struct.pack(">IB", 1, 15) + c.encoder.encode(REQUEST)))
    return c.outcome()


@case("5.3.1 PRIORITY that depends on itself", *reset(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), PriorityFrame(1, 1, 255, False))
    return c.outcome()


@case("5.4.1 a connection error says GOAWAY and then ends", ("OK",))
def _():
    c = ready()
    c.send(raw(6, 0, 3, b"12345678"))
    if c.outcome() != ("GOAWAY", PROTOCOL):
        return ("NO GOAWAY",)
    try:
        while True:
            c.frame()
    except Ended:
        return ("OK",)
    except TimeoutError:
        return ("OPEN",)


# 6.1 DATA


@case("6.1 DATA on stream 0", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(0, 1, 0, b"test"))
    return c.outcome()


@case("6.1 DATA with more padding than payload", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), raw(0, 9, 1, b"\x06test"))
    return c.outcome()


@case("6.1 padded DATA is taken", ("OK",))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), raw(0, 9, 1, b"\x06test" + bytes(6)))
    while True:
        frame = c.frame()
        if isinstance(frame, DataFrame) and frame.data:
            return ("OK",) if frame.data == b"test" else ("WRONG", repr(frame.data))


# 6.2 HEADERS


@case("6.2 HEADERS on stream 0", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(1, 5, 0, c.encoder.encode(REQUEST)))
    return c.outcome()


@case("6.2 HEADERS with more padding than payload", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(1, 0xD, 1, b"\xff" + c.encoder.encode(REQUEST)))
    return c.outcome()


@case("6.2 padded HEADERS with a priority are taken", *SERVED)
def _():
    c = ready()
    c.send(raw(1, 0x2D, 1, b"\x03" + struct.pack(">IB", 0, 15) + c.encoder.encode(REQUEST) + bytes(3)))
    return c.outcome()


# 6.3 PRIORITY


@case("6.3 PRIORITY on stream 0", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(2, 0, 0, struct.pack(">IB", 1, 15)))
    return c.outcome()


@case("6.3 PRIORITY of another length", *reset(SIZE))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), raw(2, 0, 1, b"\x80\0\0\x01"))
    return c.outcome()


# 6.4 RST_STREAM


@case("6.4 RST_STREAM on stream 0", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(3, 0, 0, bytes(4)))
    return c.outcome()


@case("6.4 RST_STREAM of another length", *goaway(SIZE))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), raw(3, 0, 1, bytes(3)))
    return c.outcome()


# 6.5 SETTINGS


@case("6.5 SETTINGS are acknowledged, each", ("OK",))
def _():
    c = Connection().greet()
    c.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 100}), SettingsFrame(0))
    c.settled(3)
    return ("OK",)


@case("6.5 SETTINGS that acknowledge and carry something", *goaway(SIZE))
def _():
    c = ready()
    c.send(raw(4, 1, 0, bytes(6)))
    return c.outcome()


@case("6.5 SETTINGS on a stream", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(4, 0, 1, struct.pack(">HI", 3, 100)))
    return c.outcome()


@case("6.5 SETTINGS of a length that is no multiple of 6", *goaway(SIZE))
def _():
    c = ready()
    c.send(raw(4, 0, 0, bytes(3)))
    return c.outcome()


for name, identifier, value, codes in [
    ("ENABLE_PUSH of 2", 2, 2, (PROTOCOL,)),
    ("INITIAL_WINDOW_SIZE above the largest", 4, 0x80000000, (FLOW,)),
    ("MAX_FRAME_SIZE below the least", 5, 16383, (PROTOCOL,)),
    ("MAX_FRAME_SIZE above the largest", 5, 1 << 24, (PROTOCOL,)),
]:
    def work(identifier=identifier, value=value):
        c = ready()
        c.send(raw(4, 0, 0, struct.pack(">HI", identifier, value)))
        return c.outcome()
    case(f"6.5.2 SETTINGS_{name}", *goaway(*codes))(work)


@case("6.5.2 an unknown setting is ignored", ("OK",))
def _():
    c = ready()
    c.send(raw(4, 0, 0, struct.pack(">HI", 0xFF, 1)))
    c.settled()
    return ("OK",) if c.lives() else ("DEAD",)


@case("6.5.3 of two values the last one counts", ("OK", 1))
def _():
    c = ready()
    c.send(raw(4, 0, 0, struct.pack(">HIHI", 4, 100, 4, 1)))
    c.settled()
    c.send(c.headers(1, REQUEST))
    while True:
        frame = c.frame()
        if isinstance(frame, DataFrame):
            return ("OK", len(frame.data))


# 6.6 PUSH_PROMISE


@case("6.6 PUSH_PROMISE by a client", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]))
    c.send(raw(5, 4, 1, struct.pack(">I", 2) + c.encoder.encode(REQUEST)))
    return c.outcome()


# 6.7 PING


@case("6.7 PING is answered with its own words", ("OK",))
def _():
    return ("OK",) if ready().lives(b"\x01\x02\x03\x04\xfc\xfd\xfe\xff") else ("DEAD",)


@case("6.7 an answer to a PING is not answered", ("OK",))
def _():
    c = ready()
    c.send(PingFrame(0, b"unasked!", flags=["ACK"]), PingFrame(0, b"asked..."))
    while True:
        frame = c.frame()
        if isinstance(frame, PingFrame):
            return ("OK",) if frame.opaque_data == b"asked..." else ("ANSWERED",)


@case("6.7 PING on a stream", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(6, 0, 1, bytes(8)))
    return c.outcome()


@case("6.7 PING of another length", *goaway(SIZE))
def _():
    c = ready()
    c.send(raw(6, 0, 0, bytes(6)))
    return c.outcome()


# 6.8 GOAWAY


@case("6.8 GOAWAY on a stream", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(7, 0, 1, bytes(8)))
    return c.outcome()


@case("6.8 after a client's GOAWAY its streams are finished", *SERVED)
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), GoAwayFrame(0, 0, NO_ERROR))
    c.send(DataFrame(1, b"test", flags=["END_STREAM"]))
    return c.outcome()


# 6.9 WINDOW_UPDATE and flow control


@case("6.9 WINDOW_UPDATE by nothing, for the connection", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(raw(8, 0, 0, bytes(4)))
    return c.outcome()


@case("6.9 WINDOW_UPDATE by nothing, for a stream", *reset(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), raw(8, 0, 1, bytes(4)))
    return c.outcome()


@case("6.9 WINDOW_UPDATE of another length", *goaway(SIZE))
def _():
    c = ready()
    c.send(raw(8, 0, 0, bytes(3)))
    return c.outcome()


@case("6.9.1 a window for the connection beyond the largest", *goaway(FLOW))
def _():
    c = ready()
    c.send(WindowUpdateFrame(0, 0x7FFFFFFF), WindowUpdateFrame(0, 0x7FFFFFFF))
    return c.outcome()


@case("6.9.1 a window for a stream beyond the largest", *reset(FLOW))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), WindowUpdateFrame(1, 0x7FFFFFFF), WindowUpdateFrame(1, 0x7FFFFFFF))
    return c.outcome()


def pieces(c, stream=1):
    """The sizes of the DATA frames of a stream, until nothing comes for a while."""
    sizes = []
    try:
        while True:
            frame = c.frame(0.5)
            if isinstance(frame, DataFrame) and frame.stream_id == stream:
                sizes.append(len(frame.data))
                if "END_STREAM" in frame.flags:
                    break
    except TimeoutError:
        pass
    return sizes


@case("6.9.1 a window of one byte is obeyed", ("OK", 1))
def _():
    c = ready(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1})
    c.send(c.headers(1, REQUEST))
    return ("OK", sum(pieces(c)))


@case("6.9.2 a window that is widened afterwards", ("OK", 0, 1))
def _():
    c = ready(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    c.send(c.headers(1, REQUEST))
    before = sum(pieces(c))
    c.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1}))
    return ("OK", before, sum(pieces(c)))


@case("6.9.2 a window that became negative", ("OK", 3, 0, 1))
def _():
    c = ready(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 3})
    c.send(c.headers(1, POST, ["END_HEADERS"]), DataFrame(1, b"x" * 10, flags=["END_STREAM"]))
    first = sum(pieces(c))
    c.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2}), WindowUpdateFrame(1, 1))
    second = sum(pieces(c))
    c.send(WindowUpdateFrame(1, 1))
    return ("OK", first, second, sum(pieces(c)))


@case("6.9.2 SETTINGS that widen a window beyond the largest", *reset(FLOW))
def _():
    c = ready(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 10})
    c.send(c.headers(1, POST, ["END_HEADERS"]), WindowUpdateFrame(1, 0x7FFFFFFF - 10))
    c.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0x7FFFFFFF}))
    return c.outcome()


@case("6.9.1 no frame above what we take", ("OK",))
def _():
    c = ready(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20})
    c.send(c.headers(1, POST, ["END_HEADERS"]))
    c.send(*(DataFrame(1, b"x" * 10000) for _ in range(5)), DataFrame(1, b"x", flags=["END_STREAM"]))
    sizes = pieces(c)
    return ("OK",) if sum(sizes) == 50001 and max(sizes) <= 16384 else ("WRONG", sizes)


@case("6.9.1 more than the window of a stream allows", *reset(FLOW))
def _():
    c = ready()
    # The answer cannot be taken, so that nothing of the body can either, beyond what waits here and there.
    c.send(c.headers(1, POST, ["END_HEADERS"]))
    c.tls.settimeout(PATIENCE)
    most = c.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, 65535)
    burst = b"".join(DataFrame(1, b"x" * 16384).serialize() for _ in range(8 * most // 16384))
    c.send(burst)
    return c.outcome()


# 6.10 CONTINUATION


@case("6.10 many CONTINUATION frames are put together", *SERVED)
def _():
    c = ready()
    block = c.encoder.encode(REQUEST + [("a", "b")])
    c.send(HeadersFrame(1, block[:1], flags=["END_STREAM"]), ContinuationFrame(1, block[1:4]))
    c.send(ContinuationFrame(1, block[4:5]), ContinuationFrame(1, block[5:], flags=["END_HEADERS"]))
    return c.outcome()


@case("6.10 CONTINUATION behind something else", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, POST, []), DataFrame(1, b"test"), ContinuationFrame(1, b"\x82", flags=["END_HEADERS"]))
    return c.outcome()


@case("6.10 CONTINUATION on stream 0", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, REQUEST, ["END_STREAM"]), ContinuationFrame(1, b"", flags=[]).serialize()[:5] + bytes(4))
    return c.outcome()


@case("6.10 CONTINUATION behind END_HEADERS", *goaway(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), ContinuationFrame(1, c.encoder.encode(REQUEST), flags=["END_HEADERS"]))
    return c.outcome()


@case("6.10 CONTINUATION behind CONTINUATION with END_HEADERS", *goaway(PROTOCOL))
def _():
    c = ready()
    block = c.encoder.encode(POST)
    c.send(HeadersFrame(1, block[:2]), ContinuationFrame(1, block[2:], flags=["END_HEADERS"]))
    c.send(ContinuationFrame(1, b"\x82", flags=["END_HEADERS"]))
    return c.outcome()


# 8 HTTP semantics


@case("8.1 a second HEADERS that does not end the stream", *reset(PROTOCOL))
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), c.headers(1, [("x-a", "b")], ["END_HEADERS"]))
    return c.outcome()


@case("8.1 trailers are taken", *SERVED)
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), DataFrame(1, b"test"), c.headers(1, [("x-a", "b")]))
    return c.outcome()


@case("8.1 HEAD has no body", ("OK",))
def _():
    c = ready()
    c.send(c.headers(1, [(":method", "HEAD")] + REQUEST[1:]))
    return ("OK",) if c.outcome() == ("STATUS", 200) and sum(pieces(c)) == 0 else ("BODY",)


def without(name):
    return [field for field in REQUEST if field[0] != name]


def instead(name, value):
    return [(found, value if found == name else was) for found, was in REQUEST]


MALFORMED_HEADS = [
    ("8.2 a field name in upper case", REQUEST + [("X-A", "b")]),
    ("8.2.1 a field name with a blank", REQUEST + [("a b", "c")]),
    ("8.2.1 a field name with a control", REQUEST + [("a\x01", "c")]),
    ("8.2.1 a field name with a byte above ASCII", REQUEST + [(b"a\xff", b"c")]),
    ("8.2.1 an empty field name", REQUEST + [("", "c")]),
    ("8.2.1 a field name with a colon", REQUEST + [("a:b", "c")]),
    ("8.2.1 NUL in a value", REQUEST + [("a", "b\0c")]),
    ("8.2.1 CR in a value", REQUEST + [("a", "b\rc")]),
    ("8.2.1 LF in a value", REQUEST + [("a", "b\nc")]),
    ("8.2.1 a value that begins with a blank", REQUEST + [("a", " b")]),
    ("8.2.1 a value that ends with a blank", REQUEST + [("a", "b ")]),
    ("8.2.1 a value that ends with a tab", REQUEST + [("a", "b\t")]),
    ("8.2.2 connection", REQUEST + [("connection", "close")]),
    ("8.2.2 keep-alive", REQUEST + [("keep-alive", "timeout=5")]),
    ("8.2.2 proxy-connection", REQUEST + [("proxy-connection", "keep-alive")]),
    ("8.2.2 transfer-encoding", REQUEST + [("transfer-encoding", "chunked")]),
    ("8.2.2 upgrade", REQUEST + [("upgrade", "h2c")]),
    ("8.2.2 te other than trailers", REQUEST + [("te", "trailers, deflate")]),
    ("8.3 an unknown pseudo-header field", REQUEST + [(":test", "ok")]),
    ("8.3 a pseudo-header field of answers", REQUEST + [(":status", "200")]),
    ("8.3 a pseudo-header field behind a plain one", [("a", "b")] + REQUEST),
    ("8.3.1 no :method", without(":method")),
    ("8.3.1 no :scheme", without(":scheme")),
    ("8.3.1 no :path", without(":path")),
    ("8.3.1 an empty :path", instead(":path", "")),
    ("8.3.1 an empty :method", instead(":method", "")),
    ("8.3.1 two :method", REQUEST[:1] + REQUEST),
    ("8.3.1 two :scheme", REQUEST + REQUEST[1:2]),
    ("8.3.1 two :path", REQUEST + REQUEST[2:3]),
    ("8.3.1 two :authority", REQUEST + REQUEST[3:4]),
    ("8.3.1 :authority and another Host", REQUEST + [("host", "other")]),
    ("8.3.1 two Hosts", REQUEST + [("host", "localhost"), ("host", "localhost")]),
    ("8.3.1 :authority with a user", instead(":authority", "user@localhost")),
    ("8.5 CONNECT with :path and :scheme", instead(":method", "CONNECT")),
    ("8.5 CONNECT", [(":method", "CONNECT"), (":authority", "localhost:1")]),
    ("RFC 8441: extended CONNECT that was not offered", instead(":method", "CONNECT") + [(":protocol", "websocket")]),
    # What h2 0.4 was seen to let through, and more of its kind.
    ("strict: the path *", instead(":path", "*")),
    ("strict: a path without a slash", instead(":path", "a")),
    ("strict: an absolute URI as the path", instead(":path", "https://localhost/")),
    ("strict: a path with a blank", instead(":path", "/a b")),
    ("strict: a path with a control", instead(":path", "/a\x01")),
    ("strict: a path with NUL", instead(":path", "/a\0")),
    ("strict: no :authority and no Host", without(":authority")),
    ("strict: an empty :authority", instead(":authority", "")),
    ("strict: the scheme javascript", instead(":scheme", "javascript")),
    ("strict: the scheme http", instead(":scheme", "http")),
    ("strict: a method in lower case", instead(":method", "get")),
    ("strict: a method with a control", instead(":method", "GE\x01T")),
    ("strict: an :authority with a comma", instead(":authority", "localhost,other")),
    ("strict: an :authority with a blank", instead(":authority", "local host")),
    ("strict: an :authority with a path", instead(":authority", "localhost/a")),
    ("strict: two lengths", REQUEST + [("content-length", "0"), ("content-length", "0")]),
    ("strict: a length with a sign", REQUEST + [("content-length", "+3")]),
    ("strict: TRACE", instead(":method", "TRACE")),
]
for name, fields in MALFORMED_HEADS:
    def work(fields=fields):
        c = ready()
        c.send(c.headers(1, fields))
        return c.outcome()
    case(name, *MALFORMED)(work)


@case("8.2.2 te: trailers is taken", *SERVED)
def _():
    c = ready()
    c.send(c.headers(1, REQUEST + [("te", "trailers")]))
    return c.outcome()


@case("8.2.3 cookies in pieces are taken", *SERVED)
def _():
    c = ready()
    c.send(c.headers(1, REQUEST + [("cookie", "a=b"), ("cookie", "c=d")]))
    return c.outcome()


# As an intermediary may send it. Its scheme gets lost on the way, so that it could not be looked at.
@case("strict: Host without :authority", *MALFORMED)
def _():
    c = ready()
    c.send(c.headers(1, without(":authority") + [("host", "localhost")]))
    return c.outcome()


for name, length, bodies in [
    ("8.1.1 a body that is shorter than its length", "5", [b"test"]),
    ("8.1.1 a body that is longer than its length", "3", [b"test"]),
    ("8.1.1 a body in pieces that is longer than its length", "5", [b"test", b"test"]),
    ("8.1.1 a length without a body", "5", []),
]:
    def work(length=length, bodies=bodies):
        c = ready()
        flags = ["END_HEADERS"] if bodies else ["END_HEADERS", "END_STREAM"]
        c.send(c.headers(1, POST + [("content-length", length)], flags))
        for place, body in enumerate(bodies):
            c.send(DataFrame(1, body, flags=["END_STREAM"] if place == len(bodies) - 1 else []))
        return c.outcome()
    case(name, *MALFORMED)(work)


@case("8.1.1 trailers in place of the body that was announced", *MALFORMED)
def _():
    c = ready()
    c.send(c.headers(1, POST + [("content-length", "5")], ["END_HEADERS"]), c.headers(1, [("x-a", "b")]))
    return c.outcome()


for name, block in [
    ("8.1 trailers with a pseudo-header field", b"\x82"),
    ("8.1 trailers with a pseudo-header field by letters", b"\0\x05:path\x01/"),
    ("8.1 trailers with a pseudo-header field behind a plain one", b"\0\x01a\x01b\x04\x02/x"),
]:
    def work(block=block):
        c = ready()
        c.send(c.headers(1, POST, ["END_HEADERS"]), DataFrame(1, b"test"), raw(1, 5, 1, block))
        return c.outcome()
    case(name, *MALFORMED)(work)


@case("strict: trailers with a length", *MALFORMED)
def _():
    c = ready()
    c.send(c.headers(1, POST, ["END_HEADERS"]), DataFrame(1, b"test"), c.headers(1, [("content-length", "4")]))
    return c.outcome()


@case("10.5.1 a field section above the limit", *reset(PROTOCOL, REFUSED, CALM), ("STATUS", 431))
def _():
    c = ready()
    most = c.settings[SettingsFrame.MAX_HEADER_LIST_SIZE]
    block = c.encoder.encode(REQUEST + [(f"x-{n}", "y" * 1000) for n in range(most // 1000 + 10)], huffman=False)
    first, rest = block[:16000], block[16000:]
    c.send(HeadersFrame(1, first, flags=["END_STREAM"]))
    parts = [rest[at:at + 16000] for at in range(0, len(rest), 16000)]
    for place, part in enumerate(parts):
        c.send(ContinuationFrame(1, part, flags=["END_HEADERS"] if place == len(parts) - 1 else []))
    return c.outcome()


# RFC 7541

for name, block in [
    ("2.3.3 an index beyond both tables", b"\xff\x80\x02"),
    ("4.2 a change of the table's size at the end of a block", None),
    ("5.2 padding of Huffman's letters that is too long", b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
    ("5.2 padding of Huffman's letters that is not ones", b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
    ("5.2 the end mark within Huffman's letters", b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"),
    ("6.1 the index 0", b"\x80"),
    ("6.3 a change of the table's size above what was allowed", b"\x3f\xe1\xff\xff\x03"),
    ("5.1 an integer without end", b"\x7f" + b"\xff" * 12 + b"\x00"),
]:
    def work(block=block):
        c = ready()
        head = c.encoder.encode(REQUEST)
        block = head + (b"\x20" if block is None else block)
        c.send(raw(1, 5, 1, block))
        return c.outcome()
    case(f"RFC 7541 {name}", *goaway(COMPRESSION))(work)


# A client that knows nothing of all this


@case("a client of PyPI's h2 is served", ("OK",))
def _():
    c = Connection.__new__(Connection)
    context = ssl.create_default_context(cafile=BUNDLE)
    context.load_cert_chain(CERTIFICATE, KEY)
    context.set_alpn_protocols(["h2"])
    tls = context.wrap_socket(socket.create_connection((ADDRESS, int(PORT)), PATIENCE), server_hostname="localhost")
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    for stream in (1, 3, 5):
        client.send_headers(stream, POST, end_stream=False)
        client.send_data(stream, b"hello" * 100, end_stream=True)
    tls.sendall(client.data_to_send())
    bodies, ended = {}, set()
    while len(ended) < 3:
        for event in client.receive_data(tls.recv(65536)):
            if isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, h2.events.StreamEnded):
                ended.add(event.stream_id)
        tls.sendall(client.data_to_send())
    return ("OK",) if set(bodies.values()) == {b"hello" * 100} else ("WRONG",)


def is_served():
    c = ready()
    c.send(c.headers(1, REQUEST))
    return c.outcome() == ("STATUS", 200)


assert is_served(), "a plain request is not answered"
results = {}
for name, work, outcomes in CASES:
    assert name not in results, f"two cases are called {name}"
    try:
        heard = work()
    except Ended:
        heard = ("CLOSED",)
    except Exception as error:
        heard = ("FAILED", repr(error))
    results[name] = None if heard in outcomes else " ".join(map(str, heard))
assert is_served(), "a plain request is not answered any more"
print(json.dumps(results))
