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
are run in turn, one for each round; with --serve-busy N also beside N processes
that want a core each.

Curve: the same requests at the rates of --serve-rates, none given up, for each
server in turn; the shares that kept their deadlines go to build/bench/serve.svg.
--serve-works curve,rate share the unloaded times, and with --serve-calibration
FILE another run's are taken, so that a long comparison can be had in pieces.
"""

import json
import os
import subprocess
import sys

from bench_cpu import Busy
from bench_util import FREEHOLD, WORK, Peer, median, number, output, synth
from server import DEMO_MODEL, Server

STREAMS_FLOOR = 100_000  # tokens/s
LATE_FLOOR_MS = 0.2
SLOTS = 16
CURVE_REQUESTS = 200  # at each rate


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


def calibrated(targets, common):
    """Unloaded times by length: of each length the slower server's."""
    points = []
    for t in targets:
        path = os.path.join(WORK, "calibration.json")
        output([FREEHOLD, "bench", "serve", "--url", t.url, "--calibrate-only", "--save-calibration", path, *common])
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


class Servers:
    """Ours, llama-server where it is, and what they are held to."""

    def __init__(self, args):
        model = DEMO_MODEL if args.serve_model == "demo" else synth(*args.serve_model.split(":"))
        self.what = (f"{args.serve_factor:g} times the unloaded times: {os.path.basename(model)}, {args.threads} threads, "
                     f"prompts {args.serve_input}, answers {args.serve_output}")
        self.common = ["--input-len", args.serve_input, "--output-len", args.serve_output, "--max-model-len", str(args.serve_ctx),
                       "--num-warmups", "4"]
        self.targets, self.names = [], []
        try:
            if "freehold" in args.serve_only:
                self.add("freehold", Server(model, "--threads", str(args.threads), ready_s=300))
            if "llama-server" in args.serve_only and args.peer and os.path.exists(os.path.join(args.peer, "llama-server")):
                self.add("llama-server", Peer(args.peer, model, args.threads, SLOTS, args.serve_ctx))
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


def rate(args):
    with Servers(args) as s:
        rows = []
        for busy in sorted({0, args.serve_busy}):
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
        ratio = f" | {v[0] / v[1]:.2f}x" if len(v) > 1 and v[1] else " | " if len(v) > 1 else ""
        print(f"| rate kept{f', beside {busy} busy' if busy else ''} | requests/s | " + " | ".join(cells) + ratio + " |")


def curve(args):
    with Servers(args) as s:
        swept = s.each(args, "sweep", "--sweep", args.serve_rates, "--num-prompts", CURVE_REQUESTS)
    print(f"\n### Requests that kept {s.what}\n\n| requests/s | " + " | ".join(f"{n}: kept, refused" for n in s.names) + " |\n|" +
          " --- |" * (1 + len(s.names)))
    for points in zip(*(r["points"] for r in swept)):
        print(f"| {number(points[0]['request_rate'])} | " +
              " | ".join(f"{100 * p['attainment']:.1f} %, {100 * refused(p):.1f} %" for p in points) + " |")
    files = [os.path.join(WORK, f"serve-sweep-{n}.json") for n in ("freehold", "llama-server")]
    if all(map(os.path.exists, files)):
        output([FREEHOLD, "bench", "serve", "--compare", *files, "--svg", os.path.join(WORK, "serve.svg")])
        print("\nboth curves: build/bench/serve.svg")


def refused(point):
    return (point["outcomes"]["refused_429"] + point["outcomes"]["unavailable_503"]) / max(1, point["num_prompts"])


WORKS = {"generator": generator, "rate": rate, "curve": curve}


def add_options(p):
    g = p.add_argument_group("the table serve")
    g.add_argument("--serve-works", default=",".join(WORKS), help="some of: " + " ".join(WORKS))
    g.add_argument("--serve-model", default="demo", help="demo (the built-in one) or SHAPE:TYPE")
    g.add_argument("--serve-input", default="log:32:440", help="prompt lengths, as --input-len takes them")
    g.add_argument("--serve-output", default="16:48", help="answer lengths")
    g.add_argument("--serve-ctx", type=int, default=512, help="context of a request, no more than the model's")
    g.add_argument("--serve-factor", type=float, default=2)
    g.add_argument("--serve-seconds", type=float, default=20, help="of a probe of the search")
    g.add_argument("--serve-start", type=float, default=4, help="the rate that it begins with")
    g.add_argument("--serve-limit", type=float, default=900, help="seconds that a search may take")
    g.add_argument("--serve-rates", default="5,10,20,40,80", help="of the curve")
    g.add_argument("--serve-only", default="freehold,llama-server", help="which servers")
    g.add_argument("--serve-calibration", metavar="FILE", help="unloaded times, instead of measuring them")
    g.add_argument("--serve-busy", type=int, default=0, metavar="N", help="also beside N busy processes")


def run(args):
    ok = True
    for name in args.serve_works.split(","):
        if name not in WORKS:
            raise SystemExit(f"bench.py: --serve-works {name}: one of {' '.join(WORKS)} is wanted")
        ok = WORKS[name](args) is not False and ok
    return ok or not args.strict
