# SPDX-License-Identifier: Apache-2.0
"""Traces to an OpenTelemetry collector, which is a small HTTP server here: what a request's spans say, and that a collector
that is down, slow or out of sorts holds up nobody."""

import base64
import ctypes
import errno
import http.server
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
import unittest.mock

from identity import Database, bearer, freehold, until
from server import DEMO_MODEL, Server, ended, together
from test_channel import Channel
from udp import Client, Keys, UdpServer

NULL = "null:" + DEMO_MODEL
ARGS = ("--ctx", "512", "--max-seqs", "4")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Keeps what is posted; @plan: a list of (status, headers) for the next posts, 200 when it is over; @delay: seconds."""

    def __init__(self, port=0, plan=(), delay=0):
        collector = self
        self.posts, self.times, self.plan, self.delay = [], [], list(plan), delay
        self.heads = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.times.append(time.monotonic())
                collector.heads.append((self.path, dict(self.headers)))
                status, headers = collector.plan.pop(0) if collector.plan else (200, {})
                time.sleep(collector.delay)
                if status == 200:
                    collector.posts.append(body)
                try:
                    self.send_response(status)
                    for k, v in headers.items():
                        self.send_header(k, v)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def spans(self):
        return [s for p in self.posts for r in json.loads(p)["resourceSpans"] for c in r["scopeSpans"] for s in c["spans"]]

    def roots(self):
        return [s for s in self.spans() if s["kind"] == 2]


def setUpModule():
    try:
        ctypes.CDLL("libcurl.so.4")
    except OSError:
        raise unittest.SkipTest("libcurl4 is not installed")


def attributes(span):
    def value(v):
        (kind, x), = v.items()
        return int(x) if kind == "intValue" else [value(y) for y in x["values"]] if kind == "arrayValue" else x
    return {a["key"]: value(a["value"]) for a in span["attributes"]}


def metrics(s, key=None):
    _, _, data = s.request("GET", "/metrics", None, bearer(key) if key else {})
    return {m[1]: float(m[2]) for m in re.finditer(r"^(freehold_otlp_\S+) (\S+)$", data.decode(), re.M)}


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def complete(s, nr=4, headers=None, **fields):
    return s.request("POST", "/v1/completions", {"prompt": "my secret prompt", "max_tokens": nr, "ignore_eos": True, **fields}, headers)


class Spans(unittest.TestCase):
    def test_a_request_and_its_parts(self):
        with Collector() as c, Server(DEMO_MODEL, "--threads", "1", *ARGS, "--otlp-endpoint", c.url,
                                      "--otlp-headers", "x-key=abc,x-other=d e") as s:
            before = time.time_ns()
            chat = {"messages": [{"role": "user", "content": "my secret prompt"}], "max_tokens": 9, "ignore_eos": True,
                    "temperature": 0.5, "top_k": 7, "seed": 3, "n": 2}
            _, _, data = s.request("POST", "/v1/chat/completions", chat, {
                "traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "congo=t61,\t,rojo=1 2 "})
            answer = json.loads(data)
            complete(s, stream=True)
            complete(s, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
            complete(s, headers={"traceparent": "00-bad", "tracestate": "congo=t61"})
            self.assertEqual(complete(s, nr=100000)[0], 400)
            until(lambda: len(c.roots()), 4)
            after = time.time_ns()
            self.assertEqual(metrics(s)["freehold_otlp_exported_requests_total"], 4)
            self.assertEqual(sum(v for k, v in metrics(s).items() if "dropped" in k), 0)
            model = s.model
        self.assertEqual(c.heads[0][0], "/v1/traces")
        head = {k.lower(): v for k, v in c.heads[0][1].items()}
        self.assertEqual((head["content-type"], head["x-key"], head["x-other"]), ("application/json", "abc", "d e"))
        self.assertNotIn(b"secret", b"".join(c.posts))
        roots = {s["name"]: s for s in c.roots()}
        root = roots[f"chat {model}"]
        self.assertEqual((root["traceId"], root["parentSpanId"]), (TRACE, PARENT))
        a = attributes(root)
        self.assertEqual(a["gen_ai.response.id"], answer["id"])
        self.assertEqual((a["gen_ai.operation.name"], a["gen_ai.request.model"], a["gen_ai.request.choice.count"]), ("chat", model, 2))
        self.assertEqual((a["gen_ai.request.temperature"], a["gen_ai.request.top_k"], a["gen_ai.request.seed"],
                          a["gen_ai.request.max_tokens"]), (0.5, 7, 3, 9))
        self.assertEqual((a["gen_ai.usage.input_tokens"], a["gen_ai.usage.output_tokens"]),
                         (answer["usage"]["prompt_tokens"], 18))
        self.assertEqual((a["gen_ai.response.finish_reasons"], a["http.response.status_code"]), (["length"] * 2, 200))
        self.assertEqual((a["network.transport"], a["network.protocol.name"]), ("tcp", "http"))
        parts = {s["name"]: s for s in c.spans() if s.get("parentSpanId") == root["spanId"]}
        self.assertEqual(set(parts), {"queue", "prefill", "decode"})
        t = [int(x) for x in (root["startTimeUnixNano"], parts["queue"]["startTimeUnixNano"], parts["queue"]["endTimeUnixNano"],
                              parts["prefill"]["startTimeUnixNano"], parts["prefill"]["endTimeUnixNano"],
                              parts["decode"]["startTimeUnixNano"], parts["decode"]["endTimeUnixNano"], root["endTimeUnixNano"])]
        self.assertEqual(t, sorted(t))
        self.assertTrue(before - 10**8 < t[0] and t[-1] < after + 10**8)
        self.assertEqual((t[0], t[2], t[4]), (t[1], t[3], t[5]))
        self.assertEqual([s.get("traceState") for s in c.spans() if s["traceId"] == TRACE], ["congo=t61,rojo=1 2"] * 4)
        self.assertFalse([s for s in c.spans() if s["traceId"] != TRACE and "traceState" in s], "without a parent there is no state")
        # The others: traces of their own, all different; a client's "no" was heeded.
        others = [s for s in c.roots() if s["spanId"] != root["spanId"]]
        self.assertTrue(all("parentSpanId" not in s for s in others))
        self.assertEqual(len({s["traceId"] for s in others} | {TRACE}), 4)
        self.assertEqual(len({s["spanId"] for s in c.spans()}), len(c.spans()))
        bad = [attributes(s) for s in others if attributes(s)["http.response.status_code"] == 400]
        self.assertEqual([(b["error.type"], b["gen_ai.usage.output_tokens"]) for b in bad], [("context_length_exceeded", 0)])

    def test_shares_names_and_refusals(self):
        with Database() as db, Collector() as c:
            _, key = db.add("--tenant", "acme", "--user", "alice")
            self.assertEqual(freehold("budget", "set", "tenant:acme", "requests/day=60", "--keys", db.path).returncode, 0)
            env = {"OTEL_EXPORTER_OTLP_ENDPOINT": c.url + "/base/", "OTEL_SERVICE_NAME": "prose"}
            with Server(NULL, *ARGS, "--keys", db.path, "--trace-ratio", "0.5", env=env) as s:
                codes = [complete(s, headers=bearer(key))[0] for _ in range(60)]
                self.assertEqual(codes, [200] * 60)
                self.assertEqual(complete(s, headers={**bearer(key), "traceparent": f"00-{TRACE}-{PARENT}-01"})[0], 429)
                self.assertEqual(complete(s, headers=bearer("wrong"))[0], 401)
                until(lambda: len([1 for r in c.roots() if r["traceId"] == TRACE]), 1)
                self.assertEqual(s.terminate(), 0)
            got = c.roots()
            self.assertTrue(10 < len(got) < 52, len(got))
            self.assertEqual(c.heads[0][0], "/base/v1/traces")
            a = attributes([r for r in got if r["traceId"] == TRACE][0])
            self.assertEqual((a["http.response.status_code"], a["error.type"]), (429, "rate_limit_exceeded"))
            self.assertEqual((a["freehold.tenant"], a["freehold.user"]), ("acme", "alice"))
            resource = json.loads(c.posts[0])["resourceSpans"][0]["resource"]
            self.assertEqual(attributes(resource)["service.name"], "prose")

    def test_requests_in_the_log(self):
        with Server(NULL, *ARGS, "--log-requests") as s:
            complete(s, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
            until(lambda: '"TraceId"' in s.log_text(), True)
            line = json.loads([l for l in s.log_text().splitlines() if '"TraceId"' in l][0])
            self.assertNotIn("secret", s.log_text())
        self.assertEqual((line["TraceId"], line["SeverityText"], line["Attributes"]["gen_ai.usage.output_tokens"]), (TRACE, "INFO", 4))
        self.assertGreater(line["Attributes"]["freehold.duration"], 0)

    def test_what_is_wrong_is_said(self):
        for url in ("ftp://x", "localhost:4318"):
            r = freehold("serve", "-m", NULL, "--http", "127.0.0.1:0", "--otlp-endpoint", url)
            self.assertEqual(r.returncode, 1)
            self.assertIn("--otlp-endpoint", r.stderr)
        r = freehold("serve", "-m", NULL, "--http", "127.0.0.1:0", "--otlp-endpoint", "http://127.0.0.1:1", "--otlp-headers", "a=1,my secret")
        self.assertEqual(r.returncode, 1)
        self.assertIn("--otlp-headers: item 2", r.stderr)
        self.assertNotIn("my secret", r.stderr)
        with Server(NULL, *ARGS, "--otlp-endpoint", "") as s:
            self.assertEqual(metrics(s), {})
        with Server(NULL, *ARGS, "--otlp-endpoint", "off", env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) as s:
            self.assertEqual(metrics(s), {})


class Tokens(unittest.TestCase):
    """What is no HTTP: channels and UDP."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-otlp-")
        os.chmod(self.dir.name, 0o755)

    def tearDown(self):
        self.dir.cleanup()

    def check(self, c, before, how, want):
        """@want: of each root its (serial, finish, error.type, output tokens)."""
        until(lambda: len(c.roots()), len(want))
        roots = sorted(c.roots(), key=lambda r: attributes(r)["freehold.request.serial"])
        got = [attributes(r) for r in roots]
        self.assertEqual([(a["freehold.request.serial"], a["gen_ai.response.finish_reasons"][0], a.get("error.type"),
                           a["gen_ai.usage.output_tokens"]) for a in got], want)
        for a in got:
            self.assertEqual((a["network.transport"], a["network.protocol.name"]), how)
            self.assertEqual((a["gen_ai.operation.name"], a["gen_ai.provider.name"]), ("text_completion", "freehold"))
            self.assertNotIn("http.response.status_code", a)
        self.assertEqual(len({r["traceId"] for r in roots} | {r["spanId"] for r in roots}), 2 * len(roots))
        self.assertTrue(all("parentSpanId" not in r for r in roots))
        parts = {s["name"]: s for s in c.spans() if s.get("parentSpanId") == roots[0]["spanId"]}
        self.assertEqual(set(parts), {"queue", "prefill", "decode"})
        t = [int(roots[0]["startTimeUnixNano"]), *(int(parts[p]["endTimeUnixNano"]) for p in ("queue", "prefill", "decode")),
             int(roots[0]["endTimeUnixNano"])]
        self.assertEqual(t, sorted(t))
        self.assertTrue(before - 10**8 < t[0] and t[-1] < time.time_ns() + 10**8)
        self.assertNotIn(b"secret", b"".join(c.posts))
        return got

    def test_channels(self):
        path, before = os.path.join(self.dir.name, "sock"), time.time_ns()
        with Collector() as c, Server(DEMO_MODEL, "--threads", "1", *ARGS, "--channel", "unix:" + path, "--http", f"unix:{path}.http",
                                      "--otlp-endpoint", c.url) as s:
            chan = Channel(path)
            chan.submit("my secret prompt", 5, 7)
            while not chan.next()[1] & 1:
                pass
            chan.submit([1] * 4096, 5, 8)  # longer than the context
            self.assertEqual(chan.next()[3:], (8, -errno.E2BIG))
            chan.submit([1], 0, 9)  # no descriptor of ours
            self.assertEqual(chan.next()[3:], (9, -errno.EINVAL))
            chan.submit([1], 500, 10)
            chan.next()
            chan.close()
            got = self.check(c, before, ("unix", "freehold-channel"), [
                (7, "length", None, 5), (8, "error", "E2BIG", 0), (9, "error", "EINVAL", 0),
                (10, "abort", "client_gone", unittest.mock.ANY)])
            self.assertEqual((got[0]["gen_ai.request.max_tokens"], got[0]["freehold.tenant"]), (5, f"uid-{os.getuid()}"))
            self.assertGreater(got[0]["gen_ai.usage.input_tokens"], 1)
            # HTTP over a Unix socket says so, too.
            with socket.socket(socket.AF_UNIX) as u:
                u.connect(path + ".http")
                body = b'{"prompt": "x", "max_tokens": 1}'
                u.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                self.assertIn(b" 200 ", u.recv(4096))
                until(lambda: len(c.roots()), 5)
            a = [attributes(r) for r in c.roots()][-1]
            self.assertEqual((a["network.transport"], a["network.protocol.name"]), ("unix", "http"))
            self.assertEqual(s.terminate(), 0)

    def test_udp(self):
        keys, before = Keys(self.dir.name), time.time_ns()
        with Collector() as c, UdpServer(DEMO_MODEL, keys, "--threads", "1", *ARGS, "--otlp-endpoint", c.url, "--log-requests") as s:
            with Client(s.udp_url, keys.client) as u:
                u.tokens("my secret prompt", 5, seed=3)
                u.tokens([1] * 4096, 5)
            got = self.check(c, before, ("udp", "freehold-udp"), [
                (1, "length", None, 5), (2, "error", "E2BIG", 0)])
            self.assertEqual(got[0]["freehold.tenant"], "tester")
            lines = [json.loads(l) for l in s.log_text().splitlines() if '"TraceId"' in l]
            self.assertEqual([l["Attributes"]["network.transport"] for l in lines], ["udp"] * 2)

    def test_shares(self):
        """The same share of them as of others is told, and none that nobody wants."""
        path = os.path.join(self.dir.name, "sock")
        for ratio, few, many in (("0", 0, 0), ("0.5", 70, 130)):
            with Collector() as c:
                with Server(NULL, *ARGS, "--channel", "unix:" + path, "--otlp-endpoint", c.url, "--trace-ratio", ratio) as s:
                    chan = Channel(path)
                    for i in range(200):
                        chan.submit([1], 1, i)
                        chan.next()
                    self.assertEqual(s.terminate(), 0)
                self.assertTrue(few <= len(c.roots()) <= many, len(c.roots()))
                self.assertEqual(len({r["traceId"] for r in c.roots()}), len(c.roots()))


