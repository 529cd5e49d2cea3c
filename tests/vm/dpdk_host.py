#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The host's part of `tests/vm/qemu.sh dpdk`: dpdk_host.py SERIES STOP_FILE LOG.

The guest's card sends each Ethernet frame in a datagram over the loopback. Here
they go on over a veth pair to a namespace, whose kernel then asks the guest for
its addresses, pings it, and sends it datagrams: `freehold bench datagram`.
"""

import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
import dpdk_link  # noqa: E402
import server  # noqa: E402
import udp  # noqa: E402


PROMPTS = ["Once upon a time", "The old King"]


def free_port():
    """One for the guest that is free now; QEMU binds it in a moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Relay(threading.Thread):
    """Frames between fh0 of a link and the guest's card; how many went each way."""

    def __init__(self, link):
        super().__init__(daemon=True)
        self.counts = [0, 0]
        self.stopped = False
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.udp.bind(("127.0.0.1", 0))
        self.port = self.udp.getsockname()[1]
        self.guest = ("127.0.0.1", free_port())

        def make():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            s.bind(("fh0", 3))
            return s

        # The guest's card has another address than fh0.
        link.ip("-n", link.a, "link", "set", "fh0", "promisc", "on")
        self.packet = link.inside(link.a, make)

    def run(self):
        while not self.stopped:
            ready, _, _ = select.select([self.udp, self.packet], [], [], 0.2)
            for s in ready:
                try:
                    if s is self.udp:
                        self.packet.send(s.recv(65535))
                        self.counts[0] += 1
                    else:
                        frame, where = s.recvfrom(65535)
                        if where[2] == socket.PACKET_OUTGOING:
                            continue
                        self.udp.sendto(frame, self.guest)
                        self.counts[1] += 1
                except OSError:
                    pass


