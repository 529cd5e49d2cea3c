#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What answering costs a guest in instructions: requests to the server behind DPDK, beside a kernel's UDP echo.

    tests/perf/dpdk_cost.py             run, compare with the bounds in dpdk_cost.json; a table
    tests/perf/dpdk_cost.py --json      the table as JSON
    tests/perf/dpdk_cost.py --update    run, write dpdk_cost.json anew
    tests/perf/dpdk_cost.py --profile   where each way's instructions go, by function
    tests/perf/dpdk_cost.py --only serve_dpdk,echo_dpdk   these ways alone, compared with nothing

One guest under QEMU's -icount with one core and one virtio-net card, asked from
the host through the `dgram` netdev: 64 requests under way at once, so that it
is never idle, and one at a time (`alone`). In turn:

    echo_batch        a kernel's UDP echo, recvmmsg() and sendmmsg(), the card not behind the IOMMU: its best form
    echo_single       the same by recvfrom() and sendto()
    echo_batch_iommu  recvmmsg() and sendmmsg(), the card behind the IOMMU, as vfio has it
    serve_kernel      the server, the model that costs nothing, on a kernel's socket (io_uring)
    echo_dpdk         an echo over the DPDK plug-in, the card under vfio-pci
    serve_dpdk        the server over the DPDK plug-in
    serve_engine      the same with --udp-on-engine: no thread for UDP

An echo's datagram is as long as a request's packet and looked at by nobody. A
request is one token in, one token out, encrypted, through the engine.

A plug-in of QEMU's counts (tests/vm/insn.c): all that the guest executes while
the load runs, kernel and programs. It runs twice, short and long, and what the
second took more is divided by the answers that it had more: so the handshake of
a run is left out, and told by itself. Nothing else is taken off: what the guest
does when nobody asks is counted by itself for some seconds, and would be at most
`idle <` of it.

`a core, 1/s` is what a core would answer that executes 10^9 instructions a
second, which the guest's own clock takes it for. `seen, 1/s` and the latencies
are what the host saw, and depend on how fast each instruction is emulated: AES
is slow.
"""

import argparse
import base64
import bisect
import gzip
import json
import mmap
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(TOP, "tests", d) for d in ("e2e", "vm")]
import dpdk_host  # noqa: E402
import dpdk_link  # noqa: E402
import server  # noqa: E402
import udp  # noqa: E402

DATA = os.path.join(HERE, "dpdk_cost.json")
WAYS = ("echo_batch", "echo_single", "serve_kernel", "echo_batch_iommu", "echo_dpdk", "serve_dpdk", "serve_engine")
REFERENCE = "echo_batch"
WINDOW = 64
REQUEST_BYTES = 62 + 128 + 4  # the packet that a request of one token id comes in
# Answers of the short run and of the long one, by how many are under way.
RUNS = {WINDOW: (2000, 22000), 1: (500, 3500)}
IDLE_S = 2.0
# (way, beside, at most so much of it): what has to hold whatever was written down. A request's own floor, a third of an
# echo, is told and not held: it is missed, see Documentation/design/performance.md.
FLOORS = (("echo_dpdk", "echo_batch", 1 / 3), ("serve_dpdk", "serve_kernel", 1 / 2),
          ("serve_engine", "serve_kernel", 1 / 2))
REQUEST_FLOOR = 1 / 3
LEAST_SHOWN = 5  # instructions, of a function in a profile
OURS = ("serve_kernel", "echo_dpdk", "serve_dpdk", "serve_engine")
# What may come on top of what was written down: how many datagrams the host brings at a time has a part in the figures,
# and so have the compiler, the libraries and the kernel.
MORE, OTHER_KERNEL = 0.25, 0.50


class Counter:
    """The plug-in's file."""

    def __init__(self, path):
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 0)

    def read(self):
        """(programs, kernel)"""
        return struct.unpack_from("QQ", self.map)

    def blocks(self):
        """{address: instructions}"""
        nr = struct.unpack_from("Q", self.map, 16)[0]
        words = struct.unpack_from(f"{2 * nr}Q", self.map, 24)
        return {a: n for a, n in zip(words[::2], words[1::2]) if a}


