# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboard and the alert rules of tools/grafana/: every metric that they name is one of a live server's, with
the labels that they ask for."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import udp
from identity import Database, bearer
from server import DEMO_MODEL, ROOT, Server
from test_cost import Meter

FOLDER = os.path.join(ROOT, "tools", "grafana")
RULES = os.path.join(FOLDER, "alerts.yml")


def live_metrics():
    """/metrics of a server that has everything switched on; and {name: set of labels} of it."""
    meter = Meter(10)
    try:
        with Database() as db, tempfile.TemporaryDirectory(prefix="freehold-audit-") as log:
            keys = udp.Keys(db.dir.name)
            _, key = db.add("--tenant", "acme")
            with Server("null:" + DEMO_MODEL, "--ctx", "512", "--max-seqs", "2", "--keys", db.path, "--audit", log, *keys.args(),
                        "--otlp-endpoint", "http://127.0.0.1:1", env={"FREEHOLD_POWERCAP": meter.dir.name}) as s:
                s.json("POST", "/v1/completions", {"prompt": "x", "max_tokens": 4}, key=key)
                _, _, data = s.request("GET", "/metrics", None, bearer(key))
    finally:
        meter.stop()
    out = {}
    for line in data.decode().splitlines():
        m = re.match(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? \S+$", line)
        if m:
            out.setdefault(m[1], set()).update(re.findall(r'([A-Za-z_]\w*)="', m[2] or ""))
    return data.decode(), out


def selectors(expr):
    """(metric, labels of its selector) of a PromQL expression, and the labels that it groups by."""
    text = re.sub(r"\$__rate_interval", "5m", expr)
    metrics = [(m[1], set(re.findall(r"([A-Za-z_]\w*)\s*[=!]~?", m[2] or ""))) for m in
               re.finditer(r"\b(freehold_\w+)(?:\{([^}]*)\})?", text)]
    groups = {l.strip() for m in re.finditer(r"\b(?:by|on)\s*\(([^)]*)\)", text) for l in m[1].split(",")}
    return metrics, groups


def rules():
    """[(alert, expr)] of the rules, by what of YAML they use."""
    out, lines = [], open(RULES, encoding="utf-8").read().splitlines()
    for i, line in enumerate(lines):
        m = re.match(r"\s+- alert: (\w+)$", line)
        if m:
            j = i + 1
            expr = re.match(r"\s+expr: (.*)$", lines[j])[1]
            if expr == ">-":
                expr = ""
                while not re.match(r"\s+(for|labels):", lines[j + 1]):
                    j += 1
                    expr += " " + lines[j].strip()
            out.append((m[1], expr))
    return out


# What makes each of the alerts fire: {metric: values, a minute apart}, as promtool has it.
ALWAYS, GROWS, STAYS = "{}x240", "0+{}x240", "0x240"
FIRES = {
    "FreeholdDown": {"up": STAYS},
    "FreeholdFirstTokensLate": {"freehold_ttft_deadlines_missed_total": GROWS.format(1)},
    "FreeholdTokensLate": {"freehold_tpot_deadlines_missed_total": GROWS.format(1)},
    "FreeholdRefuses": {"freehold_requests_refused_total": GROWS.format(60)},
    "FreeholdQueueLong": {'freehold_request_queue_time_seconds_bucket': GROWS.format(9),
                          "freehold_num_requests_waiting": ALWAYS.format(3)},
    "FreeholdKvFull": {"freehold_kv_cache_usage_perc": ALWAYS.format(0.99)},
    "FreeholdPreempts": {"freehold_num_preemptions_total": GROWS.format(60)},
    "FreeholdDeviceErrors": {"freehold_device_errors_total": GROWS.format(1)},
    "FreeholdAuditFailing": {"freehold_audit_failing": ALWAYS.format(1)},
    "FreeholdAuditLost": {"freehold_audit_lost_total": GROWS.format(1)},
    "FreeholdBudgetNearlyUsed": {"freehold_budget_used_ratio": ALWAYS.format(0.95)},
    "FreeholdUdpDrops": {"freehold_udp_packets_dropped_total": GROWS.format(6000)},
    "FreeholdTracesDropped": {"freehold_otlp_dropped_requests_total": GROWS.format(1)},
    "FreeholdExporterGone": {"freehold_otlp_up": STAYS},
    "FreeholdEnergyIdle": {"freehold_energy_idle_joules_total": GROWS.format(100)},
    "FreeholdEnergyPerToken": {"freehold_energy_busy_joules_total": "0+1x150 160+10x89",
                               "freehold_generation_tokens_total": GROWS.format(10)},
}


class Grafana(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text, cls.live = live_metrics()
        with open(os.path.join(FOLDER, "dashboard.json"), encoding="utf-8") as f:
            cls.dashboard = json.load(f)

    def check(self, where, expr):
        metrics, groups = selectors(expr)
        labels = {"instance"}
        for name, asked in metrics:
            self.assertTrue(name in self.live, (where, name))
            labels |= self.live[name]
            # The scraper adds instance and job.
            self.assertLessEqual(asked - {"instance", "job"}, self.live[name], (where, name))
        self.assertLessEqual(groups, labels, (where, expr))
        self.assertEqual(expr.count("("), expr.count(")"), where)
        for name in re.findall(r"\b(?:rate|increase)\((freehold_\w+)", expr):
            self.assertRegex(name, r"_(total|bucket|sum|count)$", (where, "no counter"))
        return len(metrics)

    def test_every_metric_is_there(self):
        nr = sum(self.check(p["title"], t["expr"]) for p in self.dashboard["panels"] for t in p["targets"])
        self.assertGreater(nr, 40)
        for name, expr in rules():
            if name != "FreeholdDown":
                self.assertGreater(self.check(name, expr), 0, name)
        self.assertEqual(len(rules()), len(re.findall("- alert:", open(RULES, encoding="utf-8").read())))
        query = self.dashboard["templating"]["list"][1]["query"]
        self.assertIn(re.match(r"label_values\((\w+), instance\)$", query)[1], self.live)

    def test_panels_are_told_apart(self):
        panels = self.dashboard["panels"]
        self.assertEqual(len({p["id"] for p in panels}), len(panels))
        taken = set()
        for p in panels:
            g = p["gridPos"]
            self.assertLessEqual(g["x"] + g["w"], 24, p["title"])
            cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
            self.assertFalse(cells & taken, p["title"])
            taken |= cells
        self.assertEqual(len({n for n, _ in rules()}), len(rules()))

    def promtool(self, *args, stdin=None):
        tool = shutil.which("promtool") or os.path.join(ROOT, "build", "promtool", "promtool")
        if not os.access(tool, os.X_OK):
            self.skipTest("promtool (Debian: prometheus) is not there; `make deps-check` unpacks it")
        r = subprocess.run([tool, *args], capture_output=True, text=True, input=stdin, check=False)
        self.assertEqual(r.returncode, 0, r.stderr + r.stdout)
        return r.stdout

    def test_promtool(self):
        """Prometheus itself takes the rules, and what they are asked of."""
        self.assertIn(f"SUCCESS: {len(rules())} rules found", self.promtool("check", "rules", RULES))
        self.promtool("check", "metrics", stdin=self.text)

    def series(self, moves):
        """All of a live server's that any rule asks for, as they are; but for those that @moves has."""
        asked = {name for _, expr in rules() for name, _ in selectors(expr)[0]} | {"up"}
        out, moved = [], set()
        for line in ['up{job="freehold"} 1', *self.text.splitlines()]:
            m = re.match(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$", line)
            if not m or m[1] not in asked:
                continue
            # Of a histogram only what took longer than any bound.
            values = moves.get(m[1]) if 'le="' not in (m[2] or "") or 'le="+Inf"' in m[2] else None
            moved |= {m[1]} & moves.keys()
            labels = ",".join(x for x in ('instance="a"', m[2]) if x)
            out.append({"series": f"{m[1]}{{{labels}}}", "values": values or ALWAYS.format(m[3])})
        self.assertEqual(moved, set(moves))
        return out

    def test_each_alert_fires_when_it_is_to(self):
        """On a live server's own series, in Prometheus's own engine: of names and labels that do not fit, nothing comes."""
        self.assertEqual({name for name, _ in rules()}, set(FIRES))
        for step, names in (("1m", ["", *(n for n in FIRES if n != "FreeholdEnergyIdle")]), ("30m", ["FreeholdEnergyIdle"])):
            tests = []
            for name in names:
                alert = f',alertname="{name}"' if name else ""
                tests.append({"interval": step, "input_series": self.series(FIRES.get(name, {})), "promql_expr_test": [
                    {"expr": f'(count(ALERTS{{alertstate="firing"{alert}}}) or vector(0)) > bool 0',
                     "eval_time": "240m" if name == "FreeholdEnergyPerToken" else "40m" if step == "1m" else "60h",
                     "exp_samples": [{"labels": "{}", "value": int(bool(name))}]}]})
            with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
                json.dump({"rule_files": [RULES], "evaluation_interval": step, "tests": tests}, f)
                f.flush()
                self.promtool("test", "rules", f.name)


if __name__ == "__main__":
    unittest.main()