class Environment(unittest.TestCase):
    def test_what_is_wrong_in_it_is_warned_of(self):
        here = "http://127.0.0.1:1"
        for env in ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector.secret:4317"}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "unix:secret"},
                    {"OTEL_EXPORTER_OTLP_HEADERS": "key=secret%0d%0aevil: 1", "OTEL_EXPORTER_OTLP_ENDPOINT": here}):
            with Server(NULL, *ARGS, env=env) as s:
                self.assertIn(f"warning: traces: {list(env)[0]}", s.log_text())
                self.assertNotIn("secret", s.log_text())
                self.assertEqual(metrics(s), {})
                self.assertEqual(complete(s)[0], 200)

    def test_a_library_that_is_missing(self):
        with tempfile.TemporaryDirectory(prefix="freehold-otlp-") as d:
            for name in ("libcurl.so.4", "libcurl-gnutls.so.4"):
                with open(os.path.join(d, name), "wb"):
                    pass
            env = {"LD_LIBRARY_PATH": d, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
            with Server(NULL, *ARGS, "--log-requests", env=env) as s:
                self.assertRegex(s.log_text(), "warning: the exporter of traces: libcurl cannot be loaded .*OTEL_EXPORTER_OTLP_ENDPOINT")
                complete(s)
                until(lambda: '"TraceId"' in s.log_text(), True)
            with self.assertRaisesRegex(RuntimeError, "error: .*libcurl cannot be loaded"):
                Server(NULL, *ARGS, "--otlp-endpoint", "http://127.0.0.1:1", env=env)

    def test_headers_and_the_protocol(self):
        with Collector() as c:
            env = {"OTEL_EXPORTER_OTLP_ENDPOINT": c.url.replace("//", "//me:pass%20word@"), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                   "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b%2Cc%3Dd==,x-long=" + "y" * 4096}
            with Server(NULL, *ARGS, env=env) as s:
                complete(s)
                until(lambda: len(c.roots()), 1)
                c.plan.append((400, {}))
                complete(s)
                until(lambda: f"{c.port} answers 400" in s.log_text(), True)
                self.assertIn("OTEL_EXPORTER_OTLP_PROTOCOL=grpc", s.log_text())
                self.assertNotIn("pass", s.log_text())
            head = {k.lower(): v for k, v in c.heads[0][1].items()}
            self.assertEqual((head["x-key"], head["x-long"]), ("a b,c=d==", "y" * 4096))
            self.assertEqual(head["authorization"], "Basic " + base64.b64encode(b"me:pass word").decode())

    def test_what_a_resource_is(self):
        """The variable for one name goes before the list, and the list before what we would say ourselves."""
        attrs = "service.name=other,host.name=h%C3%A9%2C1, deployment.environment.name = prod ,deployment.environment.name=test"
        mine = {"service.version", "host.name"}
        for env, want in (({"OTEL_RESOURCE_ATTRIBUTES": attrs, "OTEL_SERVICE_NAME": "prose"}, "prose"),
                          ({"OTEL_RESOURCE_ATTRIBUTES": attrs}, "other"),
                          ({"OTEL_RESOURCE_ATTRIBUTES": attrs + ",x=%zz", "OTEL_SERVICE_NAME": ""}, "freehold")):
            with Collector() as c, Server(NULL, *ARGS, "--otlp-endpoint", c.url, "--log-requests", env=env) as s:
                complete(s)
                until(lambda: len(c.roots()), 1)
                resource = json.loads(c.posts[0])["resourceSpans"][0]["resource"]
                a = attributes(resource)
                self.assertEqual((a["service.name"], len(a)), (want, len(resource["attributes"])))
                line = json.loads([l for l in s.log_text().splitlines() if '"TraceId"' in l][0])
                self.assertEqual(line["Resource"]["service.name"], want)
                if want == "freehold":
                    self.assertEqual(set(a), {"service.name"} | mine)
                    self.assertIn("OTEL_RESOURCE_ATTRIBUTES of the environment: item 5", s.log_text())
                else:
                    self.assertEqual((a["host.name"], a["deployment.environment.name"]), ("h\u00e9,1", "test"))
                    self.assertNotIn("warning: traces", s.log_text())

    def test_samplers(self):
        for sampler, want in (("always_off", 0), ("parentbased_always_off", 1), ("always_on", 3)):
            with Collector() as c:
                with Server(NULL, *ARGS, env={"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "OTEL_TRACES_SAMPLER": sampler}) as s:
                    complete(s)
                    complete(s, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
                    complete(s, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
                    self.assertEqual(s.terminate(), 0)
                self.assertEqual(len(c.roots()), want, sampler)


@unittest.skipUnless(shutil.which("openssl"), "no openssl(1)")
class Encrypted(unittest.TestCase):
    def test_a_name_is_found_and_a_certificate_looked_at(self):
        """Within its walls: a name of /etc/hosts, the host's list of authorities, and that nobody in it has signed this one."""
        with tempfile.TemporaryDirectory(prefix="freehold-otlp-") as d:
            key, pem = os.path.join(d, "key"), os.path.join(d, "pem")
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                            "-out", pem, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
                           check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem, key)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                seen = []

                def serve():
                    try:
                        while True:
                            conn = listener.accept()[0]
                            seen.append(conn.getpeername())
                            with conn:
                                try:
                                    context.wrap_socket(conn, server_side=True).close()
                                except OSError:
                                    pass
                    except OSError:
                        pass

                thread = threading.Thread(target=serve)
                thread.start()
                with Server(NULL, *ARGS, "--otlp-endpoint", f"https://localhost:{listener.getsockname()[1]}") as s:
                    complete(s)
                    until(lambda: len(seen) > 0, True)
                    self.assertEqual(s.terminate(), 0)
                    self.assertRegex(s.log_text(), r"https://localhost:\d+: .*(self-signed|certificate|issuer)")
                    self.assertNotIn("error setting certificate", s.log_text())
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()


class Trouble(unittest.TestCase):
    def test_a_collector_that_asks_for_patience(self):
        with Collector(plan=[(503, {"Retry-After": "2"}), (429, {})]) as c, Server(NULL, *ARGS, "--otlp-endpoint", c.url) as s:
            complete(s)
            until(lambda: len(c.roots()), 1, 20)
            self.assertGreater(c.times[1] - c.times[0], 1.8, "it was told to wait for two seconds")
            self.assertGreater(c.times[2] - c.times[1], 0.9, "and then nothing")
            self.assertEqual(len(c.times), 3)
            until(lambda: (metrics(s)["freehold_otlp_exported_requests_total"], metrics(s)["freehold_otlp_retries_total"]), (1, 2))
            # What it does not want it is not asked again.
            c.plan.append((400, {}))
            complete(s)
            until(lambda: metrics(s)['freehold_otlp_dropped_requests_total{reason="failed"}'], 1)
            self.assertIn("answers 400; 1 requests are missing there", s.log_text())
            self.assertEqual((len(c.times), len(c.roots())), (4, 1))

    def test_one_that_is_down_holds_up_nobody(self):
        port = closed_port()
        with Server(NULL, *ARGS, "--otlp-endpoint", f"http://127.0.0.1:{port}", "--otlp-queue", "16") as s:
            begin = time.monotonic()
            together([lambda: [self.assertEqual(complete(s)[0], 200) for _ in range(20)] for _ in range(4)])
            self.assertLess(time.monotonic() - begin, 5)
            until(lambda: metrics(s)['freehold_otlp_dropped_requests_total{reason="queue_full"}'] > 20, True)
            # Once it is there it gets what waited, and each request is accounted for.
            with Collector(port) as c:
                until(lambda: metrics(s)["freehold_otlp_queued_requests"] == 0 and len(c.roots()) > 0, True, 30)
                m = metrics(s)
                until(lambda: metrics(s)["freehold_otlp_exported_requests_total"], len(c.roots()))
                self.assertEqual(len(c.roots()) + m['freehold_otlp_dropped_requests_total{reason="queue_full"}'], 80)
                self.assertLessEqual(len(c.roots()), 80 - 20)
            self.assertEqual(s.terminate(), 0)

    def test_one_that_is_slow_holds_up_nobody(self):
        with Collector(delay=3) as c, Server(NULL, *ARGS, "--otlp-endpoint", c.url, "--otlp-timeout", "1") as s:
            slowest = 0
            for _ in range(50):
                begin = time.monotonic()
                complete(s)
                slowest = max(slowest, time.monotonic() - begin)
            self.assertLess(slowest, 1)
            until(lambda: metrics(s)["freehold_otlp_retries_total"] > 0, True, 10)
            begin = time.monotonic()
            self.assertEqual(s.terminate(), 0)
            self.assertLess(time.monotonic() - begin, 6, "it does not wait for the collector at the end")

    def test_what_is_left_is_posted_at_the_end(self):
        with Collector() as c:
            with Server(NULL, *ARGS, "--otlp-endpoint", c.url) as s:
                complete(s)
                self.assertEqual(s.terminate(), 0)
                self.assertEqual(len(c.roots()), 1)

    def test_the_exporter_ends_with_the_server(self):
        with Collector() as c, Server(NULL, *ARGS, "--otlp-endpoint", c.url) as s:
            with open(f"/proc/{s.pid}/task/{s.pid}/children", encoding="ascii") as f:
                (child,) = f.read().split()
            with open(f"/proc/{child}/status", encoding="ascii") as f:
                status = f.read()
            self.assertRegex(status, r"Name:\s+freehold-otlp")
            self.assertRegex(status, r"CapEff:\s+0+\n")
            if "traces: sandbox of the exporter: seccomp" in s.log_text():
                self.assertRegex(status, r"NoNewPrivs:\s+1\n")
                self.assertRegex(status, r"Seccomp:\s+2\n")
            else:
                self.assertIn("built with a sanitizer", s.log_text())
            # It has nothing of the server's but the socket and where it complains.
            links = [os.readlink(f"/proc/{child}/fd/{n}") for n in os.listdir(f"/proc/{child}/fd")]
            self.assertFalse([l for l in links if l.endswith(".gguf") or l.startswith("anon_inode")], links)
            self.assertEqual(len([l for l in links if l.startswith("socket")]), 1, links)
            os.kill(int(child), signal.SIGTERM)  # as systemd does, to all of them
            complete(s)
            until(lambda: len(c.roots()), 1)
            os.kill(s.pid, signal.SIGKILL)
            s.proc.wait()
            until(lambda: ended(child), True)

    def test_a_server_goes_on_without_its_exporter(self):
        with Collector() as c, Server(NULL, *ARGS, "--otlp-endpoint", c.url) as s:
            with open(f"/proc/{s.pid}/task/{s.pid}/children", encoding="ascii") as f:
                (child,) = f.read().split()
            os.kill(int(child), signal.SIGKILL)
            # Another thread of it may still hold the socket when its first has ended.
            until(lambda: metrics(s)["freehold_otlp_up"], 0)
            self.assertEqual(metrics(s)['freehold_otlp_dropped_requests_total{reason="exporter_gone"}'], 0)
            for _ in range(2):
                self.assertEqual(complete(s)[0], 200)
            m = metrics(s)
            self.assertEqual(m['freehold_otlp_dropped_requests_total{reason="exporter_gone"}'], 2)
            self.assertEqual(m['freehold_otlp_dropped_requests_total{reason="queue_full"}'], 0)
            self.assertEqual(s.log_text().count("traces: the exporter has died"), 1)
            self.assertEqual(s.terminate(), 0)

    def test_what_an_exporter_had_when_it_died_is_missing(self):
        with Server(NULL, *ARGS, "--otlp-endpoint", f"http://127.0.0.1:{closed_port()}") as s:
            self.assertEqual(metrics(s)["freehold_otlp_up"], 1)
            for _ in range(3):
                complete(s)
            time.sleep(0.7)  # some of them are under way
            complete(s)
            until(lambda: metrics(s)["freehold_otlp_queued_requests"] > 0, True)
            with open(f"/proc/{s.pid}/task/{s.pid}/children", encoding="ascii") as f:
                os.kill(int(f.read()), signal.SIGKILL)
            until(lambda: metrics(s)["freehold_otlp_up"], 0)
            m = metrics(s)
            self.assertEqual((m["freehold_otlp_queued_requests"], m['freehold_otlp_dropped_requests_total{reason="exporter_gone"}']), (0, 4))

    def test_it_does_not_outlive_the_server_by_a_post(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with Server(NULL, *ARGS, "--otlp-endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}", "--otlp-timeout", "60") as s:
                with open(f"/proc/{s.pid}/task/{s.pid}/children", encoding="ascii") as f:
                    (child,) = f.read().split()
                complete(s)
                silent.settimeout(10)
                conn, _ = silent.accept()
                with conn:
                    os.kill(s.pid, signal.SIGKILL)
                    s.proc.wait()
                    begin = time.monotonic()
                    until(lambda: ended(child), True, 20)
                    self.assertLess(time.monotonic() - begin, 4)


if __name__ == "__main__":
    unittest.main()
