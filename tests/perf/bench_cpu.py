# SPDX-License-Identifier: Apache-2.0
"""The table `cpu` of bench.py: what the CPU backend does beside its peers and
beside the machine's limits, with the floor that each figure has to reach.

Each work runs in interleaved rounds: ours, then each peer that was named, and
where a limit belongs to it, the limit, so that all see the same minute. The
first of a round is another one each time. Figures are medians over the rounds;
a ratio is the median of the rounds' own ratios. A share of the read bandwidth
takes, for each round, the most that anything read in it: `freehold bench
memory`, or a decode, ours or a peer's.

Peers are llama.cpp (llama-bench, llama-batched-bench) and ik_llama.cpp
(llama-bench, which repacks at run time: -rtr 1), with as many threads as ours
and otherwise their defaults.
"""

import functools
import json
import os
import re
import statistics
import subprocess
import sys
import time

from bench_util import FREEHOLD, ROOT, median, number, output, synth

READY = re.compile(rb"^freehold: ready on ", re.M)
CPP, IK = "llama.cpp", "ik_llama.cpp"
TINY = "tinyllama-1.1b"
DEPTH = 8192 - 64  # the models state a context of 8,192
KV_DEPTH = 4096
GEN = 64


class Busy:
    """Other processes that want a core each, for as long as the block lasts, and not longer than this process."""

    LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1000000):\n        pass\n"

    def __init__(self, nr):
        self.nr = nr
        self.procs = []

    def __enter__(self):
        for _ in range(self.nr):
            self.procs.append(subprocess.Popen([sys.executable, "-c", self.LOOP], stdin=subprocess.DEVNULL))
            # Whatever this process is.
            os.sched_setscheduler(self.procs[-1].pid, os.SCHED_OTHER, os.sched_param(0))
        if self.nr:
            time.sleep(0.3)  # until they are past their own start

    def __exit__(self, *exc):
        for p in self.procs:
            p.kill()
            p.wait()


@functools.lru_cache(maxsize=None)
def tensors(path):
    return json.loads(output([FREEHOLD, "inspect", path, "--json"]))["tensors"]


def decode_bytes(path):
    """Bytes of weights that one token of a dense model reads: all but the embeddings, of which it reads a row."""
    names = {t["name"] for t in tensors(path)}
    return sum(t["bytes"] for t in tensors(path) if t["name"] != "token_embd.weight" or "output.weight" not in names)


def prefill_ops(path):
    """Operations of a prompt's token in products with weights; attention, and the last token's logits, come on top."""
    nr = 0
    for t in tensors(path):
        if t["name"].startswith("blk.") and len(t["shape"]) == 2:
            nr += t["shape"][0] * t["shape"][1]
    return 2 * nr


class Engines:
    """Each function runs one program once and returns tokens per second."""

    def __init__(self, args):
        self.args = args
        self.peers = {name: folder for name, folder in ((CPP, args.peer), (IK, args.ik)) if folder}

    def ours(self, path, prompt=0, gen=0, batch=1, depth=0, kv="f16", isa=None):
        j = json.loads(output([FREEHOLD, "bench", "engine", "-m", path, "--prompt", str(prompt), "--gen", str(gen), "--batch",
                               str(batch), "--depth", str(depth), "--kv-type", kv, "--threads", str(self.args.threads), "--reps",
                               "1", "--json"], env={"FREEHOLD_ISA": isa} if isa else None))
        return j["decode_tokens_per_s" if gen else "prefill_tokens_per_s"]

    def theirs(self, name, path, prompt=0, gen=0, depth=0, folder=None):
        cmd = [os.path.join(folder or self.peers[name], "llama-bench"), "-m", path, "-p", str(prompt), "-n", str(gen), "-t",
               str(self.args.threads), "-r", "1", "-o", "json"]
        cmd += ["-rtr", "1"] if name == IK else []
        cmd += ["-d", str(depth)] if depth else []
        out = output(cmd)
        (entry,) = json.loads(out[out.index("["):])
        return entry["avg_ts"]

    def theirs_batch(self, path, batch, prompt, gen):
        out = output([os.path.join(self.peers[CPP], "llama-batched-bench"), "-m", path, "-t", str(self.args.threads), "-c",
                      str(batch * (prompt + gen)), "-npp", str(prompt), "-ntg", str(gen), "-npl", str(batch), "--output-format",
                      "jsonl"])
        (line,) = [line for line in out.splitlines() if line.startswith("{")]
        return json.loads(line)["speed_tg"]

    def bandwidth(self):
        return json.loads(output([FREEHOLD, "bench", "memory", "--threads", str(self.args.threads), "--mib", "512", "--reps", "3",
                                  "--json"]))["read_gb_per_s"] * 1e9

    def peak(self, numbers):
        """The most operations per second that any instruction for these numbers does; None where there is none."""
        j = json.loads(output([FREEHOLD, "bench", "peak", "--threads", str(self.args.threads), "--ms", "50", "--reps", "3",
                               "--json"]))
        rates = [i["threads"][-1]["gops"] * 1e9 for i in j["instructions"] if i["numbers"] == numbers]
        return max(rates, default=None)

    def with_peers(self, path, only=(CPP, IK), **what):
        """Ours and each peer's, ready for measure()."""
        todo = {"freehold": lambda: self.ours(path, **what)}
        for name in self.peers:
            if name in only:
                todo[name] = functools.partial(self.theirs, name, path, **what)
        return todo