class Frames:
    """Carries frames between fh0 of a link and the guest's card."""

    def __init__(self, link):
        link.ip("-n", link.a, "link", "set", "fh0", "promisc", "on")
        guest = dpdk_host.free_port()
        self.process = subprocess.Popen([os.path.join(TOP, "build/tests/vm/frames"), link.a, "fh0", str(guest)],
                                        stdout=subprocess.PIPE, text=True)
        self.ports = (int(self.process.stdout.readline()), guest)

    def close(self):
        self.process.kill()
        self.process.wait()


def ask_echo(link, count, window):
    got = dpdk_host.ask(link, "--to", "192.0.2.1:7000", "--bytes", str(REQUEST_BYTES), "--count", str(count), "--window",
                        str(window), "--timeout-ms", "5000")
    if got["lost"] or got["wrong"]:
        print(f"echoes were lost: {got}", flush=True)
    return {"answers": got["round_trips"], "per_s": got["per_s"], "median_us": got["median_us"], "p99_us": got["p99_us"],
            "p999_us": got["p999_us"]}


def ask_server(link, keys, count, window):
    out = subprocess.run(
        ["ip", "netns", "exec", link.b, server.FREEHOLD, "bench", "serve", "--url",
         f"udp://{keys.server_public}@192.0.2.1:9000", "--json", "-", "--quiet", "--max-concurrency", str(window),
         "--num-prompts", str(count), "--input-len", "1", "--output-len", "1", "--num-warmups", "0"],
        capture_output=True, text=True, timeout=200, env={**os.environ, "FREEHOLD_UDP_KEY": keys.client})
    if out.returncode:
        raise RuntimeError(out.stdout + out.stderr)
    got = json.loads(out.stdout)
    if got["completed"] != count:
        raise RuntimeError(f"requests failed: {out.stdout}")
    return {"answers": count, "per_s": got["request_throughput"], "median_us": got["median_e2el_ms"] * 1e3,
            "p99_us": got["p99_e2el_ms"] * 1e3}


def watch(counter, run):
    """What was executed while it ran, (programs, kernel) and by block; what run() says, and how long it took."""
    blocks, begin, begin_s = counter.blocks(), counter.read(), time.monotonic()
    got = run()
    took_s = time.monotonic() - begin_s
    parts = [b - a for a, b in zip(begin, counter.read())]
    return parts, {a: n - blocks.get(a, 0) for a, n in counter.blocks().items()}, got, took_s


def measure(counter, ask, window, profile):
    """Of one way: instructions an answer, and what the asker saw."""
    short, long = RUNS[window]
    # Who answers first touches memory and learns addresses.
    ask(short, window)
    few, few_blocks, less, _ = watch(counter, lambda: ask(short, window))
    many, many_blocks, got, took_s = watch(counter, lambda: ask(long, window))
    nr = got["answers"] - less["answers"]
    parts = [(b - a) / nr for a, b in zip(few, many)]
    profile.update({a: (n - few_blocks.get(a, 0)) / nr for a, n in many_blocks.items()})
    return {"instructions": round(sum(parts)), "programs": round(parts[0]), "kernel": round(parts[1]),
            "once": round(sum(few) - sum(parts) * less["answers"]), "took_s": took_s, **got}


def measure_all(counter, ask, profile):
    """Of one way, under load, with what it costs alone in it; a profile of each."""
    out = measure(counter, ask, WINDOW, profile.setdefault("under load", {}))
    out["alone"] = measure(counter, ask, 1, profile.setdefault("alone", {}))
    time.sleep(0.3)
    idle, _, _, took_s = watch(counter, lambda: time.sleep(IDLE_S))
    # While it answers, the guest's own time runs with its instructions; its idle part is far less than this.
    out["idle_per_s"] = round(sum(idle) / took_s)
    out["idle_at_most"] = round(sum(idle) / took_s * out["took_s"] / out["answers"])
    return out


