# SPDX-License-Identifier: Apache-2.0
"""The DPDK plug-in on a link between two namespaces: net_af_packet without huge pages at one end, the kernel at the other.

The kernel's stack is the judge: it asks for addresses, pings, checks checksums, and sends back what came.
"""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import dpdk_link
from dpdk_link import EAL, FREEHOLD, Link, checksum

SKIP = dpdk_link.reason_to_skip()


def udp4(src, dst, payload, sport=9, dport=7000, bad=False):
    udp = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload
    total = checksum(src + dst + struct.pack(">HH", 17, len(udp)) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack(">H", total ^ (1 if bad else 0)) + udp[8:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0) + src + dst
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + udp


A4, B4 = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
A6, B6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1"), socket.inet_pton(socket.AF_INET6, "2001:db8::2")


@unittest.skipIf(SKIP, SKIP)
class Dpdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.link = Link()

    @classmethod
    def tearDownClass(cls):
        cls.link.close()

    def ask(self, ns, *words, status=0):
        p = subprocess.run(self.link.bench(ns, "--json", *words), capture_output=True, text=True, timeout=60)
        self.assertEqual(p.returncode, status, p.stderr + p.stdout)
        return json.loads(p.stdout)

    def all_back(self, got, count):
        self.assertEqual((got["round_trips"], got["lost"], got["wrong"], got["late"]), (count, 0, 0, 0), got)

    def kernel_counters(self):
        lines = self.link.run(self.link.b, "cat", "/proc/net/snmp").stdout.splitlines()
        names, values = [line.split()[1:] for line in lines if line.startswith("Udp:")]
        return dict(zip(names, map(int, values)))

    def test_echo_and_ping(self):
        """Datagrams of the kernel's come back over both families, and it finds the address and pings."""
        link = self.link
        ping = ["ping"] if shutil.which("ping") else ["busybox", "ping"]
        echo = link.dpdk_echo()
        link.run(link.b, *ping, "-c", "2", "-i", "0.2", "-W", "2", "192.0.2.1")
        link.run(link.b, *ping, "-6", "-c", "2", "-i", "0.2", "-W", "2", "-s", "1400", "2001:db8::1")
        for address, largest in ("192.0.2.1:7000", 1472), ("[2001:db8::1]:7000", 1452):
            for n in 16, 333, largest:
                self.all_back(self.ask(link.b, "--to", address, "--bytes", str(n), "--count", "300"), 300)
        got = self.ask(link.b, "--to", "192.0.2.1:7000", "--window", "64", "--count", "5000")
        self.all_back(got, 5000)
        report, metrics = link.stop(echo)
        port = json.loads(report)["ports"][0]
        self.assertEqual((port["received"], port["sent"]), (6800, 6800), port)
        self.assertEqual((port["copied_bytes"], port["recv_dropped"], port["send_failed"]), (0, 0, 0), port)
        self.assertEqual((metrics["0", "data"], metrics["0", "echo"]), (6800, 4))
        self.assertGreaterEqual(metrics["0", "arp"], 1)
        self.assertGreaterEqual(metrics["0", "nd"], 1)
        self.assertEqual(metrics["0", "bad_checksum"], 0)
        self.assertEqual(self.kernel_counters()["InCsumErrors"], 0)

    def test_client(self):
        """The other way round: the kernel sends back, DPDK asks; in one piece, in two, and in two that are put together."""
        link = self.link
        before = self.kernel_counters()
        echo = link.start(link.b, "--echo", "192.0.2.2:7001", "--json")
        here = ["--to", "192.0.2.2:7001", "--dpdk", "net_af_packet0,iface=fh0", "--eal", EAL, "--bind", "192.0.2.1",
                "--count", "1000", "--bytes", "333", "--window", "8"]
        for more, copied in ([], 0), (["--tail"], 0), (["--tail", "--no-offload"], 316 * 1000):
            got = self.ask(link.a, *here, *more)
            self.all_back(got, 1000)
            self.assertEqual((got["port"]["copied_bytes"], got["port"]["sent_bytes"]), (copied, 333000), got)
        link.stop(echo)
        echo = link.start(link.b, "--echo", "[2001:db8::2]:7001", "--json")
        got = self.ask(link.a, "--to", "[2001:db8::2]:7001", "--dpdk", "net_af_packet0,iface=fh0", "--eal", EAL, "--bind",
                       "2001:db8::1", "--tail", "--bytes", "1400", "--count", "500")
        self.all_back(got, 500)
        link.stop(echo)
        after = self.kernel_counters()
        self.assertEqual(after["InCsumErrors"], before["InCsumErrors"])

    def test_frames(self):
        """What a link may carry beside: each counted once under its name, none answered; answers are right to the bit."""
        link = self.link
        echo = link.dpdk_echo()
        raw = link.raw()
        head = link.mac_a + link.mac_b + b"\x08\x00"
        good = udp4(B4, A4, b"x" * 20)
        # Of IPv6: those of IPv4 are put together by net_af_packet's own socket.
        fragment = struct.pack(">IHBB", 6 << 28, 8 + 28, 44, 64) + B6 + A6 + struct.pack(">BBHI", 17, 0, 1, 7) + good[20:]
        head6 = link.mac_a + link.mac_b + b"\x86\xdd"
        frames = {
            "bad_checksum": [head + udp4(B4, A4, b"y" * 20, bad=True), head + good[:11] + b"\x77" + good[12:]],
            "fragment": [head6 + fragment] * 3,
            "bad_length": [head + good[:30], head[:13] + b"\x00" + good[:10]],
            "not_ours": [link.mac_b + head[6:] + good],
            "other_port": [head + udp4(B4, A4, b"", dport=7002)] * 2,
            "other_proto": [head[:12] + b"\x88\xb5" + b"\0" * 50] * 2,
            "data": [head + good],
        }
        for kind in frames:
            for f in frames[kind]:
                raw.send(f)
        # The one good datagram's answer, looked at with this file's own eyes.
        deadline = time.monotonic() + 5
        seen = None
        while not seen and time.monotonic() < deadline:
            f = raw.recv(2000)
            if f[:12] == link.mac_b + link.mac_a and f[12:14] == b"\x08\x00" and f[23] == 17:
                seen = f
        self.assertIsNotNone(seen)
        ip, udp = seen[14:34], seen[34:62]
        self.assertEqual(checksum(ip), 0)
        self.assertEqual(checksum(ip[12:20] + struct.pack(">HH", 17, 28) + udp), 0)
        self.assertEqual((struct.unpack(">HHH", udp[:6]), udp[8:]), ((7000, 9, 28), b"x" * 20))
        raw.settimeout(0.2)
        more = []
        try:
            while True:
                f = raw.recv(2000)
                if f[6:12] == link.mac_a and f[12:14] == b"\x08\x00":
                    more.append(f)
        except TimeoutError:
            pass
        self.assertEqual(more, [])
        raw.close()
        _, metrics = link.stop(echo)
        for kind in frames:
            count = len(frames[kind])
            # Frames of the kernel's own (router solicitations and the like) come along.
            if kind in ("not_ours", "other_proto"):
                self.assertGreaterEqual(metrics["0", kind], count, kind)
            else:
                self.assertEqual(metrics["0", kind], count, kind)

    def test_random_frames(self):
        """Twenty thousand frames of noise, half of them with headers that look good: it still answers."""
        import random

        link = self.link
        echo = link.dpdk_echo()
        raw = link.raw()
        rng = random.Random(5)
        for i in range(20000):
            n = rng.choice((14, 20, 42, 60, 100, 600))
            f = bytearray(link.mac_a + link.mac_b + rng.choice((b"\x08\x00", b"\x08\x06", b"\x86\xdd")) + rng.randbytes(n))
            if i % 2:
                f[14] = 0x45 if f[13] == 0 else 0x60 if f[13] == 0xDD else f[14]
                if len(f) >= 34 and f[13] == 0:
                    f[16:18] = struct.pack(">H", len(f) - 14)
                    f[20:22] = b"\0\0"
                    f[23] = rng.choice((1, 17))
                    f[30:34] = A4
                    f[24:26] = b"\0\0"
                    f[24:26] = struct.pack(">H", checksum(bytes(f[14:34])))
            raw.send(f)
        raw.close()
        self.all_back(self.ask(link.b, "--to", "192.0.2.1:7000", "--count", "500"), 500)
        _, metrics = link.stop(echo)
        self.assertEqual(metrics["0", "data"], 500)
        self.assertGreater(metrics["0", "bad_checksum"], 100)

    def test_two_queues(self):
        """Flows are spread over queues, and every one of them is answered."""
        link = self.link
        echo = link.dpdk_echo("--queues", "2", params=",qpairs=2")
        for _ in range(12):
            self.all_back(self.ask(link.b, "--to", "192.0.2.1:7000", "--count", "50"), 50)
        report, _ = link.stop(echo)
        queues = [p["received"] for p in json.loads(report)["ports"]]
        self.assertEqual(sum(queues), 600)
        self.assertGreater(min(queues), 0, "one queue got all of twelve flows")

    def test_idle(self):
        """With nothing to do it gives the core back, and is there again within the time that it was told to sleep at most."""
        link = self.link
        echo = link.dpdk_echo(own="idle-sleep-us=500")
        pid = int(subprocess.run(["pgrep", "-P", str(echo.pid)], capture_output=True, text=True).stdout or echo.pid)

        def ticks():
            with open(f"/proc/{pid}/stat") as f:
                words = f.read().rsplit(")", 1)[1].split()
            return int(words[11]) + int(words[12])

        time.sleep(0.2)
        before, begin = ticks(), time.monotonic()
        time.sleep(1.5)
        share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begin)
        self.assertLess(share, 0.35, "of a core, idle")
        got = self.ask(link.b, "--to", "192.0.2.1:7000", "--count", "200", "--pause-us", "3000")
        self.all_back(got, 200)
        # Asleep in each of the pauses: the median shows it, and stays below the longest sleep by far.
        self.assertLess(got["median_us"], 2000, got)
        link.stop(echo)

    def test_both_ends(self):
        """DPDK at both ends."""
        link = self.link
        echo = link.dpdk_echo()
        self.link.ip("-n", link.b, "addr", "flush", "dev", "fh1")
        try:
            for bind, to in ("192.0.2.2", "192.0.2.1:7000"), ("2001:db8::2", "[2001:db8::1]:7000"):
                got = self.ask(link.b, "--to", to, "--dpdk", "net_af_packet1,iface=fh1", "--eal", EAL, "--bind", bind,
                               "--count", "500", "--tail", "--bytes", "1000")
                self.all_back(got, 500)
        finally:
            self.link.ip("-n", link.b, "addr", "add", "192.0.2.2/24", "dev", "fh1")
            self.link.ip("-n", link.b, "addr", "add", "2001:db8::2/64", "dev", "fh1", "nodad")
        link.stop(echo)

    def test_one_core(self):
        """Two that poll on one core do not wait for one another to have polled enough."""
        link, own, all_cores = self.link, "idle-polls=8000", os.sched_getaffinity(0)
        link.ip("-n", link.b, "addr", "flush", "dev", "fh1")
        os.sched_setaffinity(0, {min(all_cores)})
        try:
            echo = link.dpdk_echo(own=own)
            got = self.ask(link.b, "--to", "192.0.2.1:7000", "--dpdk", "net_af_packet1,iface=fh1", "--eal", f"{EAL} -- {own}",
                           "--bind", "192.0.2.2", "--count", "1000")
            link.stop(echo)
        finally:
            os.sched_setaffinity(0, all_cores)
            link.ip("-n", link.b, "addr", "add", "192.0.2.2/24", "dev", "fh1")
            link.ip("-n", link.b, "addr", "add", "2001:db8::2/64", "dev", "fh1", "nodad")
        self.all_back(got, 1000)
        self.assertLess(got["median_us"], 300, got)

    def test_tokens(self):
        """The built-in model's greedy tokens, from a server behind DPDK to a client's socket and to one behind DPDK."""
        import server
        import udp

        link = self.link
        with tempfile.TemporaryDirectory(prefix="freehold-dpdk-") as folder:
            keys = udp.Keys(folder)
            # The device has one queue: it is said, and used.
            with link.server(folder, keys, server.DEMO_MODEL, "--udp-queues", "2") as s:
                self.assertRegex(s.log_text(), r"udp: udp://\S+@192\.0\.2\.1:9000 on dpdk,")
                self.assertRegex(s.log_text(), r"over which it spreads flows: 1 of 2 are used|2 queues on 1 CPU")
                prompts = ["Once upon a time", "The old King"]
                want = [s.complete(p, 24, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"] for p in prompts]
                url = f"udp://{keys.server_public}@192.0.2.1:9000"

                def ask():
                    with udp.Client(url, keys.client) as c:
                        return [c.tokens(p, 24) for p in prompts]

                self.assertEqual(link.inside(link.b, ask), [(w, (2, 0)) for w in want])
                self.link.ip("-n", link.b, "addr", "flush", "dev", "fh1")
                try:
                    code = ("import sys, json, udp\n"
                            "with udp.Client(sys.argv[1], sys.argv[2]) as c:\n"
                            "    print(json.dumps([c.tokens(p, 24) for p in sys.argv[3:]]))")
                    p = subprocess.run(["ip", "netns", "exec", link.b, "python3", "-c", code, url, keys.client, *prompts],
                                       capture_output=True, text=True, timeout=60, cwd=os.path.dirname(udp.__file__),
                                       env={**os.environ, "FREEHOLD_DPDK": f"net_af_packet1,iface=fh1 192.0.2.2/24 {EAL}"})
                finally:
                    self.link.ip("-n", link.b, "addr", "add", "192.0.2.2/24", "dev", "fh1")
                    self.link.ip("-n", link.b, "addr", "add", "2001:db8::2/64", "dev", "fh1", "nodad")
                self.assertEqual(p.returncode, 0, p.stderr)
                self.assertEqual(json.loads(p.stdout), [[w, [2, 0]] for w in want])
                m = s.metrics()
                self.assertEqual((m["freehold_udp_requests_total"], m["freehold_udp_carrier_copied_bytes_total"]), (4, 0))
                self.assertGreater(m["freehold_dpdk_frames_total"], 0)
                self.assertEqual(s.terminate(), 0)

    def test_tokens_over_two_queues(self):
        """A server with two queues: clients are spread over them, and each gets its tokens, whichever its queue is."""
        import server
        import udp

        link = self.link
        # More threads than CPUs are not used.
        if len(os.sched_getaffinity(0)) < 2:
            self.skipTest("one CPU")
        with tempfile.TemporaryDirectory(prefix="freehold-dpdk-") as folder:
            keys = udp.Keys(folder)
            with link.server(folder, keys, server.DEMO_MODEL, "--udp-queues", "2", params=",qpairs=2") as s:
                self.assertRegex(s.log_text(), r"on dpdk, several queues")
                want = s.complete("The old King", 12, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"]
                url = f"udp://{keys.server_public}@192.0.2.1:9000"

                def ask():
                    clients = [udp.Client(url, keys.client) for _ in range(12)]
                    got = [c.tokens("The old King", 12) for c in clients for _ in range(2)]
                    for c in clients:
                        c.close()
                    return got

                self.assertEqual(link.inside(link.b, ask), [(want, (2, 0))] * 24)
                text = s.request("GET", "/metrics")[2].decode()
                m = s.metrics()
                self.assertEqual((m["freehold_udp_requests_total"], m["freehold_udp_sessions_total"]), (24, 12))
                data = [int(n) for n in re.findall(r'^freehold_dpdk_frames_total\{[^}]*kind="data"\} (\d+)$', text, re.M)]
                self.assertEqual(len(data), 2, text)
                self.assertGreater(min(data), 0, "one queue got all of twelve clients")
                # Each family stands together and is declared once.
                kinds = re.findall(r"^# TYPE (freehold_\S+)", text, re.M)
                self.assertEqual(len(kinds), len(set(kinds)))
                self.assertEqual(s.terminate(), 0)

    def test_what_cannot_be(self):
        """Each mistake is named."""
        link = self.link
        base = ["--echo", "192.0.2.1:7000"]
        device = ["--dpdk", "net_af_packet0,iface=fh0"]
        for words, env, want in (
            (["--dpdk", "0000:99:00.0", "--eal", EAL], {}, "0000:99:00.0.*vfio-pci"),
            (["--dpdk", "net_af_packet0,iface=nope", "--eal", EAL], {}, "net_af_packet0"),
            ([*device, "--eal", f"{EAL} -- nonsense=1"], {}, "nonsense=1"),
            ([*device, "--eal", "--no-such-option"], {}, "DPDK does not start"),
            ([*device, "--eal", EAL, "--prefix", "0"], {}, "no host can have this address"),
            ([*device, "--eal", EAL, "--prefix", "24", "--gateway", "192.0.3.1"], {}, "gateway"),
            ([*device, "--eal", EAL, "--mtu", "8900"], {}, "MTU of 8948 is more than its 1500"),
            ([*device, "--eal", EAL, "--queues", "4"], {}, "4 queues are wanted, it has 1"),
            ([*device, "--eal", EAL], {"FREEHOLD_PLUGIN_DIR": "/nowhere"}, "/nowhere/freehold-dpdk.so"),
        ):
            p = subprocess.run(self.link.bench(link.a, *base, *words), capture_output=True, text=True, timeout=30,
                               env={**os.environ, **env})
            self.assertEqual(p.returncode, 1, p.stderr)
            self.assertTrue(re.search(want, p.stderr), p.stderr)


if __name__ == "__main__":
    unittest.main()
