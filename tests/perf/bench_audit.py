# SPDX-License-Identifier: Apache-2.0
"""The table `audit` of bench.py: what --audit costs the serving path.

Three servers of the same model run side by side: without a log, relaxed, strict.
They are asked in turn, one after the other in each round, the order changing from
round to round; a figure with a log is divided by the one without of the same
round. Of these ratios the median is printed, and the interval that holds it in 95
of 100 resamplings (bootstrap). The log lies in --audit-dir, on the disk whose
fdatasync() is to be paid for.

The floors are those of a relaxed log: at 8 connections it takes less than 2 % of the
tokens/s, and less than 5 us of the median of a one-token request.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

from bench_util import FREEHOLD, ROOT, WORK, number, output
from server import DEMO_MODEL, SHARED, Server

MODES = ("off", "relaxed", "strict")
COST = os.path.join(ROOT, "build", "tests", "perf", "audit_cost")


def interval(values, nr=4000):
    """Median, and the middle 95 % of the medians of resamplings."""
    rng = random.Random(1)
    meds = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(nr))
    return statistics.median(values), meds[int(0.025 * nr)], meds[int(0.975 * nr)]


def measure(args, load, servers, what, key, scale, **flags):
    """Prints one line a mode; {mode: (median, low, high)} of the ratios, and of the differences, to `off`."""
    got = {m: [] for m in MODES}
    for n in range(args.audit_rounds):
        for m in MODES[n % 3:] + MODES[:n % 3]:
            got[m].append(load(servers[m], **flags)[key] * scale)
    out = {}
    for m in MODES:
        ratio = interval([a / b for a, b in zip(got[m], got["off"])])
        diff = interval([a - b for a, b in zip(got[m], got["off"])])
        out[m] = ratio, diff
        print(f"| {what} | {m} | {number(statistics.median(got[m]))} | " +
              ("" if m == "off" else f"{ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f}) | "
               f"{diff[0]:+.1f} ({diff[1]:+.1f} to {diff[2]:+.1f})") + (" | |" if m == "off" else " |"), flush=True)
    return out


def serving(args):
    from bench import load

    model = os.path.join(SHARED, "models", "stories260K-f32.gguf")
    if not os.path.exists(model):
        print("audit: no stories260K-f32.gguf (FREEHOLD_SHARED names the fixtures): the built-in model", file=sys.stderr)
        model = DEMO_MODEL
    folder = tempfile.mkdtemp(prefix="freehold-audit-", dir=args.audit_dir or WORK)
    servers = {}
    ok = True
    try:
        for m in MODES:
            how = [] if m == "off" else ["--audit", os.path.join(folder, m), "--audit-mode", m]
            servers[m] = Server(model, "--threads", str(args.threads), *how)
        print(f"\n### Audit log: {os.path.basename(model)}, {args.audit_rounds} rounds\n\n| what | log | measured | of that "
              "without | difference |\n|" + " --- |" * 5)
        stream = {"output_len": 64, "input_len": 16, "stream": True}
        t = measure(args, load, servers, "64 tokens streamed, 8 connections, tokens/s", "output_throughput", 1, **stream,
                    connections=8, requests=args.audit_requests)
        measure(args, load, servers, "the same, TTFT p50, us", "median_ttft_ms", 1000, **stream, connections=8,
                requests=args.audit_requests)
        one = measure(args, load, servers, "one token, 1 connection, p50, us", "median_e2el_ms", 1000, output_len=1, input_len=16,
                      connections=1, requests=2 * args.audit_requests)
        for name, value, floor, holds in (
                ("tokens/s lost", 100 * (1 - t["relaxed"][0][0]), "2 %", t["relaxed"][0][0] > 0.98),
                ("added to the p50 of one token", one["relaxed"][1][0], "5 us", one["relaxed"][1][0] < 5)):
            print(f"relaxed, {name}: {value:.1f}; the floor is {floor}: {'met' if holds else 'MISSED'}")
            ok &= holds
        for m in MODES[1:]:
            if servers[m].metric("audit_lost_total"):
                raise RuntimeError(f"{m}: events were lost")
            servers[m].terminate()
            output([FREEHOLD, "audit", "verify", os.path.join(folder, m)], timeout=600)
    finally:
        for s in servers.values():
            s.kill()
        shutil.rmtree(folder)
    return ok


def size(args):
    """Bytes of an interaction in the log, beside its JSON."""
    import json

    if not args.audit_text:
        return True
    print("\n| interactions | JSON | log | entries | hashes | bodies | log / JSON |\n|" + " --- |" * 7)
    for turns in (1, 4, 8):
        with tempfile.TemporaryDirectory(prefix="freehold-audit-") as d:
            r = subprocess.run([COST, "--text", args.audit_text, "--turns", str(turns), d, "2000", "4"], check=True,
                               capture_output=True, text=True)
        r = json.loads(r.stdout)
        print(f"| {'one request each' if turns == 1 else f'conversations of {turns}'} | " +
              " | ".join(number(r[f"{k}_bytes_per_interaction"]) for k in ("json", "log", "entry", "hash", "body")) +
              f" | {100 * r['log_of_json']:.1f} % |")
    return True


def add_options(p):
    g = p.add_argument_group("the table audit")
    g.add_argument("--audit-rounds", type=int, default=15)
    g.add_argument("--audit-requests", type=int, default=1500, help="of a measurement")
    g.add_argument("--audit-dir", help="where the logs lie (default: build/bench)")
    g.add_argument("--audit-text", metavar="FILE", help="a text for the log's size, as `audit_cost --text` takes it")


def run(args):
    ok = serving(args)
    return size(args) and ok
