# SPDX-License-Identifier: Apache-2.0
"""The daemon around the server: signals, the service manager's protocol, the
user that it becomes, its settings file, and what it says about itself."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from server import DEMO_MODEL, FREEHOLD, Server, shared

STORIES = "models/stories260K-f32.gguf"
LIMITED = ("--ctx", "512", "--max-seqs", "4")


def write(path, text):
    with open(path + ".new", "w", encoding="ascii") as f:
        f.write(text)
    os.chmod(path + ".new", 0o644)
    os.rename(path + ".new", path)


def stalled_stream(s):
    """A request that cannot end: its client never reads."""
    sock = s.raw()
    body = json.dumps({"model": s.model, "prompt": "Hello", "max_tokens": 30000, "ignore_eos": True, "stream": True}).encode()
    sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    deadline = time.monotonic() + 20
    while s.metric("num_requests_running") < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return sock


@unittest.skipIf(os.path.exists("/dev/freehold-ctl"), "the kernel module is loaded here")
class KernelModule(unittest.TestCase):
    """What is said where the module is not; with it, see tests/vm."""

    def test_auto_goes_on_without_it(self):
        with Server(DEMO_MODEL, *LIMITED, "--channel", "auto") as s:
            self.assertIn("kernel module: not used: there is no /dev/freehold-ctl", s.log_text())
            self.assertIn("modprobe freehold", s.log_text())
            self.assertRegex(s.log_text(), r"memory: weights: \d+ MiB.*; KV blocks: \d+ MiB")
            self.assertEqual(s.request("GET", "/v1/models")[0], 200)

    def test_dev_does_not_start(self):
        r = subprocess.run([FREEHOLD, "serve", "--http", "127.0.0.1:0", "--channel", "dev"], capture_output=True,
                           timeout=60, check=False)
        self.assertEqual(r.returncode, 1, r.stderr)
        self.assertIn(b"--channel dev: there is no /dev/freehold-ctl", r.stderr)


class Signals(unittest.TestCase):
    NULL = "null:" + DEMO_MODEL

    def test_sighup_reads_the_keys_again(self):
        with tempfile.TemporaryDirectory() as d:
            os.chmod(d, 0o755)
            keys = os.path.join(d, "keys")
            write(keys, "first\n")
            with Server(shared(STORIES), *LIMITED, "--api-key-file", keys) as s:
                def status(key):
                    return s.request("GET", "/v1/models", None, {"Authorization": "Bearer " + key})[0]

                self.assertEqual((status("first"), status("second")), (200, 401))
                write(keys, "second\n")
                s.proc.send_signal(signal.SIGHUP)
                deadline = time.monotonic() + 10
                while status("second") != 200 and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.assertEqual((status("first"), status("second")), (401, 200))
                os.unlink(keys)  # what cannot be read changes nothing
                s.proc.send_signal(signal.SIGHUP)
                time.sleep(0.3)
                self.assertEqual(status("second"), 200)
                self.assertIn("the old keys stay", s.log_text())

    def test_the_drain_is_bounded(self):
        with Server(self.NULL, "--drain", "1", "--ctx", "32768") as s:
            sock = stalled_stream(s)
            begin = time.monotonic()
            self.assertEqual(s.terminate(), 0)
            self.assertLess(time.monotonic() - begin, 10)
            sock.close()

    def test_a_second_signal_ends_at_once(self):
        with Server(self.NULL, "--drain", "600", "--ctx", "32768") as s:
            sock = stalled_stream(s)
            s.proc.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            self.assertIsNone(s.proc.poll(), "the first one drains")
            begin = time.monotonic()
            s.proc.send_signal(signal.SIGINT)
            self.assertEqual(s.proc.wait(10), 1)
            self.assertLess(time.monotonic() - begin, 5)
            sock.close()


class ServiceManager(unittest.TestCase):
    def test_it_is_told(self):
        with tempfile.TemporaryDirectory() as d, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            path = os.path.join(d, "notify")
            manager.bind(path)
            manager.settimeout(20)
            with Server(shared(STORIES), *LIMITED, env={"NOTIFY_SOCKET": path}) as s:
                self.assertTrue(manager.recv(4096).startswith(b"READY=1"))
                s.proc.send_signal(signal.SIGTERM)
                self.assertEqual(manager.recv(4096), b"STOPPING=1")
                self.assertEqual(s.proc.wait(20), 0)


class Rights(unittest.TestCase):
    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_root_becomes_the_user(self):
        with tempfile.TemporaryDirectory() as d:
            os.chmod(d, 0o755)
            model = os.path.join(d, "m.gguf")
            with open(shared(STORIES), "rb") as f, open(model, "wb") as g:
                g.write(f.read())
            with Server(model, *LIMITED, "--user", "nobody") as s:
                for text in s.task_status():
                    uids = re.search(r"^Uid:\s+(.*)", text, re.M).group(1).split()
                    self.assertNotIn("0", uids)
                self.assertTrue(s.complete("Once", 4)["choices"][0]["text"])

    def test_no_sandbox_says_so(self):
        with Server(shared(STORIES), *LIMITED, "--no-sandbox") as s:
            self.assertIn("keeps all its rights", s.log_text())
            with open(f"/proc/{s.pid}/status", encoding="ascii") as f:
                self.assertIn("Seccomp:\t0", f.read())


class Settings(unittest.TestCase):
    def test_a_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
            f.write("[model]\nmodel-name = from-file # a comment\n[engine]\nctx = 256\nmax-seqs = 2\n")
            f.flush()
            with Server(shared(STORIES), "--config", f.name, "--ctx", "128") as s:
                listed = s.json("GET", "/v1/models")["data"][0]
                self.assertEqual((listed["id"], listed["max_model_len"]), ("from-file", 128))

    def test_the_log_as_json(self):
        p = subprocess.Popen([FREEHOLD, "serve", "-m", shared(STORIES), *LIMITED, "--http", "127.0.0.1:0", "--log-json"],
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            for line in p.stderr:
                event = json.loads(line)
                self.assertEqual(event["Resource"], {"service.name": "freehold"})
                self.assertTrue(abs(event["Timestamp"] / 1e9 - time.time()) < 60, event)
                if event["Body"].startswith("ready on http://127.0.0.1:"):
                    self.assertEqual((event["SeverityText"], event["SeverityNumber"]), ("INFO", 9))
                    break
            p.terminate()
            self.assertTrue(all(json.loads(line)["SeverityText"] for line in p.stderr))
            self.assertEqual(p.wait(20), 0)
        finally:
            p.kill()
            p.stderr.close()
            p.wait()

    def test_a_wrong_line_is_named(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
            f.write("ctx = 256\nmax-seqs = many\n")
            f.flush()
            r = subprocess.run([FREEHOLD, "serve", "--config", f.name], capture_output=True, text=True, timeout=30, check=False)
            self.assertEqual(r.returncode, 2)
            self.assertIn(f.name + ":2: max-seqs = many", r.stderr)

    def test_several_listeners(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(shared(STORIES), *LIMITED, "--http", f"unix:{d}/s") as s:
                self.assertIn(f" and unix:{d}/s ", s.log_text())
                other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                other.connect(f"{d}/s")
                other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                self.assertTrue(other.recv(100).startswith(b"HTTP/1.1 200"))
                other.close()


class Terminal(unittest.TestCase):
    """`freehold run` without -p, on a terminal."""

    def setUp(self):
        pid, self.fd = pty.fork()
        if not pid:
            os.execv(FREEHOLD, [FREEHOLD, "run", "--seed", "1", "--ignore-eos"])
        self.pid = pid
        self.seen = b""

    def tearDown(self):
        os.close(self.fd)
        if self.pid:  # it did not end by itself
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def until(self, what, timeout=30):
        deadline = time.monotonic() + timeout
        while what not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            self.assertTrue(ready, f"no {what!r} in {self.seen!r}")
            try:
                data = os.read(self.fd, 4096)
            except OSError:
                data = b""
            self.assertTrue(data, f"it ended without {what!r}: {self.seen!r}")
            self.seen += data
        before, self.seen = self.seen.split(what, 1)
        return before

    def ended(self):
        for _ in range(200):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            ready, _, _ = select.select([self.fd], [], [], 0.05)
            try:
                if ready:
                    os.read(self.fd, 4096)
            except OSError:
                time.sleep(0.05)
        self.fail("it did not end")

    def test_a_conversation(self):
        self.until(b"> ")
        os.write(self.fd, b"Tell me of the sea.\n")
        self.assertGreater(len(self.until(b"\r\n> ")), 100)
        os.write(self.fd, b"\x04")
        self.assertEqual(self.ended(), 0)

    def test_ctrl_c_twice_ends(self):
        self.until(b"> ")
        os.write(self.fd, b"\x03")
        self.until(b"Ctrl-D, ends)\r\n> ")
        os.write(self.fd, b"\x03")
        self.assertEqual(self.ended(), 0)


if __name__ == "__main__":
    unittest.main()
