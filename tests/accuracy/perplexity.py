#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexity of the built-in model on its held-out text: what speed may not cost.

  - The built-in Q8_0 file, every kernel set and every type of the KV cache, is within
    0.5 % of the F32 reference.
  - Every other type, the fast kernel sets: within 0.5 % of llama.cpp's figure for
    the same file. The files are made here from the F16 model (requantise), byte for
    byte the same everywhere; their hashes and llama.cpp's figures are committed in
    perplexity.json. The reference kernels are compared on a short slice, as they
    are slow; golden.py holds them to exact logits.

Windows of 512 tokens, the second half of each scored, as llama-perplexity does.
FREEHOLD_SHARED names the folder with models/ (default ../shared); without it the
test is skipped by name.

  tests/accuracy/perplexity.py                          checks
  tests/accuracy/perplexity.py --update DIR             asks the llama-perplexity in DIR
                                                        and writes perplexity.json anew
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DATA = os.path.join(HERE, "perplexity.json")
DEMO = os.path.join(ROOT, "tools", "demo", "freehold-stories-13M-moe-Q8_0.gguf")
REQUANTISE = os.path.join(ROOT, "build", "tests", "accuracy", "requantise")
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
         "MXFP4")
HALVES = ("F32", "F16", "BF16")
WITHIN = 0.005
SLICE = 64 << 10  # bytes of the text for every type
SHORT = 8 << 10   # and for the reference kernels


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def run(cmd):
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if r.returncode:
        raise RuntimeError(f"{' '.join(cmd)}: status {r.returncode}: {r.stderr.strip()[-1000:]}")
    return r.stdout + r.stderr


class Fixtures:
    """The model and the text, and what is made of them in a folder that goes away."""

    def __init__(self, folder):
        shared = os.path.join(ROOT, os.environ.get("FREEHOLD_SHARED", "../shared"), "models")
        self.f16 = os.path.join(shared, "freehold-stories-13M-moe-F16.gguf")
        self.text = os.path.join(shared, "heldout.txt")
        self.folder = folder

    def missing(self):
        return [os.path.basename(p) for p in (self.f16, self.text) if not os.path.exists(p)]

    def cut(self, nr_bytes):
        """Whole lines from the beginning of the text."""
        path = os.path.join(self.folder, f"text-{nr_bytes}")
        if not os.path.exists(path):
            with open(self.text, "rb") as f:
                data = f.read(nr_bytes)
            with open(path, "wb") as f:
                f.write(data[:data.rindex(b"\n") + 1])
        return path

    def model(self, kind):
        """Made for one use at a time; the caller removes it."""
        path = os.path.join(self.folder, f"{kind}.gguf")
        run([REQUANTISE, self.f16, kind, path])
        return path


class Freehold:
    def __init__(self, program):
        self.program = program

    def perplexity(self, model, text, isa, kv="f32"):
        out = run([self.program, "score", "-m", model, "--text", text, "--isa", isa, "--kv-type", kv])
        return json.loads(out.splitlines()[0])["perplexity"]

    def isas(self):
        """The kernel sets of this machine."""
        found = []
        for isa in ("ref", "avx2", "avx512", "avx512_bf16"):
            r = subprocess.run([self.program, "score", "-m", DEMO, "--isa", isa], input='{"ids":[1]}\n', capture_output=True,
                               text=True, check=False)
            if r.returncode == 0:
                found.append(isa)
        return found


class Checks:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def note(self, name, ours, want, of):
        off = ours / want - 1
        ok = abs(off) <= WITHIN
        self.passed += ok
        self.failed += not ok
        print(f"[{'PASS' if ok else 'FAIL'}] perplexity::{name}: {ours:.4f}, {off * 100:+.3f} % of {want:.4f}, {of}")

    def fail(self, name, why):
        self.failed += 1
        print(f"[FAIL] perplexity::{name}: {why}")


