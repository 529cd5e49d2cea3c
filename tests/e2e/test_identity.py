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

from server import DEMO_MODEL, FREEHOLD, LONG, Server, together

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


class Budgets(unittest.TestCase):
    """The engine's meter behind HTTP: exact under load, cut at the very token, given back, kept over a restart."""

    def budget(self, db, *args):
        r = freehold("budget", *args, "--keys", db.path)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def used(self, db, who):
        """{limit: used}"""
        kind, name = who.split(":")
        return {l["limit"]: l["used"] for l in json.loads(self.budget(db, "list", "--json")) if (l["kind"], l["name"]) == (kind, name)}

    def ask(self, s, key, prompt="Once upon a time", conn=None, headers=None, **fields):
        """(status, headers, JSON)"""
        body = {"prompt": prompt, "temperature": 0, "ignore_eos": True, **fields}
        code, head, data = s.request("POST", "/v1/completions", body, {**bearer(key), **(headers or {})}, conn, 120)
        return code, head, json.loads(data)

    def test_cut_at_the_very_token_and_refused(self):
        with Database() as db:
            key_id, key = db.add("--tenant", "acme", "--user", "alice")
            self.budget(db, "set", "user:acme/alice", "tokens/day=300")
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                code, head, j = self.ask(s, key, max_tokens=40)
                self.assertEqual((code, j["choices"][0]["finish_reason"]), (200, "length"))
                self.assertIsNone(head["X-Freehold-Budget-Warning"])
                first = j["usage"]["total_tokens"]
                # More than what is held ahead at once, so that it has to be taken anew.
                code, head, j = self.ask(s, key, max_tokens=400)
                self.assertEqual((code, j["choices"][0]["finish_reason"]), (200, "budget"))
                self.assertEqual(first + j["usage"]["total_tokens"], 300)
                self.assertRegex(head["X-Freehold-Budget-Warning"], r"^user tokens/day \d+%$")
                code, head, j = self.ask(s, key, max_tokens=1)
                self.assertEqual((code, j["error"]["code"], j["error"]["type"]), (429, "insufficient_quota", "rate_limit_error"))
                self.assertIn("user tokens/day", j["error"]["message"])
                self.assertAlmostEqual(int(head["Retry-After"]), 86400 - time.time() % 86400, delta=5)
                # Live: a larger budget, and a stream that it cuts.
                self.budget(db, "set", "user:acme/alice", "tokens/day=350")
                until(lambda: self.ask(s, key, max_tokens=1)[0], 200)
                body = {"prompt": "Once", "max_tokens": 300, "stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
                _, head, data = s.request("POST", "/v1/completions", body, bearer(key))
                events = [json.loads(e[6:]) for e in data.decode().split("\n\n") if e.startswith("data: {")]
                self.assertEqual([e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1], "budget")
                self.assertIn("user tokens/day", head["X-Freehold-Budget-Warning"])
                self.assertEqual(self.ask(s, key, max_tokens=1)[0], 429)
                # What can never fit is said so.
                self.budget(db, "set", f"key:{key_id}", "tokens/minute=2")
                self.budget(db, "remove", "user:acme/alice")

                def never():
                    code, head, j = self.ask(s, key, max_tokens=1)
                    return code, "key tokens/minute" in j.get("error", {}).get("message", ""), head["Retry-After"]

                until(never, (429, True, None))

    def test_clients_together_never_overspend(self):
        """One token budget, many connections, some of which are torn off: the sum is the budget, exactly."""
        limit, nr_clients, nr_rounds = (5000000, 64, 1600) if LONG else (6000, 16, 400)
        with Database() as db:
            key = db.add("--tenant", "acme")[1]
            self.budget(db, "set", "tenant:acme", f"tokens/month={limit}")
            with Server(NULL, "--ctx", "512", "--max-seqs", "16", "--keys", db.path, "--public", "/metrics") as s:
                def client(n):
                    total, refused = 0, 0
                    conn = s.connect(60)
                    for i in range(nr_rounds):
                        if i % 9 == n % 9:
                            self.tear_off(s, key)
                            continue
                        code, _, j = self.ask(s, key, conn=conn, max_tokens=5 + 7 * ((n + i) % 9), n=1 + (n + i) % 2)
                        if code == 200:
                            total += j["usage"]["total_tokens"]
                        else:
                            self.assertEqual((code, j["error"]["code"]), (429, "insufficient_quota"))
                            refused += 1
                            if refused > 3:
                                break
                    conn.close()
                    return total

                totals = together([lambda n=n: client(n) for n in range(nr_clients)])
                s.wait_idle()
                # What was torn off was used, too, as far as it went; no client knows how far.
                self.assertLessEqual(sum(totals), limit)
                # Nothing is held any more: the rest can be spent to the last token.
                while True:
                    code, _, j = self.ask(s, key, prompt=[5], max_tokens=1)
                    if code != 200:
                        break
                self.assertEqual(s.terminate(), 0)
                self.assertIn(int(self.used(db, "tenant:acme")["tokens/month"]), (limit, limit - 1), "a prompt and a token need two")

    def tear_off(self, s, key):
        sock = s.raw()
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 100, "stream": True, "ignore_eos": True}).encode()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
                     % (key.encode(), len(body), body))
        sock.recv(64)
        sock.close()

    def test_the_meter_is_the_clients_own_count(self):
        """Without anybody torn off: meter, database and the sum of the clients' usage are one number."""
        with Database() as db:
            key_id, key = db.add("--tenant", "acme", "--user", "bob")
            for who in ("tenant:acme", "user:acme/bob", f"key:{key_id}"):
                self.budget(db, "set", who, "tokens=1G", "money=1000", "requests=100k")
            args = (NULL, "--ctx", "512", "--max-seqs", "8", "--keys", db.path, "--price", "* 2/0.5/10")
            with Server(*args) as s:
                def client(n):
                    out = []
                    for i in range(12):
                        code, _, j = self.ask(s, key, prompt="word " * (10 * n + 3), max_tokens=3 + i, n=1 + i % 3)
                        self.assertEqual(code, 200)
                        out.append(j["usage"])
                    return out

                usage = [u for us in together([lambda n=n: client(n) for n in range(8)]) for u in us]
                self.assertEqual(s.terminate(), 0)
            tokens = sum(u["total_tokens"] for u in usage)
            cached = sum(u["prompt_tokens_details"]["cached_tokens"] for u in usage)
            prompt = sum(u["prompt_tokens"] for u in usage)
            self.assertGreater(cached, 0)
            money = ((prompt - cached) * 2 + cached * 0.5 + (tokens - prompt) * 10) / 1e6
            for who in ("tenant:acme", "user:acme/bob", f"key:{key_id}"):
                used = self.used(db, who)
                self.assertEqual((int(used["tokens"]), int(used["requests"])), (tokens, 8 * 12), who)
                self.assertAlmostEqual(float(used["money"]), money, places=9)
            # A new process goes on where this one ended.
            self.budget(db, "set", "tenant:acme", f"tokens={tokens + 20}")
            with Server(*args) as s:
                code, _, j = self.ask(s, key, max_tokens=100)
                self.assertEqual((code, j["usage"]["total_tokens"], j["choices"][0]["finish_reason"]), (200, 20, "budget"))

    def test_requests_concurrency_and_runs(self):
        with Database() as db:
            key = db.add("--tenant", "acme")[1]
            other = db.add("--tenant", "other")[1]
            self.budget(db, "set", "run:acme", "requests=3", "tokens=60", "depth=2")
            with Server(NULL, *LIMITED, "--keys", db.path) as s:
                def run(name, key=key, depth=None, **fields):
                    headers = {"X-Freehold-Run-Id": name, **({"X-Freehold-Run-Depth": str(depth)} if depth is not None else {})}
                    code, head, j = self.ask(s, key, headers=headers, **fields)
                    return code, j

                self.assertEqual([run("one", max_tokens=2)[0] for _ in range(4)], [200, 200, 200, 429])
                self.assertEqual(run("two", max_tokens=2)[0], 200)
                code, j = run("three", max_tokens=200)
                self.assertEqual((code, j["usage"]["total_tokens"], j["choices"][0]["finish_reason"]), (200, 60, "budget"))
                self.assertEqual([run("four", max_tokens=1, depth=d)[0] for d in (1, 2, 3)], [200, 200, 429])
                self.assertEqual([run("one", key=other, max_tokens=2)[0] for _ in range(4)], [200] * 4)
                self.assertEqual(self.ask(s, key, max_tokens=200)[2]["choices"][0]["finish_reason"], "length", "no run, no limit of a run")
                for bad in ({"X-Freehold-Run-Id": ""}, {"X-Freehold-Run-Id": "x" * 200}, {"X-Freehold-Run-Depth": "deep"},
                            {"X-Freehold-Run-Depth": "12345678"}):
                    self.assertEqual(s.request("GET", "/v1/models", None, {**bearer(key), **bad})[0], 400, bad)
                self.budget(db, "set", "tenant:other", "requests/minute=5", "concurrent=2")
                until(lambda: 429 in [self.ask(s, other, max_tokens=1)[0] for _ in range(7)], True)
                code, head, j = self.ask(s, other, max_tokens=1)
                self.assertEqual((code, j["error"]["code"]), (429, "rate_limit_exceeded"))
                self.assertLessEqual(int(head["Retry-After"]), 60)
                self.budget(db, "set", "tenant:other", "requests/minute=0")
                until(lambda: self.ask(s, other, max_tokens=1)[0], 200)
                code, _, j = self.ask(s, other, max_tokens=1, n=3)
                self.assertEqual((code, "tenant concurrent" in j["error"]["message"]), (429, True))
                self.assertEqual(self.ask(s, other, max_tokens=1, n=2)[0], 200)

    def test_a_run_is_named_by_the_head_however_late_the_body(self):
        body = json.dumps({"prompt": "Once", "max_tokens": 1}).encode()
        for backend in ([], ["--epoll"]):
            with self.subTest(backend=backend), Database() as db:
                key = db.add("--tenant", "acme")[1]
                self.budget(db, "set", "run:acme", "requests=2")
                with Server(NULL, *LIMITED, "--keys", db.path, *backend) as s:
                    head = "POST /v1/completions HTTP/1.1\r\nX-Freehold-Run-Id: r\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
                    got = []
                    for _ in range(3):
                        sock = s.raw()
                        sock.sendall((head % (key, len(body))).encode())
                        # Meanwhile others are received where the head lay.
                        conn = s.connect()
                        for _ in range(550):
                            self.assertEqual(s.request("GET", "/health", conn=conn)[0], 200)
                        conn.close()
                        sock.sendall(body)
                        r = http.client.HTTPResponse(sock)
                        r.begin()
                        got.append(r.status)
                        sock.close()
                    self.assertEqual(got, [200, 200, 429])

    def test_cost(self):
        with Database() as db:
            keys = [db.add("--tenant", t, "--user", u) for t, u in (("acme", "alice"), ("acme", "bob"), ("other", "eve"))]
            with Server(NULL, *LIMITED, "--keys", db.path, "--price", "no-such 9/9/9", "--price", "* 1/0.25/4") as s:
                usage = [[self.ask(s, key, max_tokens=3 + i)[2]["usage"] for _ in range(2)] for i, (_, key) in enumerate(keys)]
                # Within a second or so, while it runs.
                until(lambda: len(self.cost(db, "--by", "key")), 3)
                self.assertEqual(s.terminate(), 0)
            for by, names in (("key", [[k] for k, _ in keys]), ("user", [["acme/alice"], ["acme/bob"], ["other/eve"]]),
                              ("tenant", [["acme"], ["acme"], ["other"]])):
                want = {}
                for (name,), us in zip(names, usage):
                    for u in us:
                        w = want.setdefault(name, [0, 0, 0, 0])
                        cached = u["prompt_tokens_details"]["cached_tokens"]
                        for i, v in enumerate((1, u["prompt_tokens"], cached, u["completion_tokens"])):
                            w[i] += v
                got = {}
                for line in self.cost(db, "--by", by, "--per", "hour"):
                    g = got.setdefault(line[by], [0, 0, 0, 0])
                    for i, f in enumerate(("requests", "prompt_tokens", "cached_tokens", "completion_tokens")):
                        g[i] += line[f]
                self.assertEqual(got, want)
                for line in self.cost(db, "--by", by):
                    _, prompt, cached, completion = want[line[by]]
                    self.assertAlmostEqual(line["money"], ((prompt - cached) + cached * 0.25 + completion * 4) / 1e6, places=12)
            (model,) = self.cost(db, "--by", "model")
            self.assertEqual(model["prompt_tokens"] + model["completion_tokens"], sum(u["total_tokens"] for us in usage for u in us))
            self.assertEqual(self.cost(db, "--to", "2020-01-01"), [])
            self.assertIn("acme/alice", freehold("cost", "--keys", db.path, "--by", "user", "--per", "day").stdout)
            prices = os.path.join(db.dir.name, "prices")
            with open(prices, "w", encoding="ascii") as f:
                f.write("# theirs\ndear 100/100/100\nfree 0/0/0\n")
            host = ("cost", "host", "--keys", db.path, "--hardware", "35064", "--years", "4", "--watts", "500", "--kwh-price", "2",
                    "--other", "730.5", "--rental", prices)
            j = json.loads(freehold(*host, "--json").stdout)
            self.assertAlmostEqual(j["hour"], 1 + 1 + 1, places=4)
            tokens = sum(u["total_tokens"] for us in usage for u in us) / 1e6
            self.assertAlmostEqual(j["million_tokens_used"], tokens, places=9)
            self.assertAlmostEqual(j["million_tokens"], 3 * j["hours"] / tokens, delta=1e-3 * j["million_tokens"])
            self.assertAlmostEqual(j["rental"][0]["same_use"], 100 * tokens, places=9)
            self.assertAlmostEqual(j["rental"][0]["owning_wins_from_million_tokens_a_month"], 3 * 730.5 / 100, places=2)
            self.assertNotIn("owning_wins_from_million_tokens_a_month", j["rental"][1])
            self.assertIn("owning wins from", freehold(*host).stdout)
            for args, code, what in ((["host"], 2, "--hardware"), (["--by", "nobody"], 2, "--by"), (["--from", "soon"], 2, "--from"),
                                     (["usage", "x"], 2, "x"), (["host", "--other", "1", "--to", "2001-01-01"], 1, "nothing was used"),
                                     (["host", "--other", "1", "--rental", "/nonexistent"], 1, "/nonexistent")):
                r = freehold("cost", *args, "--keys", db.path)
                self.assertEqual((r.returncode, r.stdout), (code, ""), (args, r.stderr))
                self.assertIn(what, r.stderr, args)

    def cost(self, db, *args):
        r = freehold("cost", "usage", "--keys", db.path, "--json", *args)
        self.assertEqual(r.returncode, 0, r.stderr)
        return json.loads(r.stdout)

    def test_the_command_says_what_is_wrong(self):
        with Database() as db:
            db.add("--tenant", "acme")
            for args, code, what in (([], 2, "set"), (["set"], 2, "WHO"), (["set", "acme", "tokens=1"], 2, "tenant:NAME"),
                                     (["set", "tenant:acme", "tokens/week=1"], 2, "tokens/week"),
                                     (["set", "tenant:acme", "tokens=many"], 2, "tokens=many"),
                                     (["set", "tenant:acme", "money=0.0000000000001"], 2, "money"),
                                     (["set", "tenant:acme", "tokens=99999999999999999999"], 2, "tokens"),
                                     (["set", "tenant:acme", "depth=3"], 2, "depth"), (["set", "tenant:a/b", "tokens=1"], 1, "a/b"),
                                     (["set", "user:acme", "tokens=1"], 1, "TENANT/USER"), (["set", "key:feed", "tokens=1"], 1, "feed"),
                                     (["remove", "tenant:acme"], 1, "no limits"), (["list", "x:y"], 2, "x:y")):
                r = freehold("budget", *args, "--keys", db.path)
                self.assertEqual((r.returncode, r.stdout), (code, ""), (args, r.stderr))
                self.assertIn(what, r.stderr, args)
            self.budget(db, "set", "tenant:acme", "money/day=12.5", "tokens/month=1.5M", "soft=90")
            got = {l["limit"]: l["most"] for l in json.loads(self.budget(db, "list", "--json"))}
            self.assertEqual(got, {"money/day": "12.50", "tokens/month": "1500000", "soft": "90"})
        for bad in ("* 1/2/3", "*", "* 1/1", "* 1/0.1234567/2", "* -1/0/1"):
            r = freehold("serve", "-m", NULL, "--keys", "/dev/null", "--price", bad)
            self.assertEqual(r.returncode, 1, bad)
            self.assertIn("price", r.stderr, bad)


