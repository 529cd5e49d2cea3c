# SPDX-License-Identifier: Apache-2.0
"""The table `serve` of bench.py: `freehold bench serve` measures itself, and then
the largest rate that a server keeps, ours and llama-server's.

Generator: a server whose model costs nothing (null:), so that nothing else is
slow. 1,000 streams side by side must bring more than 100,000 tokens a second
through the generator's one thread; at 1,600 requests a second, 100,000 tokens a
second, 99 of 100 requests must leave within 0.2 ms of their time.

Rate: the same model, threads, arrivals, lengths and deadlines for both. A
request's deadlines are --serve-factor times the unloaded times of its prompt's
length, of the slower of the two servers, so that either can keep them; the rate
counts as kept when 99 % of all requests do, refused ones included among those
that do not. A probe has 200 requests at least, so that a slow server's takes
long: --serve-limit bounds a search, which says so when it ends early. Searches
are run in turn, one for each round; with --serve-busy 0,N also beside N processes
that want a core each.

Ours guesses no tokens in any of these: what a guess brings is no promise.

Deadlines: ours alone, at multiples of what it can carry: how many
of the admitted are in time, how many are refused, how even tokens come while long
prompts arrive, what overload leaves of the goodput. Two things may be meant by what
it can carry, and both are used: the largest rate at which 99 % of all are in time
(the search's), and what it finishes while requests always wait and none has a
deadline. Even a machine without overhead that could be given to any request at any
time would refuse one in eight at 0.8 of the latter (--serve-works ideal), so the
share of refusals is held against the former.

Simulated: a run's requests and deadlines once more through `freehold sim`, with
the mean of the prices that this server had while they ran (it is asked for them
every few seconds: those of the end are another host's when its other work has
moved), and steps as far off as its own predictions were. What lies between a
client and the engine is the difference of their mean times to first tokens.

--serve-realtime runs server, generator and peer as SCHED_FIFO, busy processes not.
What a deadline of a few milliseconds is up against on a host that does other
things, too, is the kernel's scheduler: each session is a group of its own there
(kernel.sched_autogroup_enabled), and to another group `nice` and SCHED_IDLE mean
nothing, so that a compiler "at idle priority" has half of a core for slices of
3 ms. A service gets the same by CPUSchedulingPolicy=fifo in its unit.

Where there is a compute thread for each core, that does not do: real-time threads that
leave others nothing for a second are stopped for 50 ms then, a gap between tokens that is
three steps of a model of a billion parameters. --serve-first takes a session of its own,
whose group has 99 % of the cores' time instead.

ITL: streams that write on and on, one after the other, while long prompts come: the gaps between their tokens, while such a prompt is read and
while none is. The latter is what the host itself does to a step.

On two cores --threads 1 leaves one for the generator and for what the server does
beside computing, the peer's too. Nothing is pinned: pinned to one core, the thread
that computes waits whenever something else of the host comes to that core, though
the other one is idle.

Curve: the same requests at the rates of --serve-rates, none given up, for each
server in turn; the shares that kept their deadlines go to build/bench/serve.svg.
--serve-works curve,rate share the unloaded times, and with --serve-calibration
FILE another run's are taken, so that a long comparison can be had in pieces.
"""

import csv
import json
import math
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import threading

from bench_cpu import Busy
from bench_util import FREEHOLD, WORK, Peer, median, number, output, synth
from server import DEMO_MODEL, Server

STREAMS_FLOOR = 100_000  # tokens/s
LATE_FLOOR_MS = 0.2
SLOTS = 16
REALTIME = 10  # the priority of --serve-realtime
MULTIPLES = (0.3, 0.5, 0.8, 1, 2, 3)
LONG = 4  # a prompt is long that has a quarter of the longest one's tokens
IN_TIME_FLOOR, REFUSED_FLOOR, ITL_FLOOR, GOODPUT_FLOOR = 0.99, 0.02, 1.5, 0.9
P50_FLOOR, P99_FLOOR = 0.1, 0.2
OF_DEVIATION = 1.25  # a deviation over the mean distance, of what is normal


def bench(url, *args):
    return json.loads(output([FREEHOLD, "bench", "serve", "--url", url, "--json", "-", "--quiet", *map(str, args)]))


def say(what, unit, value, floor, holds):
    print(f"| {what} | {unit} | {number(value)} | {floor} | {'yes' if holds else '**no**'} |", flush=True)
    return holds


