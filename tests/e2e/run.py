#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs test modules of this folder: run.py [MODULE...]; none: all test_*.py.

Prints a line a test, [PASS], [FAIL] or [SKIP] with the reason, and ends with
`N passed, N failed, N skipped`. The exit status is 1 when a test failed.
"""

import glob
import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)


class Result(unittest.TestResult):
    """Counts, and says each test's fate as it becomes known."""

    def __init__(self):
        super().__init__()
        self.nr_passed = 0
        self.nr_failed = 0
        self.nr_skipped = 0
        self.begin = 0.0

    def startTest(self, test):
        super().startTest(test)
        self.begin = time.monotonic()

    def name(self, test):
        return test.id().replace(".", "::", 1)

    def addSuccess(self, test):
        self.nr_passed += 1
        print(f"[PASS] {self.name(test)} ({time.monotonic() - self.begin:.2f} s)")

    def fail(self, test, err):
        self.nr_failed += 1
        print(self._exc_info_to_string(err, test) if hasattr(test, "failureException") else err[1])
        print(f"[FAIL] {self.name(test)}")

    def addError(self, test, err):
        self.fail(test, err)

    def addFailure(self, test, err):
        self.fail(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.fail(subtest, err)

    def addSkip(self, test, reason):
        self.nr_skipped += 1
        print(f"[SKIP] {self.name(test)}: {reason}")


def main():
    names = sys.argv[1:]
    if not names:
        names = sorted(os.path.basename(p)[:-3] for p in glob.glob(os.path.join(HERE, "test_*.py")))
    result = Result()
    unittest.defaultTestLoader.loadTestsFromNames(names).run(result)
    print(f"{result.nr_passed} passed, {result.nr_failed} failed, {result.nr_skipped} skipped")
    return 1 if result.nr_failed else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main())
