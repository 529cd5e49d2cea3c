# SPDX-License-Identifier: Apache-2.0
"""The table `udp` of bench.py: requests over UDP beside the same over HTTP and
over a channel, of one server whose model costs nothing, by turns; and beside
datagrams that are only echoed (build/tests/perf/udp_rtt)."""

import os
import subprocess
import tempfile

from bench_serve import bench
from bench_util import ROOT, WORK, median, number, rounds
from server import DEMO_MODEL
from udp import Keys, UdpServer

# name, requests at once, tokens out, requests in a round
LOADS = (("1 request of 1 token", 1, 1, 4000), ("16 of 1 token", 16, 1, 20000), ("16 of 64 tokens", 16, 64, 2000))
FIGURES = (("median", "ms", lambda r: r["median_e2el_ms"]), ("p99", "ms", lambda r: r["p99_e2el_ms"]),
           ("requests", "/s", lambda r: r["request_throughput"]), ("tokens", "/s", lambda r: r["output_throughput"]),
           ("server CPU a request", "us", lambda r: r["server_cpu_us"]))


def one(s, url, at_once, tokens, nr):
    before = s.cpu_s()
    r = bench(url, "--max-concurrency", at_once, "--num-prompts", nr, "--input-len", 16, "--output-len", tokens, "--num-warmups", 0)
    r["server_cpu_us"] = (s.cpu_s() - before) * 1e6 / nr
    return r


def run(args):
    print("\n### UDP: null model, loopback\n\n| what | unit | UDP | HTTP | channel | UDP / HTTP |\n|" + " --- |" * 6)
    with tempfile.TemporaryDirectory(prefix="freehold-udp-") as d:
        keys = Keys(d)
        os.environ["FREEHOLD_UDP_KEY"] = keys.client
        channel = "unix:" + os.path.join(d, "channel.sock")
        with UdpServer("null:" + DEMO_MODEL, keys, "--threads", "1", "--channel", channel) as s:
            urls = (s.udp_url, s.url, "channel:" + channel)
            for name, at_once, tokens, nr in LOADS:
                results = rounds(args.rounds, [lambda u=u: one(s, u, at_once, tokens, nr) for u in urls])
                for what, unit, get in FIGURES:
                    v = [median(r, get) for r in results]
                    print(f"| {name}: {what} | {unit} | " + " | ".join(map(number, v)) + f" | {v[0] / v[1]:.2f} |", flush=True)
    os.makedirs(WORK, exist_ok=True)
    subprocess.run(["make", "-s", "build/tests/perf/udp_rtt"], cwd=ROOT, check=True)
    print(flush=True)
    subprocess.run([os.path.join(ROOT, "build", "tests", "perf", "udp_rtt"), DEMO_MODEL], check=True)
    return True
