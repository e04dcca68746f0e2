"""Keeps a store and ends; a peer leaves while the process takes itself down. Arguments: port, `plain` or `mended`."""

import ctypes
import subprocess
import sys

libc = ctypes.CDLL(None)
libc.on_exit(libc.sleep, None)  # the last thing done at exit, since it is registered before Paddle: sleep(exit code)

from paddle.base import core  # noqa: E402

from nebula.runtime import paddle_faults  # noqa: E402

PEER = """
import socket, struct, sys, time
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
time.sleep(2.5)
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as of a killed process
peer.close()
"""

if sys.argv[2] == "mended":
    paddle_faults.end_in_peace()
store = core.TCPStore("127.0.0.1", int(sys.argv[1]), True, 1, 60)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))  # as Paddle's own, it is there until the process ends
peer = subprocess.Popen([sys.executable, "-c", PEER, sys.argv[1]], stdout=subprocess.PIPE)
peer.stdout.readline()
sys.exit(5)
