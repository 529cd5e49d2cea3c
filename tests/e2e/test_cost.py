# SPDX-License-Identifier: Apache-2.0
"""What answers cost: thoughts as tokens of their own price, joules that the host measured, and the host's own price."""

import json
import os
import sqlite3
import tempfile
import threading
import time
import unittest

import thinking
from identity import Database, bearer, freehold
from server import DEMO_MODEL, Server, together

NULL = "null:" + DEMO_MODEL


class Thoughts(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-think-")
        os.chmod(self.dir.name, 0o755)
        self.path = os.path.join(self.dir.name, "think.gguf")
        self.marks = thinking.make(self.path)
        self.template = os.path.join(self.dir.name, "template")
        with open(self.template, "w", encoding="ascii") as f:
            f.write("{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}")

    def tearDown(self):
        self.dir.cleanup()

    def test_are_counted_priced_and_reported(self):
        think, end = self.marks
        open_, words = 1000, list(range(1001, 1020))
        # The null model says its prompt again and again: with marks in it, thoughts come and go.
        prompts = [[open_, think, *words[:7], end, *words[7:10]], words, [end, *words[:3], think, *words[3:8]],
                   [*words[:5], think], [think, *words[:9]], [*words[:4], think, words[5], end, words[6]]]
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            with Server("null:" + self.path, "--ctx", "512", "--max-seqs", "4", "--keys", db.path,
                        "--price", "* 1/0.5/4/0.25") as s:
                usage, want = [], []

                def ask(prompt, nr, stream):
                    body = {"prompt": prompt, "max_tokens": nr, "return_token_ids": True, "ignore_eos": True}
                    if not stream:
                        j = s.json("POST", "/v1/completions", body, key=key)
                        return j["choices"][0]["token_ids"], j["usage"]
                    body |= {"stream": True, "stream_options": {"include_usage": True}}
                    _, _, data = s.request("POST", "/v1/completions", body, bearer(key))
                    events = [json.loads(e[6:]) for e in data.decode().split("\n\n") if e.startswith("data: {")]
                    return [t for e in events for c in e["choices"] for t in c["token_ids"]], events[-1]["usage"]

                for i, p in enumerate(prompts):
                    for stream in (False, True):
                        ids, u = ask(p, 40 + i, stream)
                        self.assertEqual((len(ids), u["completion_tokens"]), (40 + i, 40 + i))
                        self.assertEqual(u["completion_tokens_details"]["reasoning_tokens"],
                                         thinking.nr_thoughts(p, ids, self.marks), (p, stream))
                        usage.append(u)
                        want.append(u["completion_tokens_details"]["reasoning_tokens"])
                self.assertEqual(want[2:4], [0, 0], "no mark, no thought")
                self.assertGreater(min(want[:2] + want[4:10]), 5)
                thoughts = sum(want)
                self.assertEqual(self.metric(s, key, "freehold_reasoning_tokens_total"), thoughts)
                status = s.json("GET", "/v1/freehold/status", key=key)
                self.assertEqual(status["tokens"]["reasoning"], thoughts)
                money = sum((u["prompt_tokens"] - u["prompt_tokens_details"]["cached_tokens"]) * 1 +
                            u["prompt_tokens_details"]["cached_tokens"] * 0.5 +
                            (u["completion_tokens"] - t) * 4 + t * 0.25 for u, t in zip(usage, want)) / 1e6
                self.assertAlmostEqual(status["cost"]["since_start"], money, places=12)
                self.assertAlmostEqual(status["tenants"][0]["total"]["money"]["used"], money, places=12)
                self.assertEqual(s.terminate(), 0)
            (line,) = json.loads(freehold("cost", "usage", "--keys", db.path, "--json").stdout)
            self.assertEqual((line["reasoning_tokens"], line["completion_tokens"]),
                             (thoughts, sum(u["completion_tokens"] for u in usage)))
            self.assertAlmostEqual(line["money"], money, places=12)
            # Whoever rents them out may ask another price for them, too.
            table = os.path.join(db.dir.name, "table")
            with open(table, "w", encoding="ascii") as f:
                f.write("same 0/0/10\nthinks 0/0/10/1\n")
            j = json.loads(freehold("cost", "host", "--keys", db.path, "--other", "1", "--rental", table, "--json").stdout)
            answers = line["completion_tokens"] - thoughts
            self.assertAlmostEqual(j["rental"][0]["same_use"], line["completion_tokens"] * 10 / 1e6, places=12)
            self.assertAlmostEqual(j["rental"][1]["same_use"], (answers * 10 + thoughts) / 1e6, places=12)

    def metric(self, s, key, name):
        _, _, data = s.request("GET", "/metrics", None, bearer(key))
        return sum(float(l.split()[-1]) for l in data.decode().splitlines() if l.startswith(name + " ") or l.startswith(name + "{"))

    def test_a_template_that_opens_them(self):
        with Server("null:" + self.path, "--ctx", "512", "--max-seqs", "2", "--chat-template-file", self.template) as s:
            j = s.json("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello there"}],
                                                        "max_tokens": 30, "return_token_ids": True, "ignore_eos": True})
            ids = j["choices"][0]["token_ids"]
            want = thinking.nr_thoughts(j["prompt_token_ids"], ids, self.marks)
            self.assertIn(self.marks[0], j["prompt_token_ids"][-4:])
            self.assertEqual(j["usage"]["completion_tokens_details"]["reasoning_tokens"], want)
            self.assertEqual(want, len(ids) - ids.count(self.marks[0]), "it never stops to think")
            # Text of a user's that looks like the mark opens nothing.
            j = s.json("POST", "/v1/chat/completions", {
                "messages": [{"role": "user", "content": "<think> and then many a word that has nothing to do with it"}],
                "max_tokens": 1, "ignore_eos": True, "add_generation_prompt": False})
            self.assertEqual(j["usage"]["completion_tokens_details"]["reasoning_tokens"], 0)

    def test_a_budget_cuts_thoughts_at_what_they_cost(self):
        think, _ = self.marks
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            self.assertEqual(freehold("budget", "set", "tenant:acme", "money=0.0001", "--keys", db.path).returncode, 0)
            with Server("null:" + self.path, "--ctx", "512", "--max-seqs", "2", "--keys", db.path, "--price", "* 0/0/1/5") as s:
                # 100 units for thoughts of 5 and answers of 1: at most 5 are held for a token, so that many may be left.
                j = s.json("POST", "/v1/completions", {"prompt": [think, 1001, 1002], "max_tokens": 60, "ignore_eos": True}, key=key)
                self.assertEqual(j["choices"][0]["finish_reason"], "budget")
                thoughts = j["usage"]["completion_tokens_details"]["reasoning_tokens"]
                cost = thoughts * 5 + j["usage"]["completion_tokens"] - thoughts
                self.assertTrue(95 < cost <= 100, (cost, j["usage"]))


    def test_without_marks_no_thought_is_held_for(self):
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            self.assertEqual(freehold("budget", "set", "tenant:acme", "money=0.0001", "--keys", db.path).returncode, 0)
            with Server(NULL, "--ctx", "512", "--max-seqs", "2", "--keys", db.path, "--price", "* 0/0/1/50") as s:
                j = s.json("POST", "/v1/completions", {"prompt": [1001, 1002], "max_tokens": 200, "ignore_eos": True}, key=key)
                self.assertEqual((j["choices"][0]["finish_reason"], j["usage"]["completion_tokens"]), ("budget", 100))


