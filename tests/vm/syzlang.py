#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sees that the description for syzkaller agrees with uapi/freehold.h.

    tests/vm/syzlang.py             compare; a line for each thing that differs
    tests/vm/syzlang.py --update    write dev_freehold.txt.const anew

The C compiler says what is true: values of constants, sizes of structures and
offsets of members.  The description says the same by its types, laid out by the
rules of C.  What the header has and the description has not (an ioctl, a
member) is told too.  syz-extract does more, and needs a whole kernel tree.
"""
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
TEXT = os.path.join(HERE, "dev_freehold.txt")
CONST = TEXT + ".const"
HEADER = os.path.join(TOP, "uapi", "freehold.h")
DRIVER = os.path.join(TOP, "driver", "main.c")

# Sizes of what sys/linux of syzkaller declares elsewhere.
OUTSIDE = {"fd": 4, "fd_event": 4, "fd_memfd": 4, "fd_dma_buf": 4, "vma64": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
# The driver's tables of ioctls, and the description's name for the device that each belongs to.
TABLES = {"fh_client_ops": "fd_freehold", "fh_runtime_ops": "fd_freehold_ctl"}
# A structure of the description that shows another face of one in the header.
SAME = {"fh_info_ctl": "fh_info"}


def split(text):
    """The parts between the commas that stand in no bracket."""
    parts, depth, part = [], 0, ""
    for c in text:
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += c
    return parts + [part.strip()] if part.strip() else parts


class Description:
    def __init__(self, text):
        self.resources, self.structs, self.params, self.calls = {}, {}, {}, []
        inside = None
        for line in text.splitlines():
            line = line.split("#")[0].rstrip()
            if not line.strip():
                continue
            if inside:
                if line == "}":
                    inside = None
                else:
                    name, kind = line.split(None, 1)
                    self.structs[inside].append((name, re.sub(r"\s*\((in|out|inout)\)$", "", kind.strip())))
                continue
            m = re.match(r"(?:type )?(\w+)(?:\[([^\]]*)\])? \{$", line)
            if m:
                inside = m.group(1)
                self.structs[inside] = []
                self.params[inside] = split(m.group(2) or "")
                continue
            m = re.match(r"resource (\w+)\[(\w+)\]", line)
            if m:
                self.resources[m.group(1)] = m.group(2)
                continue
            m = re.match(r"ioctl\$(\w+)\(fd (\w+), cmd const\[(\w+)\], arg ptr\[\w+, (.*)\]\)$", line)
            if m:
                self.calls.append(m.groups())
        words = set(re.findall(r"\b(?:FH_[A-Z0-9_]+|AT_FDCWD)\b", re.sub(r"#.*|ioctl\$\w+", "", text)))
        self.constants = sorted(words)

    def size_align(self, kind, bound):
        """Of a type, once `bound` says what a template's names stand for."""
        m = re.match(r"(\w+)(?:\[(.*)\])?$", kind)
        if not m:
            raise ValueError(f"cannot read the type {kind!r}")
        name, args = m.group(1), split(m.group(2) or "")
        if name in bound:
            return self.size_align(bound[name], {})
        if name in self.resources:
            return self.size_align(self.resources[name], {})
        if name in ("const", "flags", "bytesize", "len"):
            return self.size_align(args[1], bound)
        if name == "ptr64":
            return 8, 8
        if name in OUTSIDE:
            return OUTSIDE[name], OUTSIDE[name]
        if name in self.structs:
            return self.layout(name, args)[1:]
        raise ValueError(f"unknown type {name!r}")

    def layout(self, struct, args):
        """[(member, offset, size)], size, alignment."""
        if len(args) != len(self.params[struct]):
            raise ValueError(f"{struct} wants {len(self.params[struct])} arguments, not {len(args)}")
        bound = dict(zip(self.params[struct], args))
        members, off, align = [], 0, 1
        for name, kind in self.structs[struct]:
            size, a = self.size_align(kind, bound)
            off = (off + a - 1) // a * a
            members.append((name, off, size))
            off, align = off + size, max(align, a)
        return members, (off + align - 1) // align * align, align


