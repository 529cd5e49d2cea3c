# SPDX-License-Identifier: Apache-2.0
"""The official OpenAI Python client against a running server.

FREEHOLD_URL names one that runs already (FREEHOLD_API_KEY its key); otherwise
one is started with a small model. Skipped when the `openai` package is missing.
"""

import base64
import math
import os
import struct
import sys
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

try:
    import openai
except ImportError:
    openai = None

from server import Server, shared  # noqa: E402

KEY = os.environ.get("FREEHOLD_API_KEY", "none")
PROMPT = "Once upon a time, there was a little girl named"
CHAT = [{"role": "system", "content": "You tell stories."}, {"role": "user", "content": [{"type": "text", "text": "Begin."}]}]


@unittest.skipIf(openai is None, "the openai package is not installed")
class OpenAIClient(unittest.TestCase):
    server = None

    @classmethod
    def setUpClass(cls):
        url = os.environ.get("FREEHOLD_URL")
        if not url:
            cls.server = Server(shared("models", "stories260K-f32.gguf"))
            url = cls.server.url
        cls.url = url.rstrip("/")
        cls.client = openai.OpenAI(base_url=cls.url + "/v1", api_key=KEY, max_retries=0, timeout=60)
        cls.model = cls.client.models.list().data[0].id

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        if cls.server:
            cls.server.kill()

    def metric(self, name):
        request = urllib.request.Request(self.url + "/metrics", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request) as r:
            for line in r.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        self.fail(f"no metric {name}")

    def complete(self, **fields):
        fields = {"model": self.model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **fields}
        return self.client.completions.create(**fields)

    def test_models(self):
        models = self.client.models.list().data
        self.assertEqual([m.object for m in models], ["model"])
        self.assertEqual(self.client.models.retrieve(self.model).id, self.model)
        with self.assertRaises(openai.NotFoundError) as e:
            self.client.models.retrieve("no/such model")
        self.assertEqual(e.exception.code, "model_not_found")

    def test_completion(self):
        r = self.complete()
        self.assertEqual((r.object, r.model, len(r.choices)), ("text_completion", self.model, 1))
        self.assertTrue(r.choices[0].text)
        self.assertIn(r.choices[0].finish_reason, ("length", "stop"))
        self.assertEqual(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens)
        self.assertLessEqual(r.usage.completion_tokens, 8)
        self.assertEqual(self.complete().choices[0].text, r.choices[0].text)

    def test_prompts_in_every_form(self):
        one = self.complete(prompt=PROMPT).choices[0].text
        r = self.complete(prompt=[PROMPT, "The dog"], n=2)
        self.assertEqual([c.index for c in r.choices], [0, 1, 2, 3])
        self.assertEqual([c.text for c in r.choices[:2]], [one, one])
        ids = self.client.post("/../tokenize", body={"prompt": PROMPT}, cast_to=object)["tokens"]
        self.assertEqual(self.complete(prompt=ids).choices[0].text, one)
        self.assertEqual(self.complete(prompt=[ids, ids]).choices[1].text, one)
        self.assertEqual(self.complete(echo=True).choices[0].text, PROMPT + one)

    def test_seed(self):
        def draw(seed):
            return self.complete(temperature=1.0, seed=seed, max_tokens=24).choices[0].text

        self.assertEqual(draw(7), draw(7))
        self.assertGreater(len({draw(s) for s in range(6)}), 1)
        r = self.complete(temperature=1.0, seed=3, n=4, max_tokens=24)
        self.assertGreater(len({c.text for c in r.choices}), 1)
        best = self.complete(temperature=1.0, seed=3, best_of=4, max_tokens=24)
        self.assertEqual(len(best.choices), 1)
        self.assertIn(best.choices[0].text, {c.text for c in r.choices})

    def test_stop(self):
        text = self.complete(max_tokens=24).choices[0].text
        stop = text[8:12]
        r = self.complete(max_tokens=24, stop=[stop, "\x01never"])
        self.assertEqual(r.choices[0].finish_reason, "stop")
        self.assertEqual(r.choices[0].text, text[:text.index(stop)])
        parts = [c.choices[0].text for c in self.complete(max_tokens=24, stop=stop, stream=True)]
        self.assertEqual("".join(parts), text[:text.index(stop)])

    def test_stream(self):
        whole = self.complete(max_tokens=32)
        chunks = list(self.complete(max_tokens=32, stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
        self.assertEqual(chunks[-1].usage, whole.usage.model_copy(
            update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}))
        self.assertEqual([c.choices[0].finish_reason for c in chunks[:-1]].count(None), len(chunks) - 2)
        self.assertEqual(len({c.id for c in chunks}), 1)

    def test_logprobs(self):
        r = self.complete(logprobs=3).choices[0]
        n = len(r.logprobs.tokens)
        self.assertEqual((len(r.logprobs.token_logprobs), len(r.logprobs.top_logprobs), len(r.logprobs.text_offset)),
                         (n, n, n))
        self.assertEqual("".join(r.logprobs.tokens), r.text)
        for token, lp, top, at in zip(r.logprobs.tokens, r.logprobs.token_logprobs, r.logprobs.top_logprobs,
                                      r.logprobs.text_offset):
            self.assertLessEqual(lp, 0)
            self.assertAlmostEqual(top[token], lp, places=5)
            self.assertAlmostEqual(max(top.values()), lp, places=5)  # greedy takes the best
            self.assertTrue(r.text[at:].startswith(token))
        streamed = [c.choices[0].logprobs for c in self.complete(logprobs=3, stream=True)]
        self.assertEqual([t for s in streamed if s for t in s.tokens], r.logprobs.tokens)
        self.assertEqual([o for s in streamed if s for o in s.text_offset], r.logprobs.text_offset)

    def test_chat(self):
        r = self.client.chat.completions.create(model=self.model, messages=CHAT, max_completion_tokens=12, temperature=0,
                                                logprobs=True, top_logprobs=2, user="x", store=False)
        choice = r.choices[0]
        self.assertEqual((r.object, choice.message.role), ("chat.completion", "assistant"))
        self.assertTrue(choice.message.content)
        self.assertEqual(len(choice.logprobs.content), r.usage.completion_tokens)
        for t in choice.logprobs.content:
            self.assertEqual(len(t.top_logprobs), 2)
            self.assertTrue(t.bytes is not None and all(0 <= b < 256 for b in t.bytes))
        chunks = list(self.client.chat.completions.create(model=self.model, messages=CHAT, max_tokens=12, temperature=0,
                                                          stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), choice.message.content)
        self.assertEqual(chunks[-2].choices[0].finish_reason, choice.finish_reason)
        self.assertEqual(chunks[-1].usage.completion_tokens, r.usage.completion_tokens)

    def test_extra_fields(self):
        r = self.complete(max_tokens=30, extra_body={"ignore_eos": True, "min_p": 0.1, "top_k": 5, "repetition_penalty": 1.1})
        self.assertEqual((r.usage.completion_tokens, r.choices[0].finish_reason), (30, "length"))

    def test_errors(self):
        for error, code, param, fields in [
                (openai.BadRequestError, None, "temperature", {"temperature": 9}),
                (openai.BadRequestError, None, "max_tokens", {"max_tokens": 0}),
                (openai.BadRequestError, "context_length_exceeded", "max_tokens", {"max_tokens": 10_000_000}),
                (openai.BadRequestError, "unsupported_parameter", "suffix", {"suffix": "x"}),
                (openai.BadRequestError, "unsupported_parameter", "response_format",
                 {"extra_body": {"response_format": {"type": "json_object"}}}),
                (openai.NotFoundError, "model_not_found", "model", {"model": "gpt-none"})]:
            with self.assertRaises(error) as e:
                self.complete(**fields)
            self.assertEqual((e.exception.code, e.exception.param), (code, param))
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.chat.completions.create(model=self.model, messages=CHAT, tools=[
                {"type": "function", "function": {"name": "f", "parameters": {}}}])
        self.assertEqual(e.exception.param, "tools")
        with self.assertRaises(openai.NotFoundError):
            self.client.images.generate(prompt="x")

    def test_cancellation(self):
        """Closing a stream in the middle ends its sequence at once."""
        stream = self.complete(max_tokens=400, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        deadline = time.monotonic() + 5
        while self.metric("freehold_http_sequences") and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(self.metric("freehold_http_sequences"), 0)

    def test_embeddings(self):
        r = self.client.embeddings.create(model=self.model, input=["The cat sat.", "A dog ran."])
        self.assertEqual([d.index for d in r.data], [0, 1])
        for d in r.data:
            self.assertAlmostEqual(math.fsum(x * x for x in d.embedding), 1, places=4)
        raw = self.client.post("/embeddings", cast_to=object, body={
            "model": self.model, "input": "The cat sat.", "encoding_format": "base64"})["data"][0]["embedding"]
        data = base64.b64decode(raw)
        # The same text in another batch: the same numbers, but for the last bits of an average.
        for a, b in zip(struct.unpack(f"<{len(data) // 4}f", data), r.data[0].embedding):
            self.assertAlmostEqual(a, b, places=4)

    def test_raw_headers(self):
        r = self.client.completions.with_raw_response.create(model=self.model, prompt="x", max_tokens=1,
                                                             extra_headers={"X-Request-Id": "mine-1"})
        self.assertEqual(r.headers["x-request-id"], "mine-1")


if __name__ == "__main__":
    import run
    sys.argv[1:] = ["test_openai_client"]
    sys.exit(run.main())
