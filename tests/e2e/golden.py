#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Teacher-forced logits against another engine's, for every model that has golden outputs.

Each line of a golden file holds the ids of a prompt and the greedy steps that the other engine took from there, with
its highest logits.  `freehold score` forces the same ids; what is compared is the logits of those tokens.

Tolerances are those of the golden files' own README: they cover the other engine's half-precision and eight-bit
activations.  Where exact outputs exist (double precision over the dequantised weights), the reference kernels must
agree with them to 1e-3, and the fast kernels must be no noisier than 1.5 times the other engine; the figures are
printed.

  tests/e2e/golden.py [--freehold build/freehold] [--isa ref --isa avx512 ...] [--only NAME]

FREEHOLD_SHARED says where the models and golden outputs lie (default: ../shared beside the repository); without them
the test is skipped, with the reason.  Exit status: 0 passed or skipped, 1 failed.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
NR_TOP = 96  # of our logits a step; the golden ones must be among them
# name of the class: most that a logit may differ, most that they may differ on average
CLASSES = {"F32": (1e-3, 1e-3), "F32-gelu": (5e-3, 5e-3), "F16": (2e-2, 2e-2), "BF16": (0.15, 0.15), "quant": (1.0, 0.15)}
EXACT = 1e-3
# Eight-bit noise before a router can make another choice of expert, which changes a whole step: so many of them may.
OTHER_EXPERTS = 0.06
NOISE = 1.5  # of the other engine's mean, for kernels that quantise activations as it does


def class_of(name):
    """Which tolerance a model's file name stands for."""
    if name == "gemma2":
        return "F32-gelu"
    kind = name.rpartition("-")[2]
    if kind in ("F16", "BF16"):
        return kind
    quantised = kind in ("MXFP4", "mix", "M", "K", "XS", "NL", "0", "1") or kind[:1] == "Q" or kind[:2] == "IQ"
    return "quant" if quantised else "F32"


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def score(args, model, lines, isa):
    """Our answer to each line."""
    forced = "".join(json.dumps({"ids": l["ids"], "steps": [{"id": s["id"]} for s in l["steps"]]}) + "\n" for l in lines)
    cmd = [args.freehold, "score", "-m", str(model), "--logits", str(NR_TOP), "--isa", isa]
    run = subprocess.run(cmd, input=forced, capture_output=True, text=True, timeout=900)
    if run.returncode:
        raise RuntimeError(run.stderr.strip())
    return [json.loads(line) for line in run.stdout.splitlines()]


def differences(ours, theirs):
    """|ours - theirs| of every logit that theirs names, a list a step; infinite where ours is not among our best."""
    out = []
    for mine, line in zip(ours, theirs, strict=True):
        for top, step in zip(mine["top"], line["steps"], strict=True):
            known = dict(map(tuple, top))
            out.append([abs(known.get(token, math.inf) - logit) for token, logit in step["top"]])
    return out


def stats(steps, spare=0):
    """Largest and mean of all differences but those of the @spare worst steps."""
    kept = sorted(steps, key=max)[:len(steps) - spare]
    flat = [d for step in kept for d in step]
    return max(flat), sum(flat) / len(flat)


def check_tokens(ours, theirs):
    """Forced along the golden path, our own first choice must be the golden one at each step."""
    for n, (mine, line) in enumerate(zip(ours, theirs, strict=True)):
        for i, (top, step) in enumerate(zip(mine["top"], line["steps"], strict=True)):
            if top[0][0] != step["id"]:
                yield f"prompt {n}, step {i}: token {top[0][0]} where the other engine takes {step['id']}"


def check_nll(ours, theirs, tolerance):
    for n, (mine, line) in enumerate(zip(ours, theirs, strict=True)):
        allowed = 1e-5 + tolerance * max(1, len(line["ids"]) - 1)
        if abs(mine["nll"] - line["prompt_nll"]) > allowed:
            yield f"prompt {n}: nll {mine['nll']} where the other engine has {line['prompt_nll']}"


