#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What open dashboards cost the server: instructions of the HTTP thread for the events of a second, counted by callgrind.

    tests/perf/watch_cost.py [TENANTS VIEWERS]

Counted is what the timer does: reading counters, JSON, a copy for each viewer; not the kernel's part of sending it.
FREEHOLD names the binary (default build/freehold). Needs valgrind.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))

from identity import NULL, Database, bearer  # noqa: E402
from server import FREEHOLD, Server  # noqa: E402

SECONDS = 12


class Counted(Server):
    """A server under callgrind, which looks at the timer alone; the sandbox would keep it from writing its file."""

    def __init__(self, out, *args):  # pylint: disable=super-init-not-called
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-")
        self.proc = subprocess.Popen(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--toggle-collect=on_tick",
                                      FREEHOLD, "serve", "-m", NULL, "--http", "127.0.0.1:0", "--ctx", "512", "--max-seqs", "4",
                                      "--no-sandbox", "--epoll", "--cache-dir", "none", "--price", "* 1/1/1", *args],
                                     stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.proc.stderr:
            m = re.search(r"ready on http://(\S+?)/? ", line)
            if m:
                break
        self.host, self.unix, self.log = m[1], None, self.proc.stderr
        threading.Thread(target=lambda: [None for _ in self.proc.stderr], daemon=True).start()


def measure(nr_tenants, nr_viewers):
    """(instructions a tick, bytes of an event)"""
    with Database() as db, tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "callgrind")
        keys = [db.add("--tenant", f"tenant-{i}", "--endpoints", "all,admin")[1] for i in range(nr_tenants)]
        s = Counted(out, "--keys", db.path)
        s.json("POST", "/v1/completions", {"prompt": "x", "max_tokens": 4}, key=keys[0])
        viewers, begin, nr = [], time.monotonic(), 0
        for _ in range(nr_viewers):
            c = s.connect(60)
            c.request("GET", "/v1/freehold/events", headers=bearer(keys[0]))
            viewers.append(c.getresponse())
        while time.monotonic() - begin < SECONDS:
            for v in viewers:
                line = v.readline()
                while not line.startswith(b"data: "):
                    line = v.readline()
            size, nr = len(line), nr + 1
        events = s.request("GET", "/metrics", None, bearer(keys[0]))[2].decode()
        nr = int(re.search(r"^freehold_http_viewer_events_total (\d+)$", events, re.M)[1]) / nr_viewers
        s.terminate()
        with open(out, encoding="ascii") as f:
            total = int(re.search(r"^totals: (\d+)$", f.read(), re.M)[1])
    return total / nr, size


def main():
    cases = [(int(sys.argv[1]), int(sys.argv[2]))] if len(sys.argv) == 3 else [(1, 1), (1, 16), (120, 1)]
    for tenants, viewers in cases:
        instructions, size = measure(tenants, viewers)
        print(json.dumps({"tenants": tenants, "viewers": viewers, "instructions_a_second": round(instructions), "event_bytes": size}))


if __name__ == "__main__":
    main()