class Meter(threading.Thread):
    """A made-up powercap tree whose counter runs: @watts, and it begins anew on the way."""

    RANGE = 5_000_000_000

    def __init__(self, watts):
        super().__init__()
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-powercap-")
        os.chmod(self.dir.name, 0o755)
        self.zone = os.path.join(self.dir.name, "intel-rapl:0")
        os.mkdir(self.zone)
        self.watts, self.over = watts, threading.Event()
        self.put("name", "package-0\n")
        self.put("max_energy_range_uj", f"{self.RANGE}\n")
        self.file = open(os.path.join(self.zone, "energy_uj"), "w", encoding="ascii")
        self.begin = time.monotonic()
        self.write()
        self.start()

    def put(self, name, text):
        with open(os.path.join(self.zone, name), "w", encoding="ascii") as f:
            f.write(text)

    def write(self):
        # One second before its end at the beginning; one write, so that nobody reads half of it.
        uj = int(self.RANGE - 1e6 * self.watts + (time.monotonic() - self.begin) * self.watts * 1e6) % self.RANGE
        os.pwrite(self.file.fileno(), f"{uj:020}\n".encode(), 0)

    def run(self):
        while not self.over.wait(0.02):
            self.write()

    def stop(self):
        self.over.set()
        self.join()
        self.file.close()
        self.dir.cleanup()


