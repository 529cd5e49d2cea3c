# SPDX-License-Identifier: Apache-2.0
"""What the tests over UDP share: keys, libfreehold by way of ctypes, and a
network between client and server that does what it is told."""

import ctypes
import os
import random
import re
import select
import socket
import subprocess
import threading
import time

from server import FREEHOLD, ROOT, Server

LAST, NO_TOKEN = 1, 2
CLASS_BATCH = 2
REQ_TEXT, REQ_IGNORE_EOS = 1, 2


class OpenOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("api_key", ctypes.c_char_p), ("model", ctypes.c_char_p),
                ("max_requests", ctypes.c_uint32), ("cq_entries", ctypes.c_uint32), ("arena_bytes", ctypes.c_uint64),
                ("open_us", ctypes.c_uint32), ("spin_us", ctypes.c_int32), ("udp_key_file", ctypes.c_char_p)]


class Params(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("user_data", ctypes.c_uint64),
                ("max_tokens", ctypes.c_uint32), ("ttft_us", ctypes.c_uint32), ("tpot_us", ctypes.c_uint32),
                ("req_class", ctypes.c_uint32), ("budget_tokens", ctypes.c_uint64), ("run_id", ctypes.c_uint8 * 16),
                ("seed", ctypes.c_uint64), ("temperature", ctypes.c_float), ("top_k", ctypes.c_uint32),
                ("top_p", ctypes.c_float), ("min_p", ctypes.c_float), ("typical_p", ctypes.c_float),
                ("repetition_penalty", ctypes.c_float), ("presence_penalty", ctypes.c_float),
                ("frequency_penalty", ctypes.c_float)]


class Token(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64), ("user_data", ctypes.c_uint64), ("token", ctypes.c_uint32), ("index", ctypes.c_uint32),
                ("logprob", ctypes.c_float), ("flags", ctypes.c_uint32), ("finish", ctypes.c_uint32), ("error", ctypes.c_int32),
                ("retry_us", ctypes.c_uint32), ("cut_bytes", ctypes.c_uint32), ("text", ctypes.c_char_p),
                ("text_bytes", ctypes.c_uint64)]


def library():
    subprocess.run(["make", "-s", "lib"], cwd=ROOT, check=True)
    lib = ctypes.CDLL(os.path.join(ROOT, "build", "libfreehold.so"))
    lib.fh_error_message.restype = ctypes.c_char_p
    for name in ("fh_close", "fh_error_message", "fh_next_token", "fh_generate", "fh_generate_text", "fh_cancel", "fh_fd",
                 "fh_try_next"):
        getattr(lib, name).argtypes = {
            "fh_close": [ctypes.c_void_p],
            "fh_error_message": [ctypes.c_void_p],
            "fh_next_token": [ctypes.c_void_p, ctypes.POINTER(Token), ctypes.c_int64],
            "fh_try_next": [ctypes.c_void_p, ctypes.POINTER(Token)],
            "fh_generate": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(Params),
                            ctypes.POINTER(ctypes.c_uint64)],
            "fh_generate_text": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(Params),
                                 ctypes.POINTER(ctypes.c_uint64)],
            "fh_cancel": [ctypes.c_void_p, ctypes.c_uint64],
            "fh_fd": [ctypes.c_void_p],
        }[name]
    return lib


class Refused(Exception):
    def __init__(self, code, why):
        super().__init__(f"{code}: {why}")
        self.code = code