def generator(args):
    print("\n### Load generator: one thread, null model\n\n| what | unit | measured | wanted | kept |\n|" + " --- |" * 5)
    many, paced = [], []
    with Server("null:" + DEMO_MODEL, "--threads", "1", "--max-seqs", "1024", "--max-queue", "4096") as s:
        for _ in range(args.rounds):
            many.append(bench(s.url, "--max-concurrency", 1000, "--num-prompts", 20000, "--input-len", 32, "--output-len", 64))
            paced.append(bench(s.url, "--request-rate", 1600, "--duration", 3, "--input-len", 32, "--output-len", 64))
    rate, late = median(many, "output_throughput"), median(paced, "p99_send_delay_ms")
    ok = say("1,000 streams", "tokens/s", rate, f"{STREAMS_FLOOR:,}", rate >= STREAMS_FLOOR)
    ok &= say("1,600 requests/s: send delay p99", "ms", late, LATE_FLOOR_MS, late <= LATE_FLOOR_MS)
    say("the same, median", "ms", median(paced, "median_send_delay_ms"), "", True)
    say("the same, tokens", "tokens/s", median(paced, "output_throughput"), "", True)
    say("the same, its CPU", "%", median(paced, lambda r: 100 * r["generator"]["cpu_s"] / r["duration"]), "", True)
    return ok


def calibrated(targets, common, *how):
    """Unloaded times by length: of each length the slower server's."""
    points = []
    for t in targets:
        path = os.path.join(WORK, "calibration.json")
        output([FREEHOLD, "bench", "serve", "--url", t.url, "--calibrate-only", "--save-calibration", path, *common, *how])
        with open(path, encoding="ascii") as f:
            points.append(json.load(f)["calibration"])
    for same in zip(*points):
        print("unloaded, %5d tokens: " % same[0]["prompt_tokens"] +
              ", ".join(f"TTFT {p['ttft_ms']:.2f} TPOT {p['tpot_ms']:.3f} ms" for p in same), file=sys.stderr)
    slower = [{k: max(p[k] for p in same) for k in same[0]} for same in zip(*points)]
    path = os.path.join(WORK, "calibration-slower.json")
    with open(path, "w", encoding="ascii") as f:
        json.dump({"calibration": slower}, f, indent=1)
    return path


def measure(args, target, name, path, calibration, common, *how):
    """A search or a sweep; its JSON, which stays in @path."""
    subprocess.run([FREEHOLD, "bench", "serve", "--url", target.url, "--quiet", "--label", name, "--json", path,
                    "--calibration", calibration, "--deadline-factor", str(args.serve_factor), *common, *map(str, how)],
                   stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def widened(path, ctx):
    """The built-in model was made for 512 tokens; as far as time goes, it is as good for more."""
    out = os.path.join(WORK, f"demo-{ctx}.gguf")
    with open(path, "rb") as f:
        data = bytearray(f.read())
    key = b"llama.context_length"
    at = data.index(key) + len(key)
    kind, was = struct.unpack_from("<II", data, at)
    if kind != 4:  # GGUF's number of a 32-bit unsigned integer
        raise RuntimeError(f"{path}: {key.decode()} is of type {kind}")
    if ctx <= was:
        return path
    struct.pack_into("<I", data, at + 4, ctx)
    with open(out, "wb") as f:
        f.write(data)
    return out


class Host:
    """What the host did besides, of all of its cores, in per cent: between two looks."""

    def __init__(self, servers):
        self.servers, self.at = servers, None
        self.look()

    def look(self, generator_s=0):
        with open("/proc/stat", encoding="ascii") as f:
            v = [int(x) for x in f.readline().split()[1:9]]
        own = sum(self.cpu(t.pid) for t in self.servers)
        was, self.at = self.at, (sum(v), sum(v) - v[3] - v[4], v[7], own)
        if not was:
            return 0, 0
        total = max(1, self.at[0] - was[0])
        ours = self.at[3] - was[3] + generator_s * os.sysconf("SC_CLK_TCK")
        return 100 * max(0, self.at[1] - was[1] - ours) / total, 100 * (self.at[2] - was[2]) / total

    @staticmethod
    def cpu(pid):
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])


def between(part, of):
    """95 of 100 times the true share is between these (Wilson)."""
    if not of:
        return 0, 1
    p, z = part / of, 1.96
    mid, far = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (mid - far) / (1 + z * z / of), (mid + far) / (1 + z * z / of)


