# SPDX-License-Identifier: Apache-2.0
"""A live `freehold serve` and a small HTTP client for the tests of this folder.

    with Server(model, "--threads", "1") as s:
        status, headers, body = s.request("POST", "/v1/completions", {...})

The server listens on a port that the kernel picked, or on a Unix socket in a
folder that goes away with it; it is ended by its pid. FREEHOLD names the binary
(default build/freehold), FREEHOLD_SHARED the fixtures (default ../shared).
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FREEHOLD = os.environ.get("FREEHOLD", os.path.join(ROOT, "build", "freehold"))
SHARED = os.path.join(ROOT, os.environ.get("FREEHOLD_SHARED", "../shared"))
DEMO_MODEL = os.path.join(ROOT, "tools", "demo", "freehold-stories-13M-moe-Q8_0.gguf")
LONG = os.environ.get("FREEHOLD_CHECK") == "long"
READY = re.compile(r"^freehold: ready on (\S+)", re.M)


def shared(*path):
    """Path of a shared fixture; skips the test when it is not there."""
    full = os.path.join(SHARED, *path)
    if not os.path.exists(full):
        raise unittest.SkipTest(f"no fixture {os.path.join(*path)} (FREEHOLD_SHARED names their folder)")
    return full


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Server:
    def __init__(self, model=DEMO_MODEL, *args, listen="127.0.0.1:0", env=None, ready_s=60):
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-")
        self.log_path = os.path.join(self.dir.name, "log")
        cmd = [FREEHOLD, "serve", "-m", model, "--http", listen, "--cache-dir", "none", *args]
        self.log = open(self.log_path, "wb")
        self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                     env={**{k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}, **(env or {})})
        deadline = time.monotonic() + ready_s
        while True:
            m = READY.search(self.log_text())
            if m:
                break
            if self.proc.poll() is not None or time.monotonic() > deadline:
                text = self.log_text()
                self.kill()
                raise RuntimeError(f"{' '.join(cmd)} did not become ready:\n{text[-4000:]}")
            time.sleep(0.01)
        self.url = m.group(1)
        self.unix = self.url[5:] if self.url.startswith("unix:") else None
        self.host = None if self.unix else self.url.split("//")[1].strip("/")
        guarded = {"--api-key-file", "--keys", "--tls-client-ca"} & set(args)
        self.model = None if guarded else self.json("GET", "/v1/models", key=None)["data"][0]["id"]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0] is not None and os.path.exists(self.log_path):
            print(self.log_text()[-3000:])
        self.kill()

    def log_text(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    @property
    def pid(self):
        return self.proc.pid

    def kill(self):
        """The end of a test; what it left running is no matter."""
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        self.log.close()
        self.dir.cleanup()

    def terminate(self, timeout=30):
        """SIGTERM; the exit status."""
        self.proc.send_signal(signal.SIGTERM)
        return self.proc.wait(timeout)

    def connect(self, timeout=60):
        if self.unix:
            return UnixConnection(self.unix, timeout)
        return http.client.HTTPConnection(self.host, timeout=timeout)

    def raw(self, timeout=60):
        """A connected socket."""
        c = self.connect(timeout)
        c.connect()
        return c.sock

    def request(self, method, path, body=None, headers=None, conn=None, timeout=60):
        c = conn or self.connect(timeout)
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        try:
            c.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            r = c.getresponse()
            return r.status, r.headers, r.read()
        finally:
            if conn is None:
                c.close()

    def json(self, method, path, body=None, key=None, conn=None, timeout=60):
        headers = {"Authorization": f"Bearer {key}"} if key else None
        status, _, data = self.request(method, path, body, headers, conn, timeout)
        if status != 200:
            raise AssertionError(f"{method} {path}: {status}: {data[:500]!r}")
        return json.loads(data)

    def complete(self, prompt, max_tokens=16, conn=None, **fields):
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **fields}
        return self.json("POST", "/v1/completions", body, conn=conn, timeout=120)

    def stream(self, prompt, max_tokens=16, **fields):
        return Stream(self, prompt, max_tokens, **fields)

    def metrics(self):
        """{name: value}, labels summed up; histograms by their _sum, _count and _bucket."""
        _, _, data = self.request("GET", "/metrics")
        out = {}
        for line in data.decode().splitlines():
            if line and line[0] != "#":
                name, value = re.match(r"([A-Za-z_:][\w:]*)(?:\{.*\})? (\S+)", line).groups()
                out[name] = out.get(name, 0.0) + float(value)
        return out

    def metric(self, name):
        m = self.metrics()
        if "freehold_" + name not in m:
            raise AssertionError(f"no metric freehold_{name}; there are {sorted(m)}")
        return m["freehold_" + name]

    def wait_idle(self, timeout=10):
        """Until nothing runs or waits and every KV block is free or kept for its prefix; the seconds it took."""
        begin = time.monotonic()
        while True:
            m = self.metrics()
            left = [m["freehold_num_requests_running"], m["freehold_num_requests_waiting"],
                    m["freehold_kv_blocks"] - m["freehold_kv_blocks_free"] - m["freehold_kv_blocks_cached"]]
            if not any(left):
                return time.monotonic() - begin
            if time.monotonic() - begin > timeout:
                raise AssertionError(f"not idle after {timeout} s: running, waiting, KV blocks held = {left}")
            time.sleep(0.01)

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            return int(re.search(r"^VmRSS:\s+(\d+)", f.read(), re.M).group(1))

    def nr_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def task_status(self):
        """/proc/PID/task/N/status of each thread. One may end between the list and the look; some must be left."""
        out = []
        for task in os.listdir(f"/proc/{self.pid}/task"):
            try:
                with open(f"/proc/{self.pid}/task/{task}/status", encoding="ascii") as f:
                    out.append(f.read())
            except (FileNotFoundError, ProcessLookupError):
                continue
        if len(out) < 2:
            raise AssertionError(f"{len(out)} threads")
        return out

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stream:
    """One streamed completion, an event at a time."""

    def __init__(self, server, prompt, max_tokens, **fields):
        self.conn = server.connect(120)
        body = {"model": server.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True,
                **fields}
        self.conn.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        # getresponse() lets go of the socket when the server closes after this response.
        self.sock = self.conn.sock
        self.response = self.conn.getresponse()
        if self.response.status != 200:
            raise AssertionError(f"{self.response.status}: {self.response.read()!r}")

    def __iter__(self):
        """The decoded events; ends at [DONE], and says so if the stream broke off before."""
        while True:
            line = self.response.readline()
            if not line:
                raise AssertionError("the stream ended without [DONE]")
            if line.startswith(b"data: "):
                if line.strip() == b"data: [DONE]":
                    self.response.read()
                    return
                yield json.loads(line[6:])

    def text(self):
        out = "".join(c["text"] for e in self for c in e["choices"])
        self.close()
        return out

    def close(self):
        self.sock.close()
        self.conn.close()


def ended(pid):
    """
    Whether a process has, with all its threads: one that nobody waits for is a zombie until init, which may take its
    time, has looked.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return fields[0] in "ZX" and int(fields[17]) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def together(functions):
    """Run all at once, each on a thread; their results in order, the first exception if any."""
    results = [None] * len(functions)
    errors = []

    def run(i):
        try:
            results[i] = functions[i]()
        except BaseException as e:  # the thread ends here; the caller raises it
            errors.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return results


def golden(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]
