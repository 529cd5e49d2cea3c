# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3, by tools that are not ours, and certificates of clients."""

import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from identity import LIMITED, NULL, Database, bearer, freehold, until
from server import Server, together


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


class Authority:
    """A CA and what it has certified, in a folder."""

    def __init__(self, folder, name):
        self.base = os.path.join(folder, name)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.base + ".key",
                "-out", self.base + ".pem", "-subj", f"/O=Test/CN={name}", "-days", "2")
        self.pem = self.base + ".pem"

    def issue(self, name, subject, days="2", san=None):
        """Paths of (certificate, key)."""
        base = self.base + "-" + name
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", base + ".key", "-out",
                base + ".csr", "-subj", subject, *(["-addext", "subjectAltName=" + san] if san else []))
        openssl("x509", "-req", "-in", base + ".csr", "-CA", self.pem, "-CAkey", self.base + ".key", "-days", days, "-out",
                base + ".pem", "-copy_extensions", "copy")
        os.chmod(base + ".key", 0o644)
        return base + ".pem", base + ".key"


@unittest.skipUnless(shutil.which("openssl"), "no openssl(1)")
class TlsCase(unittest.TestCase):
    """A server with a certificate, and clients that trust it."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="freehold-tls-")
        os.chmod(cls.dir.name, 0o755)
        cls.ca = Authority(cls.dir.name, "ca")
        cls.stranger = Authority(cls.dir.name, "stranger")
        cls.cert, cls.key = cls.ca.issue("server", "/CN=localhost", san="DNS:localhost,IP:127.0.0.1")

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    def server(self, *args, model=NULL):
        s = Server(model, *LIMITED, "--https", "127.0.0.1:0", "--tls-cert", self.cert, "--tls-key", self.key, *args)
        s.tls = int(re.search(r"https://127\.0\.0\.1:(\d+)", s.log_text()).group(1))
        return s

    def connect(self, s, client=None, ca=None, **limits):
        context = ssl.create_default_context(cafile=ca or self.ca.pem)
        for name, value in limits.items():
            setattr(context, name, value)
        if client:
            context.load_cert_chain(*client)
        return http.client.HTTPSConnection("localhost", s.tls, timeout=30, context=context)

    def get(self, s, path="/v1/models", key=None, method="GET", body=None, **how):
        c = self.connect(s, **how)
        try:
            c.request(method, path, body, bearer(key) if key else {})
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()


class Tls(TlsCase):
    def test_requests_streams_and_large_bodies(self):
        with self.server() as s:
            c = self.connect(s)
            for _ in range(3):
                c.request("GET", "/v1/models")
                r = c.getresponse()
                self.assertEqual((r.status, len(json.loads(r.read())["data"])), (200, 1))
            self.assertEqual((c.sock.version(), c.sock.session_reused), ("TLSv1.3", False))
            # Larger than a record both ways, sent with the handshake's last flight on a fresh connection.
            text = "word " * 60000
            code, body = self.get(s, "/tokenize", method="POST", body=json.dumps({"prompt": text}))
            plain = s.request("POST", "/tokenize", json.dumps({"prompt": text}))
            self.assertEqual((code, json.loads(body)), (200, json.loads(plain[2])))
            self.assertGreater(len(body), 100000)
            ask = json.dumps({"prompt": "Hello there", "max_tokens": 200, "stream": True, "temperature": 0, "ignore_eos": True})
            code, body = self.get(s, "/v1/completions", method="POST", body=ask)
            self.assertEqual(code, 200)
            self.assertTrue(body.endswith(b"data: [DONE]\n\n"))
            text = "".join(json.loads(e[6:])["choices"][0]["text"] for e in body.decode().split("\n\n")[:-2])
            want = s.json("POST", "/v1/completions", {**json.loads(ask), "stream": False})["choices"][0]["text"]
            self.assertEqual(text, want)
            together([lambda: self.assertEqual(self.get(s)[0], 200)] * 16)
            self.assertEqual(s.metric("http_tls_failures_total"), 0)

    def test_what_is_spoken(self):
        """By openssl s_client: each protocol and cipher suite, taken or not."""
        with self.server() as s:
            def handshake(*args):
                r = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{s.tls}", "-CAfile", self.ca.pem,
                                    "-verify_return_error", "-brief", *args], input=b"", capture_output=True, timeout=30, check=False)
                m = re.search(rb"Protocol version: (\S+)\s+Ciphersuite: (\S+)", r.stderr)
                return tuple(x.decode() for x in m.groups()) if m and not r.returncode else None

            for suite in ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"):
                self.assertEqual(handshake("-ciphersuites", suite), ("TLSv1.3", suite))
            for suite in ("TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"):
                self.assertIsNone(handshake("-ciphersuites", suite), suite)
            for old in ("-tls1_2", "-tls1_1", "-tls1"):
                self.assertIsNone(handshake(old, "-cipher", "ALL:@SECLEVEL=0"), old)
            for group in ("X25519", "P-256", "X448", "P-384", "P-521"):
                self.assertIsNotNone(handshake("-groups", group), group)
            for group in ("ffdhe2048", "ffdhe3072", "ffdhe8192"):
                self.assertIsNone(handshake("-groups", group), group)
            # One certificate for all, whomever they look for; early data have no session to go with.
            self.assertIsNotNone(handshake("-servername", "elsewhere.example"))
            self.assertIsNotNone(handshake("-noservername"))
            self.assertEqual(handshake("-alpn", "h2,http/1.1")[0], "TLSv1.3")
            self.assertIsNone(handshake("-alpn", "h2"), "no protocol in common")
            session = os.path.join(self.dir.name, "session")
            self.assertIsNotNone(handshake("-sess_out", session))
            self.assertFalse(os.path.exists(session) and os.path.getsize(session), "no tickets are given")

    @unittest.skipUnless(shutil.which("curl"), "no curl(1)")
    def test_curl(self):
        with self.server() as s:
            r = subprocess.run(["curl", "-sS", "--cacert", self.ca.pem, "-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}",
                                f"https://localhost:{s.tls}/health"], capture_output=True, text=True, timeout=30, check=False)
            self.assertEqual((r.returncode, r.stdout), (0, "200 0"), r.stderr)

    def s_client(self, s):
        return subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{s.tls}", "-CAfile", self.ca.pem, "-crlf"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def said(self, p, what, seconds=20):
        """What @p prints until @what is in it, or its end."""
        text, fd = b"", p.stdout.fileno()
        while what not in text and select.select([fd], [], [], seconds)[0]:
            more = os.read(fd, 65536)
            if not more:
                break
            text += more
        return text

    def test_key_updates(self):
        """By openssl s_client: 'k' changes its own keys, 'K' wants new ones of ours, too."""
        with self.server() as s:
            offloaded = "by the kernel" in s.log_text()
            ask = b"GET /health HTTP/1.1\nHost: x\n\n"
            with self.s_client(s) as p:
                self.assertIn(b"Verify return code: 0", self.said(p, b"Verify return code: 0"))
                for line in (ask, b"k\n", ask):
                    p.stdin.write(line)
                    p.stdin.flush()
                    want = b"KEYUPDATE" if line == b"k\n" else b'{"status":"ok"}'
                    self.assertIn(want, self.said(p, want))
                p.stdin.write(b"K\n")
                p.stdin.flush()
                self.assertIn(b"KEYUPDATE", self.said(p, b"KEYUPDATE"))
                # It leaves with what is said next.
                p.stdin.write(ask)
                p.stdin.flush()
                want = b"alert internal error" if offloaded else b'{"status":"ok"}'
                self.assertIn(want, self.said(p, want))
                if offloaded:
                    p.wait(20)
                    self.assertEqual(s.metric("http_tls_rekeys_refused_total"), 1)
                else:
                    self.assertEqual(s.metric("http_tls_rekeys_refused_total"), 0)
                p.kill()
            until(lambda: s.metric("http_connections"), 1)

    def test_a_record_that_is_forged_is_answered_with_an_alert(self):
        with self.server() as s:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = ssl.create_default_context(cafile=self.ca.pem).wrap_bio(incoming, outgoing, server_hostname="localhost")
            with socket.create_connection(("127.0.0.1", s.tls), 30) as c:
                while True:
                    try:
                        session.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        c.sendall(outgoing.read())
                        incoming.write(c.recv(65536))
                session.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                c.sendall(outgoing.read())
                got = b""
                while not got.endswith(b'{"status":"ok"}'):
                    try:
                        got += session.read(65536)
                    except ssl.SSLWantReadError:
                        incoming.write(c.recv(65536))
                c.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
                with self.assertRaisesRegex(ssl.SSLError, "(?i)bad record mac"):
                    while True:
                        try:
                            session.read(1)
                        except ssl.SSLWantReadError:
                            more = c.recv(65536)
                            self.assertTrue(more, "the end, and no alert")
                            incoming.write(more)
            until(lambda: s.metric("http_connections"), 1)

    def test_certificates_of_clients(self):
        alice = self.ca.issue("alice", "/O=acme/CN=alice")
        nobody = self.ca.issue("nobody", "/O=unknown/CN=x")
        gateway = self.ca.issue("gateway", "/CN=gateway.example")
        expired = self.ca.issue("expired", "/O=acme/CN=late", days="-1")
        forged = self.stranger.issue("forged", "/O=acme/CN=alice")
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            args = ("--keys", db.path, "--tls-client-ca", self.ca.pem, "--rule", "cert:gateway.example edge/gw")
            with self.server(*args) as s:
                self.assertEqual(self.get(s)[0], 401)
                self.assertEqual(self.get(s, key=key)[0], 200, "a key will do")
                self.assertEqual(self.get(s, client=alice)[0], 200)
                self.assertEqual(self.get(s, client=gateway)[0], 200)
                self.assertEqual(self.get(s, client=nobody)[0], 401, "the tenant is not there")
                self.assertEqual(self.get(s, client=alice, key="wrong")[0], 401, "who shows a key is its bearer")
                self.assertEqual(s.request("GET", "/v1/models")[0], 401, "no certificate without TLS")
                for bad in (expired, forged):
                    with self.assertRaises((ssl.SSLError, ConnectionError), msg=bad[0]):
                        self.get(s, client=bad)
                # Who has no key, but a budget.
                def complete():
                    return self.get(s, "/v1/completions", client=alice, method="POST", body='{"prompt":"x","max_tokens":1}')[0]

                self.assertEqual(complete(), 200)
                r = freehold("budget", "set", "user:acme/alice", "requests=1", "--keys", db.path)
                self.assertEqual(r.returncode, 0, r.stderr)
                until(complete, 429)
                db.key("lock", "acme")
                until(lambda: self.get(s, client=alice)[0], 403)
            db.key("unlock", "acme")
            with self.server(*args, "--tls-client-cert", "required") as s:
                self.assertEqual(self.get(s, client=gateway)[0], 200)
                with self.assertRaises((ssl.SSLError, ConnectionError)):
                    self.get(s, key=key)
                self.assertEqual(s.request("GET", "/metrics", None, bearer(key))[0], 200, "the plain listener asks for none")

    def test_freehold_top(self):
        alice = self.ca.issue("watcher", "/O=acme/CN=watcher")
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            path = os.path.join(self.dir.name, "top.key")
            with open(path, "w", encoding="ascii") as f:
                f.write(key + "\n")

            def top(port, *args, host="localhost"):
                return freehold("top", "--once", "--json", "--interval", "0.2", "--url", f"https://{host}:{port}", *args)

            trust = ("--ca-file", self.ca.pem)
            with self.server("--keys", db.path, "--tls-client-ca", self.ca.pem) as s:
                for args, host in ((("--key-file", path), "localhost"), (("--key-file", path), "127.0.0.1"),
                                   (("--cert", alice[0], "--cert-key", alice[1]), "localhost")):
                    r = top(s.tls, *trust, *args, host=host)
                    self.assertEqual((r.returncode, r.stderr), (0, ""), args)
                    self.assertEqual(json.loads(r.stdout)["you"]["tenant"], "acme")
                for args, why in ((trust, "status 401"), (("--key-file", path), "certificate is not trusted"),
                                  (("--ca-file", self.stranger.pem, "--key-file", path), "certificate is not trusted"),
                                  (("--ca-file", "/nonexistent"), "/nonexistent"), ((*trust, "--cert", alice[0]), "go together"),
                                  ((*trust, "--cert", alice[0], "--cert-key", self.key), "no private key that fits")):
                    r = top(s.tls, *args)
                    self.assertEqual(r.returncode, 1, args)
                    self.assertIn(why, r.stderr, args)
                # No TLS at all at the other end.
                r = top(s.url.rsplit(":", 1)[1], *trust, "--key-file", path)
                self.assertEqual(r.returncode, 1)
                self.assertIn("no TLS with it", r.stderr)
                r = freehold("top", "--once", "--url", s.url, *trust)
                self.assertEqual(r.returncode, 1)
                self.assertIn("--ca-file", r.stderr)
            cert, cert_key = self.ca.issue("elsewhere", "/CN=localhost", san="DNS:elsewhere.example,IP:192.0.2.1")
            with self.server("--keys", db.path, "--tls-cert", cert, "--tls-key", cert_key) as s:
                for host, why in (("localhost", "hostname mismatch"), ("127.0.0.1", "IP address mismatch")):
                    r = top(s.tls, *trust, "--key-file", path, host=host)
                    self.assertEqual(r.returncode, 1)
                    self.assertIn(why, r.stderr)
            with self.server("--keys", db.path, "--tls-client-ca", self.ca.pem, "--tls-client-cert", "required") as s:
                r = top(s.tls, *trust, "--key-file", path)
                self.assertEqual(r.returncode, 1)
                r = top(s.tls, *trust, "--cert", alice[0], "--cert-key", alice[1])
                self.assertEqual(r.returncode, 0, r.stderr)

    def test_sighup_reads_certificates_again(self):
        cert, key = (os.path.join(self.dir.name, n) for n in ("live.pem", "live.key"))

        def put(pair):
            for to, path in zip((cert, key), pair):
                shutil.copy(path, to + ".new")
                os.rename(to + ".new", to)

        put((self.cert, self.key))
        with Server(NULL, *LIMITED, "--https", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key) as s:
            s.tls = int(re.search(r"https://127\.0\.0\.1:(\d+)", s.log_text()).group(1))
            old = self.connect(s)
            old.request("GET", "/health")
            self.assertEqual(old.getresponse().read(), b'{"status":"ok"}')
            other = self.stranger.issue("next", "/CN=localhost", san="DNS:localhost")
            # An answer that runs meanwhile.
            stream = self.connect(s)
            stream.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 400, "stream": True, "ignore_eos": True}))
            running = stream.getresponse()
            self.assertTrue(running.readline().startswith(b"data: "))
            put(other)
            s.proc.send_signal(signal.SIGHUP)

            def trusted(ca):
                try:
                    return self.get(s, "/health", ca=ca)[0]
                except ssl.SSLError:
                    return None

            until(lambda: trusted(self.stranger.pem), 200)
            self.assertIsNone(trusted(self.ca.pem))
            self.assertTrue(running.read().endswith(b"data: [DONE]\n\n"))
            old.request("GET", "/health")
            self.assertEqual(old.getresponse().status, 200, "connections that stand go on")
            # What cannot be used changes nothing: the key of another certificate.
            shutil.copy(self.key, key)
            s.proc.send_signal(signal.SIGHUP)
            until(lambda: "the old certificate stays" in s.log_text(), True)
            self.assertEqual(trusted(self.stranger.pem), 200)

    def test_slow_and_broken_handshakes(self):
        with self.server("--tls-timeout", "1") as s:
            hello = self.client_hello()
            slow = []
            for n in (0, 1, len(hello) // 2, len(hello)):
                c = socket.create_connection(("127.0.0.1", s.tls), 10)
                c.sendall(hello[:n])
                slow.append(c)
            dripping = socket.create_connection(("127.0.0.1", s.tls), 10)
            begin = time.monotonic()
            ended = None
            for byte in hello:
                try:
                    dripping.sendall(bytes([byte]))
                except OSError:
                    ended = time.monotonic() - begin
                    break
                time.sleep(0.05)
            self.assertIsNotNone(ended, "bytes that drip bought time")
            self.assertLess(ended, 4)
            for c in slow:
                self.assertTrue(self.ends(c))
            # What is no TLS at all, or too much of it.
            for bad in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"A" * 70000, b"\x00" * 5, b"\x80" * 200,
                        hello[:-1] + b"\xff" + hello, b"\x17\x03\x03\x00\x05hello"):
                c = socket.create_connection(("127.0.0.1", s.tls), 10)
                try:
                    c.sendall(bad)
                except OSError:
                    pass
                self.assertTrue(self.ends(c), bad[:20])
            self.assertEqual(self.get(s, "/health")[0], 200)
            until(lambda: s.metric("http_connections"), 1)
            # Plain HTTP is what it was.
            self.assertEqual(s.request("GET", "/health")[0], 200)

    def test_a_handshake_that_is_dropped_at_any_byte(self):
        with self.server() as s:
            hello = self.client_hello()
            for n in range(0, len(hello), 7):
                c = socket.create_connection(("127.0.0.1", s.tls), 10)
                c.sendall(hello[:n] if n % 2 else hello)
                c.close()
            until(lambda: s.metric("http_connections"), 1)
            self.assertEqual(self.get(s, "/health")[0], 200)

    def client_hello(self):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = ssl.create_default_context(cafile=self.ca.pem).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with self.assertRaises(ssl.SSLWantReadError):
            session.do_handshake()
        return outgoing.read()

    def ends(self, c):
        """The server closes, whatever it says before."""
        c.settimeout(10)
        try:
            while c.recv(4096):
                pass
            return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            c.close()

    def test_settings_that_do_not_go_together(self):
        for args, what in ((("--https", "127.0.0.1:0"), "--tls-cert"), (("--tls-cert", self.cert), "--https"),
                           (("--https", "unix:x", "--tls-cert", self.cert, "--tls-key", self.key), "unix:"),
                           (("--https", "127.0.0.1:0", "--tls-cert", self.cert, "--tls-key", self.key, "--tls-client-cert",
                             "required"), "--tls-client-ca"),
                           (("--https", "127.0.0.1:0", "--tls-cert", self.key, "--tls-key", self.key), self.key),
                           (("--https", "127.0.0.1:0", "--tls-cert", self.cert, "--tls-key", self.stranger.base + ".key"),
                            "fits the certificate"),
                           (("--rule", "uid:1000"), "rule")):
            r = freehold("serve", "-m", NULL, *args)
            self.assertIn(r.returncode, (1, 2), args)
            self.assertIn(what, r.stderr, args)


if __name__ == "__main__":
    unittest.main()