def yields(pid):
    """What computes runs behind what reads and writes: where there is a thread for each core, a request would wait for a whole step."""
    for tid in map(int, os.listdir(f"/proc/{pid}/task")):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
            if f.read().startswith(("fh-engine", "fh-compute")):
                os.sched_setscheduler(tid, os.SCHED_FIFO, os.sched_param(REALTIME - 1))


class Servers:
    """Ours, llama-server where it is, and what they are held to."""

    def __init__(self, args, *more):
        model = widened(DEMO_MODEL, args.serve_ctx) if args.serve_model == "demo" else synth(*args.serve_model.split(":"))
        self.what = (f"{args.serve_factor:g} times the unloaded times: {os.path.basename(model)}, {args.threads} thread{'s' * (args.threads > 1)}, "
                     f"prompts {args.serve_input}, answers {args.serve_output}")
        self.common = ["--input-len", args.serve_input, "--output-len", args.serve_output, "--max-model-len", str(args.serve_ctx),
                       "--num-warmups", "4"]
        self.common += ["--calibration-reps", str(args.serve_reps)]
        self.targets, self.names = [], []
        try:
            if "freehold" in args.serve_only:
                self.add("freehold", Server(model, "--threads", str(args.threads), "--speculate", "off", *more, ready_s=300))
            if "llama-server" in args.serve_only and args.peer and os.path.exists(os.path.join(args.peer, "llama-server")):
                self.add("llama-server", Peer(args.peer, model, args.threads, SLOTS, args.serve_ctx))
            # With a core to spare it must not: who wakes the front end would be the one that is put aside for it.
            if args.serve_realtime and "freehold" in self.names and args.threads >= os.cpu_count():
                yields(self.targets[0].pid)
            self.calibration = args.serve_calibration or calibrated(self.targets, self.common)
        except BaseException:
            self.__exit__()
            raise

    def add(self, name, target):
        self.names.append(name)
        self.targets.append(target)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for t in self.targets:
            t.kill()

    def each(self, args, kind, *how):
        """Of each server the JSON."""
        return [measure(args, t, n, os.path.join(WORK, f"serve-{kind}-{n}.json"), self.calibration, self.common, *how)
                for t, n in zip(self.targets, self.names)]


def live(args, s, name, rate_per_s, *how, deadlines=True, calibration=None):
    """One run of ours at a rate, or of a trace; its JSON with each request in it, and its CSV as rows."""
    path = os.path.join(WORK, f"serve-{name}")
    want = ["--calibration", calibration or s.calibration, "--deadline-factor", str(args.serve_factor)] if deadlines else []
    if rate_per_s:
        nr = max(1, min(args.serve_requests, round(rate_per_s * args.serve_longest)))
        want += ["--request-rate", str(rate_per_s), "--num-prompts", str(nr)]
    output([FREEHOLD, "bench", "serve", "--url", s.targets[0].url, "--quiet", "--save-detailed", "--json", path + ".json", "--csv", path + ".csv", *want, *s.common, *how])
    with open(path + ".json", encoding="utf-8") as f:
        r = json.load(f)
    with open(path + ".csv", encoding="ascii", newline="") as f:
        return r, list(csv.DictReader(f))


def gaps_beside_long(r, rows):
    """
    Times between tokens: in ms of answers that were on their way while a long prompt was read, the same over each one's
    own deadline, and of the other times.
    """
    answered = [(t, n, x, g, float(row["deadline_tpot_ms"])) for t, n, x, g, e, row in
                zip(r["start_times"], r["input_lens"], r["ttfts"], r["itls"], r["errors"], rows) if not e]
    least = max((a[1] for a in answered), default=0) / LONG
    reads = [(t, t + x) for t, n, x, _, _ in answered if n >= least]
    ms, share, apart = [], [], []
    for t, _, x, gaps, due in answered:
        at = t + x
        for g in gaps:
            if any(a < at + g and at < b for a, b in reads):
                ms.append(1e3 * g)
                share.append(1e3 * g / due)
            else:
                apart.append(1e3 * g / due)
            at += g
    return sorted(ms), sorted(share), sorted(apart)


def percentile(v, q):
    at = q * (len(v) - 1)
    i = int(at)
    return v[i] if i + 1 >= len(v) else v[i] + (at - i) * (v[i + 1] - v[i])


