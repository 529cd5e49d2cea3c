# SPDX-License-Identifier: Apache-2.0
"""`freehold serve --audit`: what the log says of requests, refusals, cancellations and the daemon's own doings, in both
modes; a disk that is full; a daemon that is killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from server import DEMO_MODEL, FREEHOLD, LONG, ROOT, Server, shared, together

STORIES = ("stories260K", "stories260K.gguf")


def audit(*args, want=0):
    r = subprocess.run([FREEHOLD, "audit", *args], capture_output=True, text=True, timeout=120, check=False)
    if r.returncode != want:
        raise AssertionError(f"freehold audit {' '.join(args)}: exit status {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def entries(log, *args):
    return [json.loads(line) for line in audit("export", log, *args).splitlines()]


def wait_published(server, timeout=10):
    """Until all that was handed over is in a checkpoint."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        time.sleep(0.3)  # relaxed: events lie up to 100 ms in their queues
        m = server.metrics()
        if m["freehold_audit_entries"] == m["freehold_audit_published_entries"]:
            return
    raise AssertionError("the log is not published")


class Case(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.TemporaryDirectory(prefix="freehold-audit-")
        self.addCleanup(self.top.cleanup)
        self.log = os.path.join(self.top.name, "log")

    def serve(self, *args, model=DEMO_MODEL, **kw):
        return Server(model, "--threads", "1", "--audit", self.log, *args, **kw)

    def pairs(self, rows):
        """[(begin, end)], and that nothing is missing or twice."""
        begins = {r["entry"]: r for r in rows if r["kind"] == "begin"}
        ends = {r["ref"]: r for r in rows if r["kind"] == "end"}
        self.assertEqual(sorted(begins), sorted(ends))
        self.assertEqual(len(ends), sum(r["kind"] == "end" for r in rows))
        return [(begins[i], ends[i]) for i in sorted(begins)]
