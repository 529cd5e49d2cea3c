# SPDX-License-Identifier: Apache-2.0
"""What agent runs used: by the clients' own count, the database, and a sum of the audit log that is made here."""

import hashlib
import http.client
import json
import os
import random
import sqlite3
import subprocess
import tempfile
import threading
import time
import unittest
from decimal import Decimal

import thinking
from identity import NULL, Database, bearer, freehold
from server import Server, together
from test_audit_serve import entries
from test_channel import Channel
from test_usage import UNIT, pieces

COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "money")
RUNS = ("nightly-report", "r2")


def run_id(name):
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def counts(line):
    return tuple(round(line[c] * UNIT) if c == "money" else line[c] for c in COUNTS)


def plus(a, b):
    return tuple(x + y for x, y in zip(a, b))


def thoughts(end):
    """Of each piece of an outcome."""
    if "charges" in end:
        return [c["reasoning"] for c in end["charges"]]
    return [end.get("nr_reasoning", 0)]


def sum_of(rows):
    """{(tenant, run id, or None for all of them): counts} as the log's export has it."""
    begins = {r["entry"]: r for r in rows if r["kind"] == "begin"}
    said = {}
    for end in rows:
        if end["kind"] not in ("end", "refused"):
            continue
        begin = begins[end["ref"]] if end["kind"] == "end" else end
        if "run" not in end.get("payers", []):
            continue
        for p, t in zip(pieces(begin, end), thoughts(end)):
            v = (p[1], p[2], p[3], p[4], t, p[5])
            for run in (begin["run"], None):
                key = begin["tenant"], run
                said[key] = plus(said.get(key, (0,) * 6), v)
    return said


