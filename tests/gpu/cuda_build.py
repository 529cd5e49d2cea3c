#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads what ptxas said of every kernel (`make cuda` keeps it beside the fatbins): all kernels for all
architectures, no stack, and no register spilled to memory.  One line a fault.

    tests/gpu/cuda_build.py build/cuda [sm_90a...]
"""
import pathlib
import re
import sys

ARCHS = {"sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"}
PTXAS = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                   r"(\d+) bytes spill loads.*?Used (\d+) registers", re.S)


def names(header):
    """The kernels that the header promises."""
    text = pathlib.Path(header).read_text()
    text = text[text.index("define FHK_CU_KERNELS"):]
    found = set(re.findall(r"K\((fhk_cu_\w+)", text))
    for kind in re.findall(r"MM_TILES\(K, (\w+)\)", text):
        found |= {f"fhk_cu_mm_{kind}_{tile}" for tile in (8, 16, 32, 64, 128)}
    return found


def main(folder, archs):
    faults, seen = [], {}
    for log in sorted(pathlib.Path(folder).glob("*.log")):
        for name, arch, stack, stores, loads, regs in PTXAS.findall(log.read_text()):
            seen.setdefault(name, set()).add(arch)
            if int(stack) or int(stores) or int(loads):
                faults.append(f"{name} for {arch}: {stack} bytes of stack, {stores} and {loads} spilled, {regs} registers")
    for name in sorted(names("kernels/cuda/cuda_kernels.h")):
        missing = archs - seen.get(name, set())
        if missing:
            faults.append(f"{name} is not there for {' '.join(sorted(missing))}")
    for fault in faults:
        print("FAILED", fault)
    nr = sum(len(archs) for archs in seen.values())
    print(f"{nr - min(nr, len(faults))} passed, {len(faults)} failed, 0 skipped")
    return 1 if faults or not seen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "build/cuda", set(sys.argv[2:]) or ARCHS))