def run_guest(series, profiled, own, ways):
    """{way: figures}, the kernel's release, the guest's log and {way: {how: {address: instructions an answer}}}."""
    work = os.path.join(TOP, "build", "qemu", series)
    stop, log = os.path.join(work, "stop"), os.path.join(TOP, "build", "check", f"qemu-{series}-dpdk-cost.log")
    os.makedirs(work, exist_ok=True)
    stops = [f"{stop}.{n + 1}" for n in range(len(ways))]
    for path in stops:
        if os.path.exists(path):
            os.remove(path)
    subprocess.run(["make", "-s", "build/tests/vm/frames"], cwd=TOP, check=True)
    link, found, profiles = dpdk_link.Link(), {}, {way: {} for way in ways}
    frames = Frames(link)
    try:
        with tempfile.TemporaryDirectory(prefix="keys-", dir=work) as folder:
            keys = udp.Keys(folder)
            settings = {"FH_KEYS": folder, "FH_MODEL": server.DEMO_MODEL, "FH_OWN": own.replace(" ", ";"),
                        "FH_WAYS": ";".join(ways)}
            if profiled:
                settings["FH_SYMBOLS"] = "1"
                os.environ["FH_BLOCKS"] = "on"
            guest = dpdk_host.Guest(series, frames.ports, stop, log, settings, "dpdk-cost", f"PHASE {ways[0]}\n")
            try:
                counter = Counter(os.path.join(work, "insn"))
                for way, path in zip(ways, stops):
                    guest.wait_for(f"PHASE {way}\n", time.monotonic() + 120)
                    serves = way.startswith("serve")
                    ask = (lambda n, w: ask_server(link, keys, n, w)) if serves else (lambda n, w: ask_echo(link, n, w))
                    found[way] = measure_all(counter, ask, profiles[way])
                    with open(path, "w"):
                        pass
                guest.process.wait(timeout=120)
            finally:
                for path in stops:
                    with open(path, "w"):
                        pass
                if guest.process.poll() is None:
                    guest.process.terminate()
                    guest.process.wait()
            text = guest.text()
            if "VM OK" not in text:
                raise RuntimeError("the guest did not come to its end:\n" + text[-3000:])
    finally:
        frames.close()
        link.close()
        for path in stops:
            if os.path.exists(path):
                os.remove(path)
    return found, re.search(r"^READY (\S+)", text, re.M).group(1), text, profiles


# ---- a profile ----

def symbols_of(text, way):
    """Sorted [(address, name)] of the kernel and of what the way's program has mapped."""
    out = []
    m = re.search(r"^SYMBOLS\n(\S+)$", text, re.M)
    for line in gzip.decompress(base64.b64decode(m.group(1))).decode().splitlines():
        address, name = line.split(" ", 1)
        out.append((int(address, 16), name))
    for begin, end, off, path in re.findall(rf"^MAP {way} (\w+)-(\w+) r-xp (\w+) \S+ \d+ +(/\S+)$", text, re.M):
        base = int(begin, 16) - int(off, 16)
        out.append((int(begin, 16), os.path.basename(path)))
        out.append((int(end, 16), "?"))
        heads = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=False).stdout
        for off_s, vaddr_s in re.findall(r"^ +LOAD +(0x\w+) +(0x\w+) .* R E ", heads, re.M):
            base += int(off_s, 16) - int(vaddr_s, 16)
        for how in ([], ["-D"]):
            names = subprocess.run(["nm", *how, path], capture_output=True, text=True, check=False).stdout
            out += [(base + int(a, 16), n) for a, t, n in re.findall(r"^(\w+) ([tTwWi]) (\S+)$", names, re.M)]
    return sorted(out)


def print_profile(profile, text, way, how):
    table = symbols_of(text, way)
    starts, by_name = [a for a, _ in table], {}
    for address, n in profile.items():
        at = bisect.bisect_right(starts, address) - 1
        name = (table[at][1] if at >= 0 else "?") + (" [kernel]" if address >> 63 else "")
        by_name[name] = by_name.get(name, 0) + n
    print(f"\n{way}, {how}: instructions an answer by function")
    for name, n in sorted(by_name.items(), key=lambda kv: -kv[1]):
        if n >= LEAST_SHOWN:
            print(f"{n:9.1f}  {name}")


# ---- the verdict ----

