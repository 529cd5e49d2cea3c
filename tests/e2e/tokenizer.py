#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`freehold tokenize` against another tokenizer's answers: every vocabulary of the
shared fixtures that carries vectors, every text, as the command line gives it."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import FREEHOLD, SHARED  # noqa: E402

SEPARATOR = b"\n__ggml_vocab_test__\n"


def tokenize(vocab, text, *flags):
    return subprocess.run([FREEHOLD, "tokenize", "-m", vocab, "--ids", *flags], input=text, capture_output=True,
                          timeout=60, check=False)


def check_vocab(path):
    """(passed, failed) over one vocabulary's texts."""
    with open(path + ".inp", "rb") as f:
        texts = f.read().split(SEPARATOR)
    with open(path + ".out", "rb") as f:
        wanted = [line.split() for line in f.read().split(b"\n")]
    # The last text is empty, and so is its line.
    passed = failed = 0
    for text, want in zip(texts, wanted):
        r = tokenize(path, text, "--no-bos")
        if r.returncode == 0 and r.stdout.split() == want:
            passed += 1
            continue
        failed += 1
        print(f"[FAIL] {os.path.basename(path)}: {text[:60]!r}: want {b' '.join(want)[:80]!r}, "
              f"got {r.stdout[:80]!r} {r.stderr[:200]!r}")
    # And back: the ids' text is the text, where the tokenizer keeps every byte.
    for text in texts:
        ids = tokenize(path, text, "--no-bos").stdout
        r = subprocess.run([FREEHOLD, "tokenize", "-m", path, "--decode"], input=ids, capture_output=True, timeout=60,
                           check=False)
        if r.returncode == 0 and r.stdout.strip() == text.strip():
            passed += 1
        else:
            failed += 1
            print(f"[FAIL] {os.path.basename(path)}: {text[:60]!r} came back as {r.stdout[:60]!r} {r.stderr[:200]!r}")
    return passed, failed


def check_long(path):
    """A megabyte of one letter takes linear time: it must be done within seconds."""
    try:
        r = tokenize(path, b"a" * (1 << 20), "--no-bos")
    except subprocess.TimeoutExpired:
        print(f"[FAIL] {os.path.basename(path)}: a megabyte of one letter took more than 60 s")
        return 0, 1
    return (1, 0) if r.returncode == 0 and r.stdout.split() else (0, 1)


def main():
    folder = os.path.join(SHARED, "vocab")
    vocabs = sorted(f for f in os.listdir(folder) if f.endswith(".gguf")) if os.path.isdir(folder) else []
    if not vocabs:
        print("[SKIP] tokenizer::vectors: no fixture vocab (FREEHOLD_SHARED names their folder)")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    passed = failed = 0
    for v in vocabs:
        path = os.path.join(folder, v)
        for p, f in (check_vocab(path), check_long(path)):
            passed += p
            failed += f
        print(f"{v}: {passed} passed, {failed} failed so far")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