def capacities(args, s):
    """The largest rate that is kept, and what is finished while requests always wait."""
    if args.serve_capacity:
        kept = args.serve_capacity
    else:
        found = measure(args, s.targets[0], "freehold", os.path.join(WORK, "serve-capacity.json"), s.calibration, s.common, "--search",
                        args.serve_start, "--search-time", args.serve_limit, "--search-precision", args.serve_precision, "--duration", args.serve_seconds)
        kept = found["max_rate"]
    busy = json.loads(output([FREEHOLD, "bench", "serve", "--url", s.targets[0].url, "--quiet", "--json", "-",
                              "--max-concurrency", str(SLOTS), "--num-prompts", str(args.serve_saturate), *s.common]))
    return kept, busy["request_throughput"]


def deadlines(args):
    with Servers(args) as s:
        kept, busy = capacities(args, s)
        print(f"\n### Deadlines of {s.what}\n\n99 % of all in time: {number(kept)} requests/s; finished while requests always wait: "
              f"{number(busy)} requests/s\n\n| requests/s | of the rate kept | of throughput | requests | in time, of the admitted | refused | "
              "goodput/s | ITL beside long prompts: p50, p99 | ratio | over its own deadline | the same, no long prompt | generator's send delay p99 | "
              "host: other work, stolen |\n|" + " --- |" * 13)
        of = {name: c for name, c in (("kept", kept), ("throughput", busy)) if c > 0}
        rows, rates = {}, sorted({m * of[name] for m in map(float, args.serve_multiples.split(",")) for name in args.serve_of.split(",") if name in of})
        host = Host(s.targets)
        for rate_per_s in rates:
            r, lines = live(args, s, f"deadlines-{rate_per_s:.3g}", rate_per_s)
            gaps = gaps_beside_long(r, lines)
            itl, own, apart = ([percentile(g, q) for q in (0.5, 0.99)] if len(g) >= 100 else None for g in gaps)
            others, stolen = host.look(r["generator"]["cpu_s"])
            rows[rate_per_s] = dict(r, itl=itl, own=own, apart=apart, refused=refused(r), others=others, stolen=stolen)
            least, most = between(round(r["admitted_attainment"] * admitted(r)), admitted(r))
            print(f"| {number(rate_per_s)} | {rate_per_s / kept if kept else 0:.2f} | {rate_per_s / busy:.2f} | {r['num_prompts']} | "
                  f"{100 * r['admitted_attainment']:.2f} % ({100 * least:.1f} to {100 * most:.1f}) | {100 * refused(r):.2f} % | {number(r['request_goodput'])} | " +
                  (f"{itl[0]:.2f}, {itl[1]:.2f} ms | {itl[1] / itl[0]:.2f} | {own[1] / own[0]:.2f} | " if itl else "| | | ") +
                  (f"{apart[1] / apart[0]:.2f} | " if apart else "| ") +
                  f"{r['p99_send_delay_ms']:.2f} ms | {others:.0f} %, {stolen:.1f} % |", flush=True)
            if r["generator"]["bottleneck"]:
                print(f"bench.py: {r['generator']['bottleneck']}", file=sys.stderr)
    with open(os.path.join(WORK, "serve-deadlines.json"), "w", encoding="ascii") as f:
        json.dump({"what": s.what, "rate_kept": kept, "throughput": busy, "runs": [summary(x, r) for x, r in rows.items()]}, f, indent=1)
    return floors(rows, kept, busy)


def summary(rate_per_s, r):
    return {"request_rate": round(rate_per_s, 3), "num_prompts": r["num_prompts"], "admitted_attainment": round(r["admitted_attainment"], 4),
            "refused": round(r["refused"], 4), "request_goodput": round(r["request_goodput"], 3),
            "itl_beside_long_ms": r["itl"] and [round(x, 3) for x in r["itl"]],
            "itl_over_deadline": r["own"] and [round(x, 3) for x in r["own"]],
            "itl_over_deadline_no_long": r["apart"] and [round(x, 3) for x in r["apart"]],
            "host_other_work": round(r["others"] / 100, 3), "host_stolen": round(r["stolen"] / 100, 4), "median_ttft_ms": round(r["median_ttft_ms"], 3),
            "p99_ttft_ms": round(r["p99_ttft_ms"], 3), "p99_send_delay_ms": round(r["p99_send_delay_ms"], 3)}


