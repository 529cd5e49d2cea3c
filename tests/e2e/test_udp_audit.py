# SPDX-License-Identifier: Apache-2.0
"""Requests over UDP have an owner, budgets and a record in the audit log, as
those over HTTP and channels do."""

import base64
import errno
import hashlib
import json
import os
import signal
import random
import subprocess
import time
import unittest

import test_audit_serve
from identity import Database, freehold, until
from server import DEMO_MODEL, together
from test_audit_serve import Case, audit, entries, mounted, tokens
from test_channel import STATE_REVOKED, Channel
from udp import LAST, Client, Keys, Refused, UdpServer, make_key, wait_for

FINISH_LENGTH, FINISH_BUDGET, FINISH_ERROR = 2, 5, 6
LIMITED = ("--ctx", "512", "--max-seqs", "4", "--threads", "1")


def over_udp(s, keys, prompt, n, key=None, **kw):
    with Client(s.udp_url, key or keys.client) as c:
        return c.tokens(prompt, n, **kw)


class Logged(Case):
    def setUp(self):
        super().setUp()
        self.keys = Keys(self.top.name)

    def serve(self, *args, model=DEMO_MODEL, **kw):
        return UdpServer(model, self.keys, "--threads", "1", "--audit", self.log, *args, **kw)

    def test_what_is_said_of_requests(self):
        public = self.public()
        key_id = hashlib.blake2b(public, digest_size=32).hexdigest()[:16]
        for mode in ("relaxed", "strict"):
            with self.subTest(mode=mode), self.serve("--audit-mode", mode) as s:
                ids = s.json("POST", "/tokenize", {"prompt": "Once upon a"})["tokens"]
                with Client(s.udp_url, self.keys.client) as c:
                    got, last = c.tokens("Once upon a", 12)
                    self.assertEqual(last, (FINISH_LENGTH, 0))
                    # More than the ring of slots holds, so that places in it are used again.
                    self.assertEqual(c.tokens(ids, 400)[0][:12], got)
                    self.assertEqual(c.tokens([10 ** 6], 4)[1][1], -errno.EINVAL)
                    c.submit(ids, 480)
                    c.next()
                # The session ends with its handle.
                wait_for(lambda s=s: s.metric("udp_requests") == 0)
                s.wait_idle()
                self.assertEqual(s.terminate(), 0)
            audit("verify", self.log)
            rows = entries(self.log)
            start = max(r["entry"] for r in rows if r["kind"] == "start")
            rows = [r for r in rows if r["entry"] >= start]
            self.assertIn("udp=udp://", rows[0]["text"])
            pairs = [p for p in self.pairs(rows) if p[0]["endpoint"] == "udp"]
            for begin, _ in pairs:
                self.assertEqual((begin["tenant"], begin["how"], begin["key_id"], begin["frontend"]),
                                 ("tester", "public_key", key_id, "udp"))
            (begin, end), (_, long), bad, gone = pairs
            self.assertEqual((tokens(begin), tokens(end)), (ids, got))
            self.assertEqual((end["status"], end["nr_generated"], end["finish"]), (200, 12, "length"))
            self.assertEqual((begin["max_tokens"], begin["nr_prompt"]), (12, len(ids)))
            self.assertGreater(end["ttft_us"], 0)
            self.assertGreaterEqual(end["duration_us"], end["ttft_us"])
            self.assertEqual((long["nr_generated"], tokens(long)[:12]), (400, got))
            self.assertEqual(len(tokens(long)), 400)
            self.assertEqual((tokens(bad[0]), bad[1]["status"]), ([10 ** 6], 400))
            self.assertEqual(gone[1]["status"], 499)
            self.assertEqual(len(tokens(gone[1])), gone[1]["nr_generated"])
            self.assertFalse([r for r in rows if r["kind"] in ("refused", "lost")])

    def test_refused_by_the_protocol(self):
        with self.serve("--audit-mode", "strict", "--udp-max-requests", "4") as s, \
                Client(s.udp_url, self.keys.client) as c, Client(s.udp_url, self.keys.client) as other:
            # One key may have three quarters of what may be open. A session keeps to what it was promised; two may not.
            for i in range(3):
                c.submit([5, 6, 7], 200, user=i)
            with self.assertRaises(Refused) as e:
                c.submit([5, 6, 7], 200, user=3)
            self.assertEqual(e.exception.code, -errno.EAGAIN)
            other.submit([5, 6, 7], 200, user=3)
            ends = []
            while len(ends) < 4:
                t = (other if not ends else c).next()
                if t.flags & LAST:
                    ends.append((t.user_data, t.error))
            self.assertEqual(sorted(ends), [(0, 0), (1, 0), (2, 0), (3, -errno.EAGAIN)])
            self.assertEqual(s.terminate(), 0)
        audit("verify", self.log)
        rows = entries(self.log)
        self.assertEqual(len(self.pairs(rows)), 3)
        refused, = [r for r in rows if r["kind"] == "refused"]
        self.assertEqual((refused["endpoint"], refused["tenant"], refused["status"]), ("udp", "tester", 429))

    def public(self):
        with open(self.keys.clients, encoding="ascii") as f:
            return base64.urlsafe_b64decode(f.read().split()[-1] + "=")

    def test_many_at_once(self):
        with self.serve("--audit-mode", "strict") as s, Client(s.udp_url, self.keys.client) as c:
            want = s.json("POST", "/tokenize", {"prompt": "The old King"})["tokens"]
            got = {}
            for i in range(24):
                c.submit(want, 3 + i, user=i)
            while sum(last for _, last in got.values()) < 24:
                t = c.next()
                ids, _ = got.setdefault(t.user_data, ([], False))
                if not t.flags & 2:
                    ids.append(t.token)
                got[t.user_data] = (ids, bool(t.flags & 1))
            self.assertEqual(s.terminate(), 0)
        audit("verify", self.log)
        pairs = [p for p in self.pairs(entries(self.log)) if p[0]["endpoint"] == "udp"]
        self.assertEqual({b["max_tokens"] - 3: tokens(e) for b, e in pairs}, {i: ids for i, (ids, _) in got.items()})


