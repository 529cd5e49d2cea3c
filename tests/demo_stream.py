#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""demo_stream.py STATS-FILE CURL-ARGUMENTS...: runs curl, reads the completion
that it streams (server-sent events), shows the text as it comes, and writes what
it measured to STATS-FILE. Times run from curl's start, so the first token's
includes that of a process and is an upper bound."""

import json
import subprocess
import sys
import time


def main():
    begin = time.monotonic()
    curl = subprocess.Popen(["curl", *sys.argv[2:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    first = last = None
    pieces = 0
    usage = None
    done = False
    for line in curl.stdout:
        now = time.monotonic()
        if not line.startswith(b"data:"):
            if line.startswith(b"{"):
                print("\n" + line.decode(errors="replace"), file=sys.stderr)
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            print("\n" + event["error"]["message"], file=sys.stderr)
            return 1
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            if choice["text"]:
                first = first or now
                last = now
                pieces += 1
                sys.stdout.write(choice["text"])
                sys.stdout.flush()
    if curl.wait() != 0:
        print(f"\ncurl ended with status {curl.returncode}", file=sys.stderr)
        return 1
    if not done or first is None or usage is None:
        print("\nthe stream ended without tokens, usage or [DONE]", file=sys.stderr)
        return 1
    n = usage["completion_tokens"]
    rate = f"{(n - 1) / (last - first):.0f} tokens/s" if n > 1 and last > first else "one burst"
    with open(sys.argv[1], "w", encoding="ascii") as f:
        print(f"   first token after {(first - begin) * 1000:.1f} ms (the start of curl included)", file=f)
        print(f"   {n} tokens in {pieces} pieces, {rate} after the first", file=f)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    sys.exit(main())
