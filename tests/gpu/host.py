#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The host side of the CUDA back end, without a GPU.

What stands in for the driver is build/tests/gpu/libcuda.so.1 (tests/gpu/libcuda/sim.h): the real kernels run in it,
compiled for the host. So this is a test of the host side: of what it asks the driver for, in which order, what comes
out, and what becomes of it when a call fails. It is no test of a GPU.

  tests/gpu/host.py [-v] [Class[.test]...]

`make standin` builds what it needs; FREEHOLD names the binary (default build/freehold).
"""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))

from run import Result  # noqa: E402  pylint: disable=wrong-import-position
from server import DEMO_MODEL, FREEHOLD, Server  # noqa: E402  pylint: disable=wrong-import-position

STANDIN = os.path.join(ROOT, "build", "tests", "gpu")
TRIAL = os.path.join(STANDIN, "cuda_host")
REFUSED = 3  # the trial's exit status when the back end said no
HANDLES = ("device", "pinned", "modules", "streams", "events", "graphs", "execs", "contexts")
# Calls that only give something back: what they could not is left, and said.
GIVING = {"ModuleUnload", "MemFree", "MemFreeHost", "StreamDestroy", "EventDestroy", "GraphDestroy", "GraphExecDestroy",
          "DevicePrimaryCtxRelease"}
# Without these a step is launched kernel by kernel.
GRAPHS = {"StreamBeginCapture", "StreamEndCapture", "GraphInstantiateWithFlags"}
ASYNC = ("MemcpyHtoDAsync", "MemcpyDtoHAsync", "MemcpyDtoDAsync", "MemsetD8Async", "LaunchKernel", "GraphLaunch", "EventRecord")


class Place:
    """A folder for one run: the image of the kernels, the stand-in's report."""

    def __init__(self):
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-gpu-")
        self.image = self.path("image")
        with open(self.image, "wb") as f:
            f.write(b"\x50\xed\x55\xba" + b"the stand-in has the kernels\n")

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def env(self, **more):
        base = {k: v for k, v in os.environ.items() if not k.startswith(("FHSIM_", "FREEHOLD_CUDA"))}
        return {**base, "LD_LIBRARY_PATH": STANDIN, "FREEHOLD_CUDA_IMAGE": self.image, "FHSIM_REPORT": self.path("report"),
                "FREEHOLD_CUDA_WORKER": "0", **more}

    def reports(self):
        with open(self.path("report"), encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dir.cleanup()


def trial(kind="dense", quick=True, **env):
    """Run the trial program: exit status, what it said, its tokens, the stand-in's report."""
    with Place() as place:
        cmd = [TRIAL, kind] + (["quick"] if quick else [])
        run = subprocess.run(cmd, env=place.env(**env), capture_output=True, text=True, timeout=120, check=False)
        reports = place.reports() if os.path.exists(place.path("report")) else [None]
        return run.returncode, run.stderr, run.stdout.split(), reports[-1]


def left(report):
    return {h: report[h] for h in HANDLES if report[h]}


class Numbers(unittest.TestCase):
    """What is computed does not depend on how the device is driven."""

    def test_abi(self):
        """Our declarations are those of the toolkit's header."""
        include = "/usr/local/cuda/include"
        if not os.path.exists(os.path.join(include, "cudaTypedefs.h")):
            raise unittest.SkipTest("no CUDA toolkit in /usr/local/cuda")
        cmd = ["gcc", "-std=gnu17", "-I.", "-isystem", include, "-fsyntax-only", "-Werror", "tests/gpu/libcuda/abi.c"]
        subprocess.run(cmd, cwd=ROOT, check=True)

    def test_trial(self):
        """Logits near the CPU's, tokens as the CPU's sampler draws them; the same late, early, and without graphs."""
        for kind in ("dense", "moe"):
            with self.subTest(kind):
                rc, text, tokens, report = trial(kind, quick=False)
                self.assertEqual((rc, report["complaint"], left(report), report["unpinned"]), (0, "", {}, 0), text)
                self.assertGreater(report["graph_ops"], 0)
                for env in ({"FHSIM_ORDER": "early"}, {"FREEHOLD_CUDA_GRAPHS": "0"}):
                    rc, text, again, report = trial(kind, **env)
                    self.assertEqual((rc, report["complaint"], left(report)), (0, "", {}), text)
                    self.assertEqual(again, tokens, env)
                    self.assertEqual(report["graph_ops"] > 0, "FREEHOLD_CUDA_GRAPHS" not in env)

    def test_order_of_calls(self):
        """A step that decodes is one copy, one graph and one event; nothing is allocated once the first step ran."""
        with Place() as place:
            trace = place.path("trace")
            subprocess.run([TRIAL, "dense", "quick"], env=place.env(FHSIM_TRACE=trace, FHSIM_ORDER="early"), check=True,
                           capture_output=True)
            with open(trace, encoding="utf-8") as f:
                calls = f.read().split()
        steps = [i for i, c in enumerate(calls) if c == "GraphLaunch"]
        self.assertEqual(calls[steps[1] - 2:steps[1] + 4],
                         ["CtxSetCurrent", "MemcpyHtoDAsync", "GraphLaunch", "EventRecord", "CtxSetCurrent", "EventQuery"])
        ends = calls.index("StreamSynchronize", steps[-1])
        self.assertFalse({"MemAlloc", "MemHostAlloc", "StreamCreate", "EventCreate"} & set(calls[steps[0]:ends]))


class Faults(unittest.TestCase):
    """Every call of the driver fails in turn: a clear message, no crash, nothing left behind."""

    def check(self, name, n, code, late=False):
        rc, text, tokens, report = trial(FHSIM_FAIL=f"{name}:{n}:{code}{':late' if late else ''}")
        what = f"{name}:{n}:{code}{' late' if late else ''}: {text}"
        sticky = code >= 700 or late
        if name == "DriverGetVersion" or (name in GIVING | GRAPHS and not sticky):
            self.assertEqual((rc, tokens), (0, self.tokens), what)
        elif rc == 0:
            self.assertEqual(tokens, self.tokens, what)  # e.g. the event that only ends the program
            # At the very end, or (a launch) while a graph was captured: then the step was launched without one.
            self.assertIn(name, GIVING | {"StreamSynchronize", "CtxSetCurrent", "LaunchKernel"}, what)
        else:
            self.assertEqual(rc, REFUSED, what)
        self.assertRegex(text, r"(CUDA_ERROR_|CUDA error |lacks )" if name != "DriverGetVersion" else "", what)
        self.assertEqual(report["complaint"], "", what)
        if not sticky and name not in GIVING:
            self.assertEqual(left(report), {}, what)

    def test_each_call(self):
        rc, text, self.tokens, good = trial()
        self.assertEqual(rc, 0, text)
        jobs = []
        for name, nr in good["calls"].items():
            if name in ("GetErrorName", "GetErrorString", "DriverGetVersion"):
                continue
            self.assertGreater(nr, 0, f"cu{name} is in the table, and nobody calls it")
            for n in sorted({1, nr, (nr + 1) // 2 if name in ASYNC else nr}):
                jobs.append((name, n, 2 if "Alloc" in name else 1, False))
            jobs.append((name, nr, 700, False))
            if name in ASYNC:
                jobs += [(name, 1, 719, True), (name, nr, 700, True)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [(job, pool.submit(self.check, *job)) for job in jobs]
            for job, f in done:
                with self.subTest(job):
                    f.result()

    def test_start(self):
        """What may be missing, by name and with what to do."""
        cases = [
            ({"LD_LIBRARY_PATH": "/nonexistent"}, "no CUDA: libcuda.so.1.*comes with the NVIDIA driver"),
            ({"FHSIM_LACKS": "GraphLaunch"}, r"which speaks CUDA 13.0, lacks cuGraphLaunch: CUDA 12.0 or newer is needed"),
            ({"FHSIM_DRIVER": "11040"}, "which speaks CUDA 11.4, lacks .*CUDA 12.0 or newer"),
            ({"FHSIM_DEVICES": "0"}, "CUDA_ERROR_NO_DEVICE .*CUDA_VISIBLE_DEVICES"),
            ({"FHSIM_CC": "75"}, "compute capability 7.5; the kernels need 8.0 or newer"),
            ({"FHSIM_MODE": "2"}, "lets no process compute: nvidia-smi -i 0 -c DEFAULT"),
            ({"TRIAL_GPU": "3"}, "--device cuda:3: there is 1 GPU, numbered from 0"),
            ({"FHSIM_FAIL": "Init:1:802"}, "CUDA_ERROR_SYSTEM_NOT_READY .*fabricmanager"),
            ({"FHSIM_FAIL": "ModuleLoadDataEx:1:209"}, "loading the kernels: CUDA_ERROR_NO_BINARY_FOR_GPU .*make cuda"),
            ({"FREEHOLD_CUDA_IMAGE": "/nonexistent"}, "FREEHOLD_CUDA_IMAGE=/nonexistent: No such file"),
            ({"FREEHOLD_CUDA_IMAGE": DEMO_MODEL}, "loading the kernels: the image is no fatbin"),
            ({"FHSIM_MEM": "50000"}, "the weights take 1 MiB, and 0 of 0 MiB are free: 1 MiB are missing"),
        ]
        for env, pattern in cases:
            with self.subTest(env):
                rc, text, _, report = trial(**env)
                self.assertEqual(rc, REFUSED, text)
                self.assertRegex(text, pattern)
                self.assertFalse(report and left(report), text)


def run(*args, **env):
    """`freehold run`: exit status, standard output, standard error, the reports of its processes."""
    with Place() as place:
        cmd = [FREEHOLD, "run", "--temp", "0", *args]
        got = subprocess.run(cmd, env=place.env(**env), capture_output=True, text=True, timeout=300, check=False)
        reports = place.reports() if os.path.exists(place.path("report")) else []
        return got.returncode, got.stdout, got.stderr, reports


class Command(unittest.TestCase):
    """The built-in model's golden tokens through the whole program."""

    PROMPT = "Once upon a time"

    def test_golden_run(self):
        rc, cpu, text, _ = run("--isa", "ref", "-p", self.PROMPT, "-n", "16")
        self.assertEqual(rc, 0, text)
        for env in ({"FREEHOLD_CUDA_WORKER": "1"}, {}):
            with self.subTest(env):
                rc, out, text, reports = run("--device", "cuda", "-p", self.PROMPT, "-n", "16", **env)
                self.assertEqual((rc, out), (0, cpu), text)
                self.assertEqual([(r["complaint"], left(r)) for r in reports], [("", {})])

    def test_device(self):
        """Who asks for what is not there is told; auto and cpu never touch the driver."""
        for device, pattern in (("tpu", "one of auto, cpu, cuda and cuda:N"), ("cuda:x", "one of auto"), ("cuda:7", "there is 1 GPU")):
            rc, _, text, _ = run("--device", device, "-p", "a", "-n", "1")
            self.assertNotEqual(rc, 0)
            self.assertRegex(text, pattern)
        for device in ("auto", "cpu"):
            rc, _, text, reports = run("--device", device, "-p", "a", "-n", "1")
            self.assertEqual((rc, reports), (0, []), text)

    def test_too_little_memory(self):
        """Weights fit, keys and values do not: which context would."""
        with Place() as place:
            model = place.path("tiny.gguf")
            subprocess.run([FREEHOLD, "synth", "--shape", "tiny", "--type", "Q8_0", "--ctx", "65536", "-o", model], check=True,
                           capture_output=True)
            rc, _, text, _ = run("-m", model, "--ctx", "65536", "--device", "cuda", "-p", "a", "-n", "1", FHSIM_MEM=str(64 << 20))
        self.assertEqual(rc, 1, text)
        self.assertRegex(text, r"one context of \d+ tokens takes \d+ MiB .*set --ctx \d+ or less")

    def test_doctor(self):
        with Place() as place:
            for env, pattern in (({}, "driver for CUDA 13.0; .*stand-in 0 .*compute capability 9.0.*never been run on a real GPU"),
                                 ({"FHSIM_DEVICES": "0"}, "CUDA_ERROR_NO_DEVICE"),
                                 ({"LD_LIBRARY_PATH": ""}, "the CPU computes; no CUDA: libcuda.so.1")):
                out = subprocess.run([FREEHOLD, "doctor"], env=place.env(**env), capture_output=True, text=True, timeout=60,
                                     check=False).stdout
                line = re.search(r"^\w+\s+cuda .*", out, re.M).group(0)
                self.assertRegex(line, pattern)
                self.assertRegex(line, "kernels are built in")


class Daemon(unittest.TestCase):
    """The daemon, with the device in a process of its own."""

    ARGS = ("--device", "cuda", "--ctx", "512", "--max-seqs", "4", "--speculate", "off")

    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.dir.cleanup)

    def serve(self, *args, **env):
        env = self.place.env(FREEHOLD_CUDA_WORKER="1", **env)
        return Server(DEMO_MODEL, *self.ARGS, *args, env=env)

    def test_batch(self):
        """Requests that run together get what each gets alone; an embedding is near the CPU's; nothing is left."""
        prompts = ["Once upon a time", "The old King", "A dog and a cat", "In the garden"]
        with Server(DEMO_MODEL, "--ctx", "512") as s:
            body = {"model": s.model, "input": "A dog in the garden"}
            cpu = s.json("POST", "/v1/embeddings", body)["data"][0]["embedding"]
        with self.serve() as s:
            alone = [s.complete(p, 8)["choices"][0]["text"] for p in prompts]
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                together = list(pool.map(lambda p: s.complete(p, 8)["choices"][0]["text"], prompts))
            self.assertEqual(together, alone)
            got = s.json("POST", "/v1/embeddings", {"model": s.model, "input": "A dog in the garden"})["data"][0]["embedding"]
            self.assertLess(max(abs(a - b) for a, b in zip(cpu, got, strict=True)), 0.02)
            self.assertEqual(s.terminate(), 0)
        self.assertEqual([(r["complaint"], left(r)) for r in self.place.reports()], [("", {})])

    def fault(self, pattern, **env):
        """A step fails: who runs is told, who waits is answered by the next process, which answers rightly."""
        once = self.place.path("once")
        with self.serve("--max-seqs", "1", "--device-timeout", "10", FHSIM_ONCE=once, **env) as s:
            answers = {}

            def ask(name, prompt, nr):
                status, _, data = s.request("POST", "/v1/completions", {"model": s.model, "prompt": prompt, "max_tokens": nr,
                                                                       "temperature": 0}, timeout=120)
                answers[name] = (status, json.loads(data))

            # The fault is its 20th step at the latest: at the start a few are run to measure them.
            first = threading.Thread(target=ask, args=("runs", "Once upon a time", 40))
            first.start()
            time.sleep(0.05)
            second = threading.Thread(target=ask, args=("waits", "The old King", 12))
            second.start()
            first.join()
            second.join()
            self.assertTrue(os.path.exists(once), "the fault did not happen")
            self.assertEqual(answers["runs"][0], 500, answers)
            self.assertIn("the device was lost; the request may be sent again", answers["runs"][1]["error"]["message"])
            self.assertEqual(answers["waits"][0], 200, answers)
            self.assertEqual(s.request("GET", "/health")[0], 200)
            again = s.complete("The old King", 12)["choices"][0]["text"]
            self.assertEqual(answers["waits"][1]["choices"][0]["text"], again)
            self.assertRegex(s.log_text(), pattern)
            self.assertRegex(s.log_text(), "a new worker process is ready after")

    def test_illegal_access(self):
        self.fault("CUDA_ERROR_ILLEGAL_ADDRESS.*CUDA wants a new process", FHSIM_FAIL="GraphLaunch:20:700:late")

    def test_hang(self):
        self.fault("did not end in time; the worker process is ended", FHSIM_HANG="GraphLaunch:20")

    def test_killed(self):
        """The worker dies while nothing runs: the next request is answered by another one, without an error."""
        with self.serve() as s:
            before = s.complete("The old King", 6)["choices"][0]["text"]
            nurse = children(s.pid)[0]
            worker = children(nurse)[0]
            os.kill(worker, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while "a new worker process is ready" not in s.log_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            self.assertEqual(s.complete("The old King", 6)["choices"][0]["text"], before)
            # And all of them end with the daemon, even when it has no time to say so.
            family = [nurse, *children(nurse)]
            s.proc.kill()
            s.proc.wait()
            deadline = time.monotonic() + 20
            while any(alive(p) for p in family) and time.monotonic() < deadline:
                time.sleep(0.05)
            self.assertFalse([p for p in family if alive(p)])


class Day(unittest.TestCase):
    """The script for the day with a GPU, in small: what it runs there it runs on the stand-in here."""

    def day(self, place, parts, **env):
        folder = place.path("day")
        os.makedirs(os.path.join(folder, "cuda"), exist_ok=True)
        shutil.copy(place.image, os.path.join(folder, "cuda", "all.fatbin"))
        for program in (os.path.join(ROOT, "build", "gpu", "check_gpu"), FREEHOLD):
            if not os.path.exists(os.path.join(folder, os.path.basename(program))):
                os.symlink(os.path.abspath(program), os.path.join(folder, os.path.basename(program)))
        with open(os.path.join(folder, "version"), "w", encoding="utf-8") as f:
            f.write("of today\n")
        env = place.env(DAY_PARTS=parts, DAY_CHECK="--small --seed 7", SIMT_ORDER="7", **env)
        run = subprocess.run([os.path.join(HERE, "day.sh"), "run", folder], env=env, capture_output=True, text=True, timeout=300,
                             check=False)
        with open(os.path.join(folder, "logs", "summary.md"), encoding="utf-8") as f:
            return run.returncode, f.read(), run.stdout + run.stderr

    def test_all_is_well(self):
        with Place() as place:
            rc, summary, text = self.day(place, "facts check golden")
        self.assertEqual(rc, 0, text)
        self.assertRegex(summary, r"\A# stand-in 0, sm_90, .*driver for CUDA 13.0, .*\n")
        self.assertRegex(summary, r"\| facts \| passed \|[^\0]*\| check \| passed \|[^\0]*\| golden \| passed \|")
        self.assertNotIn("FAILED", summary)
        self.assertEqual(len(re.findall(r"^    \d+ passed, 0 failed", summary, re.M)), 6, summary)

    def test_a_fault(self):
        """What fails is named, and what comes after it is run all the same; what finds no time says so."""
        with Place() as place:
            rc, summary, text = self.day(place, "check golden", FHSIM_FAIL="LaunchKernel:3:700")
            self.assertEqual(rc, 1, text)
            self.assertRegex(summary, r"\| check \| FAILED \|[^\0]*\| golden \| passed \|")
            self.assertRegex(summary, r"check.log:gpu: fhk_cu_\w+: CUDA_ERROR_ILLEGAL_ADDRESS")
            rc, summary, text = self.day(place, "check", DAY_SECONDS="3")
            self.assertEqual(rc, 1, text)
            self.assertIn("| check | not run: no time was left |", summary)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(p) for p in f.read().split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def main():
    if not os.path.exists(TRIAL):
        print(f"[SKIP] gpu: {TRIAL} is not there (`make standin` builds it)")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    result = Result()
    names = [f"__main__.{n}" for n in sys.argv[1:]]
    loader = unittest.defaultTestLoader
    (loader.loadTestsFromNames(names) if names else loader.loadTestsFromModule(sys.modules["__main__"])).run(result)
    print(f"{result.nr_passed} passed, {result.nr_failed} failed, {result.nr_skipped} skipped")
    return 1 if result.nr_failed else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main())
