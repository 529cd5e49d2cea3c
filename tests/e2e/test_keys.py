# SPDX-License-Identifier: Apache-2.0
"""Who may come in: keys that change while the server runs, endpoint by endpoint."""

import http.client
import json
import os
import socket
import time
import unittest

from identity import LIMITED, NULL, Database, bearer, freehold, status, until
from server import Server, together

ENDPOINTS = [("GET", "/v1/models"), ("GET", "/v1/models/x"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"),
             ("POST", "/v1/embeddings"), ("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/health"),
             ("GET", "/metrics"), ("GET", "/version"), ("GET", "/v1/freehold/status"), ("GET", "/")]


def status_on(s, conn, key):
    return s.request("GET", "/v1/models", None, bearer(key), conn)[0]


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

    def test_good_from_the_first_request_on(self):
        """Requests that wait in the listener's queue when the front end starts."""
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            path = os.path.join(db.dir.name, "http")
            got = []

            def first():
                deadline = time.monotonic() + 30
                while time.monotonic() < deadline:
                    sock = socket.socket(socket.AF_UNIX)
                    sock.settimeout(60)
                    try:
                        sock.connect(path)
                        break
                    except OSError:
                        sock.close()
                        time.sleep(0.001)
                sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % key.encode())
                r = http.client.HTTPResponse(sock)
                r.begin()
                got.append(r.status)
                sock.close()

            def serve():
                with Server(NULL, *LIMITED, "--keys", db.path, "--channel", "unix:" + path + "-channel", listen="unix:" + path) as s:
                    until(lambda: len(got), 8)
                    self.assertEqual(s.terminate(), 0)

            together([serve] + [first] * 8)
            self.assertEqual(got, [200] * 8)

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
                for method, path in ENDPOINTS + [("GET", "/index.html"), ("GET", "/nothing")]:
                    want = 200 if path in ("/health", "/") else 401
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
                for key, may in ((watcher, {"/metrics", "/version", "/health", "/"}), (chatter, {"/v1/chat/completions", "/health", "/"})):
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


if __name__ == "__main__":
    unittest.main()