class FullDisk(Case):
    wait = test_audit_serve.Trouble.wait

    def test_full_disk(self):
        disk = os.path.join(self.top.name, "disk")
        mounted(disk, "1m")
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=False)
        self.log = os.path.join(disk, "log")
        keys = Keys(self.top.name)
        with UdpServer(DEMO_MODEL, keys, "--threads", "1", "--audit", self.log, "--audit-mode", "strict") as s, \
                Client(s.udp_url, keys.client) as c:
            c.tokens("before", 2)
            ballast = os.path.join(disk, "ballast")
            with open(ballast, "wb", buffering=0) as f, self.assertRaises(OSError):
                while True:
                    f.write(b"x" * 4096)
            # Who finds out first that the disk is full waits for it: the last of its answer does not get out.
            rng = random.Random(5)
            user, seen = 0, []
            while True:
                user += 1
                c.submit([rng.randrange(5, 500) for _ in range(400)], 3, user=user)
                try:
                    seen = [c.next(timeout_s=0.7)]
                    while not seen[-1].flags & LAST:
                        seen.append(c.next(timeout_s=0.7))
                except Refused as e:
                    self.assertEqual(e.code, -errno.ETIMEDOUT)
                    break
                self.assertEqual((seen[-1].error, len(seen)), (0, 3))
                seen = []
            self.wait(s, 1)
            s.wait_idle()
            c.submit([5, 6, 7], 2, user=10 ** 6)
            t = c.next()
            self.assertEqual((t.user_data, t.finish, t.error), (10 ** 6, FINISH_ERROR, -errno.EAGAIN))
            self.assertGreater(t.retry_us, 0)
            os.unlink(ballast)
            self.wait(s, 0)
            seen += [c.next() for _ in range(3 - len(seen))]
            self.assertEqual([(t.user_data, t.error) for t in seen], 3 * [(user, 0)])
            self.assertEqual(c.tokens("after", 2)[1], (FINISH_LENGTH, 0))
            self.assertEqual(s.terminate(), 0)
        audit("verify", self.log)
        rows = entries(self.log)
        pairs = self.pairs(rows)
        self.assertEqual([(e["status"], e["nr_generated"]) for _, e in pairs], [(200, 2)] + user * [(200, 3)] + [(200, 2)])
        self.assertEqual(tokens(pairs[user][1]), [t.token for t in seen])
        self.assertEqual([(r["status"], r["tenant"]) for r in rows if r["kind"] == "refused"], [(429, "tester")])


