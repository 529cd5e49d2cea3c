# SPDX-License-Identifier: Apache-2.0
"""For the tests of who may come in: a key database, and requests that show a key."""

import json
import os
import subprocess
import tempfile
import time

from server import DEMO_MODEL, FREEHOLD

NULL = "null:" + DEMO_MODEL
LIMITED = ("--ctx", "512", "--max-seqs", "4")


def freehold(*args):
    return subprocess.run([FREEHOLD, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


class Database:
    """A key database in a folder that goes away."""

    def __init__(self):
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-keys-")
        os.chmod(self.dir.name, 0o755)
        self.path = os.path.join(self.dir.name, "keys.db")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.dir.cleanup()

    def key(self, *args):
        r = freehold("key", *args, "--keys", self.path)
        if r.returncode:
            raise AssertionError(f"{args}: {r.returncode}: {r.stderr}")
        return r.stdout

    def add(self, *args):
        """(id, key)"""
        j = json.loads(self.key("add", *args, "--json"))
        return j["id"], j["key"]

    def list(self, *args):
        return json.loads(self.key("list", "--json", *args))


def bearer(key):
    return {"Authorization": "Bearer " + key}


def status(s, key, method="GET", path="/v1/models"):
    return s.request(method, path, "{}" if method == "POST" else None, bearer(key) if key else {})[0]


def until(what, want, seconds=5):
    """Keys change within a second; what() is asked until it is @want."""
    deadline = time.monotonic() + seconds
    while True:
        got = what()
        if got == want:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{got!r} and not {want!r} after {seconds} s")
        time.sleep(0.02)
