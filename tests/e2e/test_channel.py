# SPDX-License-Identifier: Apache-2.0
"""A process that shares memory with the server, inside its sandbox: a channel
over the Unix socket, spoken from Python, gives the tokens that HTTP gives."""

import fcntl
import mmap
import os
import re
import socket
import struct
import tempfile
import time
import unittest

from server import DEMO_MODEL, Server

HELLO, WELCOME, ATTACH, OPEN, KICK, REFUSED = range(1, 7)
F_ADD_SEALS, F_SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x10  # SEAL SHRINK GROW FUTURE_WRITE
INFO, CLIENT, RUNTIME, SQ, CQ, ARENA = range(6)
STATE_OPEN, STATE_REVOKED = 2, 6
REVOKE_DRAIN = 3
NEED_WAKEUP = 1
SLOT_LAST, SLOT_NO_TOKEN = 1, 2
REQ_TEXT = 1


class Channel:
    """The handshake and both rings; sleeps in poll() on the socket."""

    def __init__(self, path, sq=8, cq=64, arena=1 << 16):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.sock.send(struct.pack("<IIIIIIQII", 40, HELLO, 1, 0, sq, cq, arena, 4096, 0))
        data, fds, _, _ = socket.recv_fds(self.sock, 256, 2)
        if struct.unpack_from("<I", data, 4)[0] != WELCOME:
            raise RuntimeError(f"refused: {data[16:].rstrip(bytes(1)).decode()}")
        head = os.pread(fds[0], 4096, 0)
        f = struct.unpack_from("<18IQQ", head)
        (self.sq_entries, self.cq_entries, self.sq_bytes, self.cq_bytes, sq_tail, cq_head, cflags, sq_head, cq_tail,
         rflags) = f[6:16]
        bytes_all = f[19]
        self.area = [struct.unpack_from("<QQII", head, 88 + 24 * i)[0] for i in range(6)]
        self.runtime = mmap.mmap(fds[0], bytes_all, mmap.MAP_SHARED, mmap.PROT_READ)
        with os.fdopen(fds[1], "rb") as f:
            vocab = f.read()
        _, nr, _, _, _, off, at, _ = struct.unpack_from("<IIQIIQQQ", vocab)
        offs = struct.unpack_from(f"<{nr + 1}I", vocab, off)
        self.pieces = [vocab[at + offs[i]:at + offs[i + 1]] for i in range(nr)]
        os.close(fds[0])

        own = os.memfd_create("client", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(own, bytes_all)
        self.own = mmap.mmap(own, bytes_all)
        fcntl.fcntl(own, F_ADD_SEALS, F_SEALS)
        socket.send_fds(self.sock, [struct.pack("<II", 8, ATTACH)], [own])
        os.close(own)
        data = self.sock.recv(256)
        if struct.unpack_from("<I", data, 4)[0] != OPEN:
            raise RuntimeError(f"refused: {data[16:].rstrip(bytes(1)).decode()}")
        self.words = {"sq_tail": (self.own, self.area[CLIENT] + sq_tail), "cq_head": (self.own, self.area[CLIENT] + cq_head),
                      "client_flags": (self.own, self.area[CLIENT] + cflags),
                      "sq_head": (self.runtime, self.area[RUNTIME] + sq_head),
                      "cq_tail": (self.runtime, self.area[RUNTIME] + cq_tail),
                      "runtime_flags": (self.runtime, self.area[RUNTIME] + rflags)}
        self.tail = self.head = 0

    def get(self, word):
        m, off = self.words[word]
        return struct.unpack_from("<I", m, off)[0]

    def put(self, word, value):
        m, off = self.words[word]
        # In one store: struct.pack_into() writes zeros first, which the other side would take for a tail that went backwards.
        memoryview(m).cast("I")[off // 4] = value & 0xffffffff

    def state(self):
        """(state, revoke_reason)"""
        return struct.unpack_from("<II", self.runtime, 16)

    def submit(self, prompt, max_tokens, user_data=1, run=bytes(16)):
        text = isinstance(prompt, str)
        data = prompt.encode() if text else struct.pack(f"<{len(prompt)}I", *prompt)
        self.own[self.area[ARENA]:self.area[ARENA] + len(data)] = data
        desc = struct.pack("<IIQQIIII16sQQI7fI3I", 120, REQ_TEXT if text else 0, user_data, 0, len(data), max_tokens, 0, 0,
                           run, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0)
        at = self.area[SQ] + (self.tail % self.sq_entries) * self.sq_bytes
        self.own[at:at + len(desc)] = desc
        self.tail += 1
        self.put("sq_tail", self.tail)
        # Python has no fence: kick whatever the flags say.
        self.sock.send(struct.pack("<II", 8, KICK))

    def next(self, timeout=20):
        """(token, flags, finish, user_data, error)"""
        end = time.monotonic() + timeout
        self.put("client_flags", NEED_WAKEUP)
        self.sock.settimeout(0.02)
        while self.get("cq_tail") == self.head & 0xffffffff:
            if time.monotonic() > end:
                raise AssertionError("no completion")
            try:
                self.sock.recv(256)
            except TimeoutError:
                pass
        self.put("client_flags", 0)
        at = self.area[CQ] + (self.head % self.cq_entries) * self.cq_bytes
        token, _, _, flags, finish, _, user_data, error, _ = struct.unpack_from("<IIIBBHQiI", self.runtime, at)
        self.head += 1
        self.put("cq_head", self.head)
        return token, flags, finish, user_data, error

    def complete(self, prompt, max_tokens):
        self.submit(prompt, max_tokens)
        out = b""
        while True:
            token, flags, _, _, error = self.next()
            if error:
                raise AssertionError(f"error {error}")
            if not flags & SLOT_NO_TOKEN:
                out += self.pieces[token]
            if flags & SLOT_LAST:
                return out.decode()

    def close(self):
        self.sock.close()


class Channels(unittest.TestCase):
    PROMPT = "Once upon a time"

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-chan-")
        os.chmod(self.dir.name, 0o755)
        self.path = os.path.join(self.dir.name, "sock")

    def tearDown(self):
        self.dir.cleanup()

    def server(self, *args):
        return Server(DEMO_MODEL, "--channel", "unix:" + self.path, "--ctx", "1024", *args)

    def test_the_same_tokens_as_over_http(self):
        with self.server() as s:
            want = s.complete(self.PROMPT, 24)["choices"][0]["text"]
            self.assertIn(f" with channels on unix:{self.path} (", s.log_text())
            c = Channel(self.path)
            self.assertEqual(c.state()[0], STATE_OPEN)
            self.assertEqual(c.complete(self.PROMPT, 24), want)
            ids = s.json("POST", "/tokenize", {"prompt": self.PROMPT})["tokens"]
            for _ in range(3):
                self.assertEqual(c.complete(ids, 24), want)
            m = s.metrics()
            self.assertEqual(m["freehold_channel_open"], 1)
            self.assertEqual(m["freehold_channel_requests_total"], 4)
            self.assertGreaterEqual(m["freehold_channel_copied_bytes_total"], 4 * 3 * len(ids))
            self.assertEqual(m["freehold_channel_violations_total"], 0)
            c.close()

    def test_the_log_names_the_client(self):
        with self.server() as s:
            c = Channel(self.path)
            found = re.search(r"unix channel (\d+) \(uid (\d+), pid (\d+), cgroup (\w+)\): open", s.log_text())
            self.assertIsNotNone(found, s.log_text())
            self.assertEqual((int(found[2]), int(found[3])), (os.geteuid(), os.getpid()))
            with open("/proc/self/cgroup", encoding="ascii") as f:
                own = re.search(r"^0::(/.*)$", f.read(), re.M)
            folder = "/sys/fs/cgroup" + own[1] if own else ""
            if os.path.isdir(folder):
                self.assertEqual(found[4], str(os.stat(folder).st_ino))
            c.close()

    def test_a_client_that_goes_leaves_nothing(self):
        with self.server() as s:
            for _ in range(5):
                c = Channel(self.path)
                c.submit([5, 6, 7], 1000)
                c.next()
                c.close()
                deadline = time.monotonic() + 5
                while s.metric("channel_open") and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.assertLess(s.wait_idle(), 5)
            self.assertEqual(s.metric("channel_open"), 0)

    def test_the_server_goes(self):
        s = self.server("--drain", "0")
        c = Channel(self.path)
        c.submit([5, 6, 7], 1000)
        c.next()
        begin = time.monotonic()
        self.assertEqual(s.terminate(), 0)
        self.assertEqual(c.state(), (STATE_REVOKED, REVOKE_DRAIN))
        self.assertLess(time.monotonic() - begin, 10)
        self.assertFalse(os.path.exists(self.path))
        c.close()
        s.kill()

    def test_a_liar_is_given_up(self):
        with self.server() as s:
            c, good = Channel(self.path), Channel(self.path)
            c.put("sq_tail", 1000)
            try:
                c.sock.send(struct.pack("<II", 8, KICK))
            except BrokenPipeError:
                pass  # the engine looked before it was asked to
            deadline = time.monotonic() + 5
            while c.state()[0] != STATE_REVOKED and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(c.state(), (STATE_REVOKED, 1))
            self.assertTrue(good.complete(self.PROMPT, 4))
            deadline = time.monotonic() + 5
            while "given up: its sq_tail" not in s.log_text() and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertRegex(s.log_text(), r"unix channel 1 \(uid \d+, pid \d+, cgroup \w+\): given up: its sq_tail")
            self.assertEqual(s.metric("channel_violations_total"), 1)
            c.close()
            good.close()

    def test_settings_that_are_refused(self):
        for bad in (["--channel", "/run/x"], ["--channel", "unix:"],
                    ["--channel", "unix:/tmp/a", "--channel", "unix:/tmp/b"]):
            with self.assertRaisesRegex(RuntimeError, "--channel"):
                Server(DEMO_MODEL, *bad).kill()

if __name__ == "__main__":
    unittest.main()
