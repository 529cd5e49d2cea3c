# SPDX-License-Identifier: Apache-2.0
"""A live `freehold serve`: what it answers, that neighbours change nothing, and
that a client that stalls, goes away or does not belong costs the others nothing."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from server import DEMO_MODEL, FREEHOLD, Server, Stream, golden, shared, together

STORIES = "models/stories260K-f32.gguf"
PROMPTS = ["Once upon a time", "The old King", "There was once a little girl who", "“Who are you?” said", "In the garden",
           "A", "The wolf and the lamb met at the brook, and the wolf said:", "It was a dark night and the wind"]


def mixed_requests(nr, seed=1):
    """Requests of every kind side by side: greedy and sampled, short and long, with penalties and biases."""
    rng = random.Random(seed)
    out = []
    for i in range(nr):
        prompt = " ".join(rng.choice(PROMPTS) for _ in range(rng.randint(1, 6)))
        r = {"prompt": prompt, "max_tokens": rng.randint(4, 28), "logprobs": 1, "ignore_eos": True}
        kind = i % 4
        if kind == 0:
            r["temperature"] = 0
        elif kind == 1:
            r.update(temperature=0.8, top_k=40, top_p=0.95, seed=rng.randrange(1 << 30))
        elif kind == 2:
            r.update(temperature=1.1, min_p=0.05, repetition_penalty=1.1, seed=rng.randrange(1 << 30))
        else:
            r.update(temperature=0.7, presence_penalty=0.5, frequency_penalty=0.3, seed=rng.randrange(1 << 30))
        out.append(r)
    return out


def tokens_of(response):
    c = response["choices"][0]
    return c["logprobs"]["tokens"], c["text"], c["finish_reason"], response["usage"]["completion_tokens"]


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server(DEMO_MODEL)

    @classmethod
    def tearDownClass(cls):
        cls.s.kill()

    def test_stream_is_the_whole(self):
        for fields in ({}, {"temperature": 0.8, "seed": 11}, {"stop": ["\n", "the"]}):
            whole = self.s.complete("Once upon a time", 40, **fields)["choices"][0]["text"]
            self.assertEqual(self.s.stream("Once upon a time", 40, **fields).text(), whole)

    def test_stream_ends_with_usage(self):
        events = list(self.s.stream("The old King", 9, ignore_eos=True, stream_options={"include_usage": True}))
        self.assertEqual(events[-1]["choices"], [])
        self.assertEqual(events[-1]["usage"]["completion_tokens"], 9)
        self.assertEqual([e["choices"][0]["finish_reason"] for e in events[:-1] if e["choices"][0]["finish_reason"]],
                         ["length"])

    def test_same_seed_same_tokens(self):
        a = self.s.complete("The old King", 24, temperature=1.0, seed=5)["choices"][0]["text"]
        b = self.s.complete("The old King", 24, temperature=1.0, seed=5)["choices"][0]["text"]
        c = self.s.complete("The old King", 24, temperature=1.0, seed=6)["choices"][0]["text"]
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)

    def test_ids_and_text_are_one_prompt(self):
        ids = self.s.json("POST", "/tokenize", {"model": self.s.model, "prompt": "The old King's command"})["tokens"]
        self.assertEqual(self.s.complete(ids, 16)["choices"][0]["text"],
                         self.s.complete("The old King's command", 16)["choices"][0]["text"])

    def test_batch_invariance(self):
        requests = mixed_requests(32)

        def run(r):
            return tokens_of(self.s.json("POST", "/v1/completions", {"model": self.s.model, **r}, timeout=300))

        alone = [run(r) for r in requests]
        self.assertEqual(len({text for _, text, _, _ in alone}), 32, "the requests are to differ")
        self.s.wait_idle()
        for _ in range(2):
            beside = together([lambda r=r: run(r) for r in requests])
            for r, a, b in zip(requests, alone, beside):
                self.assertEqual(a, b, r)
        self.s.wait_idle()

    def test_health_and_models(self):
        status, _, _ = self.s.request("GET", "/health")
        self.assertEqual(status, 200)
        models = self.s.json("GET", "/v1/models")
        self.assertEqual(models["object"], "list")
        self.assertEqual(models["data"][0]["object"], "model")

    def test_embedding(self):
        r = self.s.json("POST", "/v1/embeddings", {"model": self.s.model, "input": ["The old King", "A garden", "The old King"]})
        v = [d["embedding"] for d in r["data"]]
        self.assertEqual([d["index"] for d in r["data"]], [0, 1, 2])
        self.assertEqual(v[0], v[2])
        self.assertNotEqual(v[0], v[1])
        self.assertTrue(any(v[0]))

    def test_what_would_change_the_answer_is_refused_by_name(self):
        for field, value in (("tools", [{"type": "function", "function": {"name": "f"}}]),
                             ("response_format", {"type": "json_object"})):
            status, _, body = self.s.request("POST", "/v1/chat/completions", {
                "model": self.s.model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, field: value})
            self.assertEqual(status, 400, body)
            error = json.loads(body)["error"]
            self.assertIn(field, error["message"])
            self.assertEqual(error["type"], "invalid_request_error")


class Golden(unittest.TestCase):
    """stories260K over HTTP gives another engine's greedy tokens, token for token."""

    def run_golden(self, *args, env=None):
        lines = golden(shared("golden/stories260K-f32.jsonl"))
        nr = 0
        with Server(shared(STORIES), *args, env=env) as s:
            for g in lines:
                want = [step["id"] for step in g["steps"]]
                ids = s.json("POST", "/tokenize", {"model": s.model, "prompt": g["prompt"]})["tokens"]
                self.assertEqual(ids, g["ids"])
                r = s.complete(g["prompt"], len(want), ignore_eos=True, logprobs=1)
                text = s.json("POST", "/detokenize", {"model": s.model, "tokens": want})["prompt"]
                self.assertEqual(r["choices"][0]["text"].lstrip(" "), text.lstrip(" "))
                self.assertEqual(r["usage"]["completion_tokens"], len(want))
                one_by_one = [s.json("POST", "/detokenize", {"model": s.model, "tokens": [i]})["prompt"].strip(" ") for i in want]
                self.assertEqual([t.strip(" ") for t in r["choices"][0]["logprobs"]["tokens"]], one_by_one)
                nr += len(want)
        self.assertGreater(nr, 100)

    def test_stories_token_for_token(self):
        self.run_golden()

    def test_stories_on_epoll(self):
        self.run_golden("--epoll")

    def test_stories_on_the_reference_kernels(self):
        self.run_golden(env={"FREEHOLD_ISA": "ref"})


