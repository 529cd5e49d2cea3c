# SPDX-License-Identifier: Apache-2.0
"""A link like dpdk_link's with a bad wire between its ends, and frames of nobody's.

Every frame passes through a namespace in between, where it may be lost,
doubled, held back until others have overtaken it, or spoiled. Of the spoiled
ones half have a wrong checksum, as from a bad cable, and half one that was made
right again, so that the protocol's own seal is what has to find it.
"""

import os
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections import deque

from dpdk_link import Link, checksum

SOL_PACKET, IGNORE_OUTGOING = 263, 23
HEAD = 14 + 20 + 8  # Ethernet, IPv4 without options, UDP
HELD_S = 0.005
A4, B4 = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


def sealed(head, payload, src=B4, dst=A4, sport=9, dport=9000):
    """A frame that any stack takes: an Ethernet header, and right lengths and checksums."""
    udp = struct.pack(">HHH", sport, dport, 8 + len(payload))
    total = checksum(src + dst + struct.pack(">HH", 17, 8 + len(payload)) + udp + b"\0\0" + payload) or 0xFFFF
    ip = struct.pack(">BBHHHBB", 0x45, 0, 28 + len(payload), 0, 0, 64, 17) + b"\0\0" + src + dst
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return head + ip + udp + struct.pack(">H", total) + payload


def is_udp4(frame):
    return len(frame) >= HEAD and frame[12:15] == b"\x08\x00\x45" and frame[23] == 17 and not frame[20] & 0x3F


def spoiled(frame, rng):
    """@frame with one byte changed."""
    f = bytearray(frame)
    if is_udp4(frame) and len(f) > HEAD and rng.random() < 0.5:
        f[rng.randrange(HEAD, len(f))] ^= 1 + rng.randrange(255)
        end = 14 + struct.unpack(">H", f[16:18])[0]
        sport, dport = struct.unpack(">HH", f[34:38])
        return sealed(bytes(f[:14]), bytes(f[HEAD:end]), bytes(f[26:30]), bytes(f[30:34]), sport, dport)
    f[rng.randrange(14, len(f))] ^= 1 + rng.randrange(255)
    return bytes(f)


