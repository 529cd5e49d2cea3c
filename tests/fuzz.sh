#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs every fuzzer over its committed seeds: `tests/fuzz.sh short` a fixed count
# of about ten seconds each, `long` five minutes each.  Each fuzzer is one test.
# What libFuzzer finds goes to build/fuzz/: new units to corpus/NAME, a crash to
# crash-NAME-*, with the command that repeats it.
set -u
cd "$(dirname "$0")/.." || exit 1
mode=${1:-short}
bin=build/fuzz/tests/fuzz

# About ten seconds of one core with sanitizers; what is not listed takes the default.
runs_of() {
    case $1 in
    http) echo 200000 ;;
    json) echo 100000 ;;
    answer) echo 100000 ;;
    load_answer) echo 100000 ;;
    chan) echo 500000 ;;
    jinja) echo 60000 ;;
    tokenizer) echo 20000 ;;
    gguf) echo 40000 ;;
    audit) echo 200000 ;;
    wire) echo 8000 ;;
    udpip) echo 1000000 ;;
    status) echo 20000 ;;
    traceparent) echo 1000000 ;;
    *) echo 50000 ;;
    esac
}

export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=2048
export UBSAN_OPTIONS=print_stacktrace=1

run_one() { # NAME
    local name=$1 corpus=build/fuzz/corpus/$1 seeds=tests/fuzz/corpus/$1 limits begin end rc
    mkdir -p "$corpus" build/fuzz/logs
    if [ "$mode" = long ]; then
        limits=(-max_total_time="${FUZZ_SECONDS:-300}")
    else
        # A fixed count from a fixed seed; the time is a guard against a slow machine only.
        limits=(-runs="$(runs_of "$name")" -seed=1 -max_total_time=60)
        rm -rf "${corpus:?}"/*
    fi
    [ -d "$seeds" ] || seeds=
    begin=$EPOCHSECONDS
    # shellcheck disable=SC2086
    "$bin/fuzz_$name" "${limits[@]}" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/crash-$name-" "$corpus" $seeds >"build/fuzz/logs/$name" 2>&1 </dev/null
    rc=$?
    end=$EPOCHSECONDS
    if [ $rc = 0 ]; then
        echo "[PASS] fuzz::$name: $(sed -n 's/^stat::number_of_executed_units: //p' "build/fuzz/logs/$name") runs, $((end - begin)) s"
    else
        tail -n 40 "build/fuzz/logs/$name"
        echo "[FAIL] fuzz::$name: exit status $rc; repeat it with: $bin/fuzz_$name build/fuzz/crash-$name-..."
    fi
}

shopt -s nullglob
names=()
for f in tests/fuzz/fuzz_*.c; do
    name=${f#tests/fuzz/fuzz_}
    names+=("${name%.c}")
done
[ ${#names[@]} -gt 0 ] || { echo "fuzz: no targets"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }

out=$(mktemp)
trap 'rm -f "$out"' EXIT
jobs=$(nproc)
for name in "${names[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    run_one "$name" >>"$out" &
done
wait
cat "$out"
passed=$(grep -c '^\[PASS\]' "$out")
failed=$((${#names[@]} - passed))
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
