#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of Documentation/design/performance.md.

Every figure is the median of five rounds. With --peer, each round runs ours and
then the peer's (llama-server, llama-bench), so that both see the same minute of
the same machine; quote the ratio, not the figure. Nothing else should run.

Host path: a server on loopback, a model of 0.26 M parameters, prompts that all
differ (`freehold bench serve`). Serve: the load generator itself, and the largest
rate that is kept; see bench_serve.py. Engine: no server, random weights in real shapes,
which `freehold synth` writes to build/bench/ once. CPU: the floors that the
kernels have to reach, beside llama.cpp and ik_llama.cpp; see bench_cpu.py. Audit:
what the audit log costs; see bench_audit.py.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import bench_audit
import bench_cpu
import bench_serve
import bench_udp
from bench_util import FREEHOLD, ROOT, WORK, Peer, median, number, output, rounds, synth
from server import DEMO_MODEL, SHARED, Server  # bench_util has put its folder on the path

RING = os.path.join(ROOT, "build", "tests", "perf", "ring")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(target, connections, requests, output_len, input_len, stream=False, warmups=64):
    """A closed loop of @connections clients against @target; its JSON, with the server's CPU time in it."""
    args = [FREEHOLD, "bench", "serve", "--url", target.url, "--json", "-", "--max-concurrency", str(connections),
            "--num-prompts", str(requests), "--num-warmups", str(warmups), "--words", "--input-len", str(input_len),
            "--output-len", str(output_len)] + ([] if stream else ["--no-stream"])
    before = cpu_s(target.pid)
    out = json.loads(output(args, timeout=900))
    if out["failed"]:
        raise RuntimeError(f"{' '.join(args)}: {out['outcomes']}")
    out["server_cpu_s"] = cpu_s(target.pid) - before
    return out


def table(title, rows, peer):
    """rows: (what, unit, ours, theirs or None, smaller is better)"""
    print(f"\n### {title}\n")
    head = ["what", "unit", "freehold"] + (["peer", "ratio"] if peer else [])
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for what, unit, ours, theirs, smaller in rows:
        cells = [what, unit, number(ours)]
        if peer:
            if theirs is None:
                cells += ["", ""]
            else:
                over, under = (theirs, ours) if smaller else (ours, theirs)
                ratio = over / under if under else 0  # an idle server may take nothing at all
                cells += [number(theirs), f"{ratio:.2f}x" if ratio else ""]
        print("| " + " | ".join(cells) + " |", flush=True)


def host_path(args):
    model = os.path.join(SHARED, "models", "stories260K-f32.gguf")
    if not os.path.exists(model):
        print("host path: no stories260K-f32.gguf (FREEHOLD_SHARED names the fixtures)", file=sys.stderr)
        return
    ours = Server(model, "--threads", str(args.threads))
    theirs = None
    if args.peer and os.path.exists(os.path.join(args.peer, "llama-server")):
        theirs = Peer(args.peer, model, args.threads, 8)
    elif args.peer:
        print(f"host path: no llama-server in {args.peer}: ours alone", file=sys.stderr)
    targets = [ours] + ([theirs] if theirs else [])
    rows = []
    try:
        def measure(label, metrics, scale=1, **flags):
            results = rounds(args.rounds, [
                lambda t=t: load(t, **{**flags, "requests": max(64, int(flags["requests"] * (1 if t is ours else scale)))})
                for t in targets])
            for what, unit, key, smaller in metrics:
                values = [median(r, key) for r in results] + [None]
                rows.append((f"{label}: {what}", unit, values[0], values[1], smaller))

        latency = [("p50", "ms", "median_e2el_ms", True), ("p99", "ms", "p99_e2el_ms", True),
                   ("rate", "requests/s", "request_throughput", False)]
        per_token = ("server CPU a token", "us", lambda r: r["server_cpu_s"] * 1e6 / max(1, r["total_output_tokens"]), True)
        rate = ("tokens", "tokens/s", "output_throughput", False)
        # Peers answer fewer requests: the ratio needs their median, not as many of them.
        one = {"output_len": 1, "input_len": 16}
        stream = {"output_len": 64, "stream": True, "input_len": 16}
        measure("one token, 1 connection", latency, **one, connections=1, requests=4000, scale=0.25)
        measure("one token, 8 connections", latency, **one, connections=8, requests=8000, scale=0.25)
        measure("one token, 1,024 connections", latency, **one, connections=1024, requests=16000, scale=0.125)
        measure("one token after 80 tokens, 1 connection", latency, output_len=1, input_len=80, connections=1,
                requests=2000, scale=0.1)
        measure("64 tokens streamed, 1 connection", [rate, per_token], **stream, connections=1, requests=300, scale=0.2)
        measure("64 tokens streamed, 8 connections", [rate, per_token, ("between tokens p99", "ms", "p99_itl_ms", True)],
                **stream, connections=8, requests=3000,  scale=0.07)

        def idle(t):
            before, begin = cpu_s(t.pid), time.monotonic()
            time.sleep(3)
            return {"share": (cpu_s(t.pid) - before) / (time.monotonic() - begin) * 100}

        results = rounds(args.rounds, [lambda t=t: idle(t) for t in targets])
        values = [median(r, "share") for r in results] + [None]
        rows.append(("idle, CPU", "%", values[0], values[1], True))
    finally:
        for t in targets:
            t.kill()
    table("Host path: 0.26 M-parameter model over HTTP", rows, theirs)


def peak_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"^VmHWM:\s+(\d+)", f.read(), re.M).group(1))