class Speculation(unittest.TestCase):
    """Guessing tokens changes the number of steps and nothing that a client can see."""

    REFRAIN = "The wolf said to the lamb: you drank my water. "
    WAYS = ({"temperature": 0}, {"temperature": 0, "logprobs": 2},
            {"temperature": 0.7, "seed": 7, "repetition_penalty": 1.05, "logprobs": 0},
            {"temperature": 0.4, "seed": 9, "presence_penalty": 0.1, "frequency_penalty": 0.05},
            {"temperature": 0.3, "seed": 3, "top_k": 20, "min_tokens": 9}, {"temperature": 0, "stop": ["lamb: you", "the "]},
            {"temperature": 0, "logit_bias": {"300": 2}, "stop": ["water. The"]},
            {"temperature": 0.5, "seed": 4, "n": 3})

    @staticmethod
    def events(server, prompt, max_tokens, **fields):
        """All that one stream says, but for what says when and to whom."""
        s = Stream(server, prompt, max_tokens, **fields)
        out = [{k: v for k, v in e.items() if k not in ("id", "created")} for e in s]
        s.close()
        # The sequences of n > 1 share one stream in whatever order they get on.
        return sorted((json.dumps(e) for e in out), key=lambda e: json.loads(e)["choices"][0]["index"])

    def run_all(self, *args):
        jobs = [(self.REFRAIN * 3, n, dict(w)) for w in self.WAYS for n in (1, 2, 37, 90)
                if n >= w.get("min_tokens", 0)]
        with Server(DEMO_MODEL, "--max-seqs", "4", *args) as s:
            alone = [self.events(s, p, n, **w) for p, n, w in jobs]
            side_by_side = together([lambda j=j: self.events(s, j[0], j[1], **j[2]) for j in jobs])
            per_pos = [int(line.split()[1]) for line in s.request("GET", "/metrics")[2].decode().splitlines()
                       if line.startswith("freehold_spec_decode_num_accepted_tokens_per_pos_total{")]
            return alone, side_by_side, {k: s.metric(f"spec_decode_num_{k}_tokens_total")
                                         for k in ("draft", "accepted")} | {"steps": s.metric("engine_steps_total"),
                                                                            "per_pos": per_pos}

    def test_streams_are_the_same_bytes(self):
        plain, plain_together, off = self.run_all("--speculate", "off")
        guessed, guessed_together, on = self.run_all("--speculate", "ngram", "--speculate-tokens", "6")
        self.assertEqual(plain, guessed)
        self.assertEqual(plain, plain_together)
        self.assertEqual(plain, guessed_together)
        self.assertEqual((off["draft"], off["accepted"], off["per_pos"]), (0, 0, []))
        # How many are guessed depends on what steps are measured to take.
        self.assertGreater(on["accepted"], 50)
        self.assertGreater(on["draft"], on["accepted"])
        self.assertLess(on["steps"], off["steps"])
        self.assertEqual(len(on["per_pos"]), 6)
        self.assertEqual(sum(on["per_pos"]), on["accepted"])
        self.assertEqual(on["per_pos"], sorted(on["per_pos"], reverse=True))

    def test_a_draft_model_changes_nothing(self):
        plain, _, _ = self.run_all("--speculate", "off")
        # The model is its own draft: never worth it, which is found out, but tried.
        guessed, guessed_together, on = self.run_all("--draft-model", DEMO_MODEL)
        self.assertEqual(plain, guessed)
        self.assertEqual(plain, guessed_together)
        self.assertGreater(on["accepted"], 50)

    def test_a_draft_model_of_another_vocabulary_is_refused(self):
        for args in ((), ("--speculate", "ngram")):
            with self.assertRaisesRegex(RuntimeError, "it must have the same"):
                Server(DEMO_MODEL, "--draft-model", shared(STORIES), *args).kill()

    def test_a_text_that_goes_in_circles_needs_few_steps(self):
        with Server(DEMO_MODEL) as s:
            for _ in range(5):
                s.complete(self.REFRAIN * 8, 200, ignore_eos=True)
            self.assertLess(s.metric("engine_steps_total"), 800)


