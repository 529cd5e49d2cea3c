# SPDX-License-Identifier: Apache-2.0
"""What tenants, users, keys and runs may use, over HTTP."""

import http.client
import json
import os
import time
import unittest

from identity import LIMITED, NULL, Database, bearer, freehold, until
from server import LONG, Server, together


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
                # Long enough that the first is not over when the third begins.
                code, _, j = self.ask(s, other, max_tokens=400, n=3)
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


if __name__ == "__main__":
    unittest.main()
