#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The round trip of a datagram on one veth pair: kernel sockets at both ends, DPDK (net_af_packet) at one, DPDK at both.

    tests/perf/dpdk_rtt.py [--rounds N] [--json]

Every path has a turn in every round, in the same minute; of each figure the
median over the rounds is told. `awake`: request after request; `asleep`: 3 ms
between two, so that both ends have given their core back; `64 at a time`:
saturation. net_af_packet goes through the kernel: a card under vfio-pci is
another matter.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
import dpdk_link  # noqa: E402
from dpdk_link import EAL  # noqa: E402

LOADS = {"awake": ["--count", "20000"], "asleep": ["--count", "400", "--pause-us", "3000"],
         "64 at a time": ["--count", "40000", "--window", "64"]}
FIGURES = ("median_us", "p99_us", "p999_us", "per_s", "cpu_us")


def ask(link, *more):
    p = subprocess.run(link.bench(link.b, "--json", "--to", "192.0.2.1:7000", *more), capture_output=True, text=True, timeout=120)
    if p.returncode:
        sys.exit(p.stdout + p.stderr)
    return json.loads(p.stdout)


def kernel(link):
    link.ip("-n", link.a, "addr", "add", "192.0.2.1/24", "dev", "fh0")
    echo = link.start(link.a, "--echo", "192.0.2.1:7000", "--json")
    out = {load: ask(link, *words) for load, words in LOADS.items()}
    link.stop(echo)
    link.ip("-n", link.a, "addr", "flush", "dev", "fh0")
    return out


def one_end(link):
    echo = link.dpdk_echo()
    out = {load: ask(link, *words) for load, words in LOADS.items()}
    link.stop(echo)
    return out


def both_ends(link):
    echo = link.dpdk_echo()
    link.ip("-n", link.b, "addr", "flush", "dev", "fh1")
    out = {load: ask(link, *words, "--dpdk", "net_af_packet1,iface=fh1", "--eal", EAL, "--bind", "192.0.2.2")
           for load, words in LOADS.items()}
    link.ip("-n", link.b, "addr", "add", "192.0.2.2/24", "dev", "fh1")
    link.stop(echo)
    return out


PATHS = {"kernel, kernel": kernel, "DPDK answers, kernel asks": one_end, "DPDK, DPDK": both_ends}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    skip = dpdk_link.reason_to_skip()
    if skip:
        print(f"[SKIP] dpdk_rtt: {skip}")
        return
    link = dpdk_link.Link()
    runs = {path: [] for path in PATHS}
    try:
        for _ in range(args.rounds):
            for path, run in PATHS.items():
                runs[path].append(run(link))
    finally:
        link.close()
    table = {path: {load: {f: statistics.median(r[load][f] for r in rounds) for f in FIGURES} | {
        "lost": sum(r[load]["lost"] for r in rounds)} for load in LOADS} for path, rounds in runs.items()}
    if args.json:
        print(json.dumps(table))
        return
    print(f"{'':27} {'':13} {'median':>9} {'p99':>9} {'p99.9':>9} {'a second':>9} {'core, us':>9}  lost")
    for load in LOADS:
        for path in PATHS:
            f = table[path][load]
            print(f"{path:27} {load:13} {f['median_us']:9.1f} {f['p99_us']:9.1f} {f['p999_us']:9.1f} {f['per_s']:9.0f} "
                  f"{f['cpu_us']:9.1f}  {f['lost']}")


if __name__ == "__main__":
    main()
