# SPDX-License-Identifier: Apache-2.0
"""A link between two network namespaces for tests of the DPDK plug-in.

One end, fh0, has no address of the kernel's: net_af_packet takes its frames.
The other, fh1, is an ordinary one of the kernel's. Everything goes with close().
"""

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FREEHOLD = os.environ.get("FREEHOLD", os.path.join(ROOT, "build", "freehold"))
PLUGIN = os.path.join(os.path.dirname(FREEHOLD), "freehold-dpdk.so")
CLONE_NEWNET = 0x40000000
EAL = "--no-huge -m 64 --no-pci"


def checksum(data):
    """Of IPv4, UDP and ICMP (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reason_to_skip():
    """Why there can be no link here; None: there can."""
    if not os.path.exists(PLUGIN):
        return "freehold-dpdk.so is not built (Debian: libdpdk-dev)"
    if os.geteuid() != 0 or not shutil.which("ip"):
        return "needs root and iproute2"
    probe = f"fhp{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "network namespaces cannot be made here"
    made = subprocess.run(["ip", "-n", probe, "link", "add", "fh0", "type", "veth", "peer", "name", "fh1"], capture_output=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return "veth devices cannot be made here" if made.returncode else None


class Link:
    """Namespaces `a` (fh0, for DPDK) and `b` (fh1, the kernel's: 192.0.2.2, 2001:db8::2)."""

    def __init__(self, mtu=1500, kernel_offload=False):
        self.a = f"fha{os.getpid()}"
        self.b = f"fhb{os.getpid()}"
        self.children = []
        self.ip("netns", "add", self.a)
        self.ip("netns", "add", self.b)
        self.lay()
        self.run(self.a, "sysctl", "-qw", "net.ipv6.conf.fh0.disable_ipv6=1")
        self.ip("-n", self.b, "addr", "add", "192.0.2.2/24", "dev", "fh1")
        self.ip("-n", self.b, "addr", "add", "2001:db8::2/64", "dev", "fh1", "nodad")
        for ns, dev in (self.a, "fh0"), (self.b, "fh1"):
            self.ip("-n", ns, "link", "set", dev, "mtu", str(mtu), "up")
        self.mac_a = self.mac(self.a, "fh0")
        self.mac_b = self.mac(self.b, "fh1")
        # What a real card would fill in, veth does not: net_af_packet would see checksums that are not there.
        if not kernel_offload:
            self.inside(self.b, lambda: self.tx_checksums("fh1", 0))

    def lay(self):
        """The wire itself."""
        self.ip("link", "add", "fh0", "netns", self.a, "type", "veth", "peer", "name", "fh1", "netns", self.b)

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def run(self, ns, *words, **more):
        return subprocess.run(["ip", "netns", "exec", ns, *words], check=True, capture_output=True, text=True, **more)

    def mac(self, ns, dev):
        words = self.run(ns, "ip", "link", "show", dev).stdout.split()
        return bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))

    @staticmethod
    def tx_checksums(dev, on):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            value = ctypes.create_string_buffer(struct.pack("II", 0x17, on))
            fcntl.ioctl(s, 0x8946, struct.pack("16sP", dev.encode(), ctypes.addressof(value)))

    @staticmethod
    def inside(ns, fn):
        """What fn returns when it runs in a namespace; sockets made there stay there."""
        result = []

        def body():
            with open(f"/run/netns/{ns}") as f:
                if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(fn())

        t = threading.Thread(target=body)
        t.start()
        t.join()
        return result[0]

    def raw(self):
        """A packet socket on fh1: every frame out and in, as it is."""

        def make():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.bind(("fh1", 3))
            s.settimeout(2)
            return s

        return self.inside(self.b, make)

    def bench(self, ns, *words):
        return ["ip", "netns", "exec", ns, FREEHOLD, "bench", "datagram", *words]

    def start(self, ns, *words):
        """An echo in the background, ready."""
        p = subprocess.Popen(self.bench(ns, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.children.append(p)
        line = p.stdout.readline()
        if line != "ready\n":
            p.kill()
            raise RuntimeError(f"no echo: {line}{p.stderr.read()}")
        return p

    def dpdk_echo(self, *more, own="", params="", address="192.0.2.1:7000"):
        return self.start(self.a, "--echo", address, "--dpdk", f"net_af_packet0,iface=fh0{params}", "--json", "--metrics",
                          "--eal", f"{EAL} -- address=2001:db8::1/64 {own}", *more)

    def server(self, folder, keys, model, *args, params=""):
        """`freehold serve` in namespace a, at udp://...@192.0.2.1:9000 behind DPDK; a server.Server."""
        import server

        wrapper = os.path.join(folder, "freehold")
        with open(wrapper, "w") as f:
            f.write(f"#!/bin/sh\nexec ip netns exec {self.a} {FREEHOLD} \"$@\"\n")
        os.chmod(wrapper, 0o755)
        real, server.FREEHOLD = server.FREEHOLD, wrapper
        try:
            return server.Server(model, "--threads", "1", *keys.args("192.0.2.1:9000"), "--udp-dpdk",
                                 f"net_af_packet0,iface=fh0{params}", "--udp-eal", EAL, *args, listen=f"unix:{folder}/http")
        finally:
            server.FREEHOLD = real

    def stop(self, p):
        """Its report: the JSON's text, and the metrics as a dictionary of kind or name to number."""
        p.terminate()
        out, err = p.communicate(timeout=20)
        lines = out.splitlines()
        metrics = {}
        for line in lines[1:]:
            if line.startswith("#"):
                continue
            name, value = line.rsplit(" ", 1)
            labels = dict(part.split("=", 1) for part in name[name.index("{") + 1:-1].split(","))
            key = (labels["queue"].strip('"'), labels.get("kind", name[:name.index("{")]).strip('"'))
            metrics[key] = int(value)
        if p.returncode:
            raise RuntimeError(f"status {p.returncode}: {err}")
        return lines[0], metrics

    def close(self):
        for p in self.children:
            if p.poll() is None:
                p.kill()
            p.communicate()
        for ns in self.a, self.b:
            subprocess.run(["ip", "netns", "del", ns], capture_output=True)
