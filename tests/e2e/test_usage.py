# SPDX-License-Identifier: Apache-2.0
"""What was used, three times over: what clients counted, what the database says, what the audit log adds up to.

The sum over the log is made here from its export, by other code than the daemon's.
"""

import http.client
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
import unittest
from decimal import Decimal

from identity import NULL, Database, bearer, freehold
from server import LONG, Server, together
from test_audit_serve import audit, entries, mounted, wait_published
from test_channel import Channel

UNIT = 10 ** 12  # of money in the database


def pieces(begin, end):
    """[(minute, requests, prompt, cached, completion, money)] of an outcome, as Documentation/design/audit.md has it."""
    if "payers" not in end:
        return []
    if "charges" in end:
        return [(c["minute"][:16], c["requests"], c["prompt"], c["cached"], c["completion"], int(Decimal(c["money"]) * UNIT))
                for c in end["charges"]]
    return [(end["time"][:16], 1, begin.get("nr_prompt", 0), end.get("nr_cached", 0), end.get("nr_generated", 0),
             int(Decimal(end.get("money", "0")) * UNIT))]


def payers(begin, end):
    names = {"tenant": begin["tenant"], "user": f"{begin['tenant']}/{begin.get('user')}", "key": begin.get("key_id")}
    return [(kind, names[kind]) for kind in end.get("payers", []) if kind in names]


class Sum:
    """Of a log: totals and hours by (kind, name), tokens by request id; and how many requests have no outcome."""

    def __init__(self, rows):
        begins = {r["entry"]: r for r in rows if r["kind"] == "begin"}
        self.total, self.hours, self.by_id, self.nr_open = {}, {}, {}, len(begins)
        for end in rows:
            if end["kind"] not in ("end", "refused"):
                continue
            begin = begins[end["ref"]] if end["kind"] == "end" else end
            self.nr_open -= end["kind"] == "end"
            for minute, requests, prompt, cached, completion, money in pieces(begin, end):
                tokens = prompt + completion
                self.by_id[begin.get("request_id")] = self.by_id.get(begin.get("request_id"), 0) + tokens
                for who in payers(begin, end):
                    self.add(self.total, who, (tokens, money, requests))
                    self.add(self.hours, (minute[:13], *who), (prompt, cached, completion, money, requests))

    @staticmethod
    def add(table, key, values):
        table[key] = tuple(a + b for a, b in zip(table.get(key, (0,) * len(values)), values))


def tables(db):
    """(totals, hours) as the database has them."""
    c = sqlite3.connect(db.path)
    try:
        total = {(k, n): (t, m, r) for k, n, t, m, r in
                 c.execute("SELECT kind, name, tokens, money, requests FROM usage WHERE span = 3") if t or m or r}
        hours = {}
        for h, k, n, *values in c.execute("SELECT hour, kind, name, prompt, cached, completion, money, requests FROM hours"):
            if any(values):
                hours[(time.strftime("%Y-%m-%dT%H", time.gmtime(h)), k, n)] = tuple(values)
        return total, hours
    finally:
        c.close()


def forget_usage(db):
    c = sqlite3.connect(db.path)
    for table in ("usage", "hours", "usage_base", "hours_run", "usage_open", "usage_mark"):
        c.execute(f"DELETE FROM {table}")
    c.commit()
    c.close()


def larger(a, b):
    """Of two tables, number by number."""
    none = (0,) * 5
    return {k: tuple(map(max, a.get(k, b.get(k, none)), b.get(k, a.get(k, none)))) for k in {*a, *b}}


def more(table, by):
    """A table with @by added to it, and what is in neither left out."""
    none = (0,) * 5
    return {k: tuple(a + b for a, b in zip(table.get(k, none[:len(by.get(k, none))]), by.get(k, none[:len(table.get(k, none))])))
            for k in {*table, *by}}


def less(table, by):
    return {k: tuple(a - b for a, b in zip(v, by.get(k, (0,) * len(v)))) for k, v in table.items()}