class PrefixCache(unittest.TestCase):
    def test_on_and_off_give_the_same_tokens(self):
        model = shared(STORIES)
        stem = "Lily and Tom went to the park to play with the big red ball. " * 6
        prompts = [stem + tail for tail in ("Tom was", "They saw a dog.", "Then it", "The ball", "", "Tom was")] * 2

        def run(*args):
            with Server(model, *args) as s:
                out = [tokens_of(s.complete(p, 24, logprobs=1, ignore_eos=True)) for p in prompts]
                cached = s.complete(prompts[0], 1)["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
                return out, cached

        on, cached_on = run()
        off, cached_off = run("--no-prefix-cache")
        self.assertEqual(on, off)
        self.assertGreater(cached_on, 64)
        self.assertEqual(cached_off, 0)


class BadNeighbours(unittest.TestCase):
    def test_a_stopped_client_stops_nobody(self):
        with Server(shared(STORIES)) as s:
            before = [s.complete(p, 32, ignore_eos=True)["choices"][0]["text"] for p in PROMPTS]
            code = ("import sys; sys.path.insert(0, sys.argv[1]); import http.client, json\n"
                    "c = http.client.HTTPConnection(sys.argv[2])\n"
                    "c.request('POST', '/v1/completions', json.dumps({'model': sys.argv[3], 'prompt': 'Once', "
                    "'max_tokens': 400, 'ignore_eos': True, 'stream': True, 'n': 8, 'temperature': 1, 'seed': 1}), "
                    "{'Content-Type': 'application/json'})\n"
                    "r = c.getresponse(); r.readline(); print('first', flush=True)\n"
                    "while r.readline(): pass\n")
            stopped = [subprocess.Popen([sys.executable, "-c", code, os.path.dirname(__file__), s.host, s.model],
                                        stdout=subprocess.PIPE) for _ in range(4)]
            try:
                for p in stopped:
                    self.assertEqual(p.stdout.readline(), b"first\n")
                    p.send_signal(signal.SIGSTOP)
                begin = time.monotonic()
                beside = together([lambda q=q: s.complete(q, 32, ignore_eos=True)["choices"][0]["text"] for q in PROMPTS])
                took = time.monotonic() - begin
                self.assertEqual(beside, before)
                self.assertLess(took, 10)
                self.assertEqual(s.request("GET", "/health")[0], 200)
            finally:
                for p in stopped:
                    p.kill()
                    p.wait()
                    p.stdout.close()
            s.wait_idle()

    def test_a_closed_connection_cancels(self):
        with Server(DEMO_MODEL) as s:
            s.complete("Once", 1)
            for _ in range(5):
                streams = [s.stream(PROMPTS[i], 450, ignore_eos=True) for i in range(4)]
                for st in streams:
                    next(iter(st))
                self.assertGreater(s.metric("num_requests_running"), 0)
                self.assertGreater(s.metric("kv_cache_usage_perc"), 0)
                for st in streams:
                    st.close()
                took = s.wait_idle(3)
            self.assertLess(took, 1.0)
            _, _, data = s.request("GET", "/metrics")
            self.assertIn(b'freehold_request_success_total{finished_reason="abort"} 20\n', data)

    def test_a_vanished_non_streaming_client_cancels(self):
        with Server(DEMO_MODEL) as s:
            body = json.dumps({"model": s.model, "prompt": "Once", "max_tokens": 450, "ignore_eos": True}).encode()
            sock = s.raw()
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
                         len(body) + body)
            deadline = time.monotonic() + 5
            while s.metric("num_requests_running") == 0 and time.monotonic() < deadline:
                time.sleep(0.005)
            begin = time.monotonic()
            sock.close()
            s.wait_idle(3)
            self.assertLess(time.monotonic() - begin, 1.0)

    def test_a_full_queue_says_when_to_come_back(self):
        with Server(DEMO_MODEL, "--max-seqs", "1", "--max-queue", "2") as s:
            running = [s.stream("Once", 400, ignore_eos=True)]
            next(iter(running[0]))
            body = {"model": s.model, "prompt": "Once", "max_tokens": 4}
            results = together([lambda: s.request("POST", "/v1/completions", body, timeout=120)] * 12
                               + [lambda: running[0].close() if not time.sleep(1.0) else None])
            results = [r for r in results if r is not None]
            refused = [r for r in results if r[0] == 429]
            self.assertEqual({r[0] for r in results}, {200, 429})
            self.assertGreaterEqual(len(refused), 8)
            for _, headers, data in refused:
                self.assertGreaterEqual(int(headers["Retry-After"]), 1)
                self.assertIn("error", json.loads(data))
            s.wait_idle()

    def test_what_cannot_be_on_time_is_refused_at_once(self):
        with tempfile.TemporaryDirectory() as folder, Server(DEMO_MODEL, "--cache-dir", folder, "--log-level", "debug") as s:
            body = {"model": s.model, "prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": True}
            # So that what steps cost is known; without deadlines nobody is refused.
            for _ in range(20):
                self.assertEqual(s.request("POST", "/v1/completions", body)[0], 200)
            for fields, headers in (({"ttft_ms": 0.01}, {}), ({"tpot_ms": 0.001}, {}), ({}, {"x-freehold-ttft-ms": "0.01"}),
                                    ({"ttft_ms": 0.01, "stream": True, "n": 3}, {})):
                status, got, data = s.request("POST", "/v1/completions", {**body, **fields}, headers)
                self.assertEqual(status, 429, (fields, headers, data))
                self.assertEqual(json.loads(data)["error"]["code"], "deadline_impossible")
                self.assertGreaterEqual(int(got["Retry-After"]), 1)
                self.assertGreaterEqual(int(got["Retry-After-Ms"]), 1)
            for fields in ({"ttft_ms": 60000, "tpot_ms": 60000}, {"ttft_ms": "none"}, {"priority": "batch"}):
                self.assertEqual(s.request("POST", "/v1/completions", {**body, **fields})[0], 200, fields)
            self.assertEqual(s.request("POST", "/v1/completions", body, {"x-freehold-tpot-ms": "soon"})[0], 400)
            self.assertGreaterEqual(s.metric("requests_refused_total"), 4)
            self.assertEqual(s.metric("ttft_deadlines_kept_total"), 1)
            self.assertEqual(s.metric("ttft_deadlines_missed_total"), 0)
            s.wait_idle()
            log = s.log_text()
            self.assertRegex(log, r"request refused: reason=ttft prompt_tokens=\d+ ttft_deadline_ms=0.010 ttft_predicted_ms=[\d.]+")
            self.assertRegex(log, r"request refused: reason=\w+ .* tpot_deadline_ms=0.001 retry_ms=[\d.]+")
            done = re.search(r"request done: .*output_tokens=8 ttft_ms=([\d.]+) ttft_deadline_ms=60000.000 .* tpot_ms=([\d.]+) "
                             r"tpot_deadline_ms=60000.000", log)
            self.assertTrue(done and float(done[1]) > 0 and float(done[2]) > 0, log[-3000:])
            s.kill()
            # What was learned is kept, and readable by freehold sim.
            files = os.listdir(folder)
            self.assertEqual(len(files), 1)
            r = subprocess.run([FREEHOLD, "sim", "--costs", os.path.join(folder, files[0]), "-n", "1000", "--prompt", "64",
                                "--gen", "8", "--json"], capture_output=True, text=True, timeout=60, check=True)
            self.assertEqual(json.loads(r.stdout)["completed"], 1000)

    def test_rubbish_does_no_harm(self):
        """10,000 malformed requests: none crashes, hangs or leaks."""
        rng = random.Random(3)
        good = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 46\r\n\r\n" b'{"model":"m","prompt":"Once","max_tokens":1 }  ')
        with Server(shared(STORIES)) as s:
            def shoot(nr, seed):
                local = random.Random(seed)
                for _ in range(nr):
                    data = bytearray(good)
                    for _ in range(local.randint(1, 12)):
                        how = local.randrange(4)
                        at = local.randrange(max(1, len(data)))
                        if how == 0 and data:
                            data[at] = local.randrange(256)
                        elif how == 1:
                            del data[at:at + local.randint(1, 20)]
                        elif how == 2:
                            data[at:at] = bytes(local.randrange(256) for _ in range(local.randint(1, 20)))
                        else:
                            data[at:at] = local.choice([b"\r\n", b"{", b"[" * 50, b"\"", b"\\u0000", b"-1", b"1e999",
                                                        b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"\0"])
                    sock = s.raw(10)
                    try:
                        sock.sendall(data)
                        sock.shutdown(socket.SHUT_WR)
                        while sock.recv(65536):
                            pass
                    except (ConnectionError, BrokenPipeError):
                        pass
                    finally:
                        sock.close()

            shoot(500, 0)
            s.wait_idle()
            rss, fds = s.rss_kib(), s.nr_fds()
            seeds = [rng.random() for _ in range(8)]
            together([lambda seed=seed: shoot(1200, seed) for seed in seeds])
            s.wait_idle()
            self.assertGreater(s.metric("http_connections_total"), 10_100)
            self.assertEqual(s.complete("Once", 1)["usage"]["completion_tokens"], 1)
            self.assertLess(s.rss_kib() - rss, 8 * 1024)
            self.assertLessEqual(abs(s.nr_fds() - fds), 4)


