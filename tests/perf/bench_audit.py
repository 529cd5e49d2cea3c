# SPDX-License-Identifier: Apache-2.0
"""The table `audit` of bench.py: what --audit costs the serving path.

Three servers of the same model run side by side: without a log, relaxed, strict.
They are asked in turn, one after the other in each round, the order changing from
round to round; a figure with a log is divided by the one without of the same
round. Of these ratios the median is printed, and the interval that holds it in 95
of 100 resamplings (bootstrap). The log lies in --audit-dir, on the disk whose
fdatasync() is to be paid for.

What a request of one token takes longer is microseconds among hundreds, so it is
measured in pairs (audit_pairs.c): one client asks servers in turn, request by request:
without a log, relaxed, relaxed with a key database, and once more without. Two servers
without a log differ by ten microseconds, by where their memory came to lie and by who
began first, for as long as they live; so all are started many times, in another order
each time. Of a start's medians the difference to the mean of the two without is taken;
printed are the mean of these differences and the interval that holds it in 95 of 100
resamplings of the starts, and the same of the CPU time that each server's process takes
for a request. Each server is asked twelve times in a row, for four more that are not
counted: so it has the caches to itself, as a host's only server has. What that makes is
told, too: the same where each request comes after one to each of the others, which leave
neither the model nor anything else in a core's cache. Strict has a run of its own, since its disk is the others', too. The client
has one core, the servers the other.

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
BLOCK = 16
PAIRS = os.path.join(ROOT, "build", "tests", "perf", "audit_pairs")


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


def model_of_bench():
    model = os.path.join(SHARED, "models", "stories260K-f32.gguf")
    if os.path.exists(model):
        return model
    print("audit: no stories260K-f32.gguf (FREEHOLD_SHARED names the fixtures): the built-in model", file=sys.stderr)
    return DEMO_MODEL


def cpu_ns(pid):
    """On a CPU so far, all threads together, as the scheduler counts it."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
            total += int(f.read().split()[0])
    return total


def start(model, folder, names, key, db_path):
    """A server a name, all on one core; and where each is."""
    servers, ports = [], []
    try:
        for n in names:
            how = [] if "off" in n else ["--audit", tempfile.mkdtemp(prefix="pairs-", dir=folder), "--audit-mode", n.split(",")[0]]
            if "keys" in n:
                how += ["--keys", db_path, "--price", "* 1/0.1/2", "--public", "/metrics"]
            cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(cores)})
            try:
                s = Server(model, "--threads", "1", *how)
            finally:
                os.sched_setaffinity(0, cores)
            servers.append(s)
            ports.append(s.host.split(":")[1] + (":" + key if "keys" in n else ""))
    except BaseException:
        for s in servers:
            s.kill()
        raise
    return servers, ports