class Usage(unittest.TestCase):
    def setUp(self):
        self.db = Database()
        self.addCleanup(self.db.dir.cleanup)
        self.log = os.path.join(self.db.dir.name, "log")

    def budget(self, *args):
        r = freehold("budget", *args, "--keys", self.db.path)
        self.assertEqual(r.returncode, 0, r.stderr)

    def serve(self, *args, **kw):
        return Server(NULL, "--ctx", "512", "--max-seqs", "16", "--threads", "1", "--keys", self.db.path, "--price", "* 2/0.5/10",
                      "--public", "/metrics", "--audit", self.log, *args, **kw)

    def ask(self, s, key, conn=None, headers=None, **fields):
        """(status, JSON)"""
        body = {"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True, **fields}
        code, _, data = s.request("POST", "/v1/completions", body, {**bearer(key), **(headers or {})}, conn, 120)
        return code, json.loads(data)

    def assert_tables(self, want):
        total, hours = tables(self.db)
        self.assertEqual(total, want.total)
        self.assertEqual(hours, want.hours)

    def mark(self, column):
        c = sqlite3.connect(self.db.path)
        try:
            return c.execute(f"SELECT {column} FROM usage_mark").fetchone()[0]
        finally:
            c.close()

    def rebuild(self, *args, want=0):
        r = freehold("audit", "rebuild-usage", self.log, "--keys", self.db.path, *args)
        self.assertEqual(r.returncode, want, r.stdout + r.stderr)
        return r.stdout + r.stderr

    def client(self, s, key, n, nr, own, torn):
        """Asks, tears off every ninth stream, and notes what each answer that it has in full says it used."""
        conn, refused = s.connect(60), 0
        for i in range(nr):
            name = f"{n}-{i}"
            if i % 9 == n % 9:
                torn.add(name)
                self.tear_off(s, key, name)
                continue
            code, j = self.ask(s, key, conn=conn, headers={"X-Request-Id": name}, max_tokens=1 + (n + 5 * i) % 40, n=1 + (n + i) % 3)
            if code == 200:
                own[name] = j["usage"]["total_tokens"]
                continue
            self.assertEqual((code, j["error"]["code"]), (429, "insufficient_quota"))
            refused += 1
            if refused > 3:
                break
        conn.close()

    def tear_off(self, s, key, name):
        sock = s.raw()
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 100, "stream": True, "ignore_eos": True}).encode()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s"
                     % (key.encode(), name.encode(), len(body), body))
        sock.recv(64)
        sock.close()

    def test_one_budget_and_64_clients(self):
        """Never one token over, never one lost on release; the log's sum is the meter is the clients' own count."""
        nr_clients, nr = 64, (1563 if LONG else 12)
        limit = nr_clients * nr * 30
        key_id, key = self.db.add("--tenant", "acme", "--user", "bob")
        self.budget("set", "tenant:acme", f"tokens/month={limit}")
        own, torn = {}, set()
        with self.serve("--audit-mode", "strict") as s:
            together([lambda n=n: self.client(s, key, n, nr, own, torn) for n in range(nr_clients)])
            s.wait_idle()
            # Nothing is held any more: the rest can be spent to the last token, but for one, which no prompt fits into.
            while self.ask(s, key, prompt=[5], max_tokens=64)[0] == 200:
                pass
            while self.ask(s, key, prompt=[5], max_tokens=1)[0] == 200:
                pass
            self.assertEqual(s.metric("audit_lost_total"), 0)
            if LONG:
                # The base has moved on with the log.
                self.assertGreater(self.mark("base"), s.metric("audit_published_entries") / 2)
            self.assertEqual(s.terminate(), 0)
        audit("verify", self.log)
        said = Sum(entries(self.log, "--no-bodies"))
        self.assertEqual(said.nr_open, 0)
        self.assertGreater(len(own), nr_clients)
        self.assertEqual({name: said.by_id.get(name) for name in own}, own)
        total, _ = tables(self.db)
        self.assertEqual(total, said.total)
        self.assertEqual(sorted(total), [("key", key_id), ("tenant", "acme"), ("user", "acme/bob")])
        self.assertIn(total[("tenant", "acme")][0], (limit, limit - 1))
        self.assertIn("usage is what the log says", self.rebuild("--check"))

    def killed_client(self, s, key, name, own):
        """Streams and whole answers until the server is gone."""
        for i in range(10000):
            rid, stream = f"{name}-{i}", i % 2 == 0
            body = {"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True, "max_tokens": 2 + i % 30, "stream": stream,
                    **({"stream_options": {"include_usage": True}} if stream else {})}
            try:
                conn = s.connect(20)
                conn.request("POST", "/v1/completions", json.dumps(body),
                             {**bearer(key), "X-Request-Id": rid, "Content-Type": "application/json"})
                r = conn.getresponse()
                if not stream:
                    j = json.loads(r.read())
                    if r.status == 429:
                        return
                    own[rid] = j["usage"]["total_tokens"]
                    continue
                used = None
                for line in r:
                    if line.startswith(b"data: {"):
                        used = json.loads(line[6:]).get("usage") or used
                    elif line.startswith(b"data: [DONE]"):
                        own[rid] = used["total_tokens"]
                if r.status == 429:
                    return
            except (OSError, http.client.HTTPException, ValueError):
                return

    def assert_counted(self, total, logged):
        """
        Of a server that has only begun: what the last one began with and what the log says since, or what was saved,
        whichever is more. What is so, and what the log says.
        """
        said = Sum(entries(self.log, "--no-bodies")).total if os.path.exists(os.path.join(self.log, "checkpoint")) else {}
        now = tables(self.db)[0]
        self.assertEqual(now, larger(more(total, less(said, logged)), self.saved))
        return now, said

    def test_kill_and_count_again(self):
        """kill -9 under load, in both modes: no start forgets what was logged or saved, and a budget holds over all of them."""
        self.saved = {}
        rng = random.Random(8)
        rounds, limit = (60, 4000000) if LONG else (6, 200000)
        keys = [self.db.add("--tenant", "acme", "--user", u)[1] for u in ("alice", "bob")]
        self.budget("set", "tenant:acme", f"tokens={limit}")
        own, recounted, total, logged = {}, 0, {}, {}
        for n in range(rounds):
            with self.serve("--audit-mode", "strict" if n % 3 else "relaxed") as s:
                recounted += "usage: counted again from entry" in s.log_text()
                total, logged = self.assert_counted(total, logged)
                threads = [threading.Thread(target=self.killed_client, args=(s, keys[i % 2], f"{n}.{i}", own)) for i in range(4)]
                for t in threads:
                    t.start()
                time.sleep(rng.uniform(0.1, 1.2 if n % 2 else 0.25))
                # What strict has told a client is in the log; relaxed keeps up to a tenth of a second to itself.
                strict = set(own) if n % 3 else None
                s.proc.kill()
                s.proc.wait()
                for t in threads:
                    t.join()
                if strict is None:
                    own = {k: v for k, v in own.items() if not k.startswith(f"{n}.")}
            if n == rounds // 2:
                forget_usage(self.db)
                total, logged = {}, {}
            self.saved = tables(self.db)[0]
        self.assertGreaterEqual(recounted, rounds - 2)
        with self.serve("--audit-mode", "strict") as s:
            total, logged = self.assert_counted(total, logged)
            # Not much more than the log: the answers that were under way at each kill.
            ahead = less(total, logged)[("tenant", "acme")][0]
            self.assertIn(ahead, range(rounds * 4 * 40))
            conn = s.connect()
            while self.ask(s, keys[0], conn=conn, max_tokens=400)[0] == 200:
                pass
            conn.close()
            while self.ask(s, keys[0], prompt=[5], max_tokens=1)[0] == 200:
                pass
            self.assertEqual(s.terminate(), 0)
        audit("verify", self.log)
        said = Sum(entries(self.log, "--no-bodies"))
        self.assertEqual({name: said.by_id.get(name) for name in own}, own)
        self.assertGreater(len(own), 3 * rounds)
        self.assertEqual(tables(self.db)[0], more(total, less(said.total, logged)))
        self.assertIn(tables(self.db)[0][("tenant", "acme")][0], (limit, limit - 1))
        # A server that ended in order is believed, and need not count.
        with self.serve() as s:
            self.assertNotIn("counted again", s.log_text())
            self.assertEqual(self.ask(s, keys[1], max_tokens=1)[0], 429)
            self.assertEqual(s.terminate(), 0)

    def test_the_command(self):
        key_id, key = self.db.add("--tenant", "acme")
        with self.serve() as s:
            for i in range(5):
                self.assertEqual(self.ask(s, key, max_tokens=3 + i, headers={"X-Freehold-Run-Id": "r", "X-Freehold-Run-Depth": "2"})[0], 200)
            # Two prompts are two requests, each read once for its choices.
            self.assertEqual(self.ask(s, key, prompt=["a b", "c"], max_tokens=4, n=3)[0], 200)
            wait_published(s)
            self.assertIn("a server writes this log", self.rebuild(want=1))
            self.assertIn("a server writes this log", self.rebuild("--check", want=1))
            # How long the log was seen, so that an older state of it is told from it.
            deadline = time.monotonic() + 10
            while self.mark("entries") != s.metric("audit_published_entries"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.1)
            self.assertEqual(s.terminate(), 0)
        rows = entries(self.log)
        begins = [r for r in rows if r["kind"] == "begin"]
        self.assertEqual([len(b.get("run", "")) for b in begins], [32] * 5 + [0])
        self.assertEqual([b.get("run_depth") for b in begins], [2] * 5 + [None])
        said = Sum(rows)
        self.assertEqual(said.total[("key", key_id)][2], 7)
        self.assert_tables(said)
        self.assertIn("usage is what the log says", self.rebuild("--check"))
        c = sqlite3.connect(self.db.path)
        c.execute("UPDATE usage SET tokens = tokens + 3 WHERE kind = 'tenant' AND span = 3")
        c.execute("DELETE FROM usage WHERE kind = 'key'")
        c.commit()
        c.close()
        out = self.rebuild("--check", want=1)
        self.assertIn("tenant:acme of ", out)
        self.assertIn(f"tokens: the database has {said.total[('tenant', 'acme')][0] + 3}, the log has {said.total[('tenant', 'acme')][0]}", out)
        self.assertIn(f"key:{key_id}", out)
        r = freehold("audit", "rebuild-usage", self.log, self.log, "--keys", self.db.path)
        self.assertEqual(r.returncode, 1, r.stdout)
        self.assertIn("named twice", r.stderr)
        self.assertNotEqual(tables(self.db)[0], said.total)
        self.assertIn("usage was rebuilt", self.rebuild())
        self.assert_tables(said)
        # Rows that went while no server ran: the next one notices.
        with self.serve() as s:
            self.assertEqual(s.terminate(), 0)
        c = sqlite3.connect(self.db.path)
        c.execute("DELETE FROM usage")
        c.commit()
        c.close()
        with self.serve() as s:
            self.assertIn("changed in the database while no server ran", s.log_text())
            self.assertEqual(s.terminate(), 0)
        self.assertEqual(tables(self.db)[0], said.total)
        for args, what in ((["--keys", "/nonexistent"], "/nonexistent"), (["--key", "x+0+y"], "key")):
            r = freehold("audit", "rebuild-usage", self.log, "--keys", self.db.path, *args)
            self.assertEqual(r.returncode, 1, r.stdout)
            self.assertIn(what, r.stderr)

    def test_what_was_used_without_the_log_stays(self):
        """Usage from before the log, or of another log, is the base that is counted on from; also after a kill."""
        key = self.db.add("--tenant", "acme")[1]
        who = ("tenant", "acme")
        with Server(NULL, "--ctx", "512", "--keys", self.db.path) as s:
            self.assertEqual(self.ask(s, key, max_tokens=7)[0], 200)
            self.assertEqual(s.terminate(), 0)
        before = tables(self.db)[0][who]
        want = before[0]
        for log in ("log", "log", "other", "other"):
            self.log = os.path.join(self.db.dir.name, log)
            with self.serve("--audit-mode", "strict") as s:
                self.assertEqual(tables(self.db)[0][who][0], want)
                want += self.ask(s, key, max_tokens=5)[1]["usage"]["total_tokens"]
                s.proc.kill() if log == "log" else s.terminate()
                s.proc.wait()
            if log == "log":
                # The kill mostly comes before the tables are saved; who counts again needs this log.
                with self.serve() as s:
                    self.assertEqual(s.terminate(), 0)
            self.assertEqual(tables(self.db)[0][who][0], want)
        # A log that was put back to an older state is noticed, and counts for nothing.
        old = self.log + ".old"
        shutil.copytree(self.log, old)
        with self.serve() as s:
            want += self.ask(s, key, max_tokens=5)[1]["usage"]["total_tokens"]
            self.assertEqual(s.terminate(), 0)
        shutil.rmtree(self.log)
        os.rename(old, self.log)
        with self.serve() as s:
            self.assertIn("shorter", s.log_text())
            self.assertEqual(s.terminate(), 0)
        self.assertEqual(tables(self.db)[0][who][0], want)


    def test_a_log_that_cannot_be_written(self):
        """Relaxed goes on while the log's disk is full; what it served then is in the tables alone, and no start forgets it."""
        disk = os.path.join(self.db.dir.name, "disk")
        mounted(disk, "1m")
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=False)
        self.log = os.path.join(disk, "log")
        key = self.db.add("--tenant", "acme")[1]
        who, used = ("tenant", "acme"), 0
        with self.serve("--audit-mode", "relaxed") as s:
            used += self.ask(s, key, max_tokens=100)[1]["usage"]["total_tokens"]
            wait_published(s)
            with open(os.path.join(disk, "ballast"), "wb", buffering=0) as f, self.assertRaises(OSError):
                while True:
                    f.write(b"x" * 512)
            conn = s.connect()
            # What of the last block is free takes a few records.
            for i in range(40):
                used += self.ask(s, key, conn=conn, max_tokens=100)[1]["usage"]["total_tokens"]
            conn.close()
            deadline = time.monotonic() + 10
            while tables(self.db)[0].get(who, (0,))[0] != used or not s.metric("audit_failing"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.1)
            s.proc.kill()
            s.proc.wait()
        os.unlink(os.path.join(disk, "ballast"))
        self.assertLess(Sum(entries(self.log, "--no-bodies")).total[who][0], used)
        for first in (True, False):
            with self.serve() as s:
                self.assertEqual(tables(self.db)[0][who][0], used)
                self.assertEqual(sum(h[0] + h[2] for (_, *w), h in tables(self.db)[1].items() if tuple(w) == who), used)
                self.assertEqual(f" {used} tokens saved" in s.log_text(), first, s.log_text())
                self.assertEqual(s.terminate(), 0)

    def test_the_service_manager_is_told(self):
        """A start that counts asks for more time than a start has."""
        key = self.db.add("--tenant", "acme")[1]
        with self.serve("--audit-mode", "strict") as s:
            self.assertEqual(self.ask(s, key, max_tokens=5)[0], 200)
            s.proc.kill()
            s.proc.wait()
        path = os.path.join(self.db.dir.name, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.settimeout(20)
            with self.serve(env={"NOTIFY_SOCKET": path}) as s:
                self.assertRegex(manager.recv(4096), rb"^EXTEND_TIMEOUT_USEC=\d{7,}\nSTATUS=counting usage .* of \d+$")
                self.assertTrue(manager.recv(4096).startswith(b"READY=1"))
                self.assertEqual(s.terminate(), 0)

    def test_channel_requests_that_never_ran(self):
        """One that goes while it waits for a sequence has been counted as a request, and its refusal says so."""
        self.db.add("--tenant", "acme")
        path = os.path.join(self.db.dir.name, "channel")
        with Server(NULL, "--ctx", "512", "--max-seqs", "1", "--threads", "1", "--keys", self.db.path, "--public", "/metrics",
                    "--audit", self.log, "--channel", "unix:" + path, "--rule", "any acme") as s:
            busy, waits = Channel(path, cq=64), Channel(path)
            busy.submit([5, 6, 7], 400)  # nobody reads: it stays where it is once its ring is full
            busy.next()
            waits.submit([5, 6], 5)
            deadline = time.monotonic() + 10
            while not s.metric("num_requests_waiting"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            waits.close()
            while s.metric("num_requests_waiting"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            busy.close()
            s.wait_idle()
            self.assertEqual(s.terminate(), 0)
        said = Sum(entries(self.log, "--no-bodies"))
        self.assertEqual(said.total[("tenant", "acme")][2], 2)
        self.assert_tables(said)
        self.assertIn("usage is what the log says", self.rebuild("--check"))


class SlowReaders(unittest.TestCase):
    """Streams that nobody reads, over a Unix socket, whose buffer does not grow."""

    def setUp(self):
        self.db = Database()
        self.addCleanup(self.db.dir.cleanup)
        self.log = os.path.join(self.db.dir.name, "log")
        self.key_id, self.key = self.db.add("--tenant", "acme")

    def serve(self):
        return Server(NULL, "--ctx", "2048", "--max-seqs", "4", "--threads", "1", "--keys", self.db.path, "--public", "/metrics",
                      "--audit", self.log, listen="unix:" + os.path.join(self.db.dir.name, "http"))

    def begin(self, s, name, tokens):
        sock = s.raw()
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": tokens, "stream": True, "ignore_eos": True,
                           "logprobs": 5}).encode()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s"
                     % (self.key.encode(), name.encode(), len(body), body))
        return sock

    def test_what_was_never_read_is_paid(self):
        """The engine is through with an answer, its client has not read all of it, and goes."""
        done, stuck = {}, 0
        with self.serve() as s:
            for tokens in range(200, 2000, 200):
                sock = self.begin(s, f"r-{tokens}", tokens)
                time.sleep(0.2)
                if s.metric("num_requests_running"):
                    stuck += 1
                else:
                    done[f"r-{tokens}"] = tokens
                sock.close()
                s.wait_idle()
            self.assertEqual(s.terminate(), 0)
        # Less than a sequence's 256 slots lie between two of them: one was through, with some of them unread.
        self.assertGreater(len(done), 1)
        self.assertGreater(stuck, 0)
        rows = entries(self.log, "--no-bodies")
        ids = {r["entry"]: r.get("request_id") for r in rows if r["kind"] == "begin"}
        ended = {ids[r["ref"]]: r.get("nr_generated", 0) for r in rows if r["kind"] == "end"}
        self.assertEqual({name: ended[name] for name in done}, done)
        self.assertEqual(tables(self.db)[0], Sum(rows).total)

    def test_a_revoked_key_has_no_more_tokens(self):
        with self.serve() as s:
            sock = self.begin(s, "r", 1900)
            time.sleep(0.3)
            self.assertEqual(s.metric("num_requests_running"), 1)
            self.db.key("revoke", self.key_id)
            deadline = time.monotonic() + 10
            while s.metric("num_requests_running"):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
            text = b""
            while chunk := sock.recv(65536):
                text += chunk
            sock.close()
            said = text.decode().split("data: ")
            errors = [i for i, event in enumerate(said) if '"error"' in event]
            self.assertEqual(errors, [len(said) - 1], said[-3:])
            self.assertIn("revoked", said[-1])
            self.assertEqual(s.terminate(), 0)


if __name__ == "__main__":
    unittest.main()
