# SPDX-License-Identifier: Apache-2.0
"""`freehold audit` on logs that build/tests/perf/audit_cost writes: verify, show,
export, consistency, erase-tenant; what it says and its exit status. Entries,
tiles and proofs are read by a second implementation, below, of a page in length:
it shares nothing with the first but the formats' texts. Where Go is installed, its
packages for such logs read the log as well."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import unittest

from server import FREEHOLD, ROOT, SHARED

MAKER = os.path.join(ROOT, "build", "tests", "perf", "audit_cost")


def audit(*args, want=0):
    r = subprocess.run([FREEHOLD, "audit", *args], capture_output=True, text=True, timeout=60, check=False)
    if r.returncode != want:
        raise AssertionError(f"freehold audit {' '.join(args)}: exit status {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout + r.stderr if want else r.stdout


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def tile_path(level, index, width):
    name = f"{index % 1000:03}"
    while index >= 1000:
        index //= 1000
        name = f"x{index % 1000:03}/{name}"
    return f"tile/{level}/{name}" + (f".p/{width}" if width < 256 else "")


def read_entries(log):
    """Every entry of the log by its bundles, and the root hash that its checkpoint signs."""
    with open(os.path.join(log, "checkpoint"), encoding="utf-8") as f:
        text, signature = f.read().split("\n\n")
    origin, size, root = text.split("\n")[:3]  # and a line of texts that are held
    assert signature.startswith("\u2014 " + origin + " "), signature
    size = int(size)
    entries = []
    while len(entries) < size:
        width = min(256, size - len(entries))
        with open(os.path.join(log, tile_path("entries", len(entries) // 256, width)), "rb") as f:
            data = f.read()
        for _ in range(width):
            n = int.from_bytes(data[:2], "big")
            entries.append(data[2:2 + n])
            data = data[2 + n:]
        assert not data
    return entries, base64.b64decode(root)


def mth(hashes):
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return sha(b"\x01", mth(hashes[:k]), mth(hashes[k:]))


def root_of_proof(m, n, leaf, proof):
    """RFC 9162, 2.1.3.2."""
    fn, sn, r = m, n - 1, leaf
    for p in proof:
        assert sn
        if fn & 1 or fn == sn:
            r = sha(b"\x01", p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = sha(b"\x01", r, p)
        fn, sn = fn >> 1, sn >> 1
    assert not sn
    return r


class Size(unittest.TestCase):
    """The log beside the JSON of what it has, however few texts come between two checkpoints: at most 40 %. It is
    39.6 % of the interactions that the benchmark has."""

    TEXT = os.path.join(SHARED, "models", "heldout.txt")

    def measure(self, *flags):
        if not os.path.exists(MAKER) or not os.path.exists(self.TEXT):
            raise unittest.SkipTest("needs build/tests/perf/audit_cost (`make perf`) and, in FREEHOLD_SHARED, heldout.txt")
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(prefix="freehold-audit-", dir=memory) as d:
            r = json.loads(subprocess.check_output([MAKER, "--text", self.TEXT, *flags, d, "2000", "4"]))
            self.assertIn(f"{r['interactions']} interactions (0 without an outcome)", audit("verify", d))
        return r

    def test_of_its_json(self):
        for nr in 1, 4, 16, 58:
            r = self.measure("--texts", str(nr))
            with self.subTest(texts_between_checkpoints=nr):
                self.assertGreater(r["interactions"], 200)
                self.assertLess(r["log_of_json"], 0.4)

    def test_of_the_json_of_short_ones(self):
        """A few words asked and answered: there the API's JSON is most of it."""
        for percent in 2, 10, 50:
            r = self.measure("--texts", "1", "--length", str(percent))
            with self.subTest(percent=percent):
                self.assertLess(r["log_of_json"], 0.4)