class Energy(unittest.TestCase):
    def test_is_measured_and_shared_out(self):
        meter = Meter(200)
        self.addCleanup(meter.stop)
        with Database() as db:
            keys = {t: db.add("--tenant", t)[1] for t in ("acme", "zoo")}
            _, ops = db.add("--tenant", "ops", "--endpoints", "all,admin")
            with Server(DEMO_MODEL, "--threads", "1", "--ctx", "512", "--max-seqs", "4", "--keys", db.path, "--no-prefix-cache",
                        "--host-kwh-price", "0.5", "--host-hardware", "8766", "--host-years", "1",
                        env={"FREEHOLD_POWERCAP": meter.dir.name}) as s:
                begin = time.monotonic()
                self.assertIn("energy: 1 counter of processors", s.log_text())

                def ask(tenant, nr):
                    for i in range(2):
                        # Of acme's, each of one length, the first half of them is of no run.
                        run = {"X-Freehold-Run-Id": tenant} if i or tenant == "zoo" else {}
                        code, _, _ = s.request("POST", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": nr, "ignore_eos": True},
                                               {**bearer(keys[tenant]), **run}, None, 60)
                        self.assertEqual(code, 200)

                together([lambda: ask("acme", 300), lambda: ask("zoo", 100)])
                time.sleep(2.5)
                asked = time.monotonic() - begin
                got = s.json("GET", "/v1/freehold/status", key=ops)
                lines = s.request("GET", "/metrics", None, bearer(ops))[2].decode()
                self.assertEqual(s.terminate(), 0)
                took = time.monotonic() - begin
            e = got["energy"]
            # A sample may be a second old, and a loaded host may be late with one.
            self.assertTrue(200 * (asked - 1.5) < e["joules"] <= 200 * (took + 1), (e, asked, took))
            self.assertAlmostEqual(e["busy"] + e["idle"], e["joules"], places=3)
            self.assertTrue(e["busy"] > 1 and e["idle"] > 1, e)
            self.assertTrue(150 < e["watts"] < 250, e)
            self.assertIn('freehold_energy_joules_total{device="package-0",kind="cpu"}', lines)
            joules = {t["tenant"]: t["joules"] for t in got["tenants"]}
            self.assertAlmostEqual(joules["acme"] + joules["zoo"], e["busy"], delta=0.02 * e["busy"] + 1)
            self.assertTrue(1.3 < joules["acme"] / joules["zoo"] < 5, joules)
            h = got["host"]
            self.assertTrue(h["power_measured"])
            self.assertAlmostEqual(h["per_hour"], 1 + e["watts"] / 1000 * 0.5, places=4)
            used = {l["tenant"]: l for l in json.loads(freehold("cost", "usage", "--keys", db.path, "--json").stdout)}
            self.assertGreaterEqual(used["acme"]["joules"], joules["acme"] - 0.01)
            self.assertNotIn("ops", used)
            runs = {l["tenant"]: l for l in json.loads(freehold("cost", "--by", "run", "--keys", db.path, "--json").stdout)}
            self.assertEqual({t: l["requests"] for t, l in runs.items()}, {"acme": 1, "zoo": 2})
            self.assertAlmostEqual(runs["zoo"]["joules"], used["zoo"]["joules"], delta=0.02 * used["zoo"]["joules"] + 0.1)
            self.assertTrue(0.2 < runs["acme"]["joules"] / used["acme"]["joules"] < 0.8, (runs["acme"], used["acme"]))
            (model,) = json.loads(freehold("cost", "--by", "model", "--keys", db.path, "--json").stdout)
            self.assertAlmostEqual(model["joules"], used["acme"]["joules"] + used["zoo"]["joules"], places=3)
            conf = os.path.join(db.dir.name, "conf")
            with open(conf, "w", encoding="ascii") as f:
                f.write("host-hardware = 35064\nhost-kwh-price = 0.5\nmax-seqs = 7\nhost-overhead = 2\n")
            table = os.path.join(db.dir.name, "table")
            with open(table, "w", encoding="ascii") as f:
                f.write("dear 1e6/1e6/1e6\ncheap 0.000001/0/0.000001\n")
            host = ("cost", "host", "--config", conf, "--keys", db.path, "--rental", table)
            j = json.loads(freehold(*host, "--json").stdout)
            self.assertTrue(j["power_measured"] and 300 < j["watts"] < 500, j)
            self.assertAlmostEqual(j["hour"], 1 + j["watts"] / 1000 * 0.5, places=6)
            self.assertGreaterEqual(j["busy_joules"], model["joules"] * 0.98 - 1)
            self.assertIn("owning_wins_from_million_tokens_a_month", j["rental"][0])
            # The energy alone costs more than the cheap ones ask.
            if j["energy_of_a_million_tokens"] > 1e-6:
                self.assertNotIn("owning_wins_from_million_tokens_a_month", j["rental"][1])
            text = freehold(*host).stdout
            self.assertIn("as measured for", text)
            self.assertIn("if it computed all the time", text)

    def test_a_token_costs_what_was_measured_while_it_was_made(self):
        now = int(time.time()) // 3600 * 3600
        with Database() as db:
            _, key = db.add("--tenant", "acme")
            with Server(NULL, "--ctx", "512", "--max-seqs", "2", "--keys", db.path, "--energy", "off") as s:
                s.json("POST", "/v1/completions", {"prompt": [1001, 1002], "max_tokens": 4}, key=key)
                self.assertEqual(s.terminate(), 0)
            sql = sqlite3.connect(db.path)
            with sql:
                # An hour without measuring, of a hundred times as many tokens as the next, and one of another model's.
                for hour, model, prompt in ((now - 7200, "m", 100000000), (now - 3600, "m", 1000000), (now - 3600, "other", 50000000)):
                    sql.execute("INSERT INTO hours(hour, model, kind, name, prompt, cached, completion, money, requests)"
                                " VALUES(?, ?, 'tenant', 'acme', ?, 200000, 200000, 0, 1)", (hour, model, prompt))
                for name, uj, seconds in (("busy", 360000 * 10**6, 1800), ("idle", 180000 * 10**6, 1800)):
                    sql.execute("INSERT INTO measured(hour, model, kind, name, uj, seconds, reasoning) VALUES(?, 'm', 'host', ?, ?, ?, 0)",
                                (now - 3600, name, uj, seconds))
            sql.close()
            host = ("cost", "host", "--keys", db.path, "--kwh-price", "0.5")
            j = json.loads(freehold(*host, "--json").stdout)
            # 200 W busy and 100 W idle: 100 W for half an hour, for 1.2 million tokens, of which one million was computed.
            self.assertAlmostEqual(j["energy_of_a_million_tokens"], 0.05 * 0.5 / 1.2, places=6)
            self.assertIn("a token took 0.3600 J", freehold(*host).stdout)

    def test_what_cannot_be_read_is_said(self):
        meter = Meter(1)
        self.addCleanup(meter.stop)
        env = {"FREEHOLD_POWERCAP": meter.dir.name, "FREEHOLD_NVML": "/no/such/library"}
        os.environ.update(env)
        try:
            f = {f["name"]: f for f in json.loads(freehold("doctor", "--json").stdout)["findings"]}["energy"]
            self.assertEqual(f["level"], "warn")
            self.assertIn("/no/such/library", f["what"])
            os.chmod(os.path.join(meter.zone, "energy_uj"), 0o000)
            del os.environ["FREEHOLD_NVML"]
            f = {f["name"]: f for f in json.loads(freehold("doctor", "--json").stdout)["findings"]}["energy"]
            if os.geteuid():
                self.assertIn("energy_uj: Permission denied", f["what"])
                self.assertIn("tmpfiles.d", f["mend"])
            else:
                self.assertIn("1 counter of processors", f["what"])
        finally:
            for name in env:
                os.environ.pop(name, None)
        with Server(NULL, "--ctx", "512", "--max-seqs", "2", "--energy", "off", env={"FREEHOLD_POWERCAP": meter.dir.name}) as s:
            self.assertIsNone(s.json("GET", "/v1/freehold/status")["energy"])
            self.assertNotIn("energy", s.log_text())


if __name__ == "__main__":
    unittest.main()
