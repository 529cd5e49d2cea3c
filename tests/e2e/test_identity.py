# SPDX-License-Identifier: Apache-2.0
"""Who may come in: keys that change while the server runs, endpoint by
endpoint; TLS 1.3, by tools that are not ours; certificates of clients."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from server import DEMO_MODEL, FREEHOLD, Server, together

NULL = "null:" + DEMO_MODEL
LIMITED = ("--ctx", "512", "--max-seqs", "4")
ENDPOINTS = [("GET", "/v1/models"), ("GET", "/v1/models/x"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"),
             ("POST", "/v1/embeddings"), ("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/health"),
             ("GET", "/metrics"), ("GET", "/version")]


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


class Keys(unittest.TestCase):
    def test_changes_are_live(self):
        with Database() as db:
            first_id, first = db.add("--tenant", "acme", "--user", "alice")
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                self.assertEqual(status(s, first), 200)
                second_id, second = db.add("--tenant", "acme")
                until(lambda: status(s, second), 200)
                j = json.loads(db.key("rotate", second_id, "--overlap", "1h", "--json"))
                until(lambda: status(s, j["key"]), 200)
                self.assertEqual(status(s, second), 200, "the overlap")
                db.key("revoke", first_id)
                until(lambda: status(s, first), 401)
                _, _, body = s.request("GET", "/v1/models", None, bearer(first))
                self.assertEqual(json.loads(body)["error"]["code"], "invalid_api_key")
                self.assertIn("revoked", json.loads(body)["error"]["message"])
                db.key("lock", "acme")
                until(lambda: status(s, second), 403)
                db.key("unlock", "acme")
                until(lambda: status(s, second), 200)
                states = {k["id"]: k["state"] for k in db.list("--tenant", "acme")}
                self.assertEqual(states, {first_id: "revoked", second_id: "good", j["id"]: "good"})
                self.assertNotIn(first, s.log_text())

    def test_a_key_that_is_used_expires(self):
        with Database() as db:
            _, key = db.add("--tenant", "acme", "--expires", "2s")
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                self.assertEqual(status(s, key), 200)
                until(lambda: status(s, key), 401)
                self.assertIn("expired", s.request("GET", "/v1/models", None, bearer(key))[2].decode())

    def test_every_endpoint_is_guarded(self):
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                for method, path in ENDPOINTS + [("GET", "/"), ("GET", "/nothing")]:
                    want = 200 if path == "/health" else 401
                    for wrong in (None, "fh-" + 43 * "A", key[:-1], key + "x", "x"):
                        self.assertEqual(status(s, wrong, method, path), want, (method, path, wrong))
                    self.assertNotIn(status(s, key, method, path), (401, 403), (method, path))
                    _, headers, body = s.request(method, path, "{}" if method == "POST" else None)
                    if want == 401:
                        self.assertEqual(headers["WWW-Authenticate"], 'Bearer realm="freehold"')
                        self.assertEqual(set(json.loads(body)["error"]), {"message", "type", "param", "code"})
                # A scheme that is none, a header that is repeated.
                self.assertEqual(s.request("GET", "/v1/models", None, {"Authorization": "Basic " + key})[0], 401)
                self.assertEqual(s.request("GET", "/v1/models", None, {"Authorization": key})[0], 401)

    def test_public_endpoints_are_those_that_are_listed(self):
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            with Server(NULL, *LIMITED, "--keys", db.path, "--public", "/metrics", "--public", "/v1/models") as s:
                for method, path in ENDPOINTS:
                    got = status(s, None, method, path)
                    self.assertEqual(got == 401, path not in ("/metrics", "/v1/models", "/v1/models/x"), (path, got))
                self.assertEqual(len(json.loads(s.request("GET", "/v1/models")[2])["data"]), 1)
                # A key that is wrong is no worse than none.
                self.assertEqual(status(s, "wrong", "GET", "/metrics"), 200)
            with Server(NULL, *LIMITED, "--keys", db.path, "--public", "none") as s:
                self.assertEqual((status(s, None, "GET", "/health"), status(s, key, "GET", "/health")), (401, 200))
        r = freehold("serve", "-m", NULL, "--http", "127.0.0.1:0", "--public", "/helth")
        self.assertEqual(r.returncode, 1)
        self.assertIn("/helth", r.stderr)

    def test_scopes(self):
        with Database() as db:
            _, watcher = db.add("--tenant", "ops", "--endpoints", "/metrics,/version")
            _, chatter = db.add("--tenant", "acme", "--endpoints", "/v1/chat/completions")
            _, other = db.add("--tenant", "acme", "--models", "some-other-*")
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                for key, may in ((watcher, {"/metrics", "/version", "/health"}), (chatter, {"/v1/chat/completions", "/health"})):
                    for method, path in ENDPOINTS:
                        self.assertEqual(status(s, key, method, path) == 403, path not in may, (path, may))
                code, _, body = s.request("POST", "/v1/completions", '{"prompt": "x"}', bearer(chatter))
                self.assertEqual((code, json.loads(body)["error"]["code"]), (403, "missing_scope"))
                code, _, body = s.request("POST", "/v1/completions", '{"prompt": "x"}', bearer(other))
                self.assertEqual((code, json.loads(body)["error"]["code"]), (403, "model_not_found"))
                self.assertEqual(json.loads(s.request("GET", "/v1/models", None, bearer(other))[2])["data"], [])

    def test_key_file_and_database_together(self):
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            path = os.path.join(db.dir.name, "file")
            with open(path, "w", encoding="ascii") as f:
                f.write("from-the-file\n")
            os.chmod(path, 0o644)
            with Server(NULL, *LIMITED, "--keys", db.path, "--api-key-file", path) as s:
                self.assertEqual([status(s, k) for k in (key, "from-the-file", "neither", None)], [200, 200, 401, 401])

    def test_many_at_once_while_keys_come_and_go(self):
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                def client():
                    conn = s.connect()
                    got = {status_on(s, conn, key) for _ in range(200)}
                    conn.close()
                    return got

                def writer():
                    for _ in range(8):
                        k, _ = db.add("--tenant", "churn")
                        db.key("revoke", k)
                    return {200}

                self.assertEqual(set().union(*together([client, client, client, writer])), {200})

    def test_the_command_says_what_is_wrong(self):
        with Database() as db:
            k, _ = db.add("--tenant", "acme")
            for args, code, what in ((["add"], 2, "--tenant"), (["add", "--tenant", "a/b"], 1, "tenant's name"),
                                     (["add", "--tenant", "a", "--expires", "soon"], 2, "--expires"),
                                     (["add", "--tenant", "a", "--expires", "2001-01-01"], 1, "expired"),
                                     (["add", "--tenant", "a", "--endpoints", "/v9"], 2, "/v9"),
                                     (["revoke"], 2, "id"), (["revoke", "feed"], 1, "feed"),
                                     (["rotate", k, "--overlap", "long"], 2, "--overlap"), (["lock", "nobody"], 1, "nobody"),
                                     (["frobnicate"], 2, "revoke"), ([], 2, "revoke")):
                r = freehold("key", *args, *(["--keys", db.path] if args else []))
                self.assertEqual((r.returncode, r.stdout), (code, ""), (args, r.stderr))
                self.assertIn(what, r.stderr, args)
        r = freehold("key", "list", "--keys", "/nonexistent/keys.db")
        self.assertEqual(r.returncode, 1)
        self.assertIn("/nonexistent/keys.db", r.stderr)
        r = freehold("serve", "-m", NULL, "--http", "127.0.0.1:0", "--keys", "/nonexistent/keys.db")
        self.assertEqual(r.returncode, 1)
        self.assertIn("/nonexistent/keys.db", r.stderr)


def status_on(s, conn, key):
    return s.request("GET", "/v1/models", None, bearer(key), conn)[0]


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
class Tls(unittest.TestCase):
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

    def server(self, *args):
        s = Server(NULL, *LIMITED, "--https", "127.0.0.1:0", "--tls-cert", self.cert, "--tls-key", self.key, *args)
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
                db.key("lock", "acme")
                until(lambda: self.get(s, client=alice)[0], 403)
            with self.server(*args, "--tls-client-cert", "required") as s:
                self.assertEqual(self.get(s, client=gateway)[0], 200)
                with self.assertRaises((ssl.SSLError, ConnectionError)):
                    self.get(s, key=key)
                self.assertEqual(s.request("GET", "/metrics", None, bearer(key))[0], 200, "the plain listener asks for none")

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
            put(other)
            s.proc.send_signal(signal.SIGHUP)

            def trusted(ca):
                try:
                    return self.get(s, "/health", ca=ca)[0]
                except ssl.SSLError:
                    return None

            until(lambda: trusted(self.stranger.pem), 200)
            self.assertIsNone(trusted(self.ca.pem))
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