def check(args, name, model, golden, exact, isa):
    """One model with one set of kernels: a list of what is wrong."""
    kind = class_of(name)
    theirs = read(golden)
    ours = score(args, model, theirs, isa)
    wrong = []
    most, most_mean = CLASSES[kind]
    diffs = differences(ours, theirs)
    routed = kind == "quant" and ("moe" in name or "gpt-oss" in name)
    worst, mean = stats(diffs, int(len(diffs) * OTHER_EXPERTS) if routed else 0)
    if worst > most or mean > most_mean:
        wrong.append(f"differs from the golden logits by {worst:.5f} at most and {mean:.5f} on average")
    wrong += check_nll(ours, theirs, 2 * most_mean)
    if kind.startswith("F32"):
        wrong += check_tokens(ours, theirs)
    text = f"{isa:7}{name:30}{kind:9}{worst:9.5f}{mean:9.5f}"
    if exact and exact.exists():
        best = read(exact)
        noise, noise_mean = stats(differences(ours, best), int(len(diffs) * OTHER_EXPERTS) if routed and isa != "ref" else 0)
        other, other_mean = other_noise(best, theirs)
        text += f"{noise:9.5f}{noise_mean:9.5f}{other:9.5f}{other_mean:9.5f}"
        if isa == "ref" and noise > EXACT:
            wrong.append(f"the reference differs from the exact logits by {noise:.5f}")
        if noise_mean > max(EXACT, NOISE * other_mean):
            wrong.append(f"noise of {noise_mean:.5f} on average against {other_mean:.5f} of the other engine")
    print(text + ("" if not wrong else "   FAILED"))
    for w in wrong:
        print(f"    {w}")
    return wrong


def other_noise(best, theirs):
    """How far the golden engine's own logits lie from the exact ones."""
    out = []
    for line, golden in zip(best, theirs, strict=True):
        for step, gstep in zip(line["steps"], golden["steps"], strict=True):
            known = dict(map(tuple, gstep["top"]))
            out.append([abs(logit - known[token]) for token, logit in step["top"] if token in known])
    return stats([step for step in out if step])


def made_model(shared, name, folder):
    """Write one of the models that are made rather than stored; None, with the reason, if it cannot be."""
    preset, _, kind = name.rpartition("-")
    out = pathlib.Path(folder) / f"{name}.gguf"
    cmd = [sys.executable, shared / "tools/synth_gguf.py", "--preset", preset, "--type", kind, "--vocab",
           shared / "vocab/ggml-vocab-llama-spm.gguf", "-o", out]
    run = subprocess.run(cmd, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = run.stderr.strip().splitlines()
        return None, reason[-1] if reason else "synth_gguf.py failed"
    return out, None


def cases(shared, folder):
    """(name, model or None, golden, exact or None, reason for a missing model)"""
    for golden in sorted((shared / "golden/micro").glob("*.jsonl")):
        yield golden.stem, shared / "models/micro" / f"{golden.stem}.gguf", golden, shared / "golden/micro/exact" / golden.name, None
    for golden in sorted((shared / "golden").glob("*.jsonl")):
        model, reason = shared / "models" / f"{golden.stem}.gguf", None
        if not model.exists():
            model, reason = made_model(shared, golden.stem, folder)
        yield golden.stem, model, golden, None, reason


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--freehold", default=str(ROOT / "build/freehold"))
    ap.add_argument("--isa", action="append", help="kernels to check (default: all that this machine runs)")
    ap.add_argument("--only", help="only models whose name contains this")
    args = ap.parse_args()
    shared = pathlib.Path(os.environ.get("FREEHOLD_SHARED", ROOT.parent / "shared"))
    if not (shared / "golden").is_dir():
        print(f"[SKIP] golden: no golden outputs in {shared} (FREEHOLD_SHARED says where they are)")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    probe = '{"ids":[1]}\n'
    failed = nr = skipped = 0
    with tempfile.TemporaryDirectory(prefix="freehold-golden-") as folder:
        print(f"{'kernels':7}{'model':30}{'class':9}{'max':>9}{'mean':>9}{'noise':>9}{'mean':>9}{'other':>9}{'mean':>9}")
        isas = args.isa
        for name, model, golden, exact, reason in cases(shared, folder):
            if args.only and args.only not in name:
                continue
            if not model or not model.exists():
                print(f"[SKIP] {name}: {reason or 'no such model'}")
                skipped += 1
                continue
            if isas is None:
                isas = [i for i in ("ref", "avx2", "avx512", "avx512_bf16") if not subprocess.run(
                    [args.freehold, "score", "-m", str(model), "--isa", i], input=probe, capture_output=True, text=True,
                    check=False).returncode]
            for isa in isas:
                nr += 1
                try:
                    failed += bool(check(args, name, model, golden, exact, isa))
                except (RuntimeError, ValueError) as e:
                    failed += 1
                    print(f"{isa:12}{name:30}FAILED: {e}")
            if folder in str(model):
                model.unlink()
    print(f"{nr - failed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