def compile_and_run(lines):
    """What the header says: a C program prints it."""
    # The header comes first, so that it is seen to need no other.
    source = '#include "uapi/freehold.h"\n#include <fcntl.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{\n'
    source += "\n".join(lines) + "\nreturn 0;\n}\n"
    with tempfile.TemporaryDirectory() as tmp:
        prog = os.path.join(tmp, "prog")
        cc = os.environ.get("CC", "cc").split()
        p = subprocess.run(cc + ["-x", "c", "-I", TOP, "-", "-o", prog], input=source, text=True, capture_output=True)
        if p.returncode:
            sys.exit("the description names what the header has not:\n" + p.stderr)
        return subprocess.run([prog], text=True, capture_output=True, check=True).stdout.splitlines()


def header_members():
    """The members of each structure in the header, in order."""
    with open(HEADER, encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    found = {}
    for m in re.finditer(r"^struct (\w+) \{\n(.*?)^\}", text, flags=re.S | re.M):
        found[m.group(1)] = re.findall(r"(\w+)(?:\[\w+\])?;", m.group(2))
    return found, set(re.findall(r"#define FH_IOCTL_(\w+) _IO", text))


def driver_ioctls():
    """What each device answers, from the driver's tables."""
    with open(DRIVER, encoding="utf-8") as f:
        text = f.read()
    found = {}
    for table, device in TABLES.items():
        body = re.search(table + r"\[\] = \{(.*?)\n\};", text, flags=re.S).group(1)
        found[device] = set(re.findall(r"FH_IOCTL_OP\(FH_IOCTL_(\w+),", body))
    return found


def main():
    with open(TEXT, encoding="utf-8") as f:
        d = Description(f.read())
    wrong = []
    members, ioctls = header_members()

    values = compile_and_run([f'printf("{c} = %lld\\n", (long long){c});' for c in d.constants])
    values = [v.replace("AT_FDCWD = -100", "AT_FDCWD = 18446744073709551516") for v in values]
    const = "# Code generated by tests/vm/syzlang.py. DO NOT EDIT.\narches = amd64, arm64\n" + "\n".join(values) + "\n"
    if sys.argv[1:] == ["--update"]:
        with open(CONST, "w", encoding="utf-8") as f:
            f.write(const)
    with open(CONST, encoding="utf-8") as f:
        if f.read() != const:
            wrong.append(f"{os.path.relpath(CONST, TOP)} is not what the header says: tests/vm/syzlang.py --update")

    uses = {}
    for name, device, cmd, arg in d.calls:
        base = cmd.removeprefix("FH_IOCTL_")
        uses.setdefault(device, set()).add(base)
        m = re.match(r"(\w+)(?:\[(.*)\])?$", arg)
        struct, args = m.group(1), split(m.group(2) or "")
        real = SAME.get(struct, struct)
        if real != "fh_" + base.lower():
            wrong.append(f"ioctl${name}: {cmd} takes struct fh_{base.lower()}, not {struct}")
            continue
        check(d, struct, args, real, members, wrong, name)
    for struct in ("fh_peer", "fh_dma_range"):
        check(d, struct, [], struct, members, wrong, struct)
    devices = driver_ioctls()
    for device, wanted in devices.items():
        for base in sorted(wanted ^ uses.get(device, set())):
            wrong.append(f"{device}: FH_IOCTL_{base} is described or missing where it should not be")
    for base in sorted(ioctls - set.union(*devices.values())):
        wrong.append(f"FH_IOCTL_{base} is in the header and in no device's table")

    for line in wrong:
        print(line)
    return 1 if wrong else 0


def check(d, struct, args, real, members, wrong, where):
    got, size, _ = d.layout(struct, args)
    names = members.get(real, [])
    if [m[0] for m in got] != names:
        wrong.append(f"{where}: members {[m[0] for m in got]}, the header has {names}")
        return
    asked = [f'printf("%zu\\n", sizeof(struct {real}));']
    for name in names:
        asked.append(f'printf("%zu %zu\\n", offsetof(struct {real}, {name}), sizeof(((struct {real} *)0)->{name}));')
    told = compile_and_run(asked)
    if size != int(told[0]):
        wrong.append(f"{where}: {size} bytes, the header says {told[0]}")
    for (name, off, bytes_), line in zip(got, told[1:]):
        if f"{off} {bytes_}" != line:
            wrong.append(f"{where}.{name}: offset and size {off} {bytes_}, the header says {line}")


if __name__ == "__main__":
    sys.exit(main())
