# SPDX-License-Identifier: Apache-2.0
"""Whose a process is, by rules, and what the audit log says of who asked."""

import json
import os
import subprocess
import time
import unittest

from identity import LIMITED, NULL, Database, bearer, freehold, status, until
from server import FREEHOLD, Server, together


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
            self.assertRegex([r for r in rows if r["kind"] == "keys"][1]["text"],
                             r"^new tenant late; added [0-9a-f]{16} \(late\)$")
            self.assertEqual(len({r["hash"] for r in rows if r["kind"] == "keys"}), 2)
            self.assertEqual(freehold("audit", "verify", log).returncode, 0)

    def test_the_log_says_which_keys_changed(self):
        """One entry for each change, whoever else writes to the database, and what was changed."""
        with Database() as db:
            log = os.path.join(db.dir.name, "log")
            first_id, first = db.add("--tenant", "acme", "--user", "alice")
            with Server(NULL, *LIMITED, "--keys", db.path, "--audit", log) as s, \
                    Server(NULL, *LIMITED, "--keys", db.path) as other:
                second_id, second = db.add("--tenant", "acme")
                until(lambda: "it has 2 keys now" in s.log_text(), True)
                # What the other saves of its usage changes the file, and no key.
                for _ in range(2):
                    until(lambda: status(other, second), 200)
                    other.request("POST", "/v1/completions", '{"prompt": "Once", "max_tokens": 2}', bearer(second))
                    time.sleep(1.1)
                third = json.loads(db.key("rotate", second_id, "--overlap", "1h", "--json"))
                until(lambda: status(s, third["key"]), 200)
                db.key("revoke", first_id)
                until(lambda: status(s, first), 401)
                db.key("lock", "acme")
                until(lambda: status(s, third["key"]), 403)
                db.key("unlock", "acme")
                until(lambda: status(s, third["key"]), 200)
                self.assertEqual((s.terminate(), other.terminate()), (0, 0))
            rows = [json.loads(line) for line in freehold("audit", "export", log).stdout.splitlines()]
            said = [r.get("text", "") for r in rows if r["kind"] == "keys"]
            self.assertEqual(len(said), 6, said)
            self.assertEqual(said[:2], ["", f"added {second_id} (acme)"])
            self.assertEqual(sorted(said[2].split("; ")),
                             sorted([f"added {third['id']} (acme)", f"rotated {second_id} (acme) to {third['id']}"]))
            self.assertEqual(said[3], f"revoked {first_id} (acme/alice)")
            self.assertEqual(said[4].split("; ")[0], "locked out tenant acme")
            self.assertEqual(said[5].split("; ")[0], "let in tenant acme")

    def test_who_may_not_any_more_is_answered_no_further(self):
        """Answers that run end when a key is revoked, expires, or its tenant is locked out; the log says why."""
        with Database() as db:
            log = os.path.join(db.dir.name, "log")
            gone_id, gone = db.add("--tenant", "acme")
            _, short = db.add("--tenant", "acme", "--expires", "3s")
            _, locked = db.add("--tenant", "evil")
            _, stays = db.add("--tenant", "good")
            # Answers that take longer than the test does.
            model = os.path.join(db.dir.name, "slow.gguf")
            self.assertEqual(freehold("synth", "--shape", "tiny", "--type", "F32", "--ctx", "32768", "-o", model).returncode, 0)
            with Server(model, "--threads", "1", "--isa", "ref", "--ctx", "32768", "--keys", db.path, "--audit", log,
                        "--public", "/health", "--public", "/metrics") as s:
                ended, whole, deadline = {}, {}, time.monotonic() + 30

                def stream(name, key, streamed=True):
                    conn = s.connect(60)
                    conn.request("POST", "/v1/completions",
                                 json.dumps({"prompt": "Once", "max_tokens": 30000, "ignore_eos": True, "stream": streamed}),
                                 bearer(key))
                    r = conn.getresponse()
                    last = None
                    if not streamed:
                        whole[name] = (r.status, json.loads(r.read()), time.monotonic())
                        return
                    for line in r:
                        if line.startswith(b"data: {"):
                            last = json.loads(line[6:])
                            if time.monotonic() > deadline or (name == "stays" and len(ended) == 3 and whole):
                                break
                    ended[name] = (last, time.monotonic())
                    conn.close()

                def act():
                    until(lambda: s.metric("num_requests_running"), 5, 20)
                    act.at = time.monotonic()
                    db.key("revoke", gone_id)
                    db.key("lock", "evil")

                together([lambda: stream("gone", gone), lambda: stream("short", short), lambda: stream("locked", locked),
                          lambda: stream("stays", stays), lambda: stream("whole", gone, False), act])
                s.wait_idle()
                self.assertEqual(s.terminate(), 0)
            for name in ("gone", "locked"):
                self.assertLess(ended[name][1] - act.at, 2, name)
            self.assertIn("revoked while", ended["gone"][0]["error"]["message"])
            self.assertIn("expired while", ended["short"][0]["error"]["message"])
            self.assertIn("Access was taken", ended["locked"][0]["error"]["message"])
            self.assertEqual((whole["whole"][0], whole["whole"][1]["error"]["code"]), (401, "invalid_api_key"))
            self.assertIn("choices", ended["stays"][0])
            rows = [json.loads(line) for line in freehold("audit", "export", log).stdout.splitlines()]
            ends = {r["ref"]: r for r in rows if r["kind"] == "end"}
            said = sorted((r["tenant"], ends[r["entry"]]["status"], ends[r["entry"]].get("text", "")[:20]) for r in rows
                          if r["kind"] == "begin")
            self.assertEqual(said, [("acme", 401, "This API key has exp"), ("acme", 401, "This API key was rev"),
                                    ("acme", 401, "This API key was rev"), ("evil", 403, "Access was taken fro"),
                                    ("good", 499, "")])
            self.assertTrue(all(e["nr_generated"] > 0 for e in ends.values()))


if __name__ == "__main__":
    unittest.main()