def floors(rows, kept, busy):
    if not rows:
        print("no rate to measure at: none was kept; a smaller --serve-start finds one, or --serve-of throughput does without")
        return False
    print("\n| what | unit | measured | wanted | kept |\n|" + " --- |" * 5)
    ok = say("of the admitted in time, at the worst rate", "%", 100 * min(r["admitted_attainment"] for r in rows.values()),
             f"{100 * IN_TIME_FLOOR:g}", all(r["admitted_attainment"] >= IN_TIME_FLOOR for r in rows.values()))
    if 0.8 * kept in rows:
        x = rows[0.8 * kept]["refused"]
        ok &= say("refused at 0.8 of the rate kept", "%", 100 * x, f"under {100 * REFUSED_FLOOR:g}", x < REFUSED_FLOOR)
    for name, cap in (("the rate kept", kept), ("throughput", busy)):
        if cap in rows and 3 * cap in rows:
            x = rows[3 * cap]["request_goodput"] / rows[cap]["request_goodput"]
            ok &= say(f"goodput at 3x {name} over 1x", "", x, GOODPUT_FLOOR, x >= GOODPUT_FLOOR)
    ratios = [r["itl"][1] / r["itl"][0] for r in rows.values() if r["itl"]]
    if ratios:
        ok &= say("ITL p99/p50 beside long prompts, at the worst rate", "", max(ratios), ITL_FLOOR, max(ratios) <= ITL_FLOOR)
        own = max(r["own"][1] / r["own"][0] for r in rows.values() if r["itl"])
        say("the same, each gap over its own deadline, which grows with the prompt", "", own, ITL_FLOOR, own <= ITL_FLOOR)
    return ok


def itl(args):
    """Answers that go on and on, one after the other, while long prompts come; these have twice the time, or they would be refused."""
    with Servers(args) as s:
        with open(s.calibration, encoding="ascii") as f:
            points = json.load(f)["calibration"]
        short, long = points[0], points[-1]
        for p in points:
            p["ttft_ms"] *= 2
        path = os.path.join(WORK, "calibration-itl.json")
        with open(path, "w", encoding="ascii") as f:
            json.dump({"calibration": points}, f)
        nr_long, nr_tokens = args.serve_longs, args.serve_stream
        stream_s = 1e-3 * (short["ttft_ms"] + args.serve_factor * short["tpot_ms"] * nr_tokens)
        long_s = 2e-3 * long["ttft_ms"] * args.serve_factor
        at = sorted([(k * stream_s, short["prompt_tokens"], nr_tokens) for k in range(int(nr_long * long_s / stream_s) + 1)] +
                    [((k + 0.5) * long_s, long["prompt_tokens"], 2) for k in range(nr_long)])
        trace = os.path.join(WORK, "trace-itl.csv")
        azure([{"scheduled_s": t, "input_tokens": n, "max_tokens": m} for t, n, m in at], trace)
        host = Host(s.targets)
        r, rows = live(args, s, "itl", None, "--trace", trace, "--trace-format", "azure", calibration=path)
        others, stolen = host.look(r["generator"]["cpu_s"])
    ms, own, apart = gaps_beside_long(r, rows)
    nr_read = sum(row["outcome"] == "completed" and int(row["input_tokens"]) == long["prompt_tokens"] for row in rows)
    print(f"\n### Gaps between tokens of {s.what}\n\nanswers of {nr_tokens} tokens after {short['prompt_tokens']}, one every {1e3 * stream_s:.0f} ms; a prompt of "
          f"{long['prompt_tokens']} every {1e3 * long_s:.0f} ms, {nr_read} of {nr_long} read; other work of the host {others:.0f} %, stolen {stolen:.1f} %\n\n"
          "| gaps | number | p50 | p99 | ratio |\n|" + " --- |" * 5)
    for what, g in (("beside a long prompt, ms", ms), ("over their own deadline", own), ("the same, no long prompt", apart)):
        p50, p99 = percentile(g, 0.5), percentile(g, 0.99)
        print(f"| {what} | {len(g)} | {p50:.3f} | {p99:.3f} | {p99 / p50:.2f} |")
    ratio = percentile(ms, 0.99) / percentile(ms, 0.5)
    print("\n| what | unit | measured | wanted | kept |\n|" + " --- |" * 5)
    return say("ITL p99/p50 while long prompts are read", "", ratio, ITL_FLOOR, ratio <= ITL_FLOOR)


def azure(rows, path):
    """A run's requests as a trace."""
    with open(path, "w", encoding="ascii") as f:
        f.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for r in rows:
            at = float(r["scheduled_s"])
            f.write(f"2024-01-01 {int(at / 3600):02}:{int(at / 60) % 60:02}:{at % 60:09.6f},{r['input_tokens']},{r['max_tokens']}\n")


