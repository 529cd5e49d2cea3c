# SPDX-License-Identifier: Apache-2.0
"""The dashboard without a browser: its numbers move under load, its page needs nobody else, it is guarded,
administrators revoke keys, and `freehold top` shows the same. test_dashboard_browser.py looks at it."""

import base64
import hashlib
import html.parser
import json
import os
import pty
import re
import select
import subprocess
import tempfile
import threading
import time
import unittest

from server import DEMO_MODEL, FREEHOLD, Server, together
from identity import Database, bearer, freehold, status, until

NULL = "null:" + DEMO_MODEL
PERIOD_S = 1.0


class Viewer:
    """Reads /v1/freehold/events on a thread of its own; keeps all of them."""

    def __init__(self, server, key=None):
        self.events = []
        self.ended = threading.Event()
        self.conn = server.connect(60)
        self.conn.request("GET", "/v1/freehold/events", headers=bearer(key) if key else {})
        self.sock = self.conn.sock
        self.response = self.conn.getresponse()
        if self.response.status != 200:
            raise AssertionError(f"{self.response.status}: {self.response.read()!r}")
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        try:
            while True:
                line = self.response.readline()
                if not line:
                    break
                if line.startswith(b"data: "):
                    self.events.append(json.loads(line[6:]))
        except (OSError, ValueError):
            pass
        self.ended.set()

    def wait(self, nr, seconds=10):
        deadline = time.monotonic() + seconds
        while len(self.events) < nr:
            if self.ended.is_set() or time.monotonic() > deadline:
                raise AssertionError(f"{len(self.events)} events and not {nr}")
            time.sleep(0.01)

    def close(self):
        try:
            self.sock.shutdown(2)
        except OSError:
            pass
        self.thread.join()
        self.sock.close()
        self.conn.close()


def numbers(j, path=""):
    """{path: value} of all numbers."""
    if isinstance(j, dict):
        out = {}
        for k, v in j.items():
            out.update(numbers(v, f"{path}.{k}" if path else k))
        return out
    return {path: j} if isinstance(j, (int, float)) and not isinstance(j, bool) else {}