def one_start(args, model, folder, names, key, db_path):
    """{name: (p50, p50 with the others' caches, CPU of a request)}, in us, of servers that were started in this order."""
    servers, ports = start(model, folder, names, key, db_path)
    try:
        other, nr = str(max(os.sched_getaffinity(0))), args.audit_pairs
        output([PAIRS, other, "300", "1", *ports])
        cold = output([PAIRS, other, str(nr), "1", *ports], timeout=600)
        before = [cpu_ns(s.pid) for s in servers]
        warm = output([PAIRS, other, str(nr // BLOCK), str(BLOCK), *ports], timeout=600)
        cpu = [(cpu_ns(s.pid) - b) / 1000 / (nr // BLOCK * BLOCK) for s, b in zip(servers, before)]
        p50 = [[statistics.median(column) / 1000 for column in zip(*([int(v) for v in line.split()] for line in out.splitlines()))]
               for out in (warm, cold)]
        return {n: (p50[0][i], p50[1][i], cpu[i]) for i, n in enumerate(names)}
    finally:
        for s in servers:
            s.kill()


def mean_interval(values, nr=4000):
    """Mean, and the middle 95 % of the means of resamplings."""
    rng = random.Random(1)
    means = sorted(statistics.mean(rng.choices(values, k=len(values))) for _ in range(nr))
    return statistics.mean(values), means[int(0.025 * nr)], means[int(0.975 * nr)]


def pairs(args, model, folder, names):
    """One token, request by request; True if the floor holds."""
    from identity import Database

    got, said, holds = [], "", True
    with Database() as db:
        key = db.add("--tenant", "acme", "--user", "bob")[1]
        for k in range(args.audit_starts):
            order = names[k % len(names):] + names[:k % len(names)]
            got.append(one_start(args, model, folder, order, key, db.path))
    base = [[statistics.mean(g[n][i] for n in names if "off" in n) for i in range(3)] for g in got]
    print(f"\n### One token, one request after the other to each in turn: {os.path.basename(model)}, {len(got)} starts of the servers, "
          f"{args.audit_pairs} requests each\n\n"
          "| log | p50, us | more than without | p50 with the others' caches | more | CPU a request, us | more |\n|" + " --- |" * 7)
    for n in names:
        line = f"| {n} |"
        d = [mean_interval([g[n][i] - b[i] for g, b in zip(got, base)]) for i in range(3)]
        for i, (mean, low, high) in enumerate(d):
            line += f" {statistics.mean(g[n][i] for g in got):.1f} | {mean:+.1f} ({low:+.1f} to {high:+.1f}) |"
        print(line, flush=True)
        d = d[0]
        if n.startswith("relaxed"):
            holds &= d[2] < 5
            said += f"\n{n}, added to the p50 of one token: the floor is 5 us: " + (
                "met" if d[2] < 5 else "MISSED" if d[1] >= 5 else "undecided")
    print(said.lstrip("\n"), end="\n" if said else "")
    return holds


def serving(args):
    from bench import load

    model = model_of_bench()
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
        holds = t["relaxed"][0][0] > 0.98
        print(f"relaxed, tokens/s lost: {100 * (1 - t['relaxed'][0][0]):.1f} %; the floor is 2 %: {'met' if holds else 'MISSED'}")
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
    rows = [(f"conversations of {n}", ["--turns", str(n)]) for n in (4, 8)]
    rows += [(f"one request each, {n} texts between two checkpoints", ["--texts", str(n)]) for n in (1, 4, 16, 58)]
    rows += [(f"{n} % as long", ["--length", str(n)]) for n in (2, 5, 10, 25, 50, 100, 200, 400)]
    for name, flags in rows:
        with tempfile.TemporaryDirectory(prefix="freehold-audit-") as d:
            r = subprocess.run([COST, "--text", args.audit_text, *flags, d, "10000", "4"], check=True, capture_output=True,
                               text=True)
        r = json.loads(r.stdout)
        print(f"| {name} | " +
              " | ".join(number(r[f"{k}_bytes_per_interaction"]) for k in ("json", "log", "entry", "hash", "body")) +
              f" | {100 * r['log_of_json']:.1f} % |")
    return True


def add_options(p):
    g = p.add_argument_group("the table audit")
    g.add_argument("--audit-rounds", type=int, default=15)
    g.add_argument("--audit-requests", type=int, default=1500, help="of a measurement")
    g.add_argument("--audit-pairs", type=int, default=1500, help="requests to each server, of a start")
    g.add_argument("--audit-starts", type=int, default=24, help="starts of the servers")
    g.add_argument("--audit-parts", default="serving,pairs", help="which of serving and pairs (default: both)")
    g.add_argument("--audit-dir", help="where the logs lie (default: build/bench)")
    g.add_argument("--audit-text", metavar="FILE", help="a text for the log's size, as `audit_cost --text` takes it")


def run(args):
    ok = "serving" not in args.audit_parts or serving(args)
    if "pairs" in args.audit_parts:
        folder = tempfile.mkdtemp(prefix="freehold-audit-", dir=args.audit_dir or WORK)
        try:
            ok &= pairs(args, model_of_bench(), folder, ["off", "relaxed", "relaxed, keys", "off again"])
            pairs(args, model_of_bench(), folder, ["off", "strict"])
        finally:
            shutil.rmtree(folder)
    return size(args) and ok