class Doors(unittest.TestCase):
    ENDPOINTS = [("GET", "/v1/models", None), ("GET", "/v1/models/x", None), ("GET", "/metrics", None), ("GET", "/version", None),
                 ("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1}),
                 ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
                 ("POST", "/v1/embeddings", {"input": "x"}), ("POST", "/tokenize", {"prompt": "x"}),
                 ("POST", "/detokenize", {"tokens": [1]}), ("GET", "/nowhere", None)]

    def test_a_key_guards_everything_but_health(self):
        import tempfile
        with tempfile.NamedTemporaryFile("w") as keys:
            keys.write("# comment\nsk-first\nsk-second\n")
            keys.flush()
            os.chmod(keys.name, 0o600)
            with Server(shared(STORIES), "--api-key-file", keys.name) as s:
                self.assertEqual(s.request("GET", "/health")[0], 200)
                for method, path, body in self.ENDPOINTS:
                    for auth in (None, "Bearer sk-firs", "Bearer sk-firstx", "Bearer ", "Basic sk-first", "Bearer # comment"):
                        headers = {"Authorization": auth} if auth else None
                        status, _, data = s.request(method, path, body, headers)
                        self.assertEqual(status, 401, (method, path, auth, data))
                        self.assertIn("error", json.loads(data))
                for key in ("sk-first", "sk-second"):
                    self.assertEqual(s.json("GET", "/v1/models", key=key)["object"], "list")
                    for method, path, body in self.ENDPOINTS:
                        status, _, data = s.request(method, path, body, {"Authorization": "Bearer " + key})
                        self.assertNotEqual(status, 401, (path, data))

    def test_unix_socket(self):
        import tempfile
        with tempfile.TemporaryDirectory() as d:
            with Server(shared(STORIES), listen=f"unix:{d}/s") as s:
                text = s.complete("Once upon a time", 8)["choices"][0]["text"]
                self.assertTrue(text)
                self.assertEqual(s.stream("Once upon a time", 8).text(), text)
                self.assertEqual(s.terminate(), 0)
                self.assertFalse(os.path.exists(f"{d}/s"), "the socket is removed")

    def test_it_is_confined(self):
        with Server(shared(STORIES)) as s:
            for text in s.task_status():
                status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
                self.assertEqual(status["Seccomp"], "2", f"{status['Name']} has no filter")
                self.assertEqual(status["NoNewPrivs"], "1")
                self.assertEqual(int(status["CapEff"], 16), 0)


class Endings(unittest.TestCase):
    def test_sigterm_lets_running_requests_end(self):
        with Server(DEMO_MODEL) as s:
            want = s.complete("Once upon a time", 120, ignore_eos=True)["choices"][0]["text"]
            st = s.stream("Once upon a time", 120, ignore_eos=True)
            it = iter(st)
            text = next(it)["choices"][0]["text"]
            s.proc.send_signal(signal.SIGTERM)
            time.sleep(0.05)
            with self.assertRaises((ConnectionError, AssertionError)):
                s.complete("Once", 1)
            text += "".join(c["text"] for e in it for c in e["choices"])
            self.assertEqual(text, want)
            st.close()
            self.assertEqual(s.proc.wait(20), 0)

    def test_a_bad_start_says_why(self):
        import subprocess as sp
        from server import FREEHOLD
        for args, word in ((["serve", "-m", "/nonexistent.gguf"], "/nonexistent.gguf"),
                           (["serve", "-m", DEMO_MODEL, "--http", "nonsense"], "nonsense"),
                           (["serve", "-m", DEMO_MODEL, "--http", "127.0.0.1:99999"], "99999"),
                           (["serve", "-m", os.path.join(os.path.dirname(__file__), "server.py")], "server.py")):
            r = sp.run([FREEHOLD, *args], stdin=sp.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
            self.assertIn(r.returncode, (1, 2), args)
            self.assertIn(word, r.stderr)
            self.assertNotIn("ready on", r.stderr)

    def test_a_taken_port_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with self.assertRaisesRegex(RuntimeError, str(taken.getsockname()[1])):
                Server(shared(STORIES), listen=f"127.0.0.1:{taken.getsockname()[1]}", ready_s=20)


class Soak(unittest.TestCase):
    def test_no_growth(self):
        """Memory and descriptors after many requests are what they were after a few."""
        from server import LONG
        nr = 1_000_000 if LONG else 20_000
        with Server(shared(STORIES)) as s:
            bodies = [json.dumps({"model": s.model, "prompt": f"{p} {i}", "max_tokens": 1 + i % 3, "temperature": 0.9,
                                  "seed": i, "stream": i % 5 == 0}).encode() for i, p in enumerate(PROMPTS * 8)]
            texts = [b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
                     len(b) + b for b in bodies]

            def client(nr, seed):
                rng = random.Random(seed)
                sock, left = s.raw(), 0
                f = sock.makefile("rb")
                for _ in range(nr):
                    if not left:  # connections come and go, too
                        f.close()
                        sock.close()
                        sock, left = s.raw(), rng.randint(1, 200)
                        f = sock.makefile("rb")
                    left -= 1
                    sock.sendall(rng.choice(texts))
                    status = f.readline()
                    if not status.startswith(b"HTTP/1.1 200"):
                        raise AssertionError(status)
                    length = None
                    while (line := f.readline()) != b"\r\n":
                        if line.lower().startswith(b"content-length:"):
                            length = int(line[15:])
                    if length is not None:
                        f.read(length)
                        continue
                    while (size := int(f.readline(), 16)):
                        f.read(size + 2)
                    f.readline()
                f.close()
                sock.close()

            def round_of(nr, seed):
                together([lambda i=i: client(nr // 4, seed + i) for i in range(4)])
                s.wait_idle()
                return s.rss_kib(), s.nr_fds()

            round_of(2000, 0)
            rss, fds = round_of(2000, 10)
            rss_end, fds_end = round_of(nr - 4000, 20)
            self.assertEqual(s.metric("request_success_total"), nr)
            self.assertLess(rss_end - rss, 4 * 1024, f"{rss} KiB before, {rss_end} KiB after")
            self.assertLessEqual(abs(fds_end - fds), 2)

    def test_many_connections(self):
        """1,024 connections at once, each with a request."""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
        with Server(shared(STORIES)) as s:
            body = json.dumps({"model": s.model, "prompt": "Once upon a time", "max_tokens": 2, "temperature": 0}).encode()
            text = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                    b"Connection: close\r\n\r\n" % len(body)) + body
            socks = [s.raw(120) for _ in range(1024)]
            for sock in socks:
                sock.sendall(text)
            answers = []
            for sock in socks:
                data = b""
                while chunk := sock.recv(65536):
                    data += chunk
                sock.close()
                answers.append(data)
            good = [a for a in answers if a.startswith(b"HTTP/1.1 200")]
            self.assertEqual(len(good), 1024, [a[:200] for a in answers if not a.startswith(b"HTTP/1.1 200")][:3])
            texts = {json.loads(a.split(b"\r\n\r\n", 1)[1])["choices"][0]["text"] for a in good}
            self.assertEqual(len(texts), 1)
            s.wait_idle()

    def test_idle_costs_nothing(self):
        with Server(shared(STORIES)) as s:
            s.complete("Once", 4)
            keep = [s.raw() for _ in range(64)]
            time.sleep(0.5)
            before, begin = s.cpu_s(), time.monotonic()
            time.sleep(4)
            share = (s.cpu_s() - before) / (time.monotonic() - begin)
            for sock in keep:
                sock.close()
            self.assertLess(share, 0.01)


class HeartBeat(unittest.TestCase):
    def test_health_while_busy(self):
        """The health answer comes from the engine, also while it works, and never waits for it."""
        with Server(DEMO_MODEL) as s:
            stop = threading.Event()

            def load():
                while not stop.is_set():
                    s.complete("The old King " * 60, 30, ignore_eos=True)

            threads = [threading.Thread(target=load) for _ in range(4)]
            for t in threads:
                t.start()
            try:
                worst = 0.0
                for _ in range(100):
                    begin = time.monotonic()
                    self.assertEqual(s.request("GET", "/health")[0], 200)
                    worst = max(worst, time.monotonic() - begin)
                self.assertLess(worst, 1.0)
            finally:
                stop.set()
                for t in threads:
                    t.join()