def check(fx, fh, data, c):
    isas = fh.isas()
    fast = [i for i in isas if i != "ref"]
    for isa in fast:
        c.note(f"built-in_{isa}", fh.perplexity(DEMO, fx.text, isa), data["whole_text_F32"], "F32, the whole text")
        for kv in ("f16", "q8_0"):
            c.note(f"built-in_kv_{kv}_{isa}", fh.perplexity(DEMO, fx.cut(SLICE), isa, kv), data["files"]["F32"]["perplexity"], "F32")
    for kind in TYPES:
        path = fx.model(kind)
        if sha256(path) != data["files"][kind]["sha256"]:
            c.fail(kind, "requantise makes another file than the one that the other engine was asked about")
        else:
            # What is no matter of halves is the same in both tables of AVX-512.
            for isa in fast if kind in HALVES else [i for i in fast if i != "avx512_bf16"]:
                c.note(f"{kind}_{isa}", fh.perplexity(path, fx.cut(SLICE), isa), data["files"][kind]["perplexity"], "llama.cpp")
            if kind == "F32":
                exact = fh.perplexity(path, fx.cut(SHORT), "ref")
                c.note("built-in_ref", fh.perplexity(DEMO, fx.cut(SHORT), "ref"), exact, "F32, a short slice")
                c.note("F32_ref", exact, data["short_text_F32"], "llama.cpp, a short slice")
        os.unlink(path)


def update(fx, folder):
    tool = os.path.join(folder, "llama-perplexity")

    def theirs(model, text):
        # Its log has a thread of its own, and the last line does not always get out.
        for _ in range(5):
            m = re.search(r"Final estimate: PPL = ([0-9.]+)", run([tool, "-m", model, "-f", text, "-c", "512"]))
            if m:
                return float(m.group(1))
        raise RuntimeError(f"{tool} said no final estimate for {model}")

    version = re.search(r"version: (.*)", run([tool, "--version"]))
    data = {"peer": f"llama.cpp {version.group(1)}" if version else "llama.cpp", "command": "llama-perplexity -m FILE -f TEXT -c 512",
            "text_sha256": sha256(fx.text), "slice_bytes": SLICE, "short_bytes": SHORT, "model_sha256": sha256(fx.f16), "files": {}}
    for kind in TYPES:
        path = fx.model(kind)
        if kind == "F32":
            data["whole_text_F32"] = theirs(path, fx.text)
            data["short_text_F32"] = theirs(path, fx.cut(SHORT))
        data["files"][kind] = {"sha256": sha256(path), "perplexity": theirs(path, fx.cut(SLICE))}
        print(kind, data["files"][kind]["perplexity"], flush=True)
        os.unlink(path)
    with open(DATA, "w", encoding="utf-8") as f:
        json.dump(data, f, indent=1)
        f.write("\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--freehold", default=os.environ.get("FREEHOLD", os.path.join(ROOT, "build", "freehold")))
    ap.add_argument("--update", metavar="DIR", help="folder with llama-perplexity")
    args = ap.parse_args()
    c = Checks()
    with tempfile.TemporaryDirectory(prefix="freehold-perplexity-") as folder:
        fx = Fixtures(folder)
        if args.update:
            return update(fx, args.update)
        with open(DATA, encoding="utf-8") as f:
            data = json.load(f)
        if fx.missing():
            print(f"[SKIP] perplexity: no {' and no '.join(fx.missing())} (FREEHOLD_SHARED names the fixtures)")
            c.skipped += 1
        elif (sha256(fx.text), sha256(fx.f16)) != (data["text_sha256"], data["model_sha256"]):
            print("[SKIP] perplexity: the model or the text is another one than that the figures are for")
            c.skipped += 1
        else:
            check(fx, Freehold(args.freehold), data, c)
    print(f"{c.passed} passed, {c.failed} failed, {c.skipped} skipped")
    return 1 if c.failed else 0


if __name__ == "__main__":
    sys.exit(main())