class Table:
    """Rows as they become known: printed at once, kept for the JSON file."""

    def __init__(self, args):
        self.args = args
        self.rows = []
        self.skipped = []

    def measure(self, todo):
        """{name: [a value a round]}; each round begins with another one."""
        names = list(todo)
        out = {n: [] for n in names}
        for r in range(self.args.rounds):
            for n in names[r % len(names):] + names[:r % len(names)]:
                out[n].append(todo[n]())
        return out

    def row(self, work, unit, found, floors, shares=()):
        """@found: measure()'s; @floors: {peer: least ratio}; @shares: (of what, a value a round, floor, most or least)."""
        row = {"work": work, "unit": unit, "freehold": statistics.median(found["freehold"]), "rounds": found, "peers": {},
               "checks": []}
        for name in (CPP, IK):
            if name not in found:
                continue
            ratio = statistics.median(a / b for a, b in zip(found["freehold"], found[name]))
            row["peers"][name] = {"median": statistics.median(found[name]), "ratio": ratio}
            if name in floors:
                row["checks"].append({"of": name, "value": ratio, "floor": floors[name], "met": ratio >= floors[name]})
        for what, values, floor, at_most in shares:
            v = statistics.median(values)
            row["checks"].append({"of": what, "value": v, "floor": floor, "at_most": at_most,
                                  "met": v <= floor if at_most else v >= floor})
        self.rows.append(row)
        self.print_row(row)

    def head(self):
        print("\n### CPU: floors\n")
        print(f"| work | unit | freehold | {CPP} | {IK} | against: measured (floor) | |")
        print("|" + " --- |" * 7)

    def print_row(self, row):
        cells = [row["work"], row["unit"], number(row["freehold"])]
        for name in (CPP, IK):
            peer = row["peers"].get(name)
            cells.append(f"{number(peer['median'])} ({peer['ratio']:.2f}x)" if peer else "")
        cells.append("; ".join(f"{c['of']}: {c['value']:.2f} ({'at most ' if c.get('at_most') else ''}{c['floor']:g})"
                               for c in row["checks"]))
        missed = [c["of"] for c in row["checks"] if not c["met"]]
        cells.append("" if not row["checks"] else "missed: " + ", ".join(missed) if missed else "met")
        print("| " + " | ".join(cells) + " |", flush=True)

    def skip(self, work, reason):
        self.skipped.append({"work": work, "reason": reason})
        print(f"{work}: skipped: {reason}", file=sys.stderr)

    def finish(self):
        checks = [c for r in self.rows for c in r["checks"]]
        met = sum(c["met"] for c in checks)
        print(f"\n{met} of {len(checks)} floors met" + "".join(f"; {s['work']} skipped: {s['reason']}" for s in self.skipped))
        if self.args.json:
            self.save(self.args.json)
        return met == len(checks)

    def save(self, path):
        """Rows of other works stay, so that the table can be measured in pieces."""
        old = []
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                old = json.load(f)["rows"]
        new = {r["work"] for r in self.rows}
        kept = [r for r in old if r["work"] not in new]
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            json.dump({"threads": self.args.threads, "nr_rounds": self.args.rounds, "rows": kept + self.rows,
                       "skipped": self.skipped}, f, indent=1)
            f.write("\n")
        os.rename(path + ".tmp", path)


def available_bytes():
    with open("/proc/meminfo", encoding="ascii") as f:
        return int(re.search(r"^MemAvailable:\s+(\d+)", f.read(), re.M).group(1)) << 10


