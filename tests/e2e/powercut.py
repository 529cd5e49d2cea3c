# SPDX-License-Identifier: Apache-2.0
"""A disk whose power is cut under a whole process: what powercut.c noted of its changes is played again, and a folder is
built as the disk may have it then. What was synced is there; of what was written since, any part; names are as durable
as their folder's last sync, and of their changes since, any have happened. tests/unit/audit_disk.h does this for one
writer of the log; here are the log, the database and whatever else lies in the folder."""

import mmap
import os
import struct
import subprocess

from server import ROOT

CREATE, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, NAMES_BEGIN, NAMES_END, RENAME, UNLINK, MKDIR = range(1, 11)
HEADER, OP = struct.Struct("<3Q"), struct.Struct("<5Q")
RECORD_BYTES = 1 << 28


def library(folder):
    """powercut.c, compiled into @folder."""
    out = os.path.join(folder, "powercut.so")
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", out, os.path.join(ROOT, "tests", "e2e", "powercut.c")], check=True)
    return out


class Record:
    """What a process that is started with @env does below @folder; elsewhere, a file that this is written to."""

    def __init__(self, lib, folder, path):
        with open(path, "wb") as f:
            f.truncate(RECORD_BYTES)
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 0)
        self.env = {"LD_PRELOAD": lib, "POWERCUT_DIR": folder, "POWERCUT_RECORD": path}

    def nr(self):
        """Changes so far: what was done before this is asked is among them."""
        return HEADER.unpack_from(self.map)[0]

    def ops(self):
        """[(kind, inode, offset, path, bytes)]"""
        nr, used, full = HEADER.unpack_from(self.map)
        assert not full, "the record is too small"
        out, at = [], HEADER.size
        while len(out) < nr:
            kind, ino, offset, nr_path, nr_bytes = OP.unpack_from(self.map, at)
            at += OP.size
            path = self.map[at:at + nr_path].decode()
            out.append((kind, ino, offset, path, self.map[at + nr_path:at + nr_path + nr_bytes]))
            at += (nr_path + nr_bytes + 7) & ~7
        assert at - HEADER.size == used
        return out


class File:
    """What is safe of it, and what was done since: (offset, bytes) is written, (length, None) cut or made longer."""

    def __init__(self, safe=b""):
        self.safe, self.since, self.syncs = bytearray(safe), [], []

    @staticmethod
    def put(to, offset, data):
        if data is None:
            del to[offset:]
        to.extend(bytes(max(0, offset - len(to))))
        if data is not None:
            to[offset:offset + len(data)] = data

    def synced(self):
        nr = self.syncs.pop(0)
        for change in self.since[:nr]:
            self.put(self.safe, *change)
        del self.since[:nr]
        self.syncs = [max(0, n - nr) for n in self.syncs]

    def cut(self, rng):
        """Nothing since, all of it, all up to a moment, or any of it; a write that is under way is torn anywhere."""
        out, how = bytearray(self.safe), rng.randrange(4)
        last = len(self.since) if how != 2 else rng.randrange(len(self.since) + 1)
        for i, (offset, data) in enumerate(self.since[:last] if how else []):
            if how == 3 and rng.random() < 0.5:
                continue
            if data and ((how == 3 and rng.random() < 0.3) or (how == 2 and i == last - 1)):
                begin = rng.randrange(len(data)) if rng.random() < 0.3 else 0
                end = rng.randrange(begin, len(data) + 1)
                offset, data = offset + begin, data[begin:end]
            self.put(out, offset, data)
        return out


class Disk:
    """Starts with all of @folder on it, safe."""

    def __init__(self, folder):
        self.now, self.inodes, self.snapshots = {}, {}, {}
        for top, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(top, name)
                with open(path, "rb") as f:
                    file = File(f.read())
                self.now[os.path.relpath(path, folder)] = self.inodes[os.stat(path).st_ino] = file
        self.safe = dict(self.now)

    def play(self, op):
        kind, ino, offset, path, data = op
        if kind == CREATE:
            self.now[path] = self.inodes[ino] = File()
        elif kind == WRITE:
            self.inodes[ino].since.append((offset, data))
        elif kind == TRUNCATE:
            self.inodes[ino].since.append((offset, None))
        elif kind == SYNC_BEGIN:
            self.inodes[ino].syncs.append(len(self.inodes[ino].since))
        elif kind == SYNC_END:
            self.inodes[ino].synced()
        elif kind == NAMES_BEGIN:
            self.snapshots.setdefault(path, []).append({p: f for p, f in self.now.items() if os.path.dirname(p) == path})
        elif kind == NAMES_END:
            names = self.snapshots[path].pop(0)
            self.safe = {**{p: f for p, f in self.safe.items() if os.path.dirname(p) != path}, **names}
        elif kind == RENAME:
            file = self.now.pop(path, None)
            if file:
                self.now[data.decode()] = file
        elif kind == UNLINK:
            self.now.pop(path, None)

    def cut(self, folder, rng):
        """Into an empty @folder."""
        for path in sorted({*self.now, *self.safe}):
            is_now, is_safe = self.now.get(path), self.safe.get(path)
            file = is_now if is_now is is_safe or rng.random() < 0.5 else is_safe
            if file is None or path.endswith("-shm"):
                continue
            full = os.path.join(folder, path)
            os.makedirs(os.path.dirname(full), mode=0o700, exist_ok=True)
            with open(full, "wb") as f:
                f.write(file.cut(rng))
            os.chmod(full, 0o600)