class Runs(unittest.TestCase):
    def setUp(self):
        self.db = Database()
        self.addCleanup(self.db.dir.cleanup)
        self.log = os.path.join(self.db.dir.name, "log")
        self.model = os.path.join(self.db.dir.name, "think.gguf")
        self.marks = thinking.make(self.model)
        self.ids, self.keys = {}, {}
        for t in ("acme", "bolt"):
            self.ids[t], self.keys[t] = self.db.add("--tenant", t)
        self.lock = threading.Lock()
        self.own, self.alone = {}, {}  # by (tenant, run name), and of no run by tenant
        self.depth = {}  # the greatest, by (tenant, run id)

    def serve(self, *args):
        return Server("null:" + self.model, "--ctx", "512", "--max-seqs", "8", "--threads", "1", "--keys", self.db.path,
                      "--price", "* 2/0.5/10/4", "--audit", self.log, "--audit-mode", "strict", *args)

    def cost(self, *args):
        r = freehold("cost", *args, "--keys", self.db.path, "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        return json.loads(r.stdout)

    def rebuild(self, *args, want=0):
        r = freehold("audit", "rebuild-usage", self.log, "--keys", self.db.path, *args)
        self.assertEqual(r.returncode, want, r.stdout + r.stderr)
        return r.stdout

    def rows(self):
        """{(tenant, run id or None for all): counts} as the database has it."""
        c = sqlite3.connect(self.db.path)
        try:
            return {(t, r or None): v for t, r, *rest in c.execute(
                "SELECT tenant, run, requests, prompt, cached, completion, reasoning, money FROM runs")
                if any(v := tuple(rest))}
        finally:
            c.close()

    def ask(self, s, tenant, run, nr, n=1, depth=None, conn=None):
        """Whole answers of a model that thinks now and then; what the client was told that it used is noted."""
        words = list(range(1001, 1012))
        prompt = [*words[:nr % 7 + 1], self.marks[0], *words[:4], self.marks[1], words[5]]
        headers = {**bearer(self.keys[tenant]), **({"X-Freehold-Run-Id": run} if run else {}),
                   **({"X-Freehold-Run-Depth": str(depth)} if depth else {})}
        code, _, data = s.request("POST", "/v1/completions", {"prompt": prompt, "max_tokens": nr, "n": n, "ignore_eos": True},
                                  headers, conn, 60)
        j = json.loads(data)
        self.assertEqual(code, 200, j)
        u = j["usage"]
        cached, thought = u["prompt_tokens_details"]["cached_tokens"], u["completion_tokens_details"]["reasoning_tokens"]
        money = (u["prompt_tokens"] - cached) * 2 + cached * Decimal("0.5") + (u["completion_tokens"] - thought) * 10 + thought * 4
        v = (1, u["prompt_tokens"], cached, u["completion_tokens"], thought, int(money * UNIT / 1000000))
        with self.lock:
            to, key = (self.own, (tenant, run)) if run else (self.alone, tenant)
            to[key] = plus(to.get(key, (0,) * 6), v)
            if depth:
                at = tenant, run_id(run)
                self.depth[at] = max(depth, self.depth.get(at, 0))

    def mine(self):
        """What clients counted, as rows() has it."""
        want = {}
        for (tenant, run), v in self.own.items():
            want[(tenant, run_id(run))] = v
            want[(tenant, None)] = plus(want.get((tenant, None), (0,) * 6), v)
        return want

    def client(self, s, tenant, run, seed):
        rng, conn = random.Random(seed), s.connect(60)
        for _ in range(8):
            self.ask(s, tenant, run, 1 + rng.randrange(40), 1 + rng.randrange(2), rng.randrange(1, 4) if run else None, conn)
        conn.close()

    def test_two_tenants_and_their_runs(self):
        """kill -9, count again: the sums by run are those by key are the clients' own, to the token and the last digit of money."""
        path = os.path.join(self.db.dir.name, "channel")
        with self.serve("--channel", "unix:" + path, "--rule", "any acme") as s:
            together([lambda t=t, r=r, i=i: self.client(s, t, r, i) for i, (t, r) in
                      enumerate((t, r) for t in self.keys for r in (*RUNS, None))])
            # Over a channel a run is named by 16 bytes: those of the same run over HTTP.
            c = Channel(path)
            c.submit([1001, 1002, 1003], 5, run=bytes.fromhex(run_id("r2")))
            while not c.next()[2]:
                pass
            c.close()
            self.own[("acme", "r2")] = plus(self.own[("acme", "r2")], (1, 3, 0, 5, 0, 56000000))
            self.assertEqual(self.ids.keys(), {t for t, _ in self.own})
            s.proc.kill()
            s.proc.wait()
        with self.serve() as s:
            self.assertIn("counted again", s.log_text())
            self.assertEqual(self.rows(), self.mine())
            self.assertEqual(s.terminate(), 0)
        self.assertEqual(self.rows(), sum_of(entries(self.log, "--no-bodies")))
        self.assertIn("usage is what the log says", self.rebuild("--check"))
        self.look_at_the_command()
        # The next one is killed in the middle of answers: what they had used is in no outcome, and in no run.
        with self.serve() as s:
            threads = [threading.Thread(target=self.until_killed, args=(s, t, r)) for t in self.keys for r in RUNS]
            for t in threads:
                t.start()
            time.sleep(1.4)
            s.proc.kill()
            s.proc.wait()
            for t in threads:
                t.join()
        with self.serve() as s:
            said = sum_of(entries(self.log, "--no-bodies"))
            # What was saved before its outcome was in the log is not taken back: one answer a client at most.
            for key, v in self.rows().items():
                self.assertTrue(all(a >= b for a, b in zip(v, said[key])) and v[0] - said[key][0] <= 4, (key, v, said[key]))
            self.assertEqual(s.terminate(), 0)
        for key, v in self.mine().items():
            self.assertTrue(all(a <= b for a, b in zip(v, said[key])), (key, v, said[key]))
        self.forget_and_rebuild(said)

    def until_killed(self, s, tenant, run):
        try:
            for i in range(10000):
                self.ask(s, tenant, run, 1 + i % 30)
        except (OSError, ValueError, http.client.HTTPException):
            pass

    def forget_and_rebuild(self, said):
        c = sqlite3.connect(self.db.path)
        with c:
            c.execute("DELETE FROM runs WHERE tenant = 'acme' AND run = ?", (run_id("r2"),))
            c.execute("UPDATE runs SET completion = completion + 1 WHERE tenant = 'bolt' AND run = ''")
            c.execute("UPDATE measured SET reasoning = 1 WHERE kind = 'key'")
        c.close()
        told = self.rebuild("--check", want=1)
        self.assertRegex(told, f"run:acme/{run_id('r2')} of .*: completion: the database has 0, the log has "
                               f"{said[('acme', run_id('r2'))][3]}\n")
        self.assertRegex(told, "run:bolt of .*: completion: the database has ")
        self.assertRegex(told, f"key:{self.ids['acme']} of .*: reasoning: the database has 1, the log has ")
        self.rebuild()
        self.assertEqual(self.rows(), said)
        self.rebuild("--check")

    def look_at_the_command(self):
        lines = self.cost("--by", "run")
        self.assertEqual({(l["tenant"], l["run"]): counts(l) for l in lines},
                         {k: v for k, v in self.mine().items() if k[1]})
        self.assertEqual(lines, sorted(lines, key=lambda l: l["last"]))
        by_key = {l["key"]: counts(l) for l in self.cost("--by", "key")}
        for t in self.keys:
            of_runs = plus(self.mine()[(t, None)], (-1, -3, 0, -5, 0, -56000000) if t == "acme" else (0,) * 6)
            self.assertEqual(by_key[self.ids[t]], plus(of_runs, self.alone[t]), "the channel has no key")
        both = self.cost("--run", "r2")
        self.assertEqual({l["tenant"] for l in both}, {"acme", "bolt"})
        self.assertEqual({l["run"] for l in both}, {run_id("r2")})
        (one,) = self.cost("--run", run_id("r2"), "--tenant", "acme")
        self.assertIn(one, both)
        self.assertLessEqual(one["first"], one["last"])
        self.assertEqual({(l["tenant"], l["run"]): l["depth"] for l in lines}, self.depth)
        self.assertEqual(self.cost("--by", "run", "--from", "2099-01-01"), [])
        self.assertEqual(len(self.cost("--by", "run", "--to", "2099-01-01", "--tenant", "bolt")), 2)
        text = freehold("cost", "--by", "run", "--keys", self.db.path).stdout.splitlines()
        self.assertEqual(len(text), 5)
        self.assertIn(run_id("nightly-report"), "".join(text))
        for wrong in (("--by", "run", "--per", "day"), ("--by", "key", "--run", "x"), ("--tenant", "acme"), ("host", "--run", "x")):
            r = freehold("cost", *wrong, "--keys", self.db.path)
            self.assertEqual(r.returncode, 2, (wrong, r.stderr))

    def test_a_new_run_with_each_request(self):
        """Rows are bounded, another tenant's stay, and what has no row is with the others: no token is missing."""
        with self.serve("--run-rows", "6") as s:
            self.ask(s, "bolt", "steady", 9)
            conn = s.connect()
            for i in range(60):
                self.ask(s, "acme", f"run-{i}", 1 + i % 5, conn=conn)
            conn.close()
            self.ask(s, "bolt", "steady", 4)
            self.assertEqual(s.terminate(), 0)
        # The last to be asked stays, and time is kept in seconds.
        time.sleep(1.05)
        # A stop takes none away but where the log had more to give; the next look does.
        with self.serve("--run-rows", "6") as s:
            self.ask(s, "acme", "last", 3)
            self.assertEqual(s.terminate(), 0)
        lines = self.cost("--by", "run")
        mine = self.mine()
        named = {(l["tenant"], l["run"]): counts(l) for l in lines if l["run"]}
        self.assertEqual(sum(t == "acme" for t, _ in named), 6)
        self.assertEqual(named, {k: mine[k] for k in named})
        self.assertIn(("bolt", run_id("steady")), named)
        self.assertIn(("acme", run_id("last")), named)
        (others,) = [l for l in lines if not l["run"]]
        self.assertEqual(others, lines[-1])
        total = counts(others)
        for (t, _), v in named.items():
            total = plus(total, v) if t == "acme" else total
        self.assertEqual(total, mine[("acme", None)])
        self.assertRegex(freehold("cost", "--by", "run", "--keys", self.db.path).stdout, "\nothers +acme ")
        self.rebuild("--check")
        self.rebuild()
        # Which of one second's, the log's clock and the meter's may see otherwise.
        again = {k: v for k, v in self.rows().items() if k[1]}
        self.assertEqual(len(again), len(named))
        self.assertEqual(again, {k: mine[k] for k in again})

    def test_a_log_of_the_first_format(self):
        """It says nothing of charges, runs and thoughts, and is counted as it was."""
        with tempfile.TemporaryDirectory(prefix="freehold-old-") as folder:
            archive = os.path.join(os.path.dirname(os.path.abspath(__file__)), "audit_v1.tar.xz")
            subprocess.run(["tar", "-xJf", archive, "-C", folder], check=True, timeout=60)
            logs = [d for d, _, files in os.walk(folder) if "checkpoint" in files]
            self.assertTrue(logs)
            for self.log in logs:
                self.assertIn("of a version that did not log what was paid", self.rebuild("--check"))
                self.assertEqual(self.cost("--by", "run"), [])


if __name__ == "__main__":
    unittest.main()