def fits(t, work, path):
    """Whether the file, in the page cache and repacked, leaves room."""
    need = 2 * os.path.getsize(path) + (1 << 30)
    if need <= available_bytes():
        return True
    t.skip(work, f"needs {need >> 20} MiB of memory")
    return False


def decode(t, e):
    for shape, kind in [m.split(":") for m in t.args.decode_models.split(",")]:
        path = synth(shape, kind)
        work = f"decode, one sequence, {shape} {kind}"
        if not fits(t, work, path):
            continue
        todo = e.with_peers(path, gen=GEN)
        todo["bandwidth"] = e.bandwidth
        found = t.measure(todo)
        streamed = [[rate * decode_bytes(path) for rate in found[n]] for n in found if n != "bandwidth"]
        most = [max(values) for values in zip(found["bandwidth"], *streamed)]
        t.row(work, "tokens/s", found, {CPP: 1.1, IK: 1.0},
              [("read bandwidth", [a / b for a, b in zip(streamed[0], most)], 0.92, False)])


def prefill(t, e):
    for kind in ("Q4_0", "Q4_K", "Q8_0"):
        path = synth(TINY, kind)
        for nr in (256, 2048):
            t.row(f"prefill {nr:,}, {TINY} {kind}", "tokens/s", t.measure(e.with_peers(path, prompt=nr)), {CPP: 1.8, IK: 1.15})


def bf16(t, e):
    path = synth(TINY, "BF16")
    for nr in (256, 2048):
        work = f"prefill {nr:,}, {TINY} BF16"
        if not fits(t, work, path):
            continue
        todo = e.with_peers(path, only=(CPP,), prompt=nr)
        todo["peak"] = lambda: e.peak("bf16")
        found = t.measure(todo)
        shares = []
        if None in found["peak"]:
            t.skip(f"{work}, share of the peak", "this CPU has no vdpbf16ps")
        else:
            ops = prefill_ops(path)
            shares = [("vdpbf16ps peak", [a * ops / b for a, b in zip(found["freehold"], found["peak"])], 0.6, False)]
        t.row(work, "tokens/s", found, {CPP: 1.2}, shares)


def batch(t, e):
    for kind in ("Q4_0", "Q4_K", "Q8_0"):
        path = synth(TINY, kind)
        for nr in (8, 16):
            todo = {"freehold": lambda p=path, n=nr: e.ours(p, prompt=32, gen=32, batch=n)}
            if CPP in e.peers:
                todo[CPP] = lambda p=path, n=nr: e.theirs_batch(p, n, 32, 32)
            t.row(f"decode, {nr} sequences, {TINY} {kind}", "tokens/s", t.measure(todo), {CPP: 1.6})


def depth(t, e):
    path = synth(TINY, "Q4_K")
    t.row(f"decode after {DEPTH:,} tokens, {TINY} Q4_K", "tokens/s", t.measure(e.with_peers(path, only=(CPP,), gen=32, depth=DEPTH)),
          {CPP: 1.2})


def moe(t, e):
    for kind in ("Q4_0", "Q4_K"):
        path = synth("mixtral-mini", kind)
        t.row(f"prefill 256, mixtral-mini {kind}", "tokens/s", t.measure(e.with_peers(path, prompt=256)), {CPP: 3.8, IK: 1.1})
        t.row(f"decode, mixtral-mini {kind}", "tokens/s", t.measure(e.with_peers(path, gen=GEN)), {CPP: 1.35, IK: 1.05})


def busy(t, e):
    """As many busy processes as make the fair share of two threads 67, 50 and 40 % on two cores."""
    path = synth(TINY, "Q4_K")
    names = ["freehold"] + [n for n in e.peers if n == CPP]
    for what, flags in (("decode", {"gen": GEN}), ("prefill 256", {"prompt": 256})):
        def run(name, nr, flags=flags):
            with Busy(nr):
                return e.ours(path, **flags) if name == "freehold" else e.theirs(name, path, **flags)

        # One measure() for all: the quiet speed belongs to the same rounds.
        found = t.measure({(n, nr): functools.partial(run, n, nr) for nr in (0, 1, 2, 3) for n in names})
        for nr, floor in ((1, 0.60), (2, 0.45), (3, 0.35)):
            share = {n: [a / b for a, b in zip(found[n, nr], found[n, 0])] for n in names}
            t.row(f"{what} beside {nr} busy process{'es' if nr > 1 else ''}, share of the quiet speed", "x", share, {},
                  [("quiet speed", share["freehold"], floor, False)])