def sim(costs, *args):
    return json.loads(output([FREEHOLD, "sim", "--costs", costs, "--json", *map(str, args)]))


class Prices(threading.Thread):
    """What steps cost while a run lasts, as the server says every few seconds."""

    PRICE = re.compile(r'^freehold_step_cost_seconds\{part="(\w+)"\} (\S+)$', re.M)
    OTHER = re.compile(r"^freehold_(step_gap_seconds|step_cost_error_ratio|time_to_first_token_seconds_(?:sum|count)) (\S+)$", re.M)

    def __init__(self, server, every_s=2.0):
        super().__init__(daemon=True)
        self.server, self.every_s, self.over, self.seen = server, every_s, threading.Event(), []

    def look(self):
        text = self.server.request("GET", "/metrics")[2].decode()
        self.seen.append(dict(self.PRICE.findall(text) + self.OTHER.findall(text)))

    def run(self):
        while not self.over.wait(self.every_s):
            self.look()

    def __enter__(self):
        self.look()
        self.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.join()
        self.look()

    def first_token_ms(self, nr_completed):
        """The mean of those that came meanwhile, which have to be the run's."""
        total, nr = (float(self.seen[-1][k]) - float(self.seen[0][k]) for k in
                     ("time_to_first_token_seconds_sum", "time_to_first_token_seconds_count"))
        if nr != nr_completed:
            raise RuntimeError(f"the server counts {nr:g} first tokens where the generator has {nr_completed}")
        return 1e3 * total / nr

    def mean(self, key):
        return statistics.mean(float(x[key]) for x in self.seen)

    def write(self, kept, path):
        """As the server's own file of costs, @kept, which says what a step of this model may touch."""
        lines = []
        with open(kept, encoding="ascii") as f:
            for line in f:
                key = line.split()[0]
                if key == "ns_between_steps":
                    continue
                if key.startswith("ns_"):
                    line = f"{key} {1e9 * self.mean(key[3:]):.9g}\n"
                lines.append(line)
        with open(path, "w", encoding="ascii") as f:
            f.writelines(lines + [f"ns_between_steps {1e9 * self.mean('step_gap_seconds'):.9g}\n"])


def simulate(args, costs, prices, r, rows, calibration, with_deadlines):
    """The same requests on a machine of these prices."""
    overhead_us = max(0, 1e3 * (r["mean_ttft_ms"] - prices.first_token_ms(r["completed"])))
    noise = OF_DEVIATION * prices.mean("step_cost_error_ratio")
    print(f"bench.py: between steps {1e6 * prices.mean('step_gap_seconds'):.1f} us, between client and engine {overhead_us:.1f} us; "
          f"steps off by {noise:.3f}", file=sys.stderr)
    path = os.path.join(WORK, "trace.csv")
    azure(rows, path)
    want = ["--ttft-times", args.serve_factor, "--tpot-times", args.serve_factor, "--calibration", calibration] if with_deadlines else []
    return sim(costs, "--trace", path, "--format", "azure", "--overhead-us", overhead_us, "--noise", noise, *want)


def simulated(args):
    folder = os.path.join(WORK, "costs")
    os.makedirs(folder, exist_ok=True)
    for f in os.listdir(folder):
        os.unlink(os.path.join(folder, f))
    with Servers(args, "--cache-dir", folder) as s:
        kept, busy = capacities(args, s)
        runs = [("deadlines, the rate kept", kept, True), ("deadlines, throughput", busy, True), ("none, 0.5 of throughput", 0.5 * busy, False)]
        got = []
        for i, (_, rate_per_s, d) in enumerate(runs):
            with Prices(s.targets[0]) as prices:
                got.append((*live(args, s, f"sim-{i}", rate_per_s, "--num-warmups", "0", deadlines=d), prices))
        s.targets[0].terminate(60)
    kept_costs = [os.path.join(folder, f) for f in os.listdir(folder)][0]
    costs = os.path.join(WORK, "costs-of-run")
    print(f"\n### The same requests live and simulated: {s.what}\n\n| requests | rate/s | refused: live, simulated | TTFT p50: live, simulated | off | "
          "p99 | off | kept |\n|" + " --- |" * 8)
    ok = True
    for (what, rate_per_s, d), (r, rows, prices) in zip(runs, got):
        prices.write(kept_costs, costs)
        x = simulate(args, costs, prices, r, rows, s.calibration, d)
        off = [x[k] / r[k] - 1 for k in ("median_ttft_ms", "p99_ttft_ms")]
        holds = abs(off[0]) <= P50_FLOOR and abs(off[1]) <= P99_FLOOR
        ok &= holds
        print(f"| {what} | {number(rate_per_s)} | {100 * refused(r):.1f}, {100 * x['refused'] / x['num_prompts']:.1f} % | "
              f"{r['median_ttft_ms']:.2f}, {x['median_ttft_ms']:.2f} ms | {100 * off[0]:+.1f} % | {r['p99_ttft_ms']:.2f}, {x['p99_ttft_ms']:.2f} ms | "
              f"{100 * off[1]:+.1f} % | {'yes' if holds else '**no**'} |", flush=True)
    return ok


