# SPDX-License-Identifier: Apache-2.0
"""The command line is a contract: outputs, exit statuses, and that every
subcommand explains itself and says what is wrong with its arguments."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

from server import DEMO_MODEL, FREEHOLD, ROOT, golden, shared

COMMANDS = ["serve", "run", "tokenize", "inspect", "score", "synth", "bench", "sim", "doctor", "key", "budget", "cost", "audit", "udp-key"]


def freehold(*args, stdin=b"", timeout=120, env=None):
    return subprocess.run([FREEHOLD, *args], input=stdin, capture_output=True, timeout=timeout, check=False,
                          env={**os.environ, **(env or {})})


class Contract(unittest.TestCase):
    def test_help(self):
        r = freehold("--help")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        for c in COMMANDS:
            self.assertIn(c.encode(), r.stdout)
            h = freehold(c, "--help")
            self.assertEqual((h.returncode, h.stderr), (0, b""), c)
            self.assertIn(b"usage: freehold " + c.encode(), h.stdout)
            self.assertIn(b"example", h.stdout.lower(), f"{c} --help shows an example")

    def test_version(self):
        r = freehold("--version")
        self.assertEqual(r.returncode, 0)
        self.assertRegex(r.stdout.decode(), r"^freehold \d+\.\d+\.\d+")

    def test_wrong_arguments_exit_2(self):
        for args in ([], ["nonsense"], *([c, "--nonsense"] for c in COMMANDS), ["run", "-m"], ["tokenize"], ["inspect"],
                     ["score"], ["synth"], ["bench"], ["bench", "nonsense"], ["run", "-m", DEMO_MODEL, "-p", "x", "-n", "minus"],
                     ["synth", "--shape", "nonsense", "--type", "F16", "-o", "/dev/null"]):
            r = freehold(*args)
            self.assertEqual(r.returncode, 2, args)
            self.assertTrue(r.stderr, args)
            self.assertEqual(r.stdout, b"", args)

    def test_missing_and_broken_files_exit_1(self):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as broken:
            with open(DEMO_MODEL, "rb") as f:
                broken.write(f.read(100000))
            broken.flush()
            for path in ("/nonexistent.gguf", broken.name, os.path.dirname(DEMO_MODEL)):
                for args in (["run", "-m", path, "-p", "x", "-n", "1"], ["tokenize", "-m", path], ["inspect", path],
                             ["score", "-m", path], ["bench", "engine", "-m", path]):
                    r = freehold(*args)
                    self.assertEqual(r.returncode, 1, args)
                    self.assertIn(path.encode(), r.stderr, args)
                    self.assertEqual(r.stdout, b"", args)


class Run(unittest.TestCase):
    def test_the_completion_alone(self):
        r = freehold("run", "-m", DEMO_MODEL, "-p", "Once upon a time", "-n", "24", "--temp", "0")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertTrue(r.stdout.decode().lstrip().startswith(", and then he began to feel that he was a very good man"),
                        r.stdout)

    def test_the_built_in_model_is_the_default(self):
        args = ("-p", "The old King", "-n", "8", "--temp", "0")
        self.assertEqual(freehold("run", *args).stdout, freehold("run", "-m", DEMO_MODEL, *args).stdout)

    def test_seed(self):
        def text(seed):
            return freehold("run", "-m", DEMO_MODEL, "-p", "The old King", "-n", "16", "--temp", "1", "--seed", str(seed)).stdout

        self.assertEqual(text(3), text(3))
        self.assertNotEqual(text(3), text(4))

    def test_every_kernel_set_gives_the_golden_tokens(self):
        path = shared("models/stories260K-f32.gguf")
        g = golden(shared("golden/stories260K-f32.jsonl"))[0]
        want = [s["id"] for s in g["steps"]]
        ids = " ".join(str(i) for i in want).encode()
        text = freehold("tokenize", "-m", path, "--decode", stdin=ids).stdout
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            flags = f.read()
        for isa, flag in (("ref", ""), ("avx2", " avx2 "), ("avx512", " avx512_vnni "),
                          ("avx512_bf16", " avx512_bf16 ")):
            if flag not in flags:
                continue
            for threads in ("1", "2", "3"):
                r = freehold("run", "-m", path, "-p", g["prompt"], "-n", str(len(want)), "--temp", "0", "--threads", threads,
                             env={"FREEHOLD_ISA": isa})
                self.assertEqual(r.returncode, 0, r.stderr)
                self.assertEqual(r.stdout.strip(), text.strip(), (isa, threads))


class Tokenize(unittest.TestCase):
    def test_bytes_in_ids_out(self):
        r = freehold("tokenize", "-m", DEMO_MODEL, "--ids", stdin=b"Once upon a time")
        ids = [int(x) for x in r.stdout.split()]
        self.assertEqual(ids[0], 1)
        bare = freehold("tokenize", "-m", DEMO_MODEL, "--ids", "--no-bos", stdin=b"Once upon a time")
        self.assertEqual([int(x) for x in bare.stdout.split()], ids[1:])
        # A newline more is a token more: stdin is taken byte for byte.
        more = freehold("tokenize", "-m", DEMO_MODEL, "--ids", "--no-bos", stdin=b"Once upon a time\n")
        self.assertEqual([int(x) for x in more.stdout.split()][:-1], ids[1:])

    def test_special_tokens_are_plain_text_unless_asked_for(self):
        plain = freehold("tokenize", "-m", DEMO_MODEL, "--ids", "--no-bos", stdin=b"a</s>b").stdout.split()
        special = freehold("tokenize", "-m", DEMO_MODEL, "--ids", "--no-bos", "--special", stdin=b"a</s>b").stdout.split()
        self.assertNotIn(b"2", plain)
        self.assertIn(b"2", special)

    def test_any_bytes_survive(self):
        for data in (bytes(range(1, 256)), b"\xff\xfe\xfd", "héllo wörld 日本語 🙂".encode(), b"", b"\n\n\n", b"   "):
            ids = freehold("tokenize", "-m", DEMO_MODEL, "--ids", "--no-bos", stdin=data)
            self.assertEqual(ids.returncode, 0, (data, ids.stderr))


class Inspect(unittest.TestCase):
    def test_json(self):
        r = freehold("inspect", DEMO_MODEL, "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        j = json.loads(r.stdout)
        self.assertEqual(j["metadata"]["general.architecture"], "llama")
        self.assertTrue(freehold("inspect", DEMO_MODEL).stdout)


class Score(unittest.TestCase):
    def test_forced_ids(self):
        path = shared("models/stories260K-f32.gguf")
        lines = golden(shared("golden/stories260K-f32.jsonl"))
        text = "".join(json.dumps({"ids": g["ids"], "steps": [{"id": s["id"]} for s in g["steps"]]}) + "\n" for g in lines)
        r = freehold("score", "-m", path, "--logits", "5", stdin=text.encode())
        self.assertEqual(r.returncode, 0, r.stderr)
        out = [json.loads(line) for line in r.stdout.splitlines()]
        self.assertEqual(len(out), len(lines))
        for g, o in zip(lines, out):
            self.assertAlmostEqual(o["nll"], g["prompt_nll"], delta=1e-3 * max(1, g["prompt_nll"]))
            self.assertEqual(len(o["top"]), len(g["steps"]))
            for step, top in zip(g["steps"], o["top"]):
                self.assertEqual(top[0][0], step["id"])
                for (_, want), (_, got) in zip(step["top"], top):
                    self.assertAlmostEqual(want, got, delta=1e-3)

    def test_a_bad_line_is_named(self):
        for bad in (b"{}\n", b"nonsense\n", b'{"ids":[1,2],"steps":[{"id":99999999}]}\n', b'{"ids":[],"steps":[]}\n'):
            r = freehold("score", "-m", DEMO_MODEL, stdin=b'{"ids":[1,5,6],"steps":[]}\n' + bad)
            self.assertEqual(r.returncode, 1, bad)
            self.assertIn(b"2", r.stderr, bad)


class Synth(unittest.TestCase):
    def test_what_it_writes_runs(self):
        with tempfile.TemporaryDirectory() as d:
            for shape, kind in (("tiny", "Q4_K"), ("tiny-moe", "Q8_0")):
                path = os.path.join(d, shape + ".gguf")
                r = freehold("synth", "--shape", shape, "--type", kind, "-o", path)
                self.assertEqual(r.returncode, 0, r.stderr)
                r = freehold("run", "-m", path, "-p", "a", "-n", "4", "--temp", "0")
                self.assertEqual(r.returncode, 0, r.stderr)
                again = os.path.join(d, "again.gguf")
                freehold("synth", "--shape", shape, "--type", kind, "-o", again)
                with open(path, "rb") as a, open(again, "rb") as b:
                    self.assertEqual(a.read(), b.read(), "the same seed writes the same file")


class Bench(unittest.TestCase):
    def test_json_fields(self):
        r = freehold("bench", "engine", "-m", DEMO_MODEL, "--prompt", "32", "--gen", "8", "--batch", "2", "--threads", "1",
                     "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        j = json.loads(r.stdout)
        self.assertGreater(j["prefill_tokens_per_s"], 0)
        self.assertGreater(j["decode_tokens_per_s"], 0)

    def test_depth_counts_no_time(self):
        def bench(*more):
            r = freehold("bench", "engine", "-m", DEMO_MODEL, "--threads", "1", "--reps", "3", "--json", *more)
            self.assertEqual(r.returncode, 0, r.stderr)
            return json.loads(r.stdout)

        shallow, deep = bench("--prompt", "8", "--gen", "0"), bench("--prompt", "8", "--gen", "0", "--depth", "480")
        self.assertEqual((shallow["depth"], deep["depth"]), (0, 480))
        # Attention over more costs something; 480 tokens that were timed with the 8 would cost sixty times as much.
        self.assertGreater(deep["prefill_tokens_per_s"], shallow["prefill_tokens_per_s"] / 10)
        text = freehold("bench", "engine", "-m", DEMO_MODEL, "--reps", "1", "--depth", "448", "--gen", "4", "--prompt", "0")
        self.assertIn(b"after 448 tokens", text.stdout)

    def test_the_environment_picks_the_kernels(self):
        for args, name in ((("bench", "engine", "-m", DEMO_MODEL, "--prompt", "8", "--gen", "0", "--reps", "1"), b"ref"),
                           (("score", "-m", DEMO_MODEL), None)):
            r = freehold(*args, stdin=b'{"ids":[1,5],"steps":[]}\n', env={"FREEHOLD_ISA": "ref"})
            self.assertEqual(r.returncode, 0, r.stderr)
            if name:
                self.assertIn(name, r.stdout)
            r = freehold(*args, stdin=b'{"ids":[1,5],"steps":[]}\n', env={"FREEHOLD_ISA": "nonsense"})
            self.assertEqual(r.returncode, 1, r.stdout)
            self.assertIn(b"nonsense", r.stderr)
            # An option outdoes it.
            r = freehold(*args, "--isa", "ref", stdin=b'{"ids":[1,5],"steps":[]}\n', env={"FREEHOLD_ISA": "nonsense"})
            self.assertEqual(r.returncode, 0, r.stderr)

    def test_memory(self):
        r = freehold("bench", "memory", "--threads", "2", "--mib", "64", "--reps", "1", "--all", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        j = json.loads(r.stdout)
        self.assertEqual([t["threads"] for t in j["threads"]], [1, 2])
        self.assertEqual(j["read_gb_per_s"], max(t["read_gb_per_s"] for t in j["threads"]))
        for t in j["threads"]:
            rates = [w["gb_per_s"] for w in t["ways"]]
            self.assertEqual(rates, sorted(rates, reverse=True))
            self.assertGreater(rates[-1], 0)
            self.assertEqual(t["read_gb_per_s"], rates[0])
            self.assertEqual({w["streams"] for w in t["ways"]}, {1, 2, 4})
        text = freehold("bench", "memory", "--threads", "1", "--mib", "32", "--reps", "1")
        self.assertRegex(text.stdout.decode(), r"1 thread: +\d+\.\d GB/s \(.*\nbest: \d+\.\d GB/s; \d+ of 32 MiB on huge pages")

    def test_peak(self):
        r = freehold("bench", "peak", "--threads", "2", "--ms", "5", "--reps", "2", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        j = json.loads(r.stdout)
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            flags = f.read()
        self.assertEqual(any(i["numbers"] == "bf16" for i in j["instructions"]), " avx512_bf16" in flags)
        self.assertEqual(any(i["width_bits"] == 512 for i in j["instructions"]), " avx512f " in flags)
        for i in j["instructions"]:
            self.assertEqual([t["threads"] for t in i["threads"]], [1, 2])
            for t in i["threads"]:
                # No core has more than four vector units; that the sums stay in registers, tests/perf/counts.py sees.
                self.assertGreater(t["gops"], 1)
                self.assertLess(t["per_cycle"], 4.5)
        text = freehold("bench", "peak", "--threads", "1", "--ms", "5", "--reps", "1").stdout.decode()
        for i in j["instructions"]:
            self.assertRegex(text, rf"{i['instruction']} +{i['numbers']} +{i['width_bits']} bits +1 thread: +\d")
        for a in j["absent"]:
            self.assertIn(f"the CPU has no {a['needs']}", text)

    def test_parts_explain_themselves(self):
        for part in ("engine", "memory", "peak"):
            h = freehold("bench", part, "--help")
            self.assertEqual((h.returncode, h.stderr), (0, b""), part)
            self.assertIn(f"example: freehold bench {part}".encode(), h.stdout)
            for bad in (["--nonsense"], ["--threads", "0"], ["extra"]):
                r = freehold("bench", part, *bad)
                self.assertEqual((r.returncode, r.stdout), (2, b""), (part, bad))
                self.assertTrue(r.stderr, (part, bad))


class BenchTable(unittest.TestCase):
    """tests/perf/bench.py cpu, on models small enough; no figure of it means anything."""

    def table(self, json_path, *args):
        return subprocess.run([sys.executable, os.path.join(ROOT, "tests", "perf", "bench.py"), "cpu", "--rounds", "2", "--threads",
                               "2", "--decode-models", "tiny:Q4_0", "--start-model", "tiny:Q4_0", "--json", json_path, *args],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=170, check=False,
                              env={k: v for k, v in os.environ.items() if k not in ("PEER", "IK", "PEER_AVX2")})

    def test_rows_floors_and_pieces(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "cpu.json")
            strict = self.table(path, "--works", "decode,avx2", "--strict")
            self.assertIn("AVX2 forced skipped: no --peer-avx2", strict.stdout)
            r = self.table(path, "--works", "start")
            self.assertEqual(r.returncode, 0, r.stderr)
            with open(path, encoding="utf-8") as f:
                rows = json.load(f)["rows"]
            self.assertEqual(len(rows), 2, "the second run keeps the first one's row")
            decode, start = rows
            self.assertEqual(decode["work"], "decode, one sequence, tiny Q4_0")
            for row in rows:
                (check,) = row["checks"]
                self.assertEqual(len(row["rounds"]["freehold"]), 2)
                self.assertEqual(check["met"], (check["value"] <= 3) if check["at_most"] else (check["value"] >= check["floor"]))
                self.assertGreater(row["freehold"], 0)
            self.assertEqual((decode["checks"][0]["of"], decode["checks"][0]["floor"]), ("read bandwidth", 0.92))
            met = decode["checks"][0]["met"]
            self.assertEqual(strict.returncode, 0 if met else 1, strict.stderr)
            self.assertIn(f"{int(met)} of 1 floors met", strict.stdout)
            self.assertEqual("missed: read bandwidth" in strict.stdout, not met)
            # A share of the most that was read, by anyone, cannot be more than all of it.
            self.assertLessEqual(decode["checks"][0]["value"], 1)

    def test_unknown_works_are_refused(self):
        r = self.table("/dev/null", "--works", "decode,nonsense")
        self.assertNotEqual(r.returncode, 0)
        self.assertIn("nonsense", r.stderr)


class Doctor(unittest.TestCase):
    def test_it_answers(self):
        r = freehold("doctor", "--json")
        self.assertIn(r.returncode, (0, 1), r.stderr)
        self.assertIsInstance(json.loads(r.stdout), dict)
        self.assertTrue(freehold("doctor").stdout)
