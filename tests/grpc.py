"""A gRPC service and a gRPC caller, without generated code: messages are bytes.

    grpc.py serve                                   serves on a free port of 127.0.0.1, prints it, ends with its input
    grpc.py call TARGET [ROOTS CHAIN KEY]           makes calls of every kind and prints what came of them as JSON
    grpc.py refused TARGET [ROOTS [CHAIN KEY]]      makes one call and prints its status as JSON
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "shop.Orders"
BIG = 1 << 20

seen = {"metadata": {}, "cancelled": 0, "left": None}


def unary(request, context):
    metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    if "x-mine" in metadata:
        seen["metadata"] = metadata
    context.send_initial_metadata((("x-initial", "1"),))
    context.set_trailing_metadata((("x-sum", str(len(request))), ("x-bytes-bin", b"\x00\xff")))
    return request


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def both_streams(requests, context):
    for request in requests:
        yield b"re: " + request


def sleep(request, context):
    # Of a call without a deadline, some 300 000 000 000 years are left.
    if context.time_remaining() < 3600:
        seen["left"] = context.time_remaining()
    done = threading.Event()

    def note():
        seen["cancelled"] += 1
        done.set()

    context.add_callback(note)
    done.wait(10)
    return b""


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "größer als 50 %")


def tell(request, context):
    return json.dumps(seen).encode()


def serve():
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "BothStreams": grpc.stream_stream_rpc_method_handler(both_streams),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Tell": grpc.unary_unary_rpc_method_handler(tell),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def channel(target, files):
    if not files:
        # Without this, the library takes the socket's path, escaped, for the authority, which no Host is.
        return grpc.insecure_channel(target, (("grpc.default_authority", "localhost"),))
    roots, chain, key = [read(path) for path in files] + [None] * (3 - len(files))
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    return grpc.secure_channel(target, credentials, (("grpc.ssl_target_name_override", "localhost"),))


def status(error):
    return [error.code().name, error.details()]


def call(calls):
    method = lambda kind, name: getattr(calls, kind)(f"/{SERVICE}/{name}")
    results = {}

    echoed, ended = method("unary_unary", "Unary").with_call(b"hello", metadata=(("x-mine", "1"),), timeout=10)
    results["unary"] = echoed.decode()
    results["initial"] = dict(ended.initial_metadata()).get("x-initial")
    trailing = dict(ended.trailing_metadata())
    results["trailers"] = [trailing.get("x-sum"), list(trailing.get("x-bytes-bin", b""))]
    results["big"] = len(method("unary_unary", "Unary")(b"x" * BIG, timeout=20))

    results["server stream"] = [m.decode() for m in method("unary_stream", "ServerStream")(b"5", timeout=10)]
    results["client stream"] = method("stream_unary", "ClientStream")(iter([b"abc"] * 100), timeout=10).decode()

    # Each message is sent only when the answer to the one before it is there.
    turn = threading.Semaphore(1)

    def messages():
        for number in range(5):
            turn.acquire()
            yield str(number).encode()

    talk = []
    for answer in method("stream_stream", "BothStreams")(messages(), timeout=10):
        talk.append(answer.decode())
        turn.release()
    results["both streams"] = talk

    begun = time.monotonic()
    try:
        method("unary_unary", "Sleep")(b"", timeout=0.5)
    except grpc.RpcError as error:
        results["deadline"] = status(error)[0]
    results["waited"] = time.monotonic() - begun
    try:
        method("unary_unary", "Fail")(b"", timeout=10)
    except grpc.RpcError as error:
        results["failure"] = status(error)

    pending = method("unary_unary", "Sleep").future(b"")
    time.sleep(0.3)
    pending.cancel()
    for _ in range(100):
        told = json.loads(method("unary_unary", "Tell")(b"", timeout=10))
        if told["cancelled"] >= 2:
            break
        time.sleep(0.05)
    results["service"] = told
    return results


def refused(calls):
    try:
        calls.unary_unary(f"/{SERVICE}/Unary")(b"", timeout=10)
    except grpc.RpcError as error:
        return {"status": status(error), "code": dict(error.trailing_metadata()).get("x-postern-code")}
    return {"status": ["OK", ""]}


def main():
    what, *rest = sys.argv[1:]
    if what == "serve":
        return serve()
    with channel(rest[0], rest[1:]) as calls:
        print(json.dumps({"call": call, "refused": refused}[what](calls)))


main()
