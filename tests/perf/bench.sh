#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make bench`: builds what measures, then prints the tables.  PEER=DIR names a
# folder with llama-server, llama-bench and llama-batched-bench, IK=DIR one with
# ik_llama.cpp's llama-bench, PEER_AVX2=DIR one with a llama-bench built for AVX2;
# they then run beside ours, in the same minute.  More: tests/perf/bench.py --help.
set -eu
cd "$(dirname "$0")/../.."
tools/packaging/install-deps.sh build
make -s -j"$(nproc)" all perf
exec python3 tests/perf/bench.py ${PEER:+--peer "$PEER"} ${IK:+--ik "$IK"} ${PEER_AVX2:+--peer-avx2 "$PEER_AVX2"} "$@"
