#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What calls of the kernel module and requests through it cost, in instructions, beside what was written down.

    tests/perf/driver_costs.py             run, compare; a line for each figure that differs
    tests/perf/driver_costs.py --update    run, write driver_costs.json anew

Counted in QEMU, where one nanosecond of the guest is one instruction
(tests/vm/qemu.sh cost, tests/abi/cost.c; for `request...` serve-cost and
tests/vm/serve_cost.c), so the figures do not depend on the host. They do on the
kernel: on the release that is named in the file a figure may differ by 5 %
either way, on another of the series it may be 30 % more. A request's are not
those of one call: threads of the daemon and the scheduler have a part in them,
and the compiler that built it, so that they may differ by 15 %.
"""
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
DATA = os.path.join(HERE, "driver_costs.json")
SERIES = "6.12"
SAME, OTHER = 0.05, 0.30
SAME_REQUEST = 0.15


def count(what):
    """{name: instructions} and the kernel's release; None: skipped."""
    run = subprocess.run([os.path.join(TOP, "tests/vm/qemu.sh"), what, SERIES], capture_output=True, text=True,
                         errors="replace", check=False)
    skip = re.search(r"^\[SKIP\] [^:]*: (.*)$", run.stdout, flags=re.M)
    if skip:
        print(f"[SKIP] driver::costs: {skip.group(1)}")
        return None, None
    release = re.search(r"^READY (\S+)", run.stdout, flags=re.M)
    found = {m.group(1): int(m.group(2)) for m in re.finditer(r"^COST (\w+) (\d+)", run.stdout, flags=re.M)}
    if run.returncode or not release or not found:
        sys.exit(run.stdout[-3000:] + run.stderr[-1000:] + f"the counting run ({what}) did not come to its end")
    return found, release.group(1)


def count_all():
    """As count(), of calls and of requests."""
    found, release = count("cost")
    of_requests, _ = count("serve-cost") if found else (None, None)
    if of_requests is None:
        return None, None
    found.update(of_requests)
    return found, release


def judge(found, release, data):
    """{name: what is wrong}; prints what was counted."""
    wanted, same = data["instructions"], data["kernel"] == release
    bad = {name: f"{name} is {'new' if name in found else 'gone'}" for name in sorted(set(found) ^ set(wanted))}
    for name, was in wanted.items():
        now = found.get(name, was)
        close = SAME_REQUEST if name.startswith("request") else SAME
        print(f"{name:32} {was:9} {now:9} {now / was - 1:+7.1%}")
        if now > was * (1 + (close if same else OTHER)):
            bad[name] = f"{name} costs {now} instructions, not {was}"
        elif same and now < was * (1 - close):
            bad[name] = f"{name} costs only {now} instructions, not {was}: write it down (make driver-costs)"
    return bad


def main():
    found, release = count_all()
    if not found:
        return 0
    if sys.argv[1:] == ["--update"]:
        with open(DATA, "w", encoding="utf-8") as f:
            json.dump({"kernel": release, "instructions": found}, f, indent=1)
            f.write("\n")
        return 0
    with open(DATA, encoding="utf-8") as f:
        data = json.load(f)
    bad = judge(found, release, data)
    if bad:
        # When a worker of the kernel gets its turn depends on the host's load, and a boot keeps to one of two counts:
        # what has really changed has changed in another boot, too.
        for line in bad.values():
            print(f"{line}; counting again")
        again, release = count_all()
        bad = {name: line for name, line in judge(again or {}, release, data).items() if name in bad}
    for line in bad.values():
        print(line)
    print(f"[{'FAIL' if bad else 'PASS'}] driver::costs")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