def ideal(_):
    """What no scheduler can avoid: one machine, no cost but prompts, any request may be taken up and put down at any time, all known."""
    rng = random.Random(1)
    work = [math.exp(rng.uniform(math.log(32), math.log(4096))) for _ in range(20000)]
    mean = sum(work) / len(work)
    print("\n### A machine without overhead, prompts of 32 to 4,096 tokens, twice their own time\n\n| of throughput | refused |\n| --- | --- |")
    for load in MULTIPLES:
        queue, nr_refused = [], 0  # [due, left], in order of deadlines, from now
        for w in work:
            gap = rng.expovariate(load / mean)
            left = gap
            while queue and left > 0:
                done = min(left, queue[0][1])
                left -= done
                queue[0][1] -= done
                if queue[0][1] <= 1e-9:
                    queue.pop(0)
            with_it = sorted([[due - gap, rest] for due, rest in queue] + [[2 * w, w]])
            at, late = 0, False
            for due, rest in with_it:
                at += rest
                late |= at > due + 1e-9
            nr_refused += late
            queue = [[due - gap, rest] for due, rest in queue] if late else with_it
        print(f"| {load:g} | {100 * nr_refused / len(work):.1f} % |")


def rate(args):
    with Servers(args) as s:
        rows = []
        for busy in map(int, args.serve_busy.split(",")):
            with Busy(busy):
                found = [s.each(args, "search", "--search", args.serve_start, "--search-time", args.serve_limit,
                                "--duration", args.serve_seconds)
                         for _ in range(args.rounds)]
            rows.append((busy, list(zip(*found))))
    print(f"\n### Largest rate at which 99 % keep {s.what}\n\n| what | unit | " + " | ".join(s.names) +
          (" | ratio" if len(s.names) > 1 else "") + " |\n|" + " --- |" * (2 + len(s.names) + (len(s.names) > 1)))
    for busy, found in rows:
        v = [median(f, "max_rate") for f in found]
        cells = [number(x) + ("" if all(r["search_sure"] for r in f) else " (ended early)") for x, f in zip(v, found)]
        # Of who kept no rate that was tried, the least that was missed is a bound.
        least = min((r["search_missed_rate"] or math.inf for r in found[-1]), default=math.inf)
        ratio = (f" | {v[0] / v[1]:.2f}x" if v[1] else f" | over {v[0] / least:.3g}x" if v[0] and least < math.inf else " | ") if len(v) > 1 else ""
        print(f"| rate kept{f', beside {busy} busy' if busy else ''} | requests/s | " + " | ".join(cells) + ratio + " |")


def curve(args):
    with Servers(args) as s:
        rates = [args.serve_peer_rates if n == "llama-server" and args.serve_peer_rates else args.serve_rates for n in s.names]
        swept = [measure(args, t, n, os.path.join(WORK, f"serve-sweep-{n}.json"), s.calibration, s.common, "--sweep", x, "--num-prompts",
                         args.serve_curve) for t, n, x in zip(s.targets, s.names, rates)]
    print(f"\n### Requests that kept {s.what}\n\n| server | requests/s | requests | kept (95 % of the time between) | refused |\n|" + " --- |" * 5)
    for name, r in zip(s.names, swept):
        for p in r["points"]:
            least, most = between(round(p["attainment"] * p["num_prompts"]), p["num_prompts"])
            print(f"| {name} | {number(p['request_rate'])} | {p['num_prompts']} | {100 * p['attainment']:.1f} % ({100 * least:.1f} to {100 * most:.1f}) | "
                  f"{100 * refused(p):.1f} % |")
    files = [os.path.join(WORK, f"serve-sweep-{n}.json") for n in ("freehold", "llama-server")]
    if all(map(os.path.exists, files)):
        output([FREEHOLD, "bench", "serve", "--compare", *files, "--svg", os.path.join(WORK, "serve.svg")])
        print("\nboth curves: build/bench/serve.svg")


