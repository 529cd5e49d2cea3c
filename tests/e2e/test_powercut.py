# SPDX-License-Identifier: Apache-2.0
"""Power cuts under a server with a key database and an audit log: each is mended, and they agree.

The server runs under powercut.c while clients ask and keys are revoked. Then the power is cut, again and again at other
moments of that run. After each cut a server must start; the log must verify and have all that strict mode has told a
client; a key whose revocation was answered must be revoked; and usage must be what the log says, but where more had been
saved, and never less. What is asked of the log is added up by other code than the daemon's."""

import http.client
import json
import os
import random
import shutil
import sqlite3
import tempfile
import threading
import time
import unittest

from identity import Database, bearer, freehold
from powercut import Disk, Record, library
from server import LONG, Server
from test_audit_serve import audit, entries
from test_usage import NULL, Sum, larger, tables

NR_REVOKED = 12


class Cut(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.TemporaryDirectory(prefix="freehold-cut-")
        self.addCleanup(self.top.cleanup)
        self.lib = library(self.top.name)
        self.rng = random.Random(11)
        self.nr_behind = self.nr_ahead = self.nr_mended = self.nr_acked = self.nr_revoked = 0

    def serve(self, db, mode, **kw):
        return Server(NULL, "--ctx", "512", "--max-seqs", "8", "--threads", "1", "--keys", db.path, "--price", "* 2/0.5/10",
                      "--public", "/metrics", "--audit-mode", mode, "--audit", os.path.join(db.dir.name, "log"), **kw)

    def client(self, s, record, key, name, acked):
        """Asks until the server is gone; notes what it was told in full, and when."""
        for i in range(10000):
            rid, stream = f"{name}-{i}", i % 2 == 0
            body = {"prompt": "Once upon a time", "ignore_eos": True, "max_tokens": 2 + i % 30, "stream": stream,
                    **({"stream_options": {"include_usage": True}} if stream else {})}
            try:
                conn, used = s.connect(20), None
                conn.request("POST", "/v1/completions", json.dumps(body), {**bearer(key), "X-Request-Id": rid})
                r = conn.getresponse()
                if not stream:
                    used = json.loads(r.read())["usage"]
                for line in r if stream else ():
                    if line.startswith(b"data: {"):
                        last = json.loads(line[6:]).get("usage")
                    elif line.startswith(b"data: [DONE]"):
                        used = last
                if used:
                    acked[rid] = (used["total_tokens"], record.nr())
                conn.close()
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                return

    def revoker(self, s, record, key, victims, revoked):
        for v in victims:
            try:
                if s.request("DELETE", "/v1/freehold/keys/" + v, None, bearer(key))[0] == 200:
                    revoked[v] = record.nr()
            except (OSError, http.client.HTTPException):
                return
            time.sleep(self.rng.uniform(0.05, 0.25))

    def run_server(self, db, mode, n, seconds):
        """Under load, and killed: (disk at its start, changes, what clients were told, keys that were revoked)."""
        _, ops_key = db.add("--tenant", "ops", "--endpoints", "all,admin")
        keys = [db.add("--tenant", "acme", "--user", u)[1] for u in ("alice", "bob")]
        victims = [db.add("--tenant", "acme")[0] for _ in range(NR_REVOKED)]
        record = Record(self.lib, db.dir.name, os.path.join(self.top.name, "record"))
        disk, acked, revoked = Disk(db.dir.name), {}, {}
        with self.serve(db, mode, env=record.env) as s:
            threads = [threading.Thread(target=self.client, args=(s, record, keys[i % 2], f"{n}.{i}", acked)) for i in range(4)]
            threads.append(threading.Thread(target=self.revoker, args=(s, record, ops_key, victims, revoked)))
            for t in threads:
                t.start()
            time.sleep(seconds)
            s.proc.kill()
            s.proc.wait()
            for t in threads:
                t.join()
        return disk, record.ops(), acked, revoked

    def saved(self, db):
        """The tables as the cut left them, by way of a copy, for reading mends them."""
        with Database() as copy:
            for name in ("keys.db", "keys.db-wal"):
                if os.path.exists(os.path.join(db.dir.name, name)):
                    shutil.copy(os.path.join(db.dir.name, name), os.path.join(copy.dir.name, name))
            c = sqlite3.connect(copy.path)
            self.assertEqual(c.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            there = c.execute("SELECT 1 FROM sqlite_master WHERE name = 'usage'").fetchone()
            c.close()
            return tables(copy) if there else ({}, {})

    def spans_hold(self, db, rows):
        """What budgets go by, of the day and the month that it is, is not less than the log says."""
        today, c = time.strftime("%Y-%m-%d", time.gmtime()), sqlite3.connect(db.path)
        for span, prefix in ((1, today), (2, today[:7])):
            said = Sum([r for r in rows if r["kind"] == "begin" or r["time"].startswith(prefix)]).total
            has = {(k, n): v for k, n, *v in c.execute("SELECT kind, name, tokens, money, requests FROM usage WHERE span = ?", (span,))}
            for who, values in said.items():
                self.assertTrue(all(a >= b for a, b in zip(has[who], values)), (span, who, has[who], values))
        c.close()

    def check(self, db, mode, at, acked, revoked):
        log = os.path.join(db.dir.name, "log")
        saved, saved_hours = self.saved(db)
        with self.serve(db, "strict") as s:
            now, hours = tables(db)
            self.nr_mended += "was not ended in order" in s.log_text()
            rows = entries(log, "--no-bodies")
            self.spans_hold(db, rows)
            self.assertEqual(s.terminate(), 0)
        audit("verify", log)
        said = Sum(rows)
        self.assertEqual(now, larger(said.total, saved))
        self.assertEqual(larger(hours, said.hours), hours)
        self.nr_behind += larger(said.total, saved) != saved
        self.nr_ahead += larger(said.total, saved) != said.total
        told = {rid: tokens for rid, (tokens, when) in acked.items() if when <= at and mode == "strict"}
        self.assertEqual({rid: said.by_id.get(rid) for rid in told}, told)
        self.nr_acked += len(told)
        gone = {v for v, when in revoked.items() if when <= at}
        self.nr_revoked += len(gone)
        self.assertEqual(gone - {k["id"] for k in db.list() if k["state"] == "revoked"}, set())
        logged = "".join(r.get("text", "") for r in rows if r["kind"] == "keys")
        self.assertEqual({v for v in gone if mode == "strict" and v not in logged}, set())
        r = freehold("audit", "rebuild-usage", log, "--keys", db.path)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(tables(db)[0], said.total)
        self.assertEqual(tables(db)[1], said.hours)

    def moments(self, ops, nr):
        """Of all changes alike, and as often beside those of the database, which are few."""
        of_db = [i for i, op in enumerate(ops) if op[3].startswith("keys.db")]
        self.assertGreater(len(of_db), 20)
        out = [self.rng.randrange(len(ops)) for _ in range(nr // 2)]
        return sorted(out + [min(len(ops) - 1, self.rng.choice(of_db) + self.rng.randrange(2)) for _ in range(nr - nr // 2)])

    def test_log_and_database(self):
        nr_runs, nr_cuts = (25, 40) if LONG else (2, 5)
        db = Database()
        for n in range(nr_runs):
            # A run begins with what the last cut has left. All of the log is read after each cut, so it may not grow for ever.
            if n and n % 5 == 0:
                db.dir.cleanup()
                db = Database()
            mode = "relaxed" if n % 3 == 1 else "strict"
            disk, ops, acked, revoked = self.run_server(db, mode, n, self.rng.uniform(1.2, 3 if LONG else 1.5))
            played = 0
            db.dir.cleanup()
            for at in self.moments(ops, nr_cuts):
                for op in ops[played:at]:
                    disk.play(op)
                played = at
                db.dir.cleanup()
                db = Database()
                disk.cut(db.dir.name, self.rng)
                with self.subTest(run=n, mode=mode, cut=at, of=len(ops)):
                    self.check(db, mode, at, acked, revoked)
        db.dir.cleanup()
        print(f"{nr_runs * nr_cuts} cuts: the database was behind the log {self.nr_behind} times, ahead {self.nr_ahead}; "
              f"{self.nr_mended} logs were mended; {self.nr_acked} answers and {self.nr_revoked} revocations had been told")
        # The cuts were where it hurts.
        self.assertGreater(self.nr_behind, nr_runs * nr_cuts // 4)
        self.assertGreater(self.nr_mended, nr_runs * nr_cuts // 4)
        self.assertGreater(min(self.nr_acked, self.nr_revoked), 0)


if __name__ == "__main__":
    unittest.main()