class Processes(unittest.TestCase):
    """Channels: whose a process is, by rules over what the kernel says of it."""

    def bench(self, path, out, prompts):
        return subprocess.run([FREEHOLD, "bench", "serve", "--url", "channel:unix:" + path, "--max-concurrency", "1", "--num-prompts",
                               str(prompts), "--num-warmups", "0", "--input-len", "8", "--output-len", "8", "--json", out],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)

    def server(self, db, *rules):
        path = os.path.join(db.dir.name, "channel")
        args = [x for r in rules for x in ("--rule", r)]
        return path, Server(NULL, *LIMITED, "--keys", db.path, "--channel", "unix:" + path, *args)

    def test_rules(self):
        uid = os.getuid()
        with Database() as db:
            db.add("--tenant", "acme")
            out = os.path.join(db.dir.name, "out.json")
            freehold("budget", "set", "user:acme/jobs", "requests=3", "tokens=1000", "--keys", db.path)
            freehold("budget", "set", "tenant:acme", "tokens=1000", "--keys", db.path)
            path, s = self.server(db, "uid:4242 other", f"uid:{uid} cgroup:/no/such/group other", f"uid:{uid} acme/jobs")
            with s:
                self.bench(path, out, 6)
                with open(out, encoding="ascii") as f:
                    self.assertEqual(json.load(f)["completed"], 3, "the fourth is refused")
                self.assertEqual(s.terminate(), 0)
            limits = json.loads(freehold("budget", "list", "--json", "--keys", db.path).stdout)
            self.assertEqual({(l["name"], l["limit"]): l["used"] for l in limits},
                             {("acme/jobs", "requests"): "3", ("acme/jobs", "tokens"): "48", ("acme", "tokens"): "48"})

    def test_refused_and_locked(self):
        with Database() as db:
            db.add("--tenant", "acme")
            out = os.path.join(db.dir.name, "out.json")
            path, s = self.server(db, "any refuse")
            with s:
                r = self.bench(path, out, 1)
                self.assertNotEqual(r.returncode, 0)
                self.assertIn("access is refused to this process", r.stderr + s.log_text())
            path, s = self.server(db, "any acme")
            with s:
                self.assertEqual(self.bench(path, out, 1).returncode, 0)
                db.key("lock", "acme")
                until(lambda: self.bench(path, out, 1).returncode != 0, True)


