# SPDX-License-Identifier: Apache-2.0
"""What HTTPS sends, encrypted by the kernel (tls-offload). Where the kernel has no kTLS, what is said of that;
tests/vm/qemu.sh ktls runs this in a guest whose kernel has it."""

import json
import shutil
import signal
import socket
import ssl
import subprocess
import time
import unittest

from identity import NULL, freehold, until
from server import DEMO_MODEL, Server, together
from test_tls import TlsCase


def available():
    with open("/proc/sys/net/ipv4/tcp_available_ulp", encoding="ascii") as f:
        return "tls" in f.read().split()


def stat(name):
    with open("/proc/net/tls_stat", encoding="ascii") as f:
        return dict(line.split() for line in f)[name]


@unittest.skipIf(available(), "this kernel has kTLS")
class Without(TlsCase):
    def test_auto_goes_on_without_and_says_so(self):
        for args, why in (((), "modprobe tls"), (("--tls-offload", "auto"), "modprobe tls"), (("--tls-offload", "off"), "as configured")):
            with self.server(*args) as s:
                self.assertEqual(self.get(s, "/health")[0], 200)
                self.assertRegex(s.log_text(), rf"tls: what is sent is encrypted by OpenSSL \(.*{why}")
                self.assertNotRegex(s.log_text(), "(?i)warning: .*tls")
                self.assertEqual(s.metric("http_tls_offloaded_total"), 0)
                self.assertEqual(s.metric("http_tls_offload_failures_total"), 0)

    def test_on_does_not_start(self):
        r = freehold("serve", "-m", NULL, "--https", "127.0.0.1:0", "--tls-cert", self.cert, "--tls-key", self.key, "--tls-offload", "on")
        self.assertEqual(r.returncode, 1)
        self.assertIn("tls-offload = on", r.stderr)
        self.assertIn("modprobe tls", r.stderr)

    def test_doctor(self):
        r = freehold("doctor", "--json")
        ktls = next(f for f in json.loads(r.stdout)["findings"] if f["name"] == "ktls")
        self.assertEqual(ktls["level"], "warn")
        self.assertIn("modprobe tls", ktls["mend"])