def avx2(t, e):
    if not t.args.peer_avx2:
        t.skip("AVX2 forced", "no --peer-avx2")
        return
    for kind in ("Q4_0", "Q4_K", "Q8_0"):
        path = synth(TINY, kind)
        for what, flags in (("decode", {"gen": GEN}), ("prefill 256", {"prompt": 256})):
            found = t.measure({"freehold": lambda p=path, f=flags: e.ours(p, isa="avx2", **f),
                               CPP: lambda p=path, f=flags: e.theirs(CPP, p, folder=t.args.peer_avx2, **f)})
            t.row(f"AVX2 forced: {what}, {TINY} {kind}", "tokens/s", found, {CPP: 1.0})


def kv(t, e):
    path = synth(TINY, "Q4_K")
    found = t.measure({"freehold": lambda: e.ours(path, gen=32, depth=KV_DEPTH, kv="q8_0"),
                       "f16": lambda: e.ours(path, gen=32, depth=KV_DEPTH)})
    t.row(f"decode after {KV_DEPTH:,} tokens, Q8_0 KV, {TINY} Q4_K", "tokens/s", found, {},
          [("F16 KV", [a / b for a, b in zip(found["freehold"], found["f16"])], 1.0, False)])
    found = t.measure({"freehold": lambda: e.ours(path, prompt=2048, kv="bf16"), "f16": lambda: e.ours(path, prompt=2048)})
    t.row(f"prefill 2,048, BF16 KV, {TINY} Q4_K", "tokens/s", found, {},
          [("F16 KV", [a / b for a, b in zip(found["freehold"], found["f16"])], 1.0, False)])


def ready_s(path, threads):
    """From the start of `freehold serve` to its ready line."""
    begin = time.monotonic()
    p = subprocess.Popen([FREEHOLD, "serve", "-m", path, "--http", "127.0.0.1:0", "--threads", str(threads)],
                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = b""
    try:
        for line in p.stderr:
            said += line
            if READY.search(line):
                return time.monotonic() - begin
        raise RuntimeError(f"freehold serve ended before it was ready: {said.decode(errors='replace')[-2000:]}")
    finally:
        p.terminate()
        p.communicate()


def start(t, e):
    del e
    shape, kind = t.args.start_model.split(":")
    path = synth(shape, kind)
    work = f"start of serve, {shape} {kind}, {os.path.getsize(path) / 1e9:.2f} GB"
    if not fits(t, work, path):
        return

    def dd():
        begin = time.monotonic()
        output(["dd", f"if={path}", "of=/dev/null", "bs=8M"])
        return time.monotonic() - begin

    found = {"freehold": [], "dd": []}
    for _ in range(t.args.rounds):
        dd()  # into the page cache
        found["dd"].append(dd())
        found["freehold"].append(ready_s(path, t.args.threads))
    t.row(work, "s", found, {}, [("dd bs=8M", [a / b for a, b in zip(found["freehold"], found["dd"])], 3.0, True)])


WORKS = {"decode": decode, "prefill": prefill, "bf16": bf16, "batch": batch, "depth": depth, "moe": moe, "busy": busy,
         "avx2": avx2, "kv": kv, "start": start}


def add_options(p):
    g = p.add_argument_group("the table cpu")
    g.add_argument("--ik", default=os.environ.get("IK") or None, help="folder with ik_llama.cpp's llama-bench")
    g.add_argument("--peer-avx2", default=os.environ.get("PEER_AVX2") or None, help="folder with a llama-bench built for AVX2")
    g.add_argument("--works", default=",".join(WORKS), help="some of: " + " ".join(WORKS))
    g.add_argument("--decode-models", default=f"{TINY}:Q4_0,{TINY}:Q4_K,{TINY}:Q8_0,llama-3.1-8b:Q4_K", help="SHAPE:TYPE,...")
    g.add_argument("--start-model", default="llama-3.1-8b:Q4_K", help="SHAPE:TYPE that serve is started on")
    g.add_argument("--json", metavar="FILE", help="write the rows there too; rows of other works in it are kept")
    g.add_argument("--strict", action="store_true", help="exit with 1 when a floor is missed")


def run(args):
    unknown = set(args.works.split(",")) - set(WORKS)
    if unknown:
        raise SystemExit(f"bench.py: --works {','.join(sorted(unknown))}: one of {' '.join(WORKS)} is wanted")
    t, e = Table(args), Engines(args)
    t.head()
    for name in args.works.split(","):
        WORKS[name](t, e)
    return t.finish() or not args.strict
