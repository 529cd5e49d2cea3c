# SPDX-License-Identifier: Apache-2.0
"""The wire protocol once more, from its description alone
(Documentation/design/wire-protocol.rst) and with other cryptography: an oracle
for the one in C, and a client that a live server is tried with.

`wire.py FILE` writes the test vectors that tests/unit/test_wire.c reads.
"""

import hashlib
import hmac
import json
import os
import socket
import struct
import sys
import time

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

VERSION = 1
INIT, RETRY, RESP, REFUSE, RESET, DATA = 1, 2, 3, 4, 5, 6
ACK, PROMPT, TOKENS, END, CANCEL, CREDIT, PING, CLOSE = range(8)
PROLOGUE = b"freehold udp 1"
HEADER = struct.Struct("<BBIQIIIQQHH")  # type, kind, session, number, request, seq, ack, largest, received, delay, zero
DESC = struct.Struct("<IIQQIIII16sQQIfffffffI12x")
LAST, NO_TOKEN = 1, 2


def blake2b(data, size=64, key=b""):
    return hashlib.blake2b(data, digest_size=size, key=key).digest()


def public_of(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def dh(secret, public):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


class Noise:
    """Noise_IK_25519_ChaChaPoly_BLAKE2b, revision 34."""

    def __init__(self, server_public, prologue=PROLOGUE):
        self.h = b"Noise_IK_25519_ChaChaPoly_BLAKE2b".ljust(64, b"\0")
        self.ck = self.h
        self.mix_hash(prologue)
        self.mix_hash(server_public)

    def mix_hash(self, data):
        self.h = blake2b(self.h + data)

    def hkdf(self, data):
        def mac(key, text):
            return hmac.new(key, text, hashlib.blake2b).digest()

        temp = mac(self.ck, data)
        one = mac(temp, b"\1")
        return one, mac(temp, one + b"\2")

    def mix_key(self, data):
        self.ck, k = self.hkdf(data)
        self.aead, self.n = ChaCha20Poly1305(k[:32]), 0

    def nonce(self):
        self.n += 1
        return bytes(4) + struct.pack("<Q", self.n - 1)

    def encrypt(self, text):
        out = self.aead.encrypt(self.nonce(), text, self.h)
        self.mix_hash(out)
        return out

    def decrypt(self, data):
        out = self.aead.decrypt(self.nonce(), data, self.h)
        self.mix_hash(data)
        return out

    def write1(self, s, e, rs, payload):
        self.s, self.e = s, e
        out = public_of(e)
        self.mix_hash(out)
        self.mix_key(dh(e, rs))
        out += self.encrypt(public_of(s))
        self.mix_key(dh(s, rs))
        return out + self.encrypt(payload)

    def read1(self, s, msg):
        self.s, self.re = s, msg[:32]
        self.mix_hash(self.re)
        self.mix_key(dh(s, self.re))
        self.rs = self.decrypt(msg[32:80])
        self.mix_key(dh(s, self.rs))
        return self.decrypt(msg[80:])

    def write2(self, e, payload):
        out = public_of(e)
        self.mix_hash(out)
        self.mix_key(dh(e, self.re))
        self.mix_key(dh(e, self.rs))
        return out + self.encrypt(payload)

    def read2(self, msg):
        self.mix_hash(msg[:32])
        self.mix_key(dh(self.e, msg[:32]))
        self.mix_key(dh(self.s, msg[:32]))
        return self.decrypt(msg[32:])

    def split(self):
        a, b = self.hkdf(b"")
        return a[:32], b[:32]


def init_mac(server_public, packet):
    key = blake2b(b"freehold udp mac", 32, server_public)
    return blake2b(packet[:6] + packet[22:], 16, key)


def make_init(server_public, index, cookie, noise1, size):
    p = bytearray((struct.pack("<BBI", INIT, VERSION, index) + bytes(16) + cookie + noise1).ljust(size, b"\0"))
    p[6:22] = init_mac(server_public, p)
    return bytes(p)


class Direction:
    """Keys of one direction: epoch after epoch of 2^20 packets."""

    def __init__(self, secret, aes):
        self.chain, self.aes, self.epoch = secret, aes, -1
        self.step()

    def step(self):
        label = b"freehold aes256gcm" if self.aes else b"freehold chacha20poly1305"
        key = blake2b(label, 32, self.chain)
        self.chain = blake2b(b"freehold next", 32, self.chain)
        self.aead = AESGCM(key) if self.aes else ChaCha20Poly1305(key)
        self.epoch += 1

    def nonce(self, pn):
        while pn >> 20 > self.epoch:
            self.step()
        return bytes(4) + struct.pack("<Q", pn)

    def seal(self, header, body):
        nonce = self.nonce(HEADER.unpack(header)[3])  # which may bring the next key
        out = self.aead.encrypt(nonce, body, header)
        return header + out[-16:] + out[:-16]

    def open(self, packet):
        header = HEADER.unpack(packet[:46])
        nonce = self.nonce(header[3])
        return header, self.aead.decrypt(nonce, packet[62:] + packet[46:62], packet[:46])


def message(prompt, max_tokens, text=False, ignore_eos=True):
    flags = (1 if text else 0) | (2 if ignore_eos else 0)
    desc = DESC.pack(DESC.size, flags, 0, 128, len(prompt), max_tokens, 0, 0, bytes(16), 0, 0, 0, 0.0, 1.0, 0.0, 1.0, 1.0,
                     0.0, 0.0, 0)
    return desc.ljust(128, b"\0") + prompt


class WireClient:
    """As simple as a client can be: everything is acknowledged at once, and sent again after 50 ms."""

    def __init__(self, address, server_public, secret, aes=True, size=1232):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(address)
        self.sock.settimeout(0.05)
        self.server, self.size = server_public, size
        self.index = int.from_bytes(os.urandom(4), "little")
        self.pn, self.largest, self.received, self.request = 0, 0, set(), 0
        self.shake(secret, aes)

    def close(self):
        self.sock.close()

    def recv(self):
        try:
            return self.sock.recv(65536)
        except (TimeoutError, ConnectionRefusedError):
            return None

    def shake(self, secret, aes):
        z = Noise(self.server)
        noise1 = z.write1(secret, os.urandom(32), self.server, struct.pack("<II8x", int(aes), self.size))
        cookie, until = bytes(16), time.monotonic() + 5
        self.retries = 0
        while time.monotonic() < until:
            init = make_init(self.server, self.index, cookie, noise1, self.size)
            self.sock.send(init)
            answer = self.recv()
            if not answer or struct.unpack("<I", answer[2:6])[0] != self.index:
                continue
            if answer[0] == RETRY:
                assert answer[6:22] == init[6:22] and len(answer) == 38
                cookie = answer[22:38]
                self.retries += 1
            elif answer[0] == REFUSE:
                raise PermissionError(struct.unpack("<I", answer[22:26])[0])
            elif answer[0] == RESP:
                assert len(answer) <= len(init)
                self.remote = struct.unpack("<I", answer[6:10])[0]
                welcome = z.read2(answer[10:10 + 32 + 120 + 16])
                self.flags, self.mtu, self.nr_slots, self.max_requests, self.nr_ctx, self.nr_vocab = struct.unpack(
                    "<6I", welcome[:24])
                self.model = welcome[24:].rstrip(b"\0").decode()
                out, back = z.split()
                self.tx, self.rx = Direction(out, bool(self.flags & 1)), Direction(back, bool(self.flags & 1))
                return
        raise TimeoutError("no answer to the handshake")

    def send(self, kind, request=0, seq=0, ack=0, body=b""):
        self.pn += 1
        bits = sum(1 << i for i in range(64) if self.largest - 1 - i in self.received)
        self.sock.send(self.tx.seal(HEADER.pack(DATA, kind, self.remote, self.pn, request, seq, ack, self.largest, bits, 0, 0), body))
        return self.pn

    def generate(self, prompt, max_tokens, text=False, timeout=20):
        """Token ids and how it ended: (finish, error)."""
        self.request += 1
        msg = message(prompt if text else struct.pack(f"<{len(prompt)}I", *prompt), max_tokens, text)
        piece = (self.mtu - 62) & ~15
        waiting = {at: self.send(PROMPT, self.request, at, len(msg), msg[at:at + piece]) for at in range(0, len(msg), piece)}
        slots, end, until = {}, None, time.monotonic() + timeout
        while time.monotonic() < until:
            packet = self.recv()
            if packet is None:
                waiting = {at: self.send(PROMPT, self.request, at, len(msg), msg[at:at + piece]) for at in waiting}
                continue
            if packet[0] != DATA:
                continue
            h, body = self.rx.open(packet)
            pn, kind, request, seq = h[3], h[1], h[4], h[5]
            acked = {h[7]} | {h[7] - 1 - i for i in range(64) if h[8] >> i & 1}
            waiting = {at: n for at, n in waiting.items() if n not in acked}
            self.received.add(pn)
            self.largest = max(self.largest, pn)
            if request == self.request and kind == TOKENS:
                for i in range(len(body) // 16):
                    slots[seq + i] = struct.unpack("<IIfBBH", body[16 * i:16 * i + 16])
            elif request == self.request and kind == END:
                end = (seq, struct.unpack("<IiII", body))
            have = next(i for i in range(len(slots) + 1) if i not in slots)
            self.send(ACK, self.request, 0, have)
            if have and slots[have - 1][3] & LAST:
                return self.answer(slots, have), (slots[have - 1][4], 0)
            if end and end[0] == have:
                return self.answer(slots, have), end[1][:2]
        raise TimeoutError(f"{len(slots)} tokens came")

    @staticmethod
    def answer(slots, n):
        assert all(slots[i][1] == i + 1 for i in range(n))
        return [slots[i][0] for i in range(n) if not slots[i][3] & NO_TOKEN]


def vectors():
    """One handshake and a few packets from fixed secrets."""
    secrets = {name: bytes([n] * 31 + [0x40]) for n, name in enumerate(("server", "client", "client_e", "server_e"), 1)}
    server = public_of(secrets["server"])
    out = {name: s.hex() for name, s in secrets.items()}
    out["server_public"], out["client_public"] = server.hex(), public_of(secrets["client"]).hex()
    hello = struct.pack("<II8x", 1, 1452)
    welcome = struct.pack("<6I", 1, 1232, 256, 512, 4096, 32000) + b"a model".ljust(96, b"\0")
    cookie = bytes(range(16))
    z, y = Noise(server), Noise(server)
    noise1 = z.write1(secrets["client"], secrets["client_e"], server, hello)
    assert y.read1(secrets["server"], noise1) == hello
    noise2 = y.write2(secrets["server_e"], welcome)
    assert z.read2(noise2) == welcome
    to_server, to_client = z.split()
    assert (to_server, to_client) == y.split()
    out.update(hello=hello.hex(), welcome=welcome.hex(), noise1=noise1.hex(), noise2=noise2.hex(), to_server=to_server.hex(),
               to_client=to_client.hex(), cookie=cookie.hex(),
               init=make_init(server, 0x01020304, cookie, noise1, 1232)[:38].hex(), packets=[])
    slots = b"".join(struct.pack("<IIfBBH", 1000 + i, i + 1, 0.0, LAST * (i == 2), 2 * (i == 2), 0) for i in range(3))
    msg = message(struct.pack("<3I", 1, 2, 3), 16)
    for aes in (True, False):
        for pn in (1, 2, (1 << 20) + 5):
            for secret, kind, seq, ack, body in ((to_server, PROMPT, 0, len(msg), msg), (to_client, TOKENS, 0, 0, slots),
                                                 (to_server, ACK, 0, 3, b"")):
                header = HEADER.pack(DATA, kind, 0xa1b2c3d4, pn, 7, seq, ack, 9, 0x55, 12, 0)
                out["packets"].append({"aes": aes, "to_server": secret == to_server, "kind": kind, "number": pn,
                                       "body": body.hex(), "packet": Direction(secret, aes).seal(header, body).hex()})
    return out


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="ascii") as f:
        json.dump(vectors(), f, indent=1)
        f.write("\n")
