# SPDX-License-Identifier: Apache-2.0
"""Requests to a live server behind DPDK (net_af_packet) over a wire that loses, doubles, reorders and spoils frames, and
frames that nobody of ours sent.

The null model answers with the prompt's ids over and over, so that every answer is known.
"""

import random
import tempfile
import time
import unittest

import dpdk_link
import dpdk_spoil
import udp
from server import DEMO_MODEL, LONG
from udp import LAST, NO_TOKEN

SKIP = dpdk_link.reason_to_skip()
LENGTH = 2  # enum fh_finish
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)


@unittest.skipIf(SKIP, SKIP)
class Spoiled(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.link = dpdk_spoil.SpoiledLink()
        cls.folder = tempfile.TemporaryDirectory(prefix="freehold-dpdk-")
        cls.keys = udp.Keys(cls.folder.name)
        cls.s = cls.link.server(cls.folder.name, cls.keys, "null:" + DEMO_MODEL, "--ctx", "2048", "--max-seqs", "64")

    @classmethod
    def tearDownClass(cls):
        cls.s.kill()
        cls.link.close()
        cls.folder.cleanup()

    def setUp(self):
        self.link.share = 0.0

    def client(self, **options):
        return self.link.inside(self.link.b, lambda: udp.Client(f"udp://{self.keys.server_public}@192.0.2.1:9000",
                                                                self.keys.client, **options))

    def requests(self, c, count, rng, at_once=16):
        """So many, each to its end; how many ended with an error. What comes is what was asked for, once, in order."""
        asked, got, errors = {}, {}, 0
        nr = 0
        while nr < count or asked:
            while nr < count and len(asked) < at_once:
                prompt = [3 + rng.randrange(900) for _ in range(rng.choice((1, 5, 60, 700)))]
                want = rng.choice((1, 4, 30))
                c.submit(prompt, want, user=nr)
                asked[nr], got[nr] = (prompt, want), []
                nr += 1
            t = c.next(60)
            self.assertIn(t.user_data, asked, "a token of a request that has ended")
            prompt, want = asked[t.user_data]
            out = got[t.user_data]
            if not t.flags & NO_TOKEN:
                self.assertEqual((t.index, t.token), (len(out), prompt[len(out) % len(prompt)]))
                out.append(t.token)
            if not t.flags & LAST:
                continue
            if t.error:
                errors += 1
            else:
                self.assertEqual((t.finish, len(out)), (LENGTH, want))
            del asked[t.user_data], got[t.user_data]
        return errors

    def settle(self):
        udp.wait_for(lambda: self.s.metric("udp_requests") == 0, 20)
        self.s.wait_idle()

    def test_bad_wire(self):
        """10,000 requests in check-long, some hundreds else."""
        link, rng = self.link, random.Random(3)
        shares, count = (SHARES, 2000) if LONG else ((0.02, 0.2), 300)
        before = self.s.metrics()
        with self.client(open_us=20000000) as c:
            for share in shares:
                link.share, begin = share, time.monotonic()
                errors = self.requests(c, count, rng)
                print(f"    {share:.0%}: {count} requests in {time.monotonic() - begin:.1f} s, {errors} errors")
                # Nothing gives up: no deadline was given, and the wire is never silent.
                self.assertEqual(errors, 0)
            link.share = 0.0
        # Closed: a client whose program waits for nothing acknowledges nothing.
        self.settle()
        after = self.s.metrics()
        self.assertEqual(after["freehold_udp_requests_total"] - before["freehold_udp_requests_total"], count * len(shares))
        self.assertEqual(after["freehold_udp_request_errors_total"], before["freehold_udp_request_errors_total"])
        for kind, nr in link.harm.items():
            self.assertGreater(nr, count // 10, kind)
        # Both ends of the harm were seen: by the checksum, and by the seal.
        kinds = self.frames()
        self.assertGreater(kinds["bad_checksum"], 0)
        dropped = self.dropped()
        self.assertGreater(dropped["forged"], 0)
        self.assertGreater(dropped["replayed"], 0)

    def test_wire_of_deadlines(self):
        """With a deadline for the first token an answer is whole, or says that it is late, and that in time."""
        with self.client(open_us=20000000) as c:
            self.link.share = 0.2
            for i in range(200 if LONG else 20):
                begin = time.monotonic()
                tokens, (finish, error) = c.tokens([5, 6, 7], 4, ttft_us=1000000)
                self.assertLess(time.monotonic() - begin, 10)
                if error:
                    self.assertEqual(tokens, [5, 6, 7, 5][:len(tokens)], (i, finish, error))
                else:
                    self.assertEqual(tokens, [5, 6, 7, 5])
            self.link.share = 0.0
        self.settle()

    def frames(self):
        return self.labelled("freehold_dpdk_frames_total", "kind")

    def dropped(self):
        return self.labelled("freehold_udp_packets_dropped_total", "reason")

    def labelled(self, name, label):
        import re

        _, _, data = self.s.request("GET", "/metrics")
        return {m.group(1): int(m.group(2)) for m in re.finditer(rf'{name}{{.*{label}="(\w+)"}} (\d+)', data.decode())}

    def test_frames_of_nobody(self):
        """Noise, random datagrams and forged packets, a million in check-long: nothing but counters changes."""
        nr, rng = 1000000 if LONG else 8000, random.Random(11)
        raw = self.link.middle("m0")
        with self.client() as c:
            self.assertEqual(self.requests(c, 60, rng), 0)
            self.settle()
            noise = dpdk_spoil.Noise(self.link, rng, LONG)
            before, fds, rss = self.s.metrics(), self.s.nr_fds(), self.s.rss_kib()
            seen = before["freehold_dpdk_frames_total"]
            asked, sent = 0, 0
            # So many that arrived: the driver's ring may be full for a moment.
            while self.s.metric("dpdk_frames_total") - seen < nr:
                self.assertLess(sent, 4 * nr, "the device takes few of them")
                for _ in range(2000):
                    raw.send(noise.frame())
                sent += 2000
                if sent % 20000 == 0 or sent == 2000:
                    self.assertEqual(self.requests(c, 2, rng), 0)
                    asked += 2
            self.assertEqual(self.requests(c, 10, rng), 0)
            self.settle()
            udp.wait_for(lambda: self.s.metric("udp_sessions") == before["freehold_udp_sessions"], 10)
            after = self.s.metrics()
            changed = {n: after["freehold_udp_" + n] - before["freehold_udp_" + n]
                       for n in ("requests_total", "sessions_total", "sessions", "request_errors_total", "sessions_lost_total",
                                 "requests", "held_packets")}
            self.assertEqual(changed, {"requests_total": asked + 10, "sessions_total": 0, "sessions": 0,
                                       "request_errors_total": 0, "sessions_lost_total": 0, "requests": 0, "held_packets": 0})
            self.assertEqual(self.s.nr_fds(), fds)
            self.assertLess(self.s.rss_kib() - rss, 4096)
        raw.close()
        dropped, kinds = self.dropped(), self.frames()
        for reason in ("malformed", "replayed", "forged", "no_session", "bad_mac"):
            self.assertGreater(dropped[reason], nr // 1000, reason)
        for kind in ("bad_length", "bad_header", "bad_checksum", "not_ours", "data"):
            self.assertGreater(kinds[kind], 0, kind)
        self.assertEqual(dropped["against_rules"], 0)


if __name__ == "__main__":
    unittest.main()