class Audit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not os.path.exists(MAKER):
            raise unittest.SkipTest("build/tests/perf/audit_cost is not built (`make perf`)")
        cls.top = tempfile.TemporaryDirectory(prefix="freehold-audit-")
        cls.pristine = os.path.join(cls.top.name, "pristine")
        subprocess.run([MAKER, cls.pristine, "400", "3"], check=True, stdout=subprocess.DEVNULL)
        # A start, a record of each tenant's key, two of each interaction, and the segments that hold their texts.
        cls.size = len(read_entries(cls.pristine)[0])
        assert 804 < cls.size < 830, cls.size

    @classmethod
    def tearDownClass(cls):
        cls.top.cleanup()

    def setUp(self):
        self.log = os.path.join(self.top.name, self.id().rsplit(".", 1)[1])
        shutil.copytree(self.pristine, self.log)

    def file(self, *path):
        return os.path.join(self.log, *path)

    def test_verify(self):
        out = audit("verify", self.log)
        self.assertIn(f"{self.size} entries, 400 interactions (0 without an outcome)", out)
        self.assertIn("800 sealed bodies: 800 opened, 0 erased", out)
        self.assertIn("verified:", out)
        audit("verify", self.log, "--key", self.file("key.pub"))
        with open(self.file("key.pub"), encoding="ascii") as f:
            audit("verify", self.log, "--key=" + f.read().strip())

    def test_a_second_reader_agrees(self):
        entries, root = read_entries(self.log)
        hashes = [sha(b"\x00", e) for e in entries]
        self.assertEqual(mth(hashes), root)
        for level, below in ((0, hashes), (1, [mth(hashes[i:i + 256]) for i in range(0, len(hashes) - 255, 256)])):
            for i in range(0, len(below), 256):
                part = below[i:i + 256]
                with open(self.file(tile_path(level, i // 256, len(part))), "rb") as f:
                    self.assertEqual(f.read(), b"".join(part))

    @unittest.skipUnless(shutil.which("go") and os.path.isdir("/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog"),
                         "needs Go and its package golang-golang-x-mod-dev")
    def test_go_reads_it(self):
        env = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": os.path.join(self.top.name, "go"),
               "GOFLAGS": "-p=1"}
        program = os.path.join(self.top.name, "tlog")
        subprocess.run(["go", "build", "-o", program, os.path.join(ROOT, "tests", "e2e", "tlog", "main.go")], check=True, env=env)
        with open(self.file("key.pub"), encoding="ascii") as f:
            key = f.read().strip()
        r = subprocess.run([program, self.log, key], capture_output=True, text=True, check=False)
        self.assertEqual((r.returncode, r.stdout), (0, f"ok {self.size}\n"), r.stderr)
        with open(self.file("tile", "entries", "001"), "r+b") as f:
            f.seek(1000)
            byte = f.read(1)[0]
            f.seek(1000)
            f.write(bytes([byte ^ 1]))
        self.assertNotEqual(subprocess.run([program, self.log, key], capture_output=True, check=False).returncode, 0)

    def test_show_proves_inclusion(self):
        entries, root = read_entries(self.log)
        for i in (0, 1, 255, 256, 511, 512, self.size - 1):
            o = json.loads(audit("show", self.log, str(i)))
            leaf = base64.b64decode(o["leaf_hash"])
            self.assertEqual(leaf, sha(b"\x00", entries[i]))
            self.assertEqual(root_of_proof(i, len(entries), leaf, [base64.b64decode(p) for p in o["proof"]]), root)
        self.assertIn(f"there is no entry {self.size}; the log has {self.size}", audit("show", self.log, str(self.size), want=1))
        self.assertIn("is no entry's number", audit("show", self.log, "x", want=2))

    def test_export(self):
        lines = [json.loads(line) for line in audit("export", self.log).splitlines()]
        self.assertEqual([o["entry"] for o in lines], list(range(self.size)))
        begins = [o for o in lines if o["kind"] == "begin"]
        self.assertEqual(len(begins), 400)
        for o in begins:
            body = json.loads(o["body"])
            self.assertEqual(body["messages"][0]["content"], "You are a helpful assistant.")
            self.assertEqual(len(o["body"]), o["body_bytes"])
        # Each text is in the segment that its tenant's next one is, and nowhere twice.
        for tenant in ("tenant-0", "tenant-1", "tenant-2"):
            mine, nr = [o for o in lines if o.get("tenant") == tenant], 0
            for o in mine:
                if o["kind"] == "bodies":
                    self.assertEqual((o["count"], o["body_bytes"]), (nr, size))
                    self.assertEqual(o["ref"], first)
                    self.assertNotIn("body", o)
                    nr = 0
                elif o["kind"] in ("begin", "end"):
                    first, size = (first, size) if nr else (o["entry"], 0)
                    nr, size = nr + 1, size + o["body_bytes"]
            self.assertEqual((nr, mine[-1]["kind"]), (0, "bodies"))
        ends = {o["ref"]: o for o in lines if o["kind"] == "end"}
        self.assertEqual(sorted(ends), [o["entry"] for o in begins])
        only = [json.loads(line) for line in audit("export", self.log, "--tenant", "tenant-1", "--no-bodies").splitlines()]
        self.assertEqual({o["tenant"] for o in only}, {"tenant-1"})
        self.assertFalse(any("body" in o for o in only))
        first, last = begins[100]["time"], begins[110]["time"]
        some = audit("export", self.log, "--from", first[:19] + "Z", "--to", last[:19] + "Z").splitlines()
        self.assertEqual(sum(json.loads(line)["kind"] == "begin" for line in some), 10)

    def test_flipped_bits_are_located(self):
        for name in ("tile/entries/001", "tile/0/002", tile_path(1, 0, 3), "body/" + os.listdir(self.file("body"))[0], "tenant/tenant-0"):
            with open(self.file(name), "r+b") as f:
                data = f.read()
                f.seek(len(data) // 2)
                f.write(bytes([data[len(data) // 2] ^ 4]))
            out = audit("verify", self.log, want=1)
            self.assertRegex(out, f"FOUND: {name}: ")
            self.assertIn("this is NOT the log that was signed", out)
            with open(self.file(name), "wb") as f:
                f.write(data)
        audit("verify", self.log)

    def test_consistency(self):
        old = os.path.join(self.top.name, "old-checkpoint")
        shutil.copy(self.file("checkpoint"), old)
        subprocess.run([MAKER, self.log, "300", "2"], check=True, stdout=subprocess.DEVNULL)
        self.assertIn(f"the {self.size} entries of the old checkpoint are the first of these", audit("consistency", old, self.log))
        audit("verify", self.log)
        self.assertIn("NOT consistent", audit("consistency", self.file("checkpoint"), self.pristine, want=1))
        # It is a matter of hashes: an entry that cannot be read is another's finding.
        with open(self.file("tile/entries/000"), "r+b") as f:
            was = f.read()
            f.seek(2)
            f.write(b"\xff" * 8)
        self.assertIn("consistent: the ", audit("consistency", old, self.log))
        audit("export", self.log, want=1)
        with open(self.file("tile/entries/000"), "wb") as f:
            f.write(was)
        other = os.path.join(self.top.name, "other")
        subprocess.run([MAKER, other, "10"], check=True, stdout=subprocess.DEVNULL)
        self.assertIn("there is no signature by", audit("consistency", os.path.join(other, "checkpoint"), self.log, want=1))
        self.assertIn("not with the key given", audit("verify", self.log, "--key", os.path.join(other, "key.pub"), want=1))

    def test_erase_tenant(self):
        before = [json.loads(line) for line in audit("export", self.log, "--tenant", "tenant-2").splitlines()]
        secret = json.loads(next(o for o in before if o["kind"] == "begin")["body"])["messages"][1]["content"]
        self.assertIn("is erased", audit("erase-tenant", self.log, "tenant-2"))
        out = audit("verify", self.log)
        self.assertIn("534 opened, 266 erased", out)
        after = audit("export", self.log)
        self.assertNotIn(secret, after)
        gone = [o for o in map(json.loads, after.splitlines()) if o.get("tenant") == "tenant-2" and o["kind"] in ("begin", "end")]
        self.assertTrue(gone and all(o.get("erased") is True and "body" not in o for o in gone))
        self.assertIn("erased already?", audit("erase-tenant", self.log, "tenant-2", want=1))
        self.assertIn("is no tenant's name", audit("erase-tenant", self.log, "../x", want=1))

    def test_a_key_is_asked_for(self):
        other = os.path.join(self.top.name, "another")
        subprocess.run([MAKER, other, "10"], check=True, stdout=subprocess.DEVNULL)
        for what in (["show", self.log, "3"], ["export", self.log]):
            audit(*what, "--key", self.file("key.pub"))
            self.assertIn("not with the key given", audit(*what, "--key", os.path.join(other, "key.pub"), want=1))

    def test_a_log_of_version_1(self):
        """As the first version wrote it: each text sealed alone, and its hash in its own record. It is read, and gone on
        with."""
        old = os.path.join(self.top.name, "version1")
        with tarfile.open(os.path.join(ROOT, "tests", "e2e", "audit_v1.tar.xz")) as t:
            t.extractall(old)
        self.assertIn("16 sealed bodies: 16 opened, 0 erased", audit("verify", old))
        before = audit("export", old).splitlines()
        self.assertEqual(len([line for line in before if '"body":' in line and '"body_hash":' in line]), 16)
        subprocess.run([MAKER, old, "20", "2"], check=True, stdout=subprocess.DEVNULL)
        self.assertIn("56 sealed bodies: 56 opened, 0 erased", audit("verify", old))
        self.assertEqual(audit("export", old).splitlines()[:len(before)], before)
        audit("erase-tenant", old, "tenant-1")
        self.assertIn("28 opened, 28 erased", audit("verify", old))

    def test_a_copy_without_keys(self):
        shutil.rmtree(self.file("tenant"))
        out = audit("verify", self.log, want=1)
        self.assertIn("the keys of 3 tenants", out)
        self.assertIn("800 sealed bodies: 0 opened, 0 erased, 800 not readable here", out)
        self.assertEqual(out.count("FOUND"), 1, out)
        rows = [o for o in map(json.loads, audit("export", self.log).splitlines()) if o["kind"] in ("begin", "end")]
        self.assertEqual({(o.get("no_key"), "body" in o, "erased" in o) for o in rows}, {(True, False, False)})
        # One that is missing alone is named.
        shutil.copytree(os.path.join(self.pristine, "tenant"), self.file("tenant"))
        os.unlink(self.file("tenant", "tenant-1"))
        self.assertIn("FOUND: tenant/tenant-1: the key is gone", audit("verify", self.log, want=1))

    def test_wrong_arguments(self):
        self.assertIn("an action is wanted", audit(want=2))
        self.assertIn("there is no such action", audit("frob", want=2))
        self.assertIn("something is missing", audit("show", self.log, want=2))
        self.assertIn("'more' is too much", audit("verify", self.log, "more", want=2))
        self.assertIn("there is no option '--tenant'", audit("verify", self.log, "--tenant", "x", want=2))
        self.assertIn("a time such as", audit("export", self.log, "--from", "yesterday", want=2))
        self.assertIn("examples:", audit("--help"))
        self.assertIn("is this an audit log?", audit("verify", self.top.name, want=1))
