#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Are the kernels still as short as they were? Without a clock, so that it does
not depend on the machine's mood:

  callgrind   instructions of the reference and AVX2 kernels on small shapes
              (count_kernels.c); valgrind knows no AVX-512
  llvm-mca    cycles of the innermost loops of the AVX-512 kernels, for each dot
              product or multiply-add in them, in llvm-mca's model of one core
              (loops.py); only the comparison means something
  registers   the loops of `freehold bench peak` touch no memory
  bf16        which functions hold instructions of AVX512-BF16: the table
              `avx512` runs on CPUs that have none, so only those that the table
              `avx512_bf16` calls, or that do nothing without its activations

The figures are committed in counts.json, for a compiler and its flags: another
compiler makes another program, and the test is skipped. A figure may differ by
3 %, either way: what became better without being written down could be lost
again unseen. After a change of the kernels:

  make perf-counts        writes what is now; look at `git diff`, commit it
"""

import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import loops

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "counts.json")
TOLERANCE = 0.03
CORE = "icelake-server"  # llvm-mca 14 knows no Zen 4 or 5; this model has times for all that the loops use
LLVM = "14"


class Skip(Exception):
    pass


class Build:
    """The tree in build/: what made it."""

    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, ".flags"), encoding="utf-8") as f:
            words = f.read().split()
        version = subprocess.run([words[0], "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        number, machine = [subprocess.run([words[0], option], capture_output=True, text=True, check=True).stdout.strip()
                           for option in ("-dumpversion", "-dumpmachine")]
        self.compiler = f"{'clang' if 'clang' in version else 'gcc'} {number.split('.')[0]}, {machine.split('-')[0]}"
        # What decides about code; paths and warnings do not.
        self.flags = " ".join(w for w in words[1:] if re.match(r"-(O|m|f|std=|D_FORTIFY)", w) and "-prefix-map=" not in w)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)


def callgrind(build, isa):
    """{case: instructions}"""
    if not shutil.which("valgrind"):
        raise Skip("valgrind is not installed")
    with tempfile.TemporaryDirectory(prefix="freehold-counts-") as d:
        out = os.path.join(d, "out")
        r = subprocess.run(["valgrind", "--tool=callgrind", "--toggle-collect=counted", "--dump-after=counted",
                            f"--callgrind-out-file={out}", build.path("tests/perf/count_kernels"), isa],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if r.returncode == 2 and "one that this machine runs" in r.stderr:
            raise Skip(f"no {isa} here, or valgrind shows none")
        if r.returncode:
            raise RuntimeError(f"callgrind of {isa}: status {r.returncode}: {r.stderr[-1500:]}")
        names = r.stdout.splitlines()
        counts = {}
        for i, name in enumerate(names, 1):
            with open(f"{out}.{i}", encoding="ascii", errors="replace") as f:
                counts[name] = int(re.search(r"^totals: (\d+)", f.read(), re.M).group(1))
        if len(glob.glob(out + ".*")) != len(names) or not all(counts.values()):
            raise RuntimeError(f"callgrind of {isa}: {len(names)} cases and {len(glob.glob(out + '.*'))} dumps, or one of nothing")
    return counts


def find_mca():
    for name in (f"llvm-mca-{LLVM}", "llvm-mca"):
        if shutil.which(name):
            said = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout
            if f"version {LLVM}." in said:
                return name
    raise Skip(f"llvm-mca {LLVM} is not installed")


def mca(build):
    """{object function: cycles a dot product of the best of its innermost loops, and of all of them}"""
    tool, out = find_mca(), {}
    objects = sorted(glob.glob(build.path("kernels/avx512/*.o")))
    if not objects:
        raise Skip("no AVX-512 kernels in this build")
    for path in objects:
        found = {}
        for loop in loops.innermost(path):
            if loop.nr_dots:
                found.setdefault(loop.function, []).append((loops.cycles(loop, tool, CORE), loop.nr_dots))
        for function, each in found.items():
            best = min(c / d for c, d in each)
            total = sum(c for c, _ in each) / sum(d for _, d in each)
            name = f"{os.path.basename(path)[:-2]} {function}"
            out[f"{name}, best loop"], out[f"{name}, all loops"] = round(best, 3), round(total, 3)
    return out


def registers(build):
    """{loop: instructions that touch memory}"""
    out = {}
    for loop in loops.innermost(build.path("tools/bench_insn.o")):
        if loop.nr_dots:
            out[loop.function] = loop.nr_memory
    return out


def bf16(build):
    """{object function: instructions of AVX512-BF16 in it}"""
    out = {}
    for path in sorted(glob.glob(build.path("kernels/*/*.o"))):
        for name, insns in loops.functions(path).items():
            nr = sum(bool(re.match(r"vdpbf16ps|vcvtne2?ps2bf16", text)) for _, text in insns)
            if nr:
                out[f"{os.path.basename(path)[:-2]} {name}"] = nr
    return out


GROUPS = {
    "callgrind ref": lambda b: callgrind(b, "ref"),
    "callgrind avx2": lambda b: callgrind(b, "avx2"),
    "llvm-mca avx512": mca,
    "registers bench_insn": registers,
    "bf16 instructions": bf16,
}


def compare(was, now):
    """What is wrong, a line each."""
    for name in was:
        if name not in now:
            yield f"{name}: {was[name]} before, and is gone"
    for name, n in now.items():
        if name not in was:
            yield f"{name}: {n}, and no figure is committed"
        elif abs(n - was[name]) > TOLERANCE * was[name]:
            change = f"{(n / was[name] - 1) * 100:+.1f} %" if was[name] else "was none"
            yield f"{name}: {n}, was {was[name]} ({change})"


def check(build, data):
    nr = {"passed": 0, "failed": 0, "skipped": 0}
    known = data.get(build.compiler)
    reason = None
    if not known:
        reason = f"no figures for {build.compiler}, only for {'; '.join(sorted(data)) or 'none'}"
    elif known["flags"] != build.flags:
        reason = f"built with other flags: {build.flags}"
    for name, measure in GROUPS.items():
        label = "counts::" + name.replace(" ", "_")
        try:
            if reason:
                raise Skip(reason)
            wrong = list(compare(known["figures"].get(name, {}), measure(build)))
        except Skip as e:
            nr["skipped"] += 1
            print(f"[SKIP] {label}: {e}")
            continue
        except (RuntimeError, OSError) as e:
            wrong = [str(e)]
        nr["failed" if wrong else "passed"] += 1
        for line in wrong:
            print(f"    {line}")
        if wrong:
            print("    if that is meant: make perf-counts, look at the difference, commit it")
        print(f"[{'FAIL' if wrong else 'PASS'}] {label}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**nr))
    return 1 if nr["failed"] else 0


def update(build, data):
    entry = {"flags": build.flags, "figures": {}}
    for name, measure in GROUPS.items():
        try:
            entry["figures"][name] = measure(build)
        except Skip as e:
            raise SystemExit(f"counts.py: {name}: {e}; nothing was written")
    data[build.compiler] = entry
    with open(DATA, "w", encoding="utf-8") as f:
        json.dump(data, f, indent=1)
        f.write("\n")
    print(f"{os.path.relpath(DATA, ROOT)}: {build.compiler}, " + ", ".join(f"{len(v)} of {k}" for k, v in entry["figures"].items()))
    return 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--update", action="store_true", help="write counts.json anew for this compiler")
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    args = ap.parse_args()
    data = {}
    if os.path.exists(DATA):
        with open(DATA, encoding="utf-8") as f:
            data = json.load(f)
    build = Build(args.build)
    return update(build, data) if args.update else check(build, data)


if __name__ == "__main__":
    sys.exit(main())