def admitted(point):
    return point["num_prompts"] - point["outcomes"]["refused_429"] - point["outcomes"]["unavailable_503"]


def refused(point):
    return (point["outcomes"]["refused_429"] + point["outcomes"]["unavailable_503"]) / max(1, point["num_prompts"])


WORKS = {"generator": generator, "rate": rate, "curve": curve, "deadlines": deadlines, "itl": itl, "simulated": simulated, "ideal": ideal}


def add_options(p):
    g = p.add_argument_group("the table serve")
    g.add_argument("--serve-works", default="generator,rate,curve", help="some of: " + " ".join(WORKS))
    g.add_argument("--serve-model", default="demo", help="demo (the built-in one) or SHAPE:TYPE")
    g.add_argument("--serve-input", default="log:32:440", help="prompt lengths, as --input-len takes them")
    g.add_argument("--serve-output", default="16:48", help="answer lengths")
    g.add_argument("--serve-ctx", type=int, default=512, help="context of a request, no more than the model's")
    g.add_argument("--serve-factor", type=float, default=2)
    g.add_argument("--serve-seconds", type=float, default=20, help="of a probe of the search")
    g.add_argument("--serve-start", type=float, default=4, help="the rate that it begins with")
    g.add_argument("--serve-limit", type=float, default=900, help="seconds that a search may take")
    g.add_argument("--serve-precision", type=float, default=0.05, help="of the rate that is kept: two tries are no further apart")
    g.add_argument("--serve-realtime", action="store_true", help="server, peer and generator as SCHED_FIFO: other work of the host has to wait")
    g.add_argument("--serve-first", action="store_true", help="a session of their own, before whose group other work has a hundredth of the cores")
    g.add_argument("--serve-longs", type=int, default=100, help="of itl: long prompts")
    g.add_argument("--serve-stream", type=int, default=100, help="of itl: tokens of an answer beside them")
    g.add_argument("--serve-curve", type=int, default=200, help="of the curve: requests at each rate")
    g.add_argument("--serve-peer-rates", help="of the curve: llama-server's, where they are others")
    g.add_argument("--serve-rates", default="5,10,20,40,80", help="of the curve")
    g.add_argument("--serve-only", default="freehold,llama-server", help="which servers")
    g.add_argument("--serve-calibration", metavar="FILE", help="unloaded times, instead of measuring them")
    g.add_argument("--serve-capacity", type=float, default=0, metavar="R", help="the rate that is kept, instead of a search for it")
    g.add_argument("--serve-of", default="kept,throughput", help="what the rates of deadlines are multiples of")
    g.add_argument("--serve-requests", type=int, default=1000, help="of a run at one rate, at most")
    g.add_argument("--serve-longest", type=float, default=30, help="seconds in which they are to be due")
    g.add_argument("--serve-reps", type=int, default=5, help="requests of each length that the unloaded times are measured with")
    g.add_argument("--serve-multiples", default=",".join(map(str, MULTIPLES)), help="of deadlines")
    g.add_argument("--serve-saturate", type=int, default=200, help="requests that the throughput is measured with")
    g.add_argument("--serve-busy", default="0", metavar="N,...", help="of the rate: beside so many busy processes each")


def run(args):
    ok = True
    if args.serve_first:
        try:
            if os.getsid(0) != os.getpid():
                sys.stdout.flush()
                os.execvp("setsid", ["setsid", "-w", sys.executable, *sys.argv])
            with open("/proc/self/autogroup", "w", encoding="ascii") as f:
                f.write("-20")
        except OSError as e:
            raise SystemExit(f"bench.py: --serve-first: {e}: root's rights, and a kernel that makes groups of sessions, are wanted") from e
    if args.serve_realtime:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME))
        except PermissionError as e:
            raise SystemExit("bench.py: --serve-realtime: root's rights are wanted, or CAP_SYS_NICE") from e
    for name in args.serve_works.split(","):
        if name not in WORKS:
            raise SystemExit(f"bench.py: --serve-works {name}: one of {' '.join(WORKS)} is wanted")
        ok = WORKS[name](args) is not False and ok
    return ok or not args.strict