class Audited(unittest.TestCase):
    def test_the_log_names_tenant_user_and_key(self):
        """Whoever a key, a rule or nothing says it was; and each table of keys."""
        with Database() as db:
            log = os.path.join(db.dir.name, "log")
            key_id, key = db.add("--tenant", "acme", "--user", "alice")
            scoped_id, scoped = db.add("--tenant", "ops", "--endpoints", "/metrics")
            path = os.path.join(db.dir.name, "channel")
            with Server(NULL, *LIMITED, "--keys", db.path, "--audit", log, "--channel", "unix:" + path, "--rule",
                        "any acme/jobs") as s:
                ask = '{"prompt": "Once", "max_tokens": 2}'
                self.assertEqual(s.request("POST", "/v1/completions", ask, bearer(key))[0], 200)
                self.assertEqual(s.request("POST", "/v1/completions", ask, bearer(scoped))[0], 403)
                self.assertEqual(s.request("POST", "/v1/completions", ask, bearer("wrong"))[0], 401)
                r = Processes.bench(self, path, os.path.join(db.dir.name, "out.json"), 1)
                self.assertEqual(r.returncode, 0, r.stderr)
                db.add("--tenant", "late")
                until(lambda: "it has 3 keys now" in s.log_text(), True)
                self.assertEqual(s.terminate(), 0)
            r = freehold("audit", "export", log)
            self.assertEqual(r.returncode, 0, r.stderr)
            rows = [json.loads(line) for line in r.stdout.splitlines()]
            who = [(r["kind"], r["tenant"], r.get("user"), r.get("key_id")) for r in rows if r["kind"] in ("begin", "refused")]
            self.assertEqual(who, [("begin", "acme", "alice", key_id), ("refused", "ops", None, scoped_id),
                                   ("refused", "anonymous", None, None), ("begin", "acme", "jobs", None)])
            self.assertEqual([r["count"] for r in rows if r["kind"] == "keys"], [2, 3])
            self.assertEqual(len({r["hash"] for r in rows if r["kind"] == "keys"}), 2)
            self.assertEqual(freehold("audit", "verify", log).returncode, 0)


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
