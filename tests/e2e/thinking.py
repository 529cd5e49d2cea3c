# SPDX-License-Identifier: Apache-2.0
"""A vocabulary with marks around thoughts: the built-in model's, in which two tokens of the right length are renamed."""

import os
import struct

from server import DEMO_MODEL

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, USER_DEFINED = 8, 9, 4


class Gguf:
    """Where the strings and numbers of a GGUF file's metadata lie."""

    def __init__(self, data):
        self.data, self.at = data, 8
        _, nr = self.take("<QQ")
        self.arrays = {}
        for _ in range(nr):
            name = self.string()[1].decode()
            self.value(self.take("<I")[0], name)

    def take(self, fmt):
        v = struct.unpack_from(fmt, self.data, self.at)
        self.at += struct.calcsize(fmt)
        return v

    def string(self):
        (n,) = self.take("<Q")
        self.at += n
        return self.at - n, bytes(self.data[self.at - n:self.at])

    def value(self, kind, name):
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            self.at += SIZES[kind]
            return self.at - SIZES[kind], None
        of, nr = self.take("<IQ")
        self.arrays[name] = [self.value(of, None) for _ in range(nr)]
        return None


def make(path):
    """Writes it to @path; the ids of <think> and </think>."""
    with open(DEMO_MODEL, "rb") as f:
        data = bytearray(f.read())
    g = Gguf(data)
    tokens, types = g.arrays["tokenizer.ggml.tokens"], g.arrays["tokenizer.ggml.token_type"]
    ids = []
    for mark in (b"<think>", b"</think>"):
        i = max(i for i, (_, text) in enumerate(tokens) if len(text) == len(mark) and i not in ids)
        data[tokens[i][0]:tokens[i][0] + len(mark)] = mark
        struct.pack_into("<i", data, types[i][0], USER_DEFINED)
        ids.append(i)
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, 0o644)
    return ids


def nr_thoughts(prompt, answer, marks):
    """What an answer to @prompt has of thoughts: between the marks, which are none; the last four of a prompt may open."""
    think, end = marks
    thinking = False
    for t in prompt[-4:]:
        thinking = t == think or (thinking and t != end)
    nr = 0
    for t in answer:
        if t in marks:
            thinking = t == think
        else:
            nr += thinking
    return nr