class Guest:
    """QEMU, from LISTENING to VM OK."""

    def __init__(self, series, ports, stop, log, settings, what="dpdk", begins="LISTENING"):
        self.log, self.stop = log, stop
        for path in stop, stop + ".2", log:
            if os.path.exists(path):
                os.remove(path)
        env = {**os.environ, "FH_PORT_HOST": str(ports[0]), "FH_PORT_GUEST": str(ports[1]),
               "FH_GUEST_SET": ",".join(f"{k}={v}" for k, v in settings.items())}
        self.process = subprocess.Popen([os.path.join(HERE, "qemu.sh"), what, series], env=env, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        self.wait_for(begins, deadline)

    def wait_for(self, word, deadline):
        while word not in self.text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the guest does not come to {word}:\n{self.text()[-3000:]}")
            time.sleep(0.1)

    def serve(self):
        """The echo ends, the server begins."""
        with open(self.stop, "w"):
            pass
        self.wait_for("SERVING", time.monotonic() + 60)

    def text(self):
        try:
            with open(self.log, errors="replace") as f:
                return f.read().replace("\r", "")
        except FileNotFoundError:
            return ""

    def end(self):
        """The guest's report and its counters."""
        with open(self.stop + ".2", "w"):
            pass
        self.process.wait(timeout=60)
        for path in self.stop, self.stop + ".2":
            os.remove(path)
        text = self.text()
        if "VM OK" not in text:
            raise RuntimeError("the guest did not come to its end:\n" + text[-3000:])
        report = json.loads(re.search(r"^\{.*\}$", text, re.M).group(0))
        metrics = dict(re.findall(r'kind="(\w+)"\} (\d+)$', text, re.M))
        metrics.update(re.findall(r'^freehold_dpdk_(\w+)\{device="[^"]*",queue="0"\} (\d+)$', text, re.M))
        return report, {k: int(v) for k, v in metrics.items()}


def ask(link, *words):
    p = subprocess.run(link.bench(link.b, "--json", *words), capture_output=True, text=True, timeout=120)
    if p.returncode:
        raise RuntimeError(p.stdout + p.stderr)
    return json.loads(p.stdout)


def check(name, good, said=""):
    print(f"[{'PASS' if good else 'FAIL'}] vm-dpdk::{name}{': ' + str(said) if said and not good else ''}")
    return bool(good)


def main():
    series, stop, log = sys.argv[1:]
    skip = dpdk_link.reason_to_skip()
    if skip:
        print(f"[SKIP] vm-dpdk: {skip}\n0 passed, 0 failed, 1 skipped")
        return 0
    link = dpdk_link.Link(mtu=9000)
    results = []
    folder = tempfile.TemporaryDirectory(prefix="keys-", dir=os.path.dirname(os.path.abspath(stop)))
    try:
        relay = Relay(link)
        relay.start()
        keys = udp.Keys(folder.name)
        # The guest has no AVX-512: the same kernels on both sides, so the same tokens.
        with server.Server(server.DEMO_MODEL, "--threads", "1", env={"FREEHOLD_ISA": "avx2"}) as s:
            want = [s.complete(p, 16, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"] for p in PROMPTS]
        guest = Guest(series, (relay.port, relay.guest[1]), stop, os.path.abspath(log), {"FH_MTU": 8900, "FH_KEYS": folder.name})
        ping = ["ping"] if shutil.which("ping") else ["busybox", "ping"]
        for family, more in ("192.0.2.1", ()), ("2001:db8::1", ("-6", "-s", "1400")):
            p = subprocess.run(["ip", "netns", "exec", link.b, *ping, *more, "-c", "2", "-W", "5", "-i", "0.3", family],
                               capture_output=True, text=True)
            results.append(check(f"ping {family}", p.returncode == 0, p.stdout))
        asked = 0
        for to, n, count, window in (("192.0.2.1:7000", 64, 500, 1), ("[2001:db8::1]:7000", 1400, 300, 1),
                                     ("192.0.2.1:7000", 8900, 200, 1), ("192.0.2.1:7000", 64, 5000, 32)):
            got = ask(link, "--to", to, "--bytes", str(n), "--count", str(count), "--window", str(window),
                      "--timeout-ms", "5000")
            asked += count
            results.append(check(f"{count} of {n} bytes to {to}, {window} at a time",
                                 (got["round_trips"], got["lost"], got["wrong"]) == (count, 0, 0), got))
            print(f"    median {got['median_us']:.0f} us, p99 {got['p99_us']:.0f} us, {got['per_s']:.0f}/s")
        guest.serve()

        def tokens():
            with udp.Client(f"udp://{keys.server_public}@192.0.2.1:9000", keys.client, open_us=20000000) as c:
                return [c.tokens(p, 16)[0] for p in PROMPTS]

        got = link.inside(link.b, tokens)
        results.append(check("the built-in model's greedy tokens", got == want, (got, want)))
        report, metrics = guest.end()
        results.append(check("the server ends well", "SERVED 0" in guest.text(), guest.text()[-1500:]))
        # virtio's driver cannot be told to give sent frames back: slots, of 16 bytes, go out as copies, which are counted.
        copied = re.search(r"^freehold_udp_carrier_copied_bytes_total (\d+)", guest.text(), re.M)
        results.append(check("tokens are copied into the frame",
                             copied and int(copied[1]) >= 16 * sum(map(len, want)), copied and copied[0]))
        port = report["ports"][0]
        results.append(check("what comes and goes back is not copied, nothing dropped",
                             (port["copied_bytes"], port["recv_dropped"], port["send_failed"]) == (0, 0, 0), port))
        results.append(check("every datagram seen once", port["received"] == port["sent"] == asked, (port, asked)))
        results.append(check("the card counts what we count", metrics["rx_packets_total"] >= asked and
                             metrics["rx_missed_total"] == metrics["rx_errors_total"] == metrics["tx_errors_total"] == 0,
                             metrics))
        results.append(check("it slept until the card interrupted", metrics["interrupts_total"] > 0, metrics))
        said = re.findall(r"^EAL: Error.*$", guest.text(), re.M)
        results.append(check("DPDK has no error to tell of", not said, said))
        results.append(check("no bad checksum", metrics["bad_checksum"] == 0, metrics))
        relay.stopped = True
    except (RuntimeError, subprocess.SubprocessError, AttributeError, KeyError) as e:
        results.append(check("runs", False, f"{type(e).__name__}: {e}"))
    finally:
        for path in stop, stop + ".2":
            with open(path, "w"):
                pass
        link.close()
        folder.cleanup()
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed, 0 skipped")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