class Owners(unittest.TestCase):
    model = "null:" + DEMO_MODEL

    def test_budgets_rules_and_locks(self):
        with Database() as db:
            keys = Keys(db.dir.name)
            os.chmod(keys.server, 0o644)  # the server may be another user by then
            others = {n: os.path.join(db.dir.name, n) for n in ("tenant1", "nobody", "evil")}
            with open(keys.clients, "a", encoding="ascii") as f:
                for name, path in others.items():
                    f.write(f"{name} {make_key(path)}\n")
            db.add("--tenant", "acme")
            db.add("--tenant", "tenant1")
            for who, what in (("user:acme/phone", "requests=3"), ("tenant:acme", "tokens=1000")):
                self.assertEqual(freehold("budget", "set", who, what, "--keys", db.path).returncode, 0)
            log = os.path.join(db.dir.name, "log")
            with UdpServer(self.model, keys, *LIMITED, "--keys", db.path, "--rule", "udp:tester acme/phone",
                           "--rule", "udp:evil refuse", "--audit", log) as s:
                ids = list(range(5, 13))
                with Client(s.udp_url, keys.client) as c:
                    for _ in range(3):
                        self.assertEqual(c.tokens(ids, 8)[1], (FINISH_LENGTH, 0))
                    self.assertEqual(c.tokens(ids, 8), ([], (FINISH_ERROR, -errno.EDQUOT)))
                self.assertEqual(over_udp(s, keys, ids, 8, others["tenant1"])[1], (FINISH_LENGTH, 0))
                for name in ("nobody", "evil"):
                    self.assertEqual(over_udp(s, keys, ids, 8, others[name]), ([], (FINISH_ERROR, -errno.EACCES)))
                # Live: locked, unlocked, and a budget that cuts.
                db.key("lock", "tenant1")
                until(lambda: over_udp(s, keys, ids, 8, others["tenant1"])[1][1], -errno.EACCES)
                db.key("unlock", "tenant1")
                until(lambda: over_udp(s, keys, ids, 8, others["tenant1"])[1][1], 0)
                self.assertEqual(freehold("budget", "set", "user:acme/phone", "requests=100", "tokens=100", "--keys",
                                          db.path).returncode, 0)
                until(lambda: over_udp(s, keys, ids, 100)[1], (FINISH_BUDGET, 0))
                self.assertEqual(s.terminate(), 0)
            limits = json.loads(freehold("budget", "list", "--json", "--keys", db.path).stdout)
            used = {(l["name"], l["limit"]): l["used"] for l in limits}
            self.assertEqual((used["acme/phone", "tokens"], used["acme", "tokens"]), ("100", "100"))
            rows = entries(log)
            ends = {r["ref"]: r for r in rows if r["kind"] == "end"}
            mine = [(r["user"], ends[r["entry"]]["status"]) for r in rows if r["kind"] == "begin" and r["tenant"] == "acme"]
            self.assertEqual(mine[:4], 3 * [("phone", 200)] + [("phone", 429)])
            refused = {(r["tenant"], r["status"]) for r in rows if r["kind"] == "refused"}
            self.assertEqual(refused, {("nobody", 403), ("evil", 403), ("tenant1", 403)})

    def test_a_client_of_another_name_is_answered_no_further(self):
        """SIGHUP: the key of a client whose answer runs is somebody else's now, who may not."""
        with Database() as db:
            keys = Keys(db.dir.name)
            os.chmod(keys.server, 0o644)
            db.add("--tenant", "tester")
            model = os.path.join(db.dir.name, "slow.gguf")
            self.assertEqual(freehold("synth", "--shape", "tiny", "--type", "F32", "--ctx", "32768", "-o", model).returncode, 0)
            with UdpServer(model, keys, "--threads", "1", "--isa", "ref", "--ctx", "32768", "--keys", db.path, "--public",
                           "/metrics") as s:
                def rename():
                    until(lambda: s.metric("num_requests_running"), 1, 20)
                    with open(keys.clients, encoding="ascii") as f:
                        line = f.read().replace("tester", "stranger")
                    with open(keys.clients, "w", encoding="ascii") as f:
                        f.write(line)
                    s.proc.send_signal(signal.SIGHUP)
                    return time.monotonic()

                (got, last), at = together([lambda: over_udp(s, keys, [5, 6, 7], 8000), rename])
                self.assertLess(time.monotonic() - at, 5)
                self.assertEqual(last, (FINISH_ERROR, -errno.EACCES))
                self.assertLess(len(got), 8000)
                self.assertEqual(s.terminate(), 0)

    def test_who_may_not_any_more_is_answered_no_further(self):
        """A tenant is locked out while answers to it run, over UDP and over a channel: they end, and the log says why."""
        with Database() as db:
            keys = Keys(db.dir.name)
            os.chmod(keys.server, 0o644)
            for tenant in ("tester", "acme"):
                db.add("--tenant", tenant)
            model, path, log = (os.path.join(db.dir.name, n) for n in ("slow.gguf", "sock", "log"))
            self.assertEqual(freehold("synth", "--shape", "tiny", "--type", "F32", "--ctx", "32768", "-o", model).returncode, 0)
            with UdpServer(model, keys, "--threads", "1", "--isa", "ref", "--ctx", "32768", "--keys", db.path, "--rule",
                           "any acme", "--audit", log, "--channel", "unix:" + path, "--public", "/metrics") as s:
                c = Channel(path)
                c.submit([5, 6, 7], 30000)

                def lock():
                    until(lambda: s.metric("num_requests_running"), 2, 20)
                    db.key("lock", "tester")
                    db.key("lock", "acme")
                    return time.monotonic()

                (got, last), at = together([lambda: over_udp(s, keys, [5, 6, 7], 30000), lock])
                self.assertEqual(last, (FINISH_ERROR, -errno.EACCES))
                self.assertGreater(len(got), 0)
                until(lambda: c.state()[0], STATE_REVOKED)
                self.assertLess(time.monotonic() - at, 3)
                until(lambda: s.metric("num_requests_running"), 0)
                c.close()
                self.assertEqual(s.terminate(), 0)
            ends = {r["ref"]: r for r in entries(log) if r["kind"] == "end"}
            said = sorted((r["tenant"], ends[r["entry"]]["status"], ends[r["entry"]].get("text", "")[:22])
                          for r in entries(log) if r["kind"] == "begin")
            self.assertEqual(said, [("acme", 499, "its tenant is locked o"), ("tester", 403, "access is refused to t")])


if __name__ == "__main__":
    unittest.main()
