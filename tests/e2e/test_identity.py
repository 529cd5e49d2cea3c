# SPDX-License-Identifier: Apache-2.0
"""Whose a process is, by rules, and what the audit log says of who asked."""

import json
import os
import subprocess
import unittest

from identity import LIMITED, NULL, Database, bearer, freehold, until
from server import FREEHOLD, Server


def bench(path, out, prompts):
    return subprocess.run([FREEHOLD, "bench", "serve", "--url", "channel:unix:" + path, "--max-concurrency", "1", "--num-prompts",
                           str(prompts), "--num-warmups", "0", "--input-len", "8", "--output-len", "8", "--json", out],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


class Processes(unittest.TestCase):
    """Channels: whose a process is, by rules over what the kernel says of it."""

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
                bench(path, out, 6)
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
                r = bench(path, out, 1)
                self.assertNotEqual(r.returncode, 0)
                self.assertIn("access is refused to this process", r.stderr + s.log_text())
            path, s = self.server(db, "any acme")
            with s:
                self.assertEqual(bench(path, out, 1).returncode, 0)
                db.key("lock", "acme")
                until(lambda: bench(path, out, 1).returncode != 0, True)


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
                r = bench(path, os.path.join(db.dir.name, "out.json"), 1)
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


if __name__ == "__main__":
    unittest.main()
