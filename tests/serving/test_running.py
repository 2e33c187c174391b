"""The end of the server: a thread that does not end can't keep the process alive."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import asyncio, os, signal, socket, time
from pipeline.serving import running

class Devices:
    def start(self):
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, time.sleep, 600)
        loop.call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    async def wait_until_ready(self): await asyncio.Event().wait()
    async def drain(self, seconds): pass
    async def close(self): pass

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})

running._FORCED_SECONDS = 0.2
running.Running(app, Devices(), 10, 1.0).serve(socket.create_server(("127.0.0.1", 0)))
"""


def test_a_thread_does_not_keep_the_process_alive() -> None:
    result = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
