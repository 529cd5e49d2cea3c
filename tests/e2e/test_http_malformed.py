# SPDX-License-Identifier: Apache-2.0
"""10,000 malformed requests on a live server: each is refused as it should be, and none crashes, hangs or leaks.

Other than random damage (test_serve.py), every request here is known to be
wrong in one way, and the status that it must get is known too; after a refusal
the connection must be closed, so that nothing behind it is ever served.
FREEHOLD_URL and FREEHOLD_PID name a server that runs already.
"""

import itertools
import os
import random
import re
import socket
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from server import Server, shared  # noqa: E402

NR = int(os.environ.get("FREEHOLD_NR_MALFORMED", "10000"))
BODY = b'{"prompt":"Once","max_tokens":1}'
# Served only if the server loses its place: its answer would be a 200.
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: smuggled\r\n\r\n"

# (status, what is between "POST /v1/completions " and the empty line)
HEADS = [
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"),
    (400, b"HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5"),
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5"),
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6"),
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length: +5"),
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5"),
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5"),
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length: -1"),
    (400, b"HTTP/1.1\r\nHost: a\r\nContent-Length:"),
    (413, b"HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999"),
    (413, b"HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999"),
    (501, b"HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip"),
    (501, b"HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip"),
    (501, b"HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1"),
    (400, b"HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    (400, b"HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked"),
    (400, b"HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked"),
    (400, b"HTTP/1.1\r\nHost: a\r\nX: y\r\n folded: z"),
    (400, b"HTTP/1.1\r\nHost: a\r\n\tX: y"),
    (400, b"HTTP/1.1\r\nHost: a\r\nX: y\rZ: w"),
    (400, b"HTTP/1.1\r\nHost: a\nX: y"),
    (400, b"HTTP/1.1\nHost: a"),
    (400, b"HTTP/1.1\r\nHost: a\r\nX: \0"),
    (400, b"HTTP/1.1\r\nHost: a\r\nX: \x1b[31m"),
    (400, b"HTTP/1.1\r\nHost: a\r\nX\x80: y"),
    (400, b"HTTP/1.1\r\nHost: a\r\n: y"),
    (400, b"HTTP/1.1\r\nHost: a\r\nnothing"),
    (400, b"HTTP/1.1\r\nHost: a\r\nHost: b"),
    (400, b"HTTP/1.1\r\nHost: a/../b"),
    (400, b"HTTP/1.1\r\nX: no host"),
    (400, b"HTTP/1.1 \r\nHost: a"),
    (400, b" HTTP/1.1\r\nHost: a"),
    (400, b"HTTP/1.1\r\r\nHost: a"),
    (400, b"HTTP/11\r\nHost: a"),
    (505, b"HTTP/2.0\r\nHost: a"),
    (505, b"HTTP/1.9\r\nHost: a"),
    (417, b"HTTP/1.1\r\nHost: a\r\nExpect: the-worst"),
    (431, b"HTTP/1.1\r\nHost: a" + b"\r\nX: y" * 101),
    (431, b"HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 33000),
]

CHUNKS = [b"\r\n", b"x\r\n", b"-1\r\n", b"5 \r\nhello\r\n", b" 5\r\nhello\r\n", b"5\nhello\r\n", b"5\r\nhelloo\r\n",
          b"5\r\nhello\n0\r\n\r\n", b"5;a\nb\r\nhello\r\n", b"5;" + b"a" * 300 + b"\r\n", b"0x5\r\nhello\r\n",
          b"0\r\nbad trailer\r\n\r\n", b"0\r\n folded\r\n\r\n", b"0\r\nA: b\nC: d\r\n\r\n"]

LINES = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0\0\0\0", b"GET\r\n\r\n", b"GET /\r\n\r\n", b" GET / HTTP/1.1\r\n\r\n",
         b"G\xc3\x84T / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
         b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", b"\n\nGET / HTTP/1.1\r\n\r\n"]

# Whole requests with bodies that are wrong: 400, and the connection goes on.
BODIES = [b"", b"{", b"[]", b"null", b'{"prompt":}', b'{"prompt":"\xff"}', b'{"prompt":"a","prompt":"b"}', b"[" * 10000,
          b'{"a":' * 5000, b'{"prompt":"a","max_tokens":-1}', b'{"prompt":"a","max_tokens":1e400}', b'{"prompt":{}}',
          b'{"prompt":[[[1]]]}', b'{"prompt":[4294967296]}', b'{"prompt":"a","n":1000000}', b'{"prompt":"a","stop":[[]]}',
          b'{"prompt":"a","logit_bias":{"-1":1}}', b'{"prompt":"a","tools":[1]}', b'{"prompt":"\\ud800"}',
          b'{"prompt":"a","temperature":NaN}', b'\xef\xbb\xbf{"prompt":"a"}']


def malformed():
    """An endless row of (status wanted, bytes, whether the connection must end)."""
    rng = random.Random(11)
    for i in itertools.count():
        kind = i % 4
        if kind == 0:
            status, head = rng.choice(HEADS)
            yield status, b"POST /v1/completions " + head + b"\r\n\r\n" + SMUGGLED, True
        elif kind == 1:
            yield 400, (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                        + rng.choice(CHUNKS) + SMUGGLED), True
        elif kind == 2:
            yield 400, rng.choice(LINES) + SMUGGLED, True
        else:
            body = rng.choice(BODIES)
            yield 400, (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)) + body, False


class Live:
    """The server under test, whoever started it."""

    def __init__(self):
        self.url = os.environ.get("FREEHOLD_URL")
        self.pid = int(os.environ.get("FREEHOLD_PID", "0"))
        self.server = None
        if not self.url:
            self.server = Server(shared("models", "stories260K-f32.gguf"))
            self.url, self.pid = self.server.url, self.server.pid
        host, port = re.match(r"http://([^:/]+):(\d+)", self.url).groups()
        self.address = (host, int(port))

    def close(self):
        if self.server:
            self.server.kill()

    def connect(self):
        return socket.create_connection(self.address, timeout=10)

    def health(self):
        with self.connect() as s:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            return s.makefile("rb").read()

    def nr_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            return int(re.search(r"^VmRSS:\s+(\d+)", f.read(), re.M).group(1))


def read_response(f):
    """(status, keep-alive) of one response, or (0, False) at the end."""
    line = f.readline()
    if not line:
        return 0, False
    status, length, close = int(line.split()[1]), 0, False
    while (line := f.readline().strip()):
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
        close |= name.lower() == b"connection" and value.strip() == b"close"
    f.read(length)
    return status, not close


class Malformed(unittest.TestCase):
    def setUp(self):
        self.live = Live()
        self.addCleanup(self.live.close)

    def shoot(self, cases):
        """Send each; after one that must end the connection, see that it ended."""
        sock = f = None
        for want, data, ends in cases:
            if sock is None:
                sock = self.live.connect()
                f = sock.makefile("rb")
            try:
                sock.sendall(data)
            except OSError:
                pass  # refused and closed before it had read all
            try:
                status, keep = read_response(f)
                self.assertEqual(status, want, data[:200])
                self.assertEqual(keep, not ends, data[:200])
                if ends:
                    sock.shutdown(socket.SHUT_WR)
                    self.assertEqual(f.read(), b"", data[:200])
            except ConnectionResetError:
                self.assertTrue(ends, data[:200])
            except TimeoutError:
                self.fail(f"no answer within 10 s: {data[:200]!r}")
            except OSError:
                self.assertTrue(ends, data[:200])
            if ends:
                f.close()
                sock.close()
                sock = None
        if sock:
            f.close()
            sock.close()

    def test_each_kind_alone(self):
        """Every line of the tables once, so that a failure names it."""
        cases = [(s, b"POST /v1/completions " + h + b"\r\n\r\n" + SMUGGLED, True) for s, h in HEADS]
        cases += [(400, b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + c + SMUGGLED, True)
                  for c in CHUNKS]
        cases += [(400, line + SMUGGLED, True) for line in LINES]
        cases += [(400, (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(b)) + b, False)
                  for b in BODIES]
        for case in cases:
            with self.subTest(case[1][:80]):
                self.shoot([case])

    def test_ten_thousand(self):
        self.shoot(itertools.islice(malformed(), 500))
        # Memory for keys and values is touched ahead, by a thread of the lowest priority.
        rss, before = self.live.rss_kib(), None
        for _ in range(20):
            if rss == before:
                break
            time.sleep(0.25)
            rss, before = self.live.rss_kib(), rss
        fds = self.live.nr_fds()
        self.shoot(itertools.islice(malformed(), NR))
        self.assertIn(b'{"status":"ok"}', self.live.health())
        self.assertLess(self.live.rss_kib() - rss, 4096, "memory grew")
        self.assertLessEqual(self.live.nr_fds() - fds, 2, "descriptors grew")

    def test_unfinished(self):
        """Requests that stop in the middle, hundreds at a time, cost a connection each and go with it."""
        whole = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
        self.live.health()
        fds = self.live.nr_fds()
        for _ in range(3):
            socks = []
            for i in range(200):
                s = self.live.connect()
                s.sendall(whole[:i % len(whole)])
                socks.append(s)
            self.assertIn(b'{"status":"ok"}', self.live.health())
            for s in socks:
                s.close()
        self.assertIn(b'{"status":"ok"}', self.live.health())
        self.assertLessEqual(self.live.nr_fds() - fds, 2)


if __name__ == "__main__":
    import run
    sys.argv[1:] = ["test_http_malformed"]
    sys.exit(run.main())
