#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make bench`: builds what measures, then prints the tables.  PEER=DIR names a
# folder with llama-server and llama-bench, which then run beside ours, in the
# same minute.  More: tests/perf/bench.py --help.
set -eu
cd "$(dirname "$0")/../.."
tools/packaging/install-deps.sh build
make -s -j"$(nproc)" all perf
exec python3 tests/perf/bench.py ${PEER:+--peer "$PEER"} "$@"
