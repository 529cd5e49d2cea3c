# SPDX-License-Identifier: Apache-2.0
"""What libfreehold costs a client in instructions, against a live daemon. It takes a minute of one core and minds no
neighbour, so tests/check.sh runs other tests beside it."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

from server import DEMO_MODEL, ROOT, Server


class Cost(unittest.TestCase):
    """Instructions of the client, which no clock and no neighbour changes."""

    # Half as much again as they are (performance.md). A copy by string instructions would count once a byte: it is
    # turned off.
    PER_TOKEN = 330
    PER_PROMPT_BYTE = 0.2

    def count(self, where, nr_ids, nr_tokens):
        done = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                               os.path.join(ROOT, "build", "tests", "perf", "count_ring"), where, str(nr_ids), str(nr_tokens)],
                              capture_output=True, text=True, timeout=120,
                              env={**os.environ, "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=1073741824"})
        self.assertEqual(done.returncode, 0, done.stderr)
        return int(re.search(r"Collected : (\d+)", done.stderr).group(1))

    @unittest.skipUnless(shutil.which("valgrind"), "valgrind is not installed")
    def test_instructions_per_token_and_per_byte(self):
        subprocess.run(["make", "-s", "build/tests/perf/count_ring"], cwd=ROOT, check=True)
        with tempfile.TemporaryDirectory(prefix="freehold-lib-") as d:
            channel = "unix:" + os.path.join(d, "channel.sock")
            with Server("null:" + DEMO_MODEL, "--threads", "1", "--ctx", "8192", "--channel", channel):
                base = self.count(channel, 256, 100)
                token = (self.count(channel, 256, 900) - base) / 800
                byte = (self.count(channel, 4096, 100) - base) / ((4096 - 256) * 4)
        print(f"{token:.1f} instructions a token, {byte:.3f} a prompt byte")
        self.assertTrue(0 < token < self.PER_TOKEN, token)
        self.assertTrue(byte < self.PER_PROMPT_BYTE, byte)


if __name__ == "__main__":
    unittest.main()
