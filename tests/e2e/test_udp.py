# SPDX-License-Identifier: Apache-2.0
"""Requests over UDP: the same tokens as over HTTP, whatever the network does,
and packets that nobody of ours sent change nothing but a counter."""

import base64
import errno
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from server import DEMO_MODEL, FREEHOLD, LONG, ROOT
from udp import LAST, NO_TOKEN, Client, Keys, Proxy, Refused, UdpServer, lossy, wait_for

try:
    import wire
except ImportError:
    wire = None

PROMPTS = ["Once upon a time", "The old King", "A cat and a dog", "In the garden there was"]


def raw(key):
    return base64.urlsafe_b64decode(key + "=")


def secret_in(path):
    with open(path, encoding="ascii") as f:
        return raw([line.strip() for line in f if not line.startswith("#")][0])


def over_http(s, prompt, n):
    r = s.complete(prompt, n, ignore_eos=True, return_token_ids=True)
    return r["choices"][0]["token_ids"]


class Base(unittest.TestCase):
    model = DEMO_MODEL
    args = ("--threads", "1")

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="freehold-udp-")
        cls.keys = Keys(cls.dir.name)
        cls.s = UdpServer(cls.model, cls.keys, *cls.args)

    @classmethod
    def tearDownClass(cls):
        cls.s.kill()
        cls.dir.cleanup()

    def client(self, port=None, **options):
        return Client(self.s.udp_url if port is None else f"udp://{self.keys.server_public}@127.0.0.1:{port}", self.keys.client,
                      **options)

    def settle(self):
        """All that was open at the server is over."""
        wait_for(lambda: self.s.metric("udp_requests") == 0, 20)
        self.s.wait_idle()