@unittest.skipUnless(available(), "this kernel has no kTLS: tests/vm/qemu.sh ktls")
class Offloaded(TlsCase):
    def server(self, *args, model=NULL):
        return super().server("--tls-offload", "on", *args, model=model)

    def curl(self, s, suite, path, body=None):
        data = ("-d", json.dumps(body)) if body else ()
        r = subprocess.run(["curl", "-sS", "--cacert", self.ca.pem, "--tls13-ciphers", suite, *data, f"https://localhost:{s.tls}{path}"],
                           capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def wrap(self, s, rcvbuf=None):
        """A TLS connection whose end without close_notify is an error."""
        context = ssl.create_default_context(cafile=self.ca.pem)
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        sock = socket.socket()
        sock.settimeout(60)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.connect(("127.0.0.1", s.tls))
        return context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)

    def test_doctor(self):
        r = freehold("doctor", "--json")
        ktls = next(f for f in json.loads(r.stdout)["findings"] if f["name"] == "ktls")
        self.assertEqual(ktls["level"], "ok")

    @unittest.skipUnless(shutil.which("curl"), "no curl(1)")
    def test_every_suite_gives_the_tokens_of_a_plain_request(self):
        ask = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
        for backend in ((), ("--epoll",)):
            with self.server("--threads", "1", *backend, model=DEMO_MODEL) as s:
                self.assertIn("tls: what is sent is encrypted by the kernel", s.log_text())
                want = s.json("POST", "/v1/completions", ask)["choices"][0]["text"]
                for n, suite in enumerate(("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")):
                    before = int(stat("TlsTxSw"))
                    got = json.loads(self.curl(s, suite, "/v1/completions", ask))["choices"][0]["text"]
                    self.assertEqual(got, want, suite)
                    self.assertEqual(s.metric("http_tls_offloaded_total"), n + 1, suite)
                    self.assertEqual(int(stat("TlsTxSw")), before + 1, suite)
                self.assertEqual(s.metric("http_tls_offload_failures_total"), 0)
                until(lambda: int(stat("TlsCurrTxSw")), 0)

    def test_stream_and_keep_alive(self):
        ask = json.dumps({"prompt": "Hello there", "max_tokens": 300, "stream": True, "temperature": 0, "ignore_eos": True})
        with self.server() as s:
            plain = s.request("POST", "/v1/completions", ask)[2]
            c = self.connect(s)
            for _ in range(3):
                c.request("POST", "/v1/completions", ask)
                self.assertEqual(self.text(c.getresponse().read()), self.text(plain))
            self.assertEqual(s.metric("http_tls_offloaded_total"), 1, "one connection")
            together([lambda: self.assertEqual(self.get(s)[0], 200)] * 16)
            self.assertEqual(s.metric("http_tls_offloaded_total"), 17)

    def text(self, body):
        return "".join(json.loads(e[6:])["choices"][0]["text"] for e in body.decode().split("\n\n")[:-2])

    def test_the_kernel_forgets_no_record(self):
        """It reports a record as sent that TCP has no room for, and forgets it at a close: with last answers of every size,
        for a client that does not read at first, some end at such a record."""
        one = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: %s\r\n\r\n"

        def read(c, asked):
            c.sendall(asked)
            time.sleep(0.15)
            n = 0
            while part := c.recv(65536):  # close_notify: without it recv() raises
                n += len(part)
            return n

        for backend in ((), ("--epoll",)):
            with self.server(*backend) as s:
                # Two pages fill TCP's queue. What follows is handed over in one piece, some of which finds no room.
                for size in range(0, 120, 3):
                    asked = one % (b"/", b"keep-alive") * 2 + one % (b"/v1/models", b"keep-alive") * size + one % (b"/", b"close")
                    with s.raw() as c:
                        want = read(c, asked)
                    self.assertGreater(want, 100000)
                    with self.wrap(s, rcvbuf=4096) as c:
                        self.assertEqual(read(c, asked), want, size)
                until(lambda: s.metric("http_connections"), 1)
                self.assertEqual(s.metric("http_tls_offloaded_total"), 40)

    def test_a_slow_reader_of_a_large_answer(self):
        prompt = json.dumps({"prompt": "word " * 60000})
        with self.server() as s:
            want = s.request("POST", "/tokenize", prompt)[2]
            for pause, piece in ((0.005, 16384), (0.02, 30000)):
                with self.wrap(s, rcvbuf=4096) as c:
                    c.sendall(f"POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(prompt)}\r\n\r\n{prompt}"
                              .encode())
                    got = b""
                    while part := c.recv(piece):
                        got += part
                        time.sleep(pause)
                self.assertEqual(got.split(b"\r\n\r\n", 1)[1], want, pause)

    def test_idle_for_us_and_not_for_a_slow_reader(self):
        """A connection that is kept alive is idle once the kernel has its last answer, of which a record may wait for room."""
        one = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
        sizes = range(0, 120, 3)
        short = {}

        def read(c, size, pause):
            c.sendall(one % b"/" * 2 + one % b"/v1/models" * size + one % b"/")
            time.sleep(pause)
            n = 0
            try:
                while part := c.recv(65536):  # close_notify: without it recv() raises
                    n += len(part)
            except OSError as e:
                return n, str(e)
            return n

        def compare(s, size):
            with s.raw() as c:
                want = read(c, size, 0)
            with self.wrap(s, rcvbuf=4096) as c:
                got = read(c, size, 2.5)
            if got != want:
                short[size] = got, want

        for backend in ((), ("--epoll",)):
            with self.server("--idle-timeout", "1", *backend) as s:
                together([lambda size=size: compare(s, size) for size in sizes])
                self.assertEqual(short, {}, backend)
                self.assertEqual(s.metric("http_tls_offloaded_total"), len(sizes))
                self.assertGreaterEqual(s.metric("http_timeouts_total"), 2 * len(sizes))

    def test_clients_that_leave(self):
        ask = json.dumps({"prompt": "x", "max_tokens": 400, "stream": True, "ignore_eos": True}).encode()
        with self.server() as s:
            for how in ("rst", "fin", "silent"):
                c = self.wrap(s)
                c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(ask), ask))
                self.assertTrue(c.recv(100))
                if how == "rst":
                    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if how == "fin":
                    c.shutdown(socket.SHUT_WR)
                c.close()
            until(lambda: s.metric("http_connections"), 1, 10)
            until(lambda: int(stat("TlsCurrTxSw")), 0)
            self.assertEqual(self.get(s, "/health")[0], 200)

    def test_the_end_is_announced(self):
        with self.server("--drain", "5") as s:
            idle = self.wrap(s)
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertIn(b"200 OK", idle.recv(65536))
            s.proc.send_signal(signal.SIGTERM)
            self.assertEqual(idle.recv(65536), b"", "a close_notify, at the end of the server")
            self.assertEqual(s.proc.wait(20), 0)

    def test_copies_are_those_of_receiving(self):
        prompt = json.dumps({"prompt": "word " * 40000})

        def copied(s):
            before = s.metric("http_copied_payload_bytes_total")
            n = len(self.get(s, "/tokenize", method="POST", body=prompt)[1])
            return s.metric("http_copied_payload_bytes_total") - before, n

        with self.server() as s:
            kernel, answer = copied(s)
        with TlsCase.server(self, "--tls-offload", "off") as s:
            openssl, same = copied(s)
            self.assertEqual(s.metric("http_tls_offloaded_total"), 0)
        self.assertEqual(answer, same)
        self.assertGreater(openssl - kernel, answer)
        self.assertLess(kernel, 4 * len(prompt))


if __name__ == "__main__":
    unittest.main()
