# SPDX-License-Identifier: Apache-2.0
"""Who may come in: keys that change while the server runs, endpoint by endpoint."""

import contextlib
import http.client
import json
import os
import socket
import sqlite3
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

    def test_a_key_that_goes_while_its_request_comes(self):
        body = b'{"prompt": "x", "max_tokens": 2}'
        for framing in (b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"):
            with Database() as db:
                key_id, key = db.add("--tenant", "acme")
                with Server(NULL, *LIMITED, "--keys", db.path, "--public", "/metrics") as s, s.raw() as c:
                    c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n\r\n" %
                              (key.encode(), framing))
                    chunked = b"chunked" in framing
                    c.sendall((b"5\r\n%s\r\n" if chunked else b"%s") % body[:5])
                    db.key("revoke", key_id)
                    until(lambda: status(s, key), 401)
                    c.sendall((b"%x\r\n%s\r\n0\r\n\r\n" % (len(body) - 5, body[5:])) if chunked else body[5:])
                    r = http.client.HTTPResponse(c)
                    r.begin()
                    self.assertEqual(r.status, 401, framing)
                    self.assertIn("revoked", json.loads(r.read())["error"]["message"])
                    began = [v for k, v in s.metrics().items() if k.startswith("freehold_request_success_total")]
                    self.assertEqual(sum(began), 0, "the engine was never asked")

    def test_an_administrators_key_that_goes_while_its_request_comes(self):
        with Database() as db:
            victim_id, victim = db.add("--tenant", "acme")
            ops_id, ops = db.add("--tenant", "ops", "--endpoints", "all,admin")
            with Server(NULL, *LIMITED, "--keys", db.path) as s, s.raw() as c:
                c.sendall(f"DELETE /v1/freehold/keys/{victim_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ops}\r\n"
                          "Content-Length: 2\r\n\r\n{".encode())
                db.key("revoke", ops_id)
                until(lambda: status(s, ops), 401)
                c.sendall(b"}")
                r = http.client.HTTPResponse(c)
                r.begin()
                self.assertEqual(r.status, 401)
                self.assertEqual(status(s, victim), 200)

    def test_labels_are_utf8(self):
        with Database() as db:
            r = freehold("key", "add", "--tenant", "acme", "--label", "caf\udce9", "--keys", db.path)
            self.assertEqual(r.returncode, 1)
            self.assertIn("UTF-8", r.stderr)
            for good in ("café", "\u20ac", "\U0001f600"):
                db.add("--tenant", "acme", "--label", good)
            _, ops = db.add("--tenant", "ops", "--endpoints", "admin")
            # One of before that was looked at.
            with contextlib.closing(sqlite3.connect(db.path)) as con, con:
                con.execute("UPDATE keys SET label = CAST(x'ff41c3a9eda08042' AS TEXT) WHERE label = 'café'")
            want = {"?Aé???B", "\u20ac", "\U0001f600", ""}
            self.assertEqual({k["label"] for k in db.list()}, want)
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                self.assertEqual({k["label"] for k in s.json("GET", "/v1/freehold/keys", key=ops)["data"]}, want)

    def test_lists_by_the_page(self):
        with Database() as db:
            _, ops = db.add("--tenant", "ops", "--endpoints", "admin")
            for n in range(6):
                db.add("--tenant", "acme", "--label", str(n))
            everything = [k["id"] for k in db.list()]
            self.assertEqual(len(everything), 7)
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                def page(query):
                    j = s.json("GET", "/v1/freehold/keys" + query, key=ops)
                    return [k["id"] for k in j["data"]], j["has_more"]

                for size in (1, 3, 7, 8):
                    got, more = page(f"?limit={size}")
                    while more:
                        ids, more = page(f"?limit={size}&after={got[-1]}")
                        self.assertLessEqual(len(ids), size)
                        got += ids
                    self.assertEqual(got, everything, size)
                    self.assertEqual([k["id"] for k in db.list("--after", everything[1], "--limit", str(size))],
                                     everything[2:2 + size])
                self.assertEqual(page("?after=" + everything[-1]), ([], False))
                self.assertEqual(page("?"), (everything, False))
                for query, want in (("limit=0", 400), ("limit=1001", 400), ("limit=", 400), ("limit=2x", 400), ("after=" + 15 * "0", 400),
                                    ("after=" + 16 * "0", 404), ("afer=" + everything[0], 400), ("limit=" + 90 * "9", 400)):
                    code, _, body = s.request("GET", "/v1/freehold/keys?" + query, None, bearer(ops))
                    self.assertEqual(code, want, query)
                    # What the database is called is nobody's business.
                    self.assertNotIn(db.dir.name, body.decode())
                code, _, body = s.request("DELETE", "/v1/freehold/keys/" + 16 * "0", None, bearer(ops))
                self.assertEqual(code, 404)
                self.assertNotIn(db.dir.name, body.decode())
            self.assertIn("there is no key", freehold("key", "list", "--after", 16 * "0", "--keys", db.path).stderr)

    def test_a_list_of_hundreds_is_cut(self):
        with Database() as db:
            _, ops = db.add("--tenant", "ops", "--endpoints", "admin")
            with contextlib.closing(sqlite3.connect(db.path)) as con, con:
                con.executemany("INSERT INTO keys(hash, id, tenant, label, models, endpoints, created, expires)"
                                " SELECT ?1, ?2, tenant, '', '', '', created, 0 FROM keys LIMIT 1",
                                [(n.to_bytes(32, "big"), f"{n:016x}") for n in range(1, 1200)])
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                for query, want in (("", 100), ("?limit=1000", 1000)):
                    j = s.json("GET", "/v1/freehold/keys" + query, key=ops)
                    self.assertEqual((len(j["data"]), j["has_more"]), (want, True))

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