class Tokens(Base):
    def test_the_same_as_over_http(self):
        with self.client() as c:
            for prompt in PROMPTS:
                want = over_http(self.s, prompt, 24)
                self.assertEqual(c.tokens(prompt, 24), (want, (2, 0)))
                ids = self.s.json("POST", "/tokenize", {"model": self.s.model, "prompt": prompt})["tokens"]
                self.assertEqual(c.tokens(ids, 24)[0], want)

    def test_a_prompt_of_several_packets(self):
        ids = [1] + [403, 407, 261, 378] * 110
        with Proxy(self.s.udp_port) as p, self.client(p.port) as c:
            want = self.s.complete(ids, 8, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"]
            before = self.s.metric("udp_copied_bytes_total")
            self.assertEqual(c.tokens(ids, 8)[0], want)
            # One packet of a large link: the ids go from there into the sequence, and are copied that once.
            wait_for(lambda: self.s.metric("udp_copied_bytes_total") - before == 4 * len(ids))
        if wire:
            w = wire.WireClient(("127.0.0.1", self.s.udp_port), raw(self.keys.server_public), secret_in(self.keys.client))
            before = self.s.metric("udp_copied_bytes_total")
            self.assertEqual(w.generate(ids, 8)[0], want)
            wait_for(lambda: self.s.metric("udp_copied_bytes_total") - before == 4 * len(ids) + 128 + 4 * len(ids))
            w.close()

    def test_text_that_goes_to_the_helper(self):
        # More than 16 KiB, and more than the context: refused after it was tokenized.
        with self.client() as c:
            tokens, end = c.tokens("garden " * 9000, 8)
            self.assertEqual((tokens, end[0]), ([], 6))
            self.assertEqual(end[1], -errno.E2BIG)
            self.assertEqual(len(c.tokens(PROMPTS[0], 4)[0]), 4)

    def test_many_at_once_and_cancelled_ones(self):
        want = {p: over_http(self.s, p, 60) for p in PROMPTS}
        with self.client() as c:
            got, order = {}, {}
            for i in range(32):
                order[i] = PROMPTS[i % 4]
                rid = c.submit(order[i], 60, user=i)
                got[i] = []
                if i % 8 == 7:
                    c.cancel(rid)
            ended = 0
            while ended < 32:
                t = c.next()
                if not t.flags & NO_TOKEN:
                    self.assertEqual(t.index, len(got[t.user_data]))
                    got[t.user_data].append(t.token)
                if t.flags & LAST:
                    ended += 1
                    full = want[order[t.user_data]]
                    if t.user_data % 8 == 7:
                        self.assertIn(t.finish, (2, 3))
                        self.assertEqual(got[t.user_data], full[:len(got[t.user_data])])
                    else:
                        self.assertEqual((t.finish, t.error, got[t.user_data]), (2, 0, full))
        self.settle()

    def test_refusals_say_why(self):
        with self.client() as c:
            self.assertEqual(c.tokens([1, 2, 10 ** 6], 4), ([], (6, -errno.EINVAL)))
            self.assertEqual(c.tokens([1, 2, 3], 4, temperature=0.5, top_p=0.1)[1][1], 0)

    def test_the_descriptor_can_be_polled(self):
        with self.client() as c:
            import ctypes

            from udp import Token
            fd, t, got = c.lib.fh_fd(c.handle), Token(), []
            c.submit(PROMPTS[0], 12)
            until = time.monotonic() + 20
            while time.monotonic() < until:
                rc = c.lib.fh_try_next(c.handle, ctypes.byref(t))
                if rc == -errno.EAGAIN:
                    self.assertTrue(select.select([fd], [], [], 10)[0])
                    continue
                self.assertEqual(rc, 0)
                got.append(t.token)
                if t.flags & LAST:
                    break
            self.assertEqual(got, over_http(self.s, PROMPTS[0], 12))

    @unittest.skipUnless(wire, "the Python package cryptography is not installed")
    def test_another_implementation(self):
        want = over_http(self.s, PROMPTS[0], 40)
        for aes in (True, False):
            w = wire.WireClient(("127.0.0.1", self.s.udp_port), raw(self.keys.server_public), secret_in(self.keys.client), aes)
            self.assertEqual((w.model, w.retries), (self.s.model, 1))
            self.assertEqual(w.generate(PROMPTS[0].encode(), 40, text=True), (want, (2, 0)))
            w.close()


class Strangers(Base):
    def test_who_is_not_on_the_list(self):
        with self.assertRaises(Refused) as e:
            Client(self.s.udp_url, self.keys.stranger)
        self.assertEqual(e.exception.code, -errno.EACCES)
        self.assertIn("does not know this client's public key", str(e.exception))
        self.assertGreater(self.s.dropped()["unlisted"], 0)

    def test_a_server_that_has_another_key(self):
        url = f"udp://{self.keys.server_public[:-4]}AAAA@127.0.0.1:{self.s.udp_port}"
        begin = time.monotonic()
        with self.assertRaises(Refused) as e:
            Client(url, self.keys.client, open_us=500000)
        self.assertEqual(e.exception.code, -errno.ETIMEDOUT)
        self.assertLess(time.monotonic() - begin, 3)
        self.assertGreater(self.s.dropped()["bad_mac"], 0)

    def test_nobody_there(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            with self.assertRaises(Refused) as e:
                port = s.getsockname()[1]
                Client(f"udp://{self.keys.server_public}@127.0.0.1:{port}", self.keys.client, open_us=300000)
        self.assertEqual(e.exception.code, -errno.ETIMEDOUT)
        # The socket is closed now, and its host says so.
        begin = time.monotonic()
        with self.assertRaises(Refused) as e:
            Client(f"udp://{self.keys.server_public}@127.0.0.1:{port}", self.keys.client)
        self.assertEqual(e.exception.code, -errno.ECONNREFUSED)
        self.assertLess(time.monotonic() - begin, 3)

    def test_a_replayed_handshake_makes_no_session(self):
        with Proxy(self.s.udp_port) as p:
            with self.client(p.port) as c:
                c.tokens([1, 2, 3], 2)
            inits = [d for up, d in p.seen if up and d[0] == 1]
            self.assertEqual([len([d for up, d in p.seen if not up and d[0] == kind]) for kind in (2, 3)], [1, 1])
            before = self.s.metric("udp_sessions_total")
            for d in inits * 20:
                p.back.send(d)
            time.sleep(0.2)
        self.assertEqual(self.s.metric("udp_sessions_total"), before)
        # From another address the cookie is worth nothing.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.3)
            s.sendto(inits[-1], ("127.0.0.1", self.s.udp_port))
            answer = s.recv(65536)
            self.assertEqual((answer[0], len(answer)), (2, 38))


class Spoiled(Base):
    def test_a_network_that_loses_doubles_and_spoils(self):
        want = {p: over_http(self.s, p, 40) for p in PROMPTS}
        for share, nr in ((0.02, 12), (0.2, 8)):
            with Proxy(self.s.udp_port, lossy(7, share)) as p, self.client(p.port, open_us=20000000) as c:
                for i in range(40 * nr if LONG else nr):
                    self.assertEqual(c.tokens(PROMPTS[i % 4], 40), (want[PROMPTS[i % 4]], (2, 0)))
        d = self.s.dropped()
        self.assertGreater(d["forged"], 0)
        self.assertGreater(d["replayed"], 0)
        self.settle()

    def test_packets_that_nobody_of_ours_sent(self):
        rng = random.Random(5)
        mixed = []

        def hook(data, up):
            """Besides each genuine packet: it again, cut, lengthened, with a bit turned over, and noise."""
            if not up:
                return [data]
            bit = rng.randrange(8 * len(data))
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            mixed.extend([data, data[:rng.randrange(1, len(data))], data + rng.randbytes(1 + rng.randrange(2000)), bytes(flipped),
                          rng.randbytes(1 + rng.randrange(9000))])
            return [data] + mixed[-5:]

        want = over_http(self.s, PROMPTS[0], 30)
        with Proxy(self.s.udp_port, hook) as p, self.client(p.port) as c:
            self.assertEqual(c.tokens(PROMPTS[0], 30), (want, (2, 0)))
            self.settle()
            before = self.s.metrics()
            for _ in range(5):
                self.assertEqual(c.tokens(PROMPTS[0], 30), (want, (2, 0)))
            # And all of it once more, late.
            for d in mixed:
                p.back.send(d)
            self.assertEqual(c.tokens(PROMPTS[0], 30), (want, (2, 0)))
            self.settle()
            after = self.s.metrics()
        same = ("udp_requests_total", "udp_sessions_total", "udp_request_errors_total", "udp_sessions_lost_total")
        self.assertEqual([after["freehold_" + n] - before["freehold_" + n] for n in same], [6, 0, 0, 0])
        dropped = self.s.dropped()
        for reason in ("malformed", "replayed", "forged"):
            self.assertGreater(dropped[reason], 0, reason)
        self.assertEqual(dropped["against_rules"], 0)
        self.settle()

    def test_noise(self):
        """Random packets, most of them with a head that gets further than chance; a million in check-long."""
        nr, rng = 1000000 if LONG else 20000, random.Random(9)
        rss, lost = self.s.rss_kib(), self.s.metric("udp_sessions_lost_total")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, self.client() as c:
            s.connect(("127.0.0.1", self.s.udp_port))
            got = self.s.metric("udp_packets_received_total")
            for i in range(nr):
                n = rng.choice((0, 1, 13, 14, 45, 61, 62, 63, 78, 100, 1231, 1232, 1400))
                head = bytes([rng.randrange(8), rng.choice((0, 1, 1, 1, 7))])
                try:
                    s.send((head + rng.randbytes(n))[:n])
                except ConnectionRefusedError:
                    self.fail("the server is gone")
                if i % 5000 == 0:
                    self.assertEqual(len(c.tokens([1, 2, 3], 4)[0]), 4)
            wait_for(lambda: self.s.metric("udp_packets_received_total") - got > nr // 50)
            self.assertEqual(c.tokens(PROMPTS[0], 16), (over_http(self.s, PROMPTS[0], 16), (2, 0)))
        self.assertLess(self.s.rss_kib() - rss, 20000)
        self.assertEqual(self.s.metric("udp_sessions_lost_total"), lost)
        self.settle()


class Reload(unittest.TestCase):
    def test_who_may_come(self):
        with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
            keys = Keys(d)
            with open(keys.clients, encoding="ascii") as f:
                only_us = f.read()
            stranger = subprocess.run([FREEHOLD, "udp-key", "--public", keys.stranger], capture_output=True, text=True,
                                      check=True).stdout.strip()

            def reload(text, says):
                with open(keys.clients, "w", encoding="ascii") as f:
                    f.write(text)
                seen = s.log_text().count(says)
                s.proc.send_signal(signal.SIGHUP)
                wait_for(lambda: s.log_text().count(says) > seen)

            with UdpServer(DEMO_MODEL, keys, "--threads", "1") as s, Client(s.udp_url, keys.client) as c:
                want = c.tokens(PROMPTS[0], 8)[0]
                reload(f"other {stranger}\n{only_us}", "again: 2 clients")
                with Client(s.udp_url, keys.stranger) as other:
                    self.assertEqual(other.tokens(PROMPTS[0], 8)[0], want)
                    # Ours has another place in the list now, and its session goes on.
                    self.assertEqual(c.tokens(PROMPTS[0], 8)[0], want)
                    reload(only_us, "again: 1 clients")
                    with self.assertRaises(Refused) as e:
                        other.tokens(PROMPTS[0], 8)
                        other.tokens(PROMPTS[0], 8)
                    self.assertEqual(e.exception.code, -errno.EPIPE)
                self.assertEqual(c.tokens(PROMPTS[0], 8)[0], want)
                reload("nonsense\n", "the old clients stay")
                self.assertEqual(c.tokens(PROMPTS[0], 8)[0], want)


class Restart(unittest.TestCase):
    def test_in_mid_request(self):
        """An error soon, or the right tokens; never wrong ones."""
        with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
            keys = Keys(d)
            took = []
            for kill in (True, False, True):
                s = UdpServer(DEMO_MODEL, keys, "--threads", "1", "--drain", "0")
                want = over_http(s, PROMPTS[0], 400)
                with Client(s.udp_url, keys.client) as c:
                    c.submit(PROMPTS[0], 400)
                    got = [c.next().token for _ in range(8)]
                    if kill:
                        s.proc.kill()
                    else:
                        s.proc.terminate()
                    begin = time.monotonic()
                    s.proc.wait()
                    # Another one takes the port.
                    with UdpServer(DEMO_MODEL, keys, "--threads", "1", listen=f"127.0.0.1:{s.udp_port}") as again:
                        while True:
                            try:
                                t = c.next()
                            except Refused as e:
                                self.assertEqual(e.code, -errno.EPIPE)
                                break
                            if not t.flags & NO_TOKEN:
                                got.append(t.token)
                            if t.flags & LAST:
                                self.assertIn((t.finish, t.error), ((2, 0), (3, 0), (6, -errno.EPIPE), (6, -errno.ESHUTDOWN)))
                                break
                        took.append(time.monotonic() - begin)
                        self.assertEqual(got, want[:len(got)])
                        with self.assertRaises(Refused):
                            c.tokens(PROMPTS[0], 4)
                        with Client(again.udp_url, keys.client) as fresh:
                            self.assertEqual(fresh.tokens(PROMPTS[0], 400)[0], want)
                s.kill()
            self.assertLess(min(took), 5, took)

    def test_nobody_takes_its_place(self):
        with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
            keys = Keys(d)
            took = []
            # Another process may have the core just then: the best of three counts.
            for _ in range(3):
                s = UdpServer(DEMO_MODEL, keys, "--threads", "1")
                with Client(s.udp_url, keys.client) as c:
                    c.submit(PROMPTS[0], 400)
                    c.next()
                    s.proc.kill()
                    s.proc.wait()  # a process that is killed has its memory to give back first
                    begin = time.monotonic()
                    with self.assertRaises(Refused) as e:
                        while not c.next().error:
                            pass
                        c.next()
                    took.append(time.monotonic() - begin)
                    self.assertEqual(e.exception.code, -errno.EPIPE)
                s.kill()
            self.assertLess(min(took), 0.1, took)


class Plain(Base):
    """Where io_uring is refused."""

    args = ("--threads", "1", "--epoll")

    def test_the_same(self):
        self.assertIn(" on socket,", self.s.log_text())
        with Proxy(self.s.udp_port, lossy(3, 0.05)) as p, self.client(p.port, open_us=20000000) as c:
            for prompt in PROMPTS[:2]:
                self.assertEqual(c.tokens(prompt, 24), (over_http(self.s, prompt, 24), (2, 0)))


class OnEngine(Tokens):
    """No thread for UDP: the engine's carries it, beside HTTP and channels."""

    args = ("--threads", "1", "--udp-on-engine", "--channel", f"unix:/tmp/fh-udp-on-engine-{os.getpid()}")

    def test_whose_thread(self):
        names = set()
        for t in os.listdir(f"/proc/{self.s.pid}/task"):
            with open(f"/proc/{self.s.pid}/task/{t}/comm", encoding="ascii") as f:
                names.add(f.read().strip())
        self.assertIn("fh-engine", names)
        self.assertNotIn("fh-udp", names)

    def test_losses(self):
        with Proxy(self.s.udp_port, lossy(3, 0.05)) as p, self.client(p.port, open_us=20000000) as c:
            for prompt in PROMPTS[:2]:
                self.assertEqual(c.tokens(prompt, 24), (over_http(self.s, prompt, 24), (2, 0)))

    def test_channels_beside(self):
        """Its clients wake an engine that sleeps in the port: one in turn with the other, each after it has gone to sleep."""
        with Client(self.args[-1], self.keys.client) as beside, self.client() as c:
            want, took = over_http(self.s, PROMPTS[1], 8), []
            for _ in range(5):
                for each in (beside, c):
                    time.sleep(0.05)
                    begin = time.monotonic()
                    self.assertEqual(each.tokens(PROMPTS[1], 8)[0], want)
                    took.append(time.monotonic() - begin)
        # The engine's own heartbeat, without anybody's word, comes each second.
        self.assertLess(sorted(took)[5], 0.3, took)

    def test_an_engine_that_never_sleeps(self):
        """While others keep it busy it looks for datagrams before each step, and says what it counts."""
        stop, nr = threading.Event(), []

        def keep_busy():
            while not stop.is_set():
                over_http(self.s, PROMPTS[0], 400)
                nr.append(1)

        busy = [threading.Thread(target=keep_busy) for _ in range(3)]
        want = over_http(self.s, PROMPTS[1], 8)
        for t in busy:
            t.start()
        try:
            wait_for(lambda: len(nr) > 2, 20)
            before = self.s.metric("udp_requests_total")
            for i in range(3):
                begin = time.monotonic()
                with self.client() as c:
                    self.assertEqual(c.tokens(PROMPTS[1], 8)[0], want)
                # A client says hello again after a quarter of a second or more.
                self.assertLess(time.monotonic() - begin, 2)
                wait_for(lambda i=i: self.s.metric("udp_requests_total") == before + i + 1, 2)
        finally:
            stop.set()
            for t in busy:
                t.join()

    def test_it_ends(self):
        with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
            keys = Keys(d)
            with UdpServer(self.model, keys, "--threads", "1", "--udp-on-engine", "--drain", "20") as s, \
                    Client(s.udp_url, keys.client) as c:
                c.submit(PROMPTS[0], 200)
                c.next()
                begin = time.monotonic()
                s.terminate()
                self.assertLess(time.monotonic() - begin, 10)
                n = 1
                while not c.next().flags & LAST:
                    n += 1
                self.assertEqual(n, 199)


class Load(Base):
    model = "null:" + DEMO_MODEL

    def test_bench_serve(self):
        with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
            out = os.path.join(d, "r.json")
            r = subprocess.run([FREEHOLD, "bench", "serve", "--url", self.s.udp_url, "--max-concurrency", "8", "--num-prompts", "400",
                                "--input-len", "24", "--output-len", "16", "--num-warmups", "0", "--channels", "2", "--json", out],
                               capture_output=True, text=True, timeout=60, check=False,
                               env={**os.environ, "FREEHOLD_UDP_KEY": self.keys.client})
            self.assertEqual(r.returncode, 0, r.stderr)
            with open(out, encoding="utf-8") as f:
                j = json.load(f)
        self.assertEqual((j["completed"], j["failed"], j["total_output_tokens"], j["backend"]), (400, 0, 6400, "freehold-udp"))
        self.assertEqual(self.s.metric("udp_tokens_total"), 6400)
        self.assertEqual(self.s.metric("udp_requests_total"), 400)
        wait_for(lambda: self.s.metric("udp_copied_bytes_total") == 400 * 24 * 4)
        # A token is sealed where the engine wrote it: nothing of it is copied by carrier or protocol.
        self.assertEqual(self.s.metric("udp_carrier_copied_bytes_total"), 0)


class Cost(unittest.TestCase):
    """Instructions of the protocol's server end, which no clock and no neighbour changes."""

    # Half as much again as they are (performance.md); more than half of it is libsodium's.
    BOUNDS = {"a request of a token": 8900, "a token alone": 3150, "a token of fifty in a packet": 170, "a prompt byte": 8.6}

    def count(self, *args):
        done = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no",
                               "--toggle-collect=server_side", os.path.join(ROOT, "build", "tests", "perf", "count_wire"),
                               *map(str, args)], capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return int(re.search(r"Collected : (\d+)", done.stderr).group(1))

    @unittest.skipUnless(shutil.which("valgrind"), "valgrind is not installed")
    def test_instructions(self):
        subprocess.run(["make", "-s", "build/tests/perf/count_wire"], cwd=ROOT, check=True)
        one, many = self.count(1, 16, 1, 1), self.count(31, 16, 1, 1)
        got = {"a request of a token": (many - one) / 30,
               "a token alone": (self.count(1, 16, 101, 1) - one) / 100,
               "a token of fifty in a packet": (self.count(1, 16, 1001, 50) - one) / 1000,
               "a prompt byte": (self.count(31, 316, 1, 1) - many) / (31 * 300 * 4)}
        print(", ".join(f"{what}: {n:.1f}" for what, n in got.items()))
        for what, n in got.items():
            self.assertTrue(0 < n < self.BOUNDS[what], (what, n))


class Tool(unittest.TestCase):
    def test_keys(self):
        with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
            path = os.path.join(d, "k")
            made = subprocess.run([FREEHOLD, "udp-key", path], capture_output=True, text=True, check=True).stdout
            self.assertRegex(made, r"^[\w-]{43}\n$")
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            shown = subprocess.run([FREEHOLD, "udp-key", "--public", path], capture_output=True, text=True, check=True).stdout
            self.assertEqual(shown, made)
            again = subprocess.run([FREEHOLD, "udp-key", path], capture_output=True, text=True, check=False)
            self.assertEqual((again.returncode, again.stdout), (1, ""))
            self.assertIn("File exists", again.stderr)
            if wire:
                self.assertEqual(wire.public_of(secret_in(path)), raw(made.strip()))

    def test_settings_that_cannot_be(self):
        with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
            keys = Keys(d)
            for args, status, says in (
                    (["--udp", "127.0.0.1:0"], 2, "--udp-key and --udp-clients"),
                    (["--udp", "nowhere", "--udp-key", keys.server, "--udp-clients", keys.clients], 1, "ADDR:PORT"),
                    (["--udp", "127.0.0.1:0", "--udp-key", keys.clients, "--udp-clients", keys.clients], 1, "no secret key"),
                    (["--udp", "127.0.0.1:0", "--udp-key", keys.server, "--udp-clients", keys.server], 1, "NAME PUBLIC-KEY"),
                    (["--udp-on-engine"], 2, "--udp ADDR:PORT is wanted"),
                    (["--udp", "127.0.0.1:0", "--udp-key", d + "/none", "--udp-clients", keys.server], 1, "udp-key")):
                r = subprocess.run([FREEHOLD, "serve", "--http", "127.0.0.1:0", *args], capture_output=True, text=True, check=False,
                                   timeout=60)
                self.assertEqual(r.returncode, status, r.stderr)
                self.assertIn(says, r.stderr)


if __name__ == "__main__":
    unittest.main()