class Numbers(unittest.TestCase):
    def test_every_number_moves(self):
        with Database() as db, tempfile.TemporaryDirectory(prefix="freehold-audit-") as log:
            _, acme = db.add("--tenant", "acme")
            _, tiny = db.add("--tenant", "tiny")
            _, ops = db.add("--tenant", "ops", "--endpoints", "all,admin")
            for args in (("tenant:acme", "tokens/day=1000000"), ("tenant:tiny", "requests/day=1")):
                self.assertEqual(freehold("budget", "set", *args, "--keys", db.path).returncode, 0)
            with Server(DEMO_MODEL, "--threads", "1", "--ctx", "512", "--max-seqs", "2", "--max-queue", "2", "--keys", db.path,
                        "--audit", log, "--price", "* 0.50/0.05/1.50", "--deadline-interactive", "5000/2000") as s:
                admin, own = Viewer(s, ops), Viewer(s, acme)
                used = []

                def ask(i):
                    body = {"prompt": "Once upon a time there was a little girl who lived in a forest " * 4,
                            "max_tokens": 150, "seed": i, "ignore_eos": True, "priority": "interactive" if i % 2 else "standard"}
                    code, _, data = s.request("POST", "/v1/completions", body, bearer(acme), timeout=120)
                    if code == 200:
                        used.append(json.loads(data)["usage"])
                    return code

                codes, until_s = [], time.monotonic() + 1.3

                def keep_asking(i):
                    while time.monotonic() < until_s:
                        code = ask(i)
                        codes.append(code)
                        # Who is refused comes back a little later, so that waiting and running are seen, too.
                        time.sleep(0 if code == 200 else 0.2)

                together([lambda i=i: keep_asking(i) for i in range(6)])
                for _ in range(2):
                    codes.append(s.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1}, bearer(tiny))[0])
                self.assertEqual(codes.pop(), 429, "a budget of one request")
                self.assertGreater(codes.count(429), 0, "a queue that was full")
                # Two more: of the second everything is over when it begins.
                nr = len(admin.events)
                admin.wait(nr + 2)
                own.wait(2)
                events, last, theirs = admin.events[:], admin.events[-1], own.events[-1]
                admin.close()
                own.close()
        first, most = numbers(events[0]), {}
        for e in events:
            for k, v in numbers(e).items():
                most[k] = max(most.get(k, v), v)
        for k in ("rates.generation_tokens", "rates.prompt_tokens", "rates.cached_tokens", "rates.finished", "rates.refused",
                  "rates.cost_per_hour", "requests.running", "requests.waiting", "requests.finished.total",
                  "requests.finished.length", "requests.refused.total", "requests.refused.queue_full",
                  "requests.refused.budget", "ttft.count", "ttft.p50_ms", "ttft.kept", "itl.count", "itl.p50_ms", "itl.kept",
                  "kv.held", "kv.cached", "tokens.prompt", "tokens.cached", "tokens.generated", "cost.since_start",
                  "audit.entries", "audit.durable", "audit.published", "uptime_s", "time_ms"):
            self.assertGreater(most[k], first.get(k) or 0, k)
        self.assertEqual(most["viewers"], 2)
        self.assertEqual(most["requests.running"], 2)
        for name in ("ttft", "itl"):
            p = last[name]
            self.assertTrue(0 < p["p50_ms"] <= p["p95_ms"] <= p["p99_ms"] < 60000, p)
            self.assertEqual(p["deadline_ms"]["interactive"], 5000 if name == "ttft" else 2000)
        self.assertTrue(all(e["kv"]["held"] + e["kv"]["cached"] + e["kv"]["free"] == e["kv"]["blocks"] for e in events))
        # What is shown is what the clients were told.
        generated = sum(u["completion_tokens"] for u in used) + 1
        self.assertEqual(last["tokens"]["generated"], generated)
        self.assertEqual(last["requests"]["running"], 0)
        self.assertEqual(last["requests"]["refused"]["total"], codes.count(429) + 1)
        self.assertEqual({t["tenant"] for t in last["tenants"]}, {"acme", "tiny", "ops"})
        day = {t["tenant"]: t["day"] for t in last["tenants"]}
        self.assertEqual(day["acme"]["tokens"], {"used": sum(u["total_tokens"] for u in used), "limit": 1000000})
        self.assertEqual(day["tiny"]["requests"], {"used": 1, "limit": 1})
        cost = sum(u["completion_tokens"] * 1.5 + u["prompt_tokens_details"]["cached_tokens"] * 0.05 +
                   (u["prompt_tokens"] - u["prompt_tokens_details"]["cached_tokens"]) * 0.5 for u in used) / 1e6
        self.assertAlmostEqual(day["acme"]["money"]["used"], cost, places=9)
        self.assertAlmostEqual(last["cost"]["since_start"], cost + day["tiny"]["money"]["used"], places=9)
        # The audit log's head is that of the log, and the others see no more than themselves.
        self.assertEqual(last["audit"]["mode"], "relaxed")
        self.assertIsNone(last["audit"]["error"])
        self.assertEqual(len(base64.b64decode(last["audit"]["root"])), 32)
        self.assertNotEqual(last["audit"]["root"], events[0]["audit"]["root"])
        self.assertEqual(theirs["you"], {"tenant": "acme", "admin": False})
        self.assertEqual([t["tenant"] for t in theirs["tenants"]], ["acme"])
        self.assertNotIn("tiny", json.dumps(theirs))

    def test_the_head_is_the_checkpoints(self):
        with tempfile.TemporaryDirectory(prefix="freehold-audit-") as log:
            with Server(NULL, "--ctx", "512", "--max-seqs", "2", "--audit", log, "--audit-mode", "strict") as s:
                s.complete("x")

                def same():
                    a = s.json("GET", "/v1/freehold/status")["audit"]
                    with open(os.path.join(log, "checkpoint"), encoding="utf-8") as f:
                        head = f.read().split("\n")
                    return (a["published"], a["root"], a["mode"]) == (int(head[1]), head[2], "strict")

                until(same, True)


