# SPDX-License-Identifier: Apache-2.0
"""What the tables of bench.py share: programs, models, rounds, numbers."""

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from server import FREEHOLD  # noqa: E402

WORK = os.path.join(ROOT, "build", "bench")


def rounds(nr, functions):
    """Interleaved: each round runs every function once. Returns the results of each."""
    results = [[] for _ in functions]
    for _ in range(nr):
        for f, out in zip(functions, results):
            out.append(f())
    return results


def median(results, key):
    return statistics.median(r[key] if isinstance(key, str) else key(r) for r in results)


def number(x):
    if x >= 1000:
        return f"{x:,.0f}"
    return f"{x:.1f}" if x >= 100 else f"{x:.2f}" if x >= 1 else f"{x:.3f}"


def synth(shape, kind, ctx=8192):
    """A model of random weights in a real shape, written once."""
    path = os.path.join(WORK, f"{shape}-{kind}.gguf")
    if not os.path.exists(path):
        print(f"writing {os.path.relpath(path, ROOT)}", file=sys.stderr)
        subprocess.run([FREEHOLD, "synth", "--shape", shape, "--type", kind, "--ctx", str(ctx), "-o", path + ".tmp"], check=True,
                       stdin=subprocess.DEVNULL)
        os.rename(path + ".tmp", path)
    return path


def output(cmd, env=None, timeout=3600):
    """What a program prints; its own last words when it fails."""
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
                       env={**os.environ, **(env or {})})
    if r.returncode != 0:
        raise RuntimeError(f"{' '.join(cmd)}: status {r.returncode}: {r.stderr.strip()[-2000:]}")
    return r.stdout


class Peer:
    """llama-server on a free port, for as long as a table needs it."""

    def __init__(self, folder, model, threads, slots, ctx=512):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(os.path.join(WORK, "peer.log"), "wb")
        self.proc = subprocess.Popen(
            [os.path.join(folder, "llama-server"), "-m", model, "--host", "127.0.0.1", "--port", str(port), "-t", str(threads),
             "-np", str(slots), "-c", str(ctx * slots)], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=1) as r:
                    if r.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("llama-server did not become ready; see build/bench/peer.log")

    @property
    def pid(self):
        return self.proc.pid

    def kill(self):
        self.proc.terminate()
        self.proc.wait()
        self.log.close()