class Client:
    """A handle of libfreehold."""

    lib = None

    def __init__(self, where, key_file, **options):
        Client.lib = Client.lib or library()
        o = OpenOptions(size=ctypes.sizeof(OpenOptions), udp_key_file=key_file.encode(), **options)
        self.handle = ctypes.c_void_p()
        rc = self.lib.fh_open(where.encode(), ctypes.byref(o), ctypes.byref(self.handle))
        if rc:
            why = self.lib.fh_error_message(self.handle).decode()
            self.close()
            raise Refused(rc, why)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        if self.handle:
            self.lib.fh_close(self.handle)
        self.handle = None

    def submit(self, prompt, max_tokens, user=0, flags=REQ_IGNORE_EOS, **params):
        p = Params(size=ctypes.sizeof(Params), max_tokens=max_tokens, user_data=user, flags=flags, **params)
        rid = ctypes.c_uint64()
        if isinstance(prompt, str):
            data = prompt.encode()
            rc = self.lib.fh_generate_text(self.handle, data, len(data), ctypes.byref(p), ctypes.byref(rid))
        else:
            ids = (ctypes.c_uint32 * len(prompt))(*prompt)
            rc = self.lib.fh_generate(self.handle, ids, len(prompt), ctypes.byref(p), ctypes.byref(rid))
        if rc:
            raise Refused(rc, self.lib.fh_error_message(self.handle).decode())
        return rid.value

    def next(self, timeout_s=30):
        t = Token()
        rc = self.lib.fh_next_token(self.handle, ctypes.byref(t), int(timeout_s * 1e6))
        if rc:
            raise Refused(rc, self.lib.fh_error_message(self.handle).decode())
        return t

    def tokens(self, prompt, max_tokens, **kw):
        """Token ids, and the last token's (finish, error)."""
        self.submit(prompt, max_tokens, **kw)
        out = []
        while True:
            t = self.next()
            if not t.flags & NO_TOKEN:
                assert t.index == len(out), (t.index, len(out))
                out.append(t.token)
            if t.flags & LAST:
                return out, (t.finish, t.error)

    def cancel(self, rid):
        return self.lib.fh_cancel(self.handle, rid)


def make_key(path):
    return subprocess.run([FREEHOLD, "udp-key", path], check=True, capture_output=True, text=True).stdout.strip()


class Keys:
    """A server's and a client's keys in a folder."""

    def __init__(self, folder):
        self.server = os.path.join(folder, "server.key")
        self.client = os.path.join(folder, "client.key")
        self.stranger = os.path.join(folder, "stranger.key")
        self.clients = os.path.join(folder, "clients")
        self.server_public = make_key(self.server)
        make_key(self.stranger)
        with open(self.clients, "w", encoding="ascii") as f:
            f.write(f"# who may come\ntester {make_key(self.client)}\n")

    def args(self, listen="127.0.0.1:0"):
        return ["--udp", listen, "--udp-key", self.server, "--udp-clients", self.clients]


class UdpServer(Server):
    def __init__(self, model, keys, *args, listen="127.0.0.1:0", **kw):
        super().__init__(model, *keys.args(listen), *args, **kw)
        self.udp_url = re.search(r"udp: (udp://\S+) on", self.log_text()).group(1)
        self.udp_port = int(self.udp_url.rsplit(":", 1)[1])

    def dropped(self):
        _, _, data = self.request("GET", "/metrics")
        return {m.group(1): int(m.group(2))
                for m in re.finditer(r'freehold_udp_packets_dropped_total\{reason="(\w+)"\} (\d+)', data.decode())}


class Proxy:
    """Datagrams to and fro, by way of hook(data, to_server), which returns a list of what is sent on."""

    def __init__(self, port, hook=None):
        self.hook = hook or (lambda data, to_server: [data])
        self.front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.front.bind(("127.0.0.1", 0))
        self.port = self.front.getsockname()[1]
        self.back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.back.connect(("127.0.0.1", port))
        self.client = None
        self.seen = []
        self.over = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.over:
            for s in select.select([self.front, self.back], [], [], 0.05)[0]:
                try:
                    if s is self.front:
                        data, self.client = s.recvfrom(65536)
                    else:
                        data = s.recv(65536)
                except ConnectionRefusedError:
                    continue
                self.seen.append((s is self.front, data))
                for d in self.hook(data, s is self.front):
                    try:
                        if s is self.front:
                            self.back.send(d)
                        elif self.client:
                            self.front.sendto(d, self.client)
                    except OSError:
                        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        time.sleep(0.05)  # what is on its way still arrives
        self.over = True
        self.thread.join()
        self.front.close()
        self.back.close()


def lossy(seed, share):
    """A hook that loses, doubles and spoils."""
    rng = random.Random(seed)

    def hook(data, _):
        out = []
        for _ in range(1 + (rng.random() < share)):
            if rng.random() < share:
                continue
            if rng.random() < share:
                at = rng.randrange(len(data))
                data = data[:at] + bytes([data[at] ^ (1 + rng.randrange(255))]) + data[at + 1:]
            out.append(data)
        return out

    return hook


def wait_for(what, timeout=10):
    until = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