class Guard(unittest.TestCase):
    def test_numbers_need_a_key_and_the_page_does_not(self):
        with Database() as db:
            key_id, key = db.add("--tenant", "acme")
            _, chat = db.add("--tenant", "acme", "--endpoints", "/v1/chat/completions")
            with Server(NULL, "--ctx", "512", "--max-seqs", "2", "--keys", db.path) as s:
                self.assertEqual(status(s, None, "GET", "/"), 200)
                for path in ("/v1/freehold/status", "/v1/freehold/events", "/v1/freehold/keys"):
                    for wrong in (None, "fh-" + 43 * "A", key[:-1]):
                        self.assertEqual(status(s, wrong, "GET", path), 401, path)
                    self.assertEqual(status(s, chat, "GET", path), 403, path)
                self.assertEqual(status(s, key, "GET", "/v1/freehold/status"), 200)
                # Who has a key is no administrator, whatever endpoints the key is for.
                for method, path in (("GET", "/v1/freehold/keys"), ("DELETE", "/v1/freehold/keys/" + key_id)):
                    code, _, body = s.request(method, path, None, bearer(key))
                    self.assertEqual((code, json.loads(body)["error"]["code"]), (403, "missing_scope"))
                # A stream ends with the key that it was opened by.
                v = Viewer(s, key)
                v.wait(1)
                db.key("revoke", key_id)
                self.assertTrue(v.ended.wait(5))
                v.close()
            with Server(NULL, "--ctx", "512", "--max-seqs", "2", "--keys", db.path, "--public", "none") as s:
                self.assertEqual(status(s, None, "GET", "/"), 401)
            r = freehold("serve", "-m", NULL, "--http", "127.0.0.1:0", "--public", "/v1/freehold/keys")
            self.assertEqual(r.returncode, 1)
            self.assertIn("/v1/freehold/keys", r.stderr)

    def test_administrators_revoke(self):
        with Database() as db:
            victim_id, victim = db.add("--tenant", "acme", "--label", "a \"label\"")
            ops_id, ops = db.add("--tenant", "ops", "--user", "olga", "--endpoints", "all,admin")
            only_id, only = db.add("--tenant", "ops", "--endpoints", "admin")
            with Server(NULL, "--ctx", "512", "--max-seqs", "2", "--keys", db.path) as s:
                listed = {k["id"]: k for k in s.json("GET", "/v1/freehold/keys", key=ops)["data"]}
                self.assertEqual(set(listed), {victim_id, ops_id, only_id})
                self.assertEqual((listed[victim_id]["label"], listed[victim_id]["state"]), ("a \"label\"", "good"))
                self.assertNotIn(victim[3:], json.dumps(listed))
                self.assertEqual(status(s, only, "GET", "/v1/models"), 403, "admin is no other scope")
                self.assertEqual(status(s, victim), 200)
                # Once it is answered it holds, also for requests that follow at once.
                self.assertEqual(s.json("DELETE", "/v1/freehold/keys/" + victim_id, key=ops)["state"], "revoked")
                self.assertEqual(status(s, victim), 401)
                self.assertEqual(status(s, ops, "DELETE", "/v1/freehold/keys/" + victim_id), 409)
                self.assertEqual(status(s, ops, "DELETE", "/v1/freehold/keys/" + 16 * "0"), 404)
                self.assertEqual(status(s, ops, "DELETE", "/v1/freehold/keys/..%2f.."), 404)
                self.assertIn(f"{victim_id} was revoked over HTTP by ops/olga", s.log_text())
                self.assertEqual({k["id"]: k["state"] for k in db.list("--tenant", "acme")}, {victim_id: "revoked"})
                self.assertEqual([k["state"] for k in s.json("GET", "/v1/freehold/keys", key=only)["data"]
                                  if k["id"] == victim_id], ["revoked"])
                together([lambda: s.json("GET", "/v1/freehold/keys", key=ops) for _ in range(8)])
                # An administrator, too, can be taken out, by himself.
                self.assertEqual(s.json("DELETE", "/v1/freehold/keys/" + ops_id, key=ops)["state"], "revoked")
                self.assertEqual(status(s, ops, "GET", "/v1/freehold/keys"), 401)
                self.assertEqual(s.terminate(), 0)


class Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.labels = [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids.add(dict(attrs).get("id"))


class Page(unittest.TestCase):
    def setUp(self):
        self.server = Server(NULL, "--ctx", "512", "--max-seqs", "2")
        code, self.headers, body = self.server.request("GET", "/")
        self.assertEqual(code, 200)
        self.text = body.decode()

    def tearDown(self):
        self.server.kill()

    def test_it_needs_nobody_else(self):
        # The one address is the name of a language, which nobody fetches.
        foreign = set(re.findall(r"(?:https?|wss?|ftp)://[^\s\"'`)>]+", self.text)) - {"http://www.w3.org/2000/svg"}
        self.assertEqual(foreign, set())
        self.assertNotRegex(self.text, r"@import|url\(|importScripts|\beval\(|innerHTML|document\.write|new Function")
        for tag, attrs in Elements(self.text).tags:
            self.assertNotIn(tag, ("iframe", "object", "embed", "base", "img"), tag)
            for name, value in attrs.items():
                self.assertFalse(name.startswith("on") or name == "style", (tag, name))
                if name in ("src", "href", "action", "data", "srcset"):
                    self.assertRegex(value, r"^(data:|#)", (tag, name, value))
        self.assertLess(len(self.text), 65536)

    def test_headers(self):
        csp = dict(d.strip().split(" ", 1) for d in self.headers["Content-Security-Policy"].split(";"))
        self.assertEqual(csp["default-src"], "'none'")
        for name, tag in (("script-src", "script"), ("style-src", "style")):
            inner = re.findall(f"<{tag}>(.*?)</{tag}>", self.text, re.S)
            self.assertEqual(len(inner), 1)
            digest = base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()
            self.assertEqual(csp[name], f"'sha256-{digest}'")
        self.assertEqual((csp["connect-src"], csp["base-uri"], csp["form-action"], csp["frame-ancestors"]),
                         ("'self'", "'none'", "'none'", "'none'"))
        self.assertEqual(self.headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(self.headers["Referrer-Policy"], "no-referrer")

    def test_labels(self):
        e = Elements(self.text)
        named = {a["for"] for t, a in e.tags if t == "label" and "for" in a}
        for tag, attrs in e.tags:
            if tag == "svg":
                self.assertTrue(attrs.get("aria-label") or attrs.get("aria-hidden"), attrs)
            if tag in ("input", "textarea"):
                inside = re.search(r"<label>[^<]*<" + tag + r" id=\"" + attrs["id"] + "\"", self.text)
                self.assertTrue(attrs["id"] in named or inside, attrs)
            for ref in ("aria-labelledby", "aria-describedby", "for"):
                if ref in attrs:
                    self.assertIn(attrs[ref], e.ids)
        self.assertTrue(any(t == "html" and a.get("lang") for t, a in e.tags))


def top(*args, env=None):
    return subprocess.run([FREEHOLD, "top", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False, env={**os.environ, **(env or {})})


class Top(unittest.TestCase):
    def test_once(self):
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            with Server(NULL, "--ctx", "512", "--max-seqs", "4", "--keys", db.path, "--price", "* 1/1/1") as s:
                s.json("POST", "/v1/completions", {"prompt": "x", "max_tokens": 20}, key=key)
                path = os.path.join(db.dir.name, "key")
                with open(path, "w", encoding="ascii") as f:
                    f.write(key + "\n")
                args = ("--url", s.url, "--key-file", path)
                r = top(*args, "--once", "--json")
                self.assertEqual((r.returncode, r.stderr), (0, ""))
                j = json.loads(r.stdout)
                self.assertEqual((j["object"], j["tokens"]["generated"]), ("freehold.status", 20))
                self.assertIsNotNone(j["rates"], "it looked twice")
                # The others need not wait for a second look that is another one.
                args += ("--interval", "0.2")
                r = top(*args, "--once")
                self.assertEqual((r.returncode, r.stderr), (0, ""))
                for want in ("freehold ", " ok ", "throughput", "of 4", "finished 1,", "ttft", "kv cache", "cost", "acme"):
                    self.assertIn(want, r.stdout)
                self.assertNotIn("\033", r.stdout)
                r = top("--url", s.url, "--once", "--interval", "0.2", env={"OPENAI_API_KEY": key})
                self.assertEqual(r.returncode, 0)
                r = top("--url", s.url, "--once", env={"OPENAI_API_KEY": "wrong"})
                self.assertEqual(r.returncode, 1)
                self.assertIn("401", r.stderr)
                gone = s.url
        r = top("--url", gone, "--once")
        self.assertEqual(r.returncode, 1)
        # Reset: the kernel had not taken back the dead server's socket yet.
        self.assertRegex(r.stderr, "refused|reset")
        for wrong in (["--interval", "0"], ["--what"], ["word"]):
            self.assertEqual(top(*wrong).returncode, 2, wrong)
        self.assertEqual(top("--url", "ftp://x", "--once").returncode, 1)
        self.assertIn("--once", top("--help").stdout)

    def test_on_a_terminal(self):
        with Server(NULL, "--ctx", "512", "--max-seqs", "4") as s:
            pid, fd = pty.fork()
            if not pid:
                os.environ["TERM"] = "xterm"
                os.execv(FREEHOLD, [FREEHOLD, "top", "--url", s.url, "--interval", "0.2"])
            seen, deadline = b"", time.monotonic() + 20
            while seen.count(b"throughput") < 3 and time.monotonic() < deadline:
                if select.select([fd], [], [], 1)[0]:
                    seen += os.read(fd, 65536)
            os.write(fd, b"q")
            while time.monotonic() < deadline:
                try:
                    more = os.read(fd, 65536)
                except OSError:
                    break
                if not more:
                    break
                seen += more
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
            os.close(fd)
            self.assertTrue(seen.startswith(b"\033[?1049h"), seen[:40])
            self.assertIn(b"\033[?25h\033[?1049l", seen[-60:], "the terminal is as it was")
            self.assertGreaterEqual(seen.count(b"throughput"), 3)