class SpoiledLink(Link):
    """`share` of the frames, of each kind of harm by itself, in both directions; `seen`: the last ones to the DPDK end."""

    def __init__(self, seed=1):
        self.m = f"fhm{os.getpid()}"
        self.share = 0.0
        self.harm = {"lost": 0, "doubled": 0, "late": 0, "spoiled": 0}
        self.seen = deque(maxlen=4000)
        self.rng = random.Random(seed)
        self.over = False
        super().__init__()
        self.thread = threading.Thread(target=self.carry, args=(self.middle("m0"), self.middle("m1")))
        self.thread.start()

    def lay(self):
        self.ip("netns", "add", self.m)
        for end, ns, name in (("fh0", self.a, "m0"), ("fh1", self.b, "m1")):
            self.ip("link", "add", end, "netns", ns, "type", "veth", "peer", "name", name, "netns", self.m)
            self.run(self.m, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
            self.ip("-n", self.m, "link", "set", name, "up")

    def middle(self, name):
        """A packet socket in between, at the wire to fh0 (m0) or fh1 (m1)."""

        def make():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            s.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            s.bind((name, 3))
            return s

        return self.inside(self.m, make)

    def fates(self, frame):
        """[(frame, frames that overtake it)] of what is sent on."""
        rng, out = self.rng, []
        for n in range(1 + (rng.random() < self.share)):
            self.harm["doubled"] += n
            if rng.random() < self.share:
                self.harm["lost"] += 1
                continue
            f, after = frame, 0
            if rng.random() < self.share:
                self.harm["spoiled"] += 1
                f = spoiled(frame, rng)
            if rng.random() < self.share:
                self.harm["late"] += 1
                after = 1 + rng.randrange(8)
            out.append((f, after))
        return out

    def carry(self, m0, m1):
        held = {m0: [], m1: []}  # [frames still to overtake it, at the latest when, frame] that go out there
        while not self.over:
            for s in select.select([m0, m1], [], [], HELD_S)[0]:
                to = m1 if s is m0 else m0
                frame = s.recv(65536)
                if s is m1 and is_udp4(frame):
                    self.seen.append(frame)
                for f, after in self.fates(frame) if self.share else [(frame, 0)]:
                    if after:
                        held[to].append([after, time.monotonic() + HELD_S, f])
                        continue
                    self.put(to, f)
                    for h in held[to]:
                        h[0] -= 1
            now = time.monotonic()
            for s, waiting in held.items():
                for h in [h for h in waiting if h[0] <= 0 or h[1] <= now]:
                    self.put(s, h[2])
                    waiting.remove(h)
        m0.close()
        m1.close()

    @staticmethod
    def put(s, frame):
        try:
            s.send(frame)
        except OSError:
            pass  # longer than the link takes, or its queue is full

    def close(self):
        self.over = True
        self.thread.join()
        super().close()
        subprocess.run(["ip", "netns", "del", self.m], capture_output=True)


class Noise:
    """Frames to the DPDK end that nobody of ours sent."""

    def __init__(self, link, rng, handshakes):
        """@handshakes: send the client's again, too: the server remembers such a one for 5 s, in case it is finished."""
        self.rng = rng
        self.handshakes = handshakes
        self.ether = link.mac_a + link.mac_b
        self.genuine = [f for f in link.seen if is_udp4(f) and f[36:38] == struct.pack(">H", 9000)]

    def noise(self):
        """Any frame, most often with a head that gets further than chance."""
        rng = self.rng
        f = bytearray(self.ether + rng.choice((b"\x08\x00", b"\x86\xdd", b"\x08\x00", b"\x08\x06")) +
                      rng.randbytes(rng.choice((0, 6, 28, 46, 86, 600, 1480))))
        if len(f) >= 34 and rng.random() < 0.8:
            if f[13] == 0:
                f[14], f[23] = 0x45, rng.choice((1, 17, 17))
                f[16:18], f[20:22], f[24:26], f[30:34] = struct.pack(">H", len(f) - 14), b"\0\0", b"\0\0", A4
                f[24:26] = struct.pack(">H", checksum(bytes(f[14:34])))
            elif f[13] == 0xDD:
                f[14], f[20] = 0x60, rng.choice((17, 44, 58))
        return bytes(f)

    def datagram(self):
        """A datagram that arrives, of random bytes behind the first two; from anybody, or as if from the client."""
        rng = self.rng
        n = rng.choice((0, 1, 13, 14, 45, 61, 62, 63, 78, 100, 1231, 1232, 1400))
        payload = (bytes([rng.randrange(8), rng.choice((0, 1, 1, 1, 7))]) + rng.randbytes(n))[:n]
        if rng.random() < 0.5:
            return sealed(self.ether + b"\x08\x00", payload, sport=struct.unpack(">H", rng.choice(self.genuine)[34:36])[0])
        return sealed(self.ether + b"\x08\x00", payload, bytes([192, 0, 2, 3 + rng.randrange(250)]), sport=rng.randrange(1, 65536))

    def forged(self):
        """What a client of ours sent: again, cut, lengthened, with a bit turned over, or numbered as one still to come; and
        sealed as a datagram again."""
        rng = self.rng
        f = rng.choice(self.genuine)
        payload = bytearray(f[HEAD:14 + struct.unpack(">H", f[16:18])[0]])
        how = rng.randrange(5)
        if payload[0] == 1 and not self.handshakes:
            how = 1
        if how == 1:
            payload = payload[:rng.randrange(len(payload))]
        elif how == 2:
            payload += rng.randbytes(1 + rng.randrange(max(1, 1472 - len(payload))))
        elif how == 3:
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        elif how == 4 and len(payload) >= 14:
            number = struct.unpack_from("<Q", payload, 6)[0]
            struct.pack_into("<Q", payload, 6, (number + rng.randrange(1 << 20)) % (1 << 64))
        return sealed(f[:14], bytes(payload[:1472]), sport=struct.unpack(">H", f[34:36])[0])

    def frame(self):
        return self.rng.choice((self.noise, self.datagram, self.forged))()