def prefix_and_memory(args):
    path = synth("tinyllama-1.1b", "Q4_0")
    rng = random.Random(1)
    # KV for not quite three such prompts, so that all of it has been used when the peak is read.
    kv = 64 << 20
    with Server(path, "--threads", str(args.threads), "--ctx", "2048", "--kv-bytes", str(kv), ready_s=300) as s:
        def ttft(ids):
            begin = time.monotonic()
            s.complete(ids, 1)
            return (time.monotonic() - begin) * 1000

        cold, warm = [], []
        for _ in range(args.rounds):
            ids = [rng.randrange(300, 30000) for _ in range(1000)]
            cold.append(ttft(ids))
            warm.append(ttft(ids[:-1] + [rng.randrange(300, 30000)]))
        peak = peak_kib(s.pid) * 1024
    c, w = statistics.median(cold), statistics.median(warm)
    rows = [("1,000-token prompt, nothing cached: first token", "ms", c, None, True),
            ("the same prefix again: first token", "ms", w, None, True),
            ("cold / cached", "x", c / w, None, False),
            ("peak memory of the server", "MB", peak / 1e6, None, True),
            ("model file + KV", "MB", (os.path.getsize(path) + kv) / 1e6, None, True),
            ("peak / (file + KV)", "x", peak / (os.path.getsize(path) + kv), None, True)]
    table("Prefix cache and memory: tinyllama-1.1b Q4_0", rows, None)


def engine(args):
    rows = []
    for shape, kind in [m.split(":") for m in args.models.split(",") if m]:
        path = synth(shape, kind)

        def ours(prompt, gen, batch, path=path):
            r = subprocess.run([FREEHOLD, "bench", "engine", "-m", path, "--prompt", str(prompt), "--gen", str(gen), "--batch",
                                str(batch), "--threads", str(args.threads), "--json"], capture_output=True, text=True, check=True,
                               stdin=subprocess.DEVNULL)
            return json.loads(r.stdout)

        def theirs(prompt, gen, path=path):
            r = subprocess.run([os.path.join(args.peer, "llama-bench"), "-m", path, "-p", str(prompt), "-n", str(gen), "-t",
                                str(args.threads), "-r", "1", "-o", "json"], capture_output=True, text=True, check=True,
                               stdin=subprocess.DEVNULL)
            return {"prefill" if e["n_prompt"] else "decode": e["avg_ts"] for e in json.loads(r.stdout)}

        functions = [lambda: ours(256, 48, 1)] + ([lambda: theirs(256, 48)] if args.peer else [])
        results = rounds(args.rounds, functions) + [None]
        for what, key, peer_key in (("prefill 256", "prefill_tokens_per_s", "prefill"), ("decode", "decode_tokens_per_s", "decode")):
            rows.append((f"{shape} {kind}: {what}", "tokens/s", median(results[0], key),
                         median(results[1], peer_key) if results[1] else None, False))
        many = rounds(args.rounds, [lambda: ours(32, 32, 8)])[0]
        rows.append((f"{shape} {kind}: decode, 8 sequences", "tokens/s", median(many, "decode_tokens_per_s"), None, False))
    table("Engine: no server", rows, args.peer)


def ring(args):
    """A round trip through a channel beside one through a Unix socket, in turn; the floors are issue 4's."""
    with tempfile.TemporaryDirectory(prefix="freehold-ring-") as d:
        channel = "unix:" + os.path.join(d, "channel.sock")
        with Server("null:" + DEMO_MODEL, "--threads", "1", "--channel", channel):
            done = subprocess.run([RING, "--where", channel, "--rounds", str(args.rounds), "--json"], stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=300, check=True)
    r = json.loads(done.stdout)
    ways = (("spinning", "socket", "watching memory", 5.0), ("sleeping", "socket", "asking to be woken", 1.0),
            ("paused", "socket_paused", "both asleep", 1.0))
    rows = [(f"{what}: {p}", "us", r[f"{way}_{p}_us"], r[f"{peer}_{p}_us"], True)
            for way, peer, what, _ in ways for p in ("p50", "p99")]
    table("Ring: one request of one token, no model; peer: an echo over a Unix socket", rows, True)
    ok = True
    for way, peer, what, floor in ways:
        ratio = r[f"{peer}_p50_us"] / r[f"{way}_p50_us"]
        ok &= ratio >= floor
        print(f"{what}: {ratio:.2f} times the socket's speed; the floor is {floor:g}: {'met' if ratio >= floor else 'MISSED'}")
    return ok


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", default=os.environ.get("PEER") or None, help="folder with llama-server and llama-bench")
    p.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--models", default="tinyllama-1.1b:Q4_0,tinyllama-1.1b:Q4_K,tinyllama-1.1b:Q8_0,mixtral-mini:Q4_0",
                   help="SHAPE:TYPE,... for the engine table")
    p.add_argument("tables", nargs="*", help="host prefix engine ring cpu serve udp audit (default: all)")
    bench_cpu.add_options(p)
    bench_serve.add_options(p)
    bench_audit.add_options(p)
    args = p.parse_args()
    os.makedirs(WORK, exist_ok=True)
    # So that whatever was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cpu = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    print(f"{cpu}, {os.cpu_count()} CPUs, {args.threads} threads, medians of {args.rounds}; load before: {os.getloadavg()[0]:.2f}")
    ok = True
    for name, run in (("host", host_path), ("prefix", prefix_and_memory), ("engine", engine), ("ring", ring), ("cpu", bench_cpu.run),
                      ("serve", bench_serve.run), ("udp", bench_udp.run), ("audit", bench_audit.run)):
        if not args.tables or name in args.tables:
            ok = run(args) is not False and ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
