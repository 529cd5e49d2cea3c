# SPDX-License-Identifier: Apache-2.0
"""Finds the innermost loops of an object file and asks llvm-mca about them.

The loops come from objdump, not from marks in the source: a mark in the middle
of a loop is a barrier to the compiler, and what is measured should be what is
shipped. A loop is a jump backwards within a function and all from its target to
it; innermost is one that holds no other and calls nothing. llvm-mca takes a loop
as straight-line code, so a branch inside counts as not taken.
"""

import re
import subprocess

SYMBOL = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")
INSN = re.compile(r"^ *([0-9a-f]+):\t(.*?)(?: +#.*)?$")
JUMP = re.compile(r"^(?:bnd )?j[a-z]+ +([0-9a-f]+) <")
# What the loops are there for: a dot product or a multiply-add on vectors.
DOT = re.compile(r"^(?:\{vex\} )?(vpdpbusds?|vpdpwssds?|vdpbf16ps|vfn?m(?:add|sub)(?:132|213|231)ps|vpmaddubsw)\b")


class Loop:
    def __init__(self, function, insns):
        self.function = function
        self.insns = insns  # text, the backward jump last

    @property
    def nr_dots(self):
        return sum(bool(DOT.match(i)) for i in self.insns)

    @property
    def nr_memory(self):
        """Instructions that touch memory."""
        return sum("(" in i for i in self.insns if not i.startswith(("lea", "nop", "data16", "cs nop")))

    def assembly(self):
        """With jumps to a label of its own: llvm-mca wants a target and does not follow it."""
        lines = [re.sub(r"^((?:bnd )?j[a-z]+) +.*", r"\1 .Lloop", i) for i in self.insns]
        return ".Lloop:\n" + "\n".join(lines) + "\n"


def functions(path):
    """{name: [(address, text)]} of an object file."""
    out = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
    found, insns = {}, None
    for line in out.splitlines():
        m = SYMBOL.match(line)
        if m:
            insns = found.setdefault(m.group(1), [])
            continue
        m = INSN.match(line)
        if m and insns is not None:
            insns.append((int(m.group(1), 16), m.group(2).strip()))
    return found


def innermost(path):
    """The innermost loops, in order of their addresses."""
    loops = []
    for name, insns in functions(path).items():
        index = {address: i for i, (address, _) in enumerate(insns)}
        spans = []
        for i, (address, text) in enumerate(insns):
            m = JUMP.match(text)
            if m and int(m.group(1), 16) <= address and int(m.group(1), 16) in index:
                spans.append((index[int(m.group(1), 16)], i))
        for a, b in spans:
            inner = any((c, d) != (a, b) and a <= c and d <= b for c, d in spans)
            body = [text for _, text in insns[a:b + 1]]
            if not inner and not any(t.startswith("call") for t in body):
                loops.append(Loop(name, body))
    return loops


def cycles(loop, mca, cpu, iterations=100):
    """Cycles of one pass through the loop, in the steady state of llvm-mca's model of @cpu."""
    r = subprocess.run([mca, "-mtriple=x86_64", f"-mcpu={cpu}", "-mattr=+avx512bf16,+avx512vnni", f"-iterations={iterations}",
                        "-instruction-info=false", "-resource-pressure=false"], input=loop.assembly(), capture_output=True,
                       text=True, check=False)
    m = re.search(r"^Total Cycles: +(\d+)", r.stdout, re.M)
    if r.returncode or not m:
        raise RuntimeError(f"{mca}, a loop of {loop.function}: {r.stderr.strip()[:1000]}")
    return int(m.group(1)) / iterations