def judge(found, release, data):
    """What is wrong, a line each."""
    more = MORE if data["kernel"] == release else OTHER_KERNEL
    wrong = []
    for way in OURS:
        was, now = data["instructions"][way], found[way]["instructions"]
        if now > was * (1 + more):
            wrong.append(f"{way} costs {now} instructions, not {was}")
    for way, beside, most in FLOORS:
        share = found[way]["instructions"] / found[beside]["instructions"]
        if share > most:
            wrong.append(f"{way} costs {share:.2f} of {beside}, not {most:.2f} at most")
    return wrong


def print_table(found):
    reference = found.get(REFERENCE)
    print(f"{'':17} {'instructions':>12} {'programs':>9} {'kernel':>7} {'of echo':>8} {'a core, 1/s':>11} {'alone':>7} {'of echo':>8} "
          f"{'once':>9} {'seen, 1/s':>9} {'median ms':>10} {'p99 ms':>8} {'idle <':>7}")

    def of(f, beside):
        return f"{f['instructions'] / beside['instructions']:7.2f}x" if reference else f"{'':8}"

    for way in sorted(found, key=lambda w: found[w]["instructions"]):
        f, one = found[way], found[way]["alone"]
        print(f"{way:17} {f['instructions']:12} {f['programs']:9} {f['kernel']:7} {of(f, reference)} {1e9 / f['instructions']:11.0f} "
              f"{one['instructions']:7} {of(one, reference and reference['alone'])} {f['once']:9} {f['per_s']:9.0f} "
              f"{f['median_us'] / 1e3:10.2f} {f['p99_us'] / 1e3:8.2f} {f['idle_at_most']:7}")
    if not reference:
        return
    for way in ("serve_dpdk", "serve_engine"):
        for f, beside, how in ((found.get(way), reference, "under load"), (found.get(way, {}).get("alone"), reference["alone"], "alone")):
            if f:
                share = f["instructions"] / beside["instructions"]
                print(f"{way}: a request costs {share:.2f} of a kernel's echo {how}; the floor of {REQUEST_FLOOR:.2f} is "
                      f"{'kept' if share <= REQUEST_FLOOR else 'missed'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--series", default="6.12", help="of Debian's kernel in the guest (default 6.12)")
    parser.add_argument("--own", default="idle-polls=0", help="options of the plug-in's (default idle-polls=0)")
    parser.add_argument("--only", default=",".join(WAYS), help="some ways, with commas between them")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    ways = [w for w in WAYS if w in args.only.split(",")]
    if not ways or len(ways) != len(args.only.split(",")):
        parser.error(f"--only takes some of {', '.join(WAYS)}")
    skip = dpdk_link.reason_to_skip()
    if skip:
        print(f"[SKIP] dpdk::cost: {skip}\n0 passed, 0 failed, 1 skipped")
        return 0
    if "FH_CHECKED" not in os.environ:
        # It sees whether there is all that a guest needs, says what there is not, and calls this again.
        sys.stdout.flush()
        qemu = os.path.join(TOP, "tests/vm/qemu.sh")
        os.execv(qemu, [qemu, "dpdk-cost", args.series, *sys.argv[1:]])
    for left in (2, 1, 0):
        try:
            found, release, text, profiles = run_guest(args.series, args.profile, args.own, ways)
            break
        except RuntimeError as e:
            # An emulated guest may die of its emulation, once in a while.
            if not left:
                raise
            print(f"{e}\nonce more", file=sys.stderr)
    if args.profile:
        print_table(found)
        for way in ways:
            for how, profile in profiles[way].items():
                print_profile(profile, text, way, how)
        return 0
    if len(ways) < len(WAYS):
        print_table(found)
        return 0
    if args.update:
        with open(DATA, "w", encoding="utf-8") as f:
            json.dump({"kernel": release, "instructions": {w: found[w]["instructions"] for w in WAYS}}, f, indent=1)
            f.write("\n")
        print_table(found)
        return 0
    if args.json:
        print(json.dumps({"kernel": release, "ways": found, "ratio": {
            w: round(found[w]["instructions"] / found[REFERENCE]["instructions"], 3) for w in WAYS}}))
    else:
        print_table(found)
    with open(DATA, encoding="utf-8") as f:
        wrong = judge(found, release, json.load(f))
    for line in wrong:
        print(f"[FAIL] dpdk::cost: {line}")
    if not args.json:
        print(f"{0 if wrong else 1} passed, {1 if wrong else 0} failed, 0 skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
