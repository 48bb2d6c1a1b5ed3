"""Speaks WebSocket by the PyPI package websockets, for tests/websocket.rs.

    serve
    talk URL BUNDLE CERTIFICATE KEY
    talk URL

`serve` echoes on a loopback port, which it prints first; the path /refuse is answered 403. `talk` sends text, bytes, a ping
and 1 MiB, all that by eight connections at once, closes properly, and prints one JSON object that says what came of it.
"""

import asyncio
import json
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidStatus

# What stands in the environment is for others.
for name in list(os.environ):
    if name.lower().endswith("_proxy"):
        del os.environ[name]

MIB = 1024 * 1024


async def echo(connection):
    async for message in connection:
        await connection.send(message)


def refuse(connection, request):
    if request.path.startswith("/refuse"):
        return connection.respond(403, "not here\n")


async def keep_serving():
    async with serve(echo, "127.0.0.1", 0, process_request=refuse, max_size=2 * MIB) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


def trust(bundle, certificate, key):
    context = ssl.create_default_context(cafile=bundle)
    context.load_cert_chain(certificate, key)
    return context


async def one(number, url, context):
    async with connect(url, ssl=context, max_size=2 * MIB, proxy=None) as connection:
        await connection.send(f"text {number} \u00e9")
        text = await connection.recv() == f"text {number} \u00e9"
        await connection.send(bytes(range(256)))
        binary = await connection.recv() == bytes(range(256))
        pong = await (await connection.ping()) >= 0
        large = os.urandom(MIB)
        await connection.send(large)
        whole = await connection.recv() == large
    return [text, binary, pong, whole, connection.close_code]


async def talk(url, *files):
    context = trust(*files) if files else None
    results = await asyncio.gather(*(one(number, f"{url}/a", context) for number in range(8)))
    try:
        async with connect(f"{url}/refuse", ssl=context, proxy=None):
            refused = 101
    except InvalidStatus as error:
        refused = error.response.status_code
    print(json.dumps({"results": results, "refused": refused}))


if sys.argv[1] == "serve":
    asyncio.run(keep_serving())
else:
    asyncio.run(talk(*sys.argv[2:]))
