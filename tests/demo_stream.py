#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads a completion stream (server-sent events) on stdin, shows its text on
stderr as it comes, and prints what it measured on stdout. The clock starts when
this program does, which a pipe starts together with curl, so the first token's
time includes curl's start and is an upper bound."""

import json
import sys
import time


def main():
    begin = time.monotonic()
    first = last = None
    pieces = 0
    usage = None
    done = False
    for line in sys.stdin.buffer:
        now = time.monotonic()
        if not line.startswith(b"data:"):
            if line.startswith(b"{"):
                print("\n" + line.decode(errors="replace"), file=sys.stderr)
                return 1
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            done = True
            break
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
                sys.stderr.write(choice["text"])
                sys.stderr.flush()
    if not done or first is None or usage is None:
        print("\nthe stream ended without tokens, usage or [DONE]", file=sys.stderr)
        return 1
    n = usage["completion_tokens"]
    rate = f"{(n - 1) / (last - first):.0f} tokens/s" if n > 1 and last > first else "one burst"
    print(f"   first token after {(first - begin) * 1000:.1f} ms (curl's own start included)")
    print(f"   {n} tokens in {pieces} pieces, {rate} after the first")
    return 0


if __name__ == "__main__":
    sys.exit(main())
