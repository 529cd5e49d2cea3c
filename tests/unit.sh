#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs unit test programs: tests/unit.sh [--san asan|tsan] PROGRAM...
# Every program runs, whatever the others say; the exit status is 1 when any
# failed.  check.sh adds up the "Synthesis" lines.
set -u
san=
if [ "${1:-}" = --san ]; then
    san=$2
    shift 2
fi
[ $# -gt 0 ] || { echo "tests/unit.sh: no test programs" >&2; exit 2; }

# No detect_stack_use_after_return: with it gcc before 14 stores 64-byte vectors to fake frames that are not aligned
# for them (gcc bug 110027), and the AVX-512 kernels crash. No strict_string_checks: strndup() may be given bytes
# without an end, which that forbids.
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=0:second_deadlock_stack=1
# ThreadSanitizer's address layout wants less randomness than new kernels give.
wrap=()
[ "$san" = tsan ] && command -v setarch >/dev/null && setarch -R true 2>/dev/null && wrap=(setarch -R)

# As many programs at once as there are cores, each with one test at a time.
export CRITERION_JOBS=1
lanes=$(nproc)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# run NUMBER PROGRAM: what there is to say of it, in one piece.
run() {
    local out=$dir/$1 begin=${EPOCHREALTIME/./} end rc said
    timeout -k 5 "${UNIT_TIMEOUT_S:-300}" "${wrap[@]}" "$2" --verbose --color=never </dev/null >"$out" 2>&1
    rc=$?
    end=${EPOCHREALTIME/./}
    said=$([ $rc = 0 ] && echo passed || echo "exit status $rc")
    # Criterion asks for the status of a test's process no more when the test has ended: a leak is found after that.
    if [ $rc = 0 ] && grep -aq '^==[0-9]*==ERROR: ' "$out"; then
        rc=1
        said="a sanitizer complains"
        echo "0 passed, 1 failed, 0 skipped" >>"$out"
    # A program that died before its summary is one failure that nothing else counts.
    elif [ $rc != 0 ] && ! grep -aq '^\[====\] Synthesis' "$out"; then
        echo "0 passed, 1 failed, 0 skipped" >>"$out"
    fi
    {
        printf '== %s: %s (%d ms)\n' "$2" "$said" $(((end - begin) / 1000))
        if [ $rc != 0 ]; then cat "$out"; else grep -aE '^\[(SKIP|====)\]' "$out"; fi
    } >"$out.all"
    cat "$out.all"
    return $rc
}

n=0
for t in "$@"; do
    [ $n -lt "$lanes" ] || wait -n
    n=$((n + 1))
    run $n "$t" || : >"$dir/failed" &
done
wait
[ ! -e "$dir/failed" ]
