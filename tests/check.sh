#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# `make check` and `make check-long`: runs the suites in order, each within its
# time, and ends with one line, `N passed, N failed, N skipped`, over all.
#
#   tests/check.sh short|long [SUITE...]
#   tests/check.sh --self-test    shows that a failure is named
#
# A suite is a function below.  It writes to build/check/NAME.log, and its
# result is read from there: Criterion's Synthesis lines, lines that say
# `N passed, N failed, N skipped`, and `[SKIP] name: reason`.  A suite that
# fails without naming a failed test, runs out of time, or ran nothing at all
# counts as one failure.
set -u
cd "$(dirname "$0")/.." || exit 1
mode=${1:-short}
case $mode in
short | long | --self-test) ;;
*) echo "usage: tests/check.sh short|long [SUITE...]" >&2; exit 2 ;;
esac
shift
case ${FREEHOLD_SHARED:=../shared} in
/*) ;;
*) FREEHOLD_SHARED=$PWD/$FREEHOLD_SHARED ;;
esac
export FREEHOLD_SHARED
export FREEHOLD=$PWD/build/freehold FREEHOLD_CHECK=$mode WERROR=${WERROR:-0}
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
jobs=-j$(nproc)
venv=build/venv

# name, seconds in check, seconds in check-long, cores; 0 seconds: not in check,
# unless it is named.  Those of one core keep no more than one busy: two of them
# run at a time in check.  All the others have the machine to themselves.
suites='
build       600  600 all
style        60   60 1
deps         60   60 1
gpu         360  600 all
serve       600 4200 1
counts      120  120 1
packaging   480  480 1
arm64       420  420 1
tokenizer   120  120 1
openai      180  180 1
unit        300  600 all
unit-asan   600 1200 all
unit-tsan   600 1200 all
golden      300  900 all
accuracy    300  300 all
cli         180  300 all
e2e         420 3600 all
fuzz        480 3000 all
driver      900 2400 all
kernel-debug  0 4800 all
audit         0  300 all
dpdk          0  900 all
ktls          0  900 1
'

# in_venv PACKAGE: sees that $venv has it.
in_venv() {
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv" || return 1
    "$venv/bin/python" -c "import $1" 2>/dev/null || "$venv/bin/pip" install -q --disable-pip-version-check "$1"
}

suite_build() { make "$jobs" all && make "$jobs" unit-build perf && echo "1 passed, 0 failed, 0 skipped"; }
suite_style() {
    local rc=0
    self_test || rc=1
    tests/style.sh || rc=1
    return $rc
}
suite_deps() { tests/deps.sh --self-test && tests/deps.sh; }
suite_unit() { make -s "$jobs" unit; }
suite_unit-asan() { make -s "$jobs" SAN=asan unit-build && make -s SAN=asan unit; }
# The tests that start threads, or drive what does.
suite_unit-tsan() {
    local names=() f
    while IFS= read -r f; do
        names+=("build/tsan/${f%.c}")
    done < <(grep -lE 'pthread|fh_engine_start|fh_http_start|fh_pool_|fh_fake_' tests/unit/*.c)
    make -s "$jobs" SAN=tsan "${names[@]}" && tests/unit.sh --san tsan "${names[@]}"
}
suite_tokenizer() { python3 tests/e2e/tokenizer.py; }
suite_golden() {
    # Some models are made by a script that needs numpy; what cannot be made is skipped by name.
    if python3 -c 'import numpy' 2>/dev/null || ! in_venv numpy; then
        python3 tests/e2e/golden.py
    else
        "$venv/bin/python" tests/e2e/golden.py
    fi
}
# Valgrind and llvm-mca count; no clock does.
suite_counts() { make -s "$jobs" all build/tests/perf/count_kernels && tests/perf/counts.py; }
suite_accuracy() { make -s "$jobs" all accuracy && tests/accuracy/perplexity.py; }
suite_cli() { python3 tests/e2e/run.py test_cli; }
# First what no busy neighbour can spoil, beside the one that keeps a core for a minute; then the rest, alone.
suite_e2e() {
    local patient=() alone=() f rc=0
    for f in tests/e2e/test_*.py; do
        f=$(basename "$f" .py)
        case $f in
        test_cli | test_openai_client | test_lib_cost) ;;
        test_audit* | test_budgets | test_channel | test_daemon | test_http_malformed | test_identity | test_keys | \
            test_powercut | test_tls | test_udp*) patient+=("$f") ;;
        *) alone+=("$f") ;;
        esac
    done
    python3 tests/e2e/run.py test_lib_cost >build/check/lib_cost.log 2>&1 &
    python3 tests/e2e/run.py "${patient[@]}" || rc=1
    wait $! || rc=1
    cat build/check/lib_cost.log
    python3 tests/e2e/run.py "${alone[@]}" || rc=1
    return $rc
}
suite_openai() {
    in_venv openai || {
        echo "[SKIP] openai: the openai Python package cannot be installed here (see above)"
        echo "0 passed, 0 failed, 1 skipped"
        return 0
    }
    "$venv/bin/python" tests/e2e/run.py test_openai_client
}
# The CUDA back end without a GPU: a stand-in for the driver, in which the real kernels run, compiled for the host.
# Then the kernels alone on that emulator, and what ptxas makes of them where nvcc is.
suite_gpu() {
    local rc=0
    make -s "$jobs" all standin && python3 tests/gpu/host.py || rc=1
    tests/gpu/kernels.sh || rc=1
    return $rc
}
suite_fuzz() {
    local clang
    clang=$(make -s print-clang)
    if [ -z "$clang" ]; then
        echo "[SKIP] fuzz: clang is not installed"
        echo "0 passed, 0 failed, 1 skipped"
        return 0
    fi
    make -s "$jobs" SAN=fuzz CC="$clang" fuzz-build && tests/fuzz.sh "$mode"
}
suite_arm64() { tests/arm64.sh; }
suite_packaging() { tests/packaging.sh; }
suite_driver() { tests/driver.sh; }
# Part of unit and e2e; named, it runs the audit log's tests alone.
suite_audit() {
    local tests=() f rc=0
    for f in tests/unit/test_audit_*.c; do
        tests+=("build/${f%.c}")
    done
    make -s "$jobs" all build/tests/perf/audit_cost "${tests[@]}" || return 1
    tests/unit.sh "${tests[@]}" || rc=1
    python3 tests/e2e/run.py test_audit test_audit_serve || rc=1
    return $rc
}
# test_dpdk and test_dpdk_spoiled are part of e2e; named, or in check-long, they run again with a card under vfio-pci in
# a guest, and its instructions are counted.
suite_dpdk() {
    local rc=0
    make -s "$jobs" all || return 1
    python3 tests/e2e/run.py test_dpdk test_dpdk_spoiled || rc=1
    tests/vm/qemu.sh dpdk 6.12 || rc=1
    tests/vm/qemu.sh dpdk-cost 6.12 || rc=1
    return $rc
}
# test_ktls and test_tls again, on kernels that encrypt.
suite_ktls() {
    local rc=0
    make -s "$jobs" all || return 1
    tests/vm/qemu.sh ktls 6.12 || rc=1
    tests/vm/qemu.sh ktls 6.1 || rc=1
    return $rc
}
suite_kernel-debug() { tests/driver.sh debug; }
# The daemon and clients of the module: `make vm-demo`, then tests, with the sandbox on Debian's kernel and, in
# check-long, under the kernel's checkers.
suite_serve() {
    tests/vm/demo.sh --test || return 1
    tests/vm/qemu.sh serve 6.12 || return 1
    [ "$mode" != long ] || FREEHOLD_CHECK=short tests/vm/qemu.sh serve debug
}

# failures SUITE LOG: each failed test with the last that it said, to be read where the end of the output is all there is.
# Where the first says nothing before, the first line after it is the reason: style.sh's way.
failures() {
    awk -v suite="$1" -v most=30 '
        function forget() { last = where = "" }
        function say(reason) {
            if (name != "" && ++nr <= most)
                printf "  failed: %s: %s%s\n", suite, name, reason == "" ? "" : ": " substr(reason, 1, 240)
            name = ""
        }
        { sub(/\r$/, "") }
        /^\[(FAIL|PASS|SKIP|RUN |====)\]|^== / { say("") }
        /^\[FAIL\]/ {
            name = substr($0, 8)
            sub(/:? \([0-9.]+ ?s\)$/, "", name)
            if (where != "")
                last = where
            if (order == "")
                order = last == "" ? "after" : "before"
            if (order == "before")
                say(last)
            forget()
            next
        }
        /^\[(PASS|SKIP|RUN |====)\]|^== / { forget(); next }
        # Criterion says where, then what, on lines of their own.
        /^\[----\]/ {
            sub(/^\[----\] */, "")
            if ($0 !~ /^(exit status [0-9]+)?$/)
                where = where (where == "" ? "" : ": ") $0
            next
        }
        /^[0-9]+ passed, / { next }
        NF {
            gsub(/^ +| +$/, "")
            last = $0
            say($0)
        }
        END {
            say("")
            if (nr > most)
                printf "  failed: %s: and %d more\n", suite, nr - most
        }' "$2"
}

# tally LOG: "passed failed skipped"
tally() {
    awk '
        /^\[====\] Synthesis: Tested: / {
            for (i = 1; i < NF; i++) {
                if ($i == "Passing:") passed += $(i + 1)
                # Which has those that crashed among it.
                if ($i == "Failing:") failed += $(i + 1)
            }
            # Criterion does not count what was skipped; its lines do.
            skipped += pending
            pending = 0
        }
        /^\[SKIP\] [^ :]+::?/ { pending++ }
        /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ {
            passed += $1; failed += $3; skipped += $5
            pending = 0
        }
        END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}

self_test() {
    local log rc=0
    log=$(mktemp)
    # shellcheck disable=SC2064
    trap "rm -f '$log'" EXIT
    sed 's/\$$//' >"$log" <<'EOF'
[PASS] test_a::A.test_fine (0.10 s)
of no matter
Traceback (most recent call last):
  File "test_a.py", line 3, in test_bad
AssertionError: 4.15 not less than 4

[FAIL] test_a::A.test_bad
[SKIP] test_a::A.test_absent: none is here
[FAIL] test_a::A.test_silent
[RUN ] a::eq
to stderr
[----] t.c:4: Assertion Failed
[----]   $
[----]   one is 1
[----]   $
[FAIL] a::eq: (0.00s)
[RUN ] a::plain
[----] t.c:5: Assertion failed: 1==2
[----] exit status 101
[FAIL] a::plain
[FAIL] a::slow: Timed out. (1.00s)
[FAIL] arm64::build: it does not
[====] Synthesis: Tested: 5 | Passing: 1 | Failing: 3 | Crashing: 0
== build/tests/unit/test_b: passed (3 ms)
EOF
    failures s "$log" | diff - /dev/fd/3 3<<'EOF' || rc=1
  failed: s: test_a::A.test_bad: AssertionError: 4.15 not less than 4
  failed: s: test_a::A.test_silent
  failed: s: a::eq: t.c:4: Assertion Failed: one is 1
  failed: s: a::plain: t.c:5: Assertion failed: 1==2
  failed: s: a::slow: Timed out.
  failed: s: arm64::build: it does not
EOF
    printf '%s\n' '[PASS] a' '[FAIL] b' 'b.c:3: a space' 'b.c:4: a space' '[FAIL] c' '[FAIL] d' 'd.c:1: no' '1 passed, 3 failed, 0 skipped' >"$log"
    [ "$(failures s "$log" | tr '\n' ';')" = "  failed: s: b: b.c:3: a space;  failed: s: c;  failed: s: d: d.c:1: no;" ] || rc=1
    seq -f '[FAIL] t::%g' 33 >"$log"
    [ "$(failures s "$log" | tail -n 1)" = "  failed: s: and 3 more" ] || rc=1
    printf '%s\n' '[====] Synthesis: Tested: 3 | Passing: 1 | Failing: 2 | Crashing: 1 ' '1 passed, 0 failed, 1 skipped' >"$log"
    [ "$(tally "$log")" = "2 2 1" ] || rc=1
    [ $rc = 0 ] || echo "[FAIL] check::self_test"
    echo "$((1 - rc)) passed, $rc failed, 0 skipped"
    return $rc
}
# --- one suite, in a process of its own so that `timeout` can end it ---------
if [ "${CHECK_SUITE:-}" ]; then
    "suite_$CHECK_SUITE"
    exit
fi

if [ "$mode" = --self-test ]; then
    self_test
    exit
fi

mkdir -p build/check
make -s deps-check || echo "check: could not install everything; the tests that need it say so"
total_passed=0 total_failed=0 total_skipped=0
: >build/check/skipped
: >build/check/failed
begin_all=$EPOCHSECONDS

# run NAME BUDGET: its log, and build/check/NAME.result: "seconds status".
run() {
    local begin=$EPOCHSECONDS rc
    CHECK_SUITE=$1 timeout -k 10 "$2" "$0" "$mode" </dev/null >"build/check/$1.log" 2>&1
    rc=$?
    echo "$((EPOCHSECONDS - begin)) $rc" >"build/check/$1.result"
}

# report NAME BUDGET: prints what run() left, and adds it up.
report() {
    local log=build/check/$1.log took rc passed failed skipped note='' named last
    read -r took rc <"build/check/$1.result"
    read -r passed failed skipped < <(tally "$log")
    if [ "$rc" = 124 ] || [ "$rc" = 137 ]; then
        failed=$((failed + 1))
        note=" (ran out of its $2 s)"
    elif [ "$rc" != 0 ] && [ "$failed" = 0 ]; then
        failed=1
        note=" (exit status $rc)"
    elif [ $((passed + failed + skipped)) = 0 ]; then
        failed=1
        note=" (ran nothing)"
    fi
    printf '%-12s %4d s  %d passed, %d failed, %d skipped%s\n' "$1" "$took" "$passed" "$failed" "$skipped" "$note"
    grep -a '^\[SKIP\] ' "$log" | sed "s/^\[SKIP\] /  skipped: $1: /" >>build/check/skipped
    if [ "$failed" != 0 ]; then
        named=$(failures "$1" "$log")
        # What no test is named for: all its time was taken, or it went wrong before there was a test.
        if [ -n "$note" ] || [ -z "$named" ]; then
            last=$(grep -avE '^ *$|^[0-9]+ passed, ' "$log" | tail -n 1 | cut -c 1-240)
            named+=${named:+$'\n'}"  failed: $1:${note:- it does not say what}: $last"
        fi
        echo "$named" >>build/check/failed
        grep -aE '^\[FAIL\]|Assertion failed|AddressSanitizer|ThreadSanitizer|runtime error' "$log" | head -n 20 | sed 's/^/    | /'
        echo "    ... the last lines of $log:"
        tail -n 25 "$log" | sed 's/^/    | /'
    fi
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    total_skipped=$((total_skipped + skipped))
    last_failed=$failed
}

# until_below N: waits until fewer than N suites run, and reports those that ended.
declare -A running=() budgets=()
until_below() {
    local ended
    while [ ${#running[@]} -ge "$1" ]; do
        wait -n -p ended "${!running[@]}"
        report "${running[$ended]}" "${budgets[$ended]}"
        unset "running[$ended]"
    done
}
trap 'kill "${!running[@]}" 2>/dev/null' INT TERM

while read -r name short long cores; do
    [ -n "$name" ] || continue
    if [ $# -gt 0 ] && ! [[ " $* " == *" $name "* ]]; then
        continue
    fi
    budget=$short
    if [ "$mode" = long ] || { [ "$short" = 0 ] && [ $# -gt 0 ]; }; then
        budget=$long
    fi
    [ "$budget" != 0 ] || continue
    if [ "$cores" = 1 ] && [ "$mode" = short ]; then
        until_below 2
        run "$name" "$budget" &
        running[$!]=$name
        budgets[$!]=$budget
        continue
    fi
    until_below 1
    run "$name" "$budget"
    report "$name" "$budget"
    # Nothing else can be right when the tree does not build.
    [ "$name" = build ] && [ "$last_failed" != 0 ] && break
done <<<"$suites"
until_below 1

cat build/check/skipped build/check/failed
echo "took $((EPOCHSECONDS - begin_all)) s"
echo "$total_passed passed, $total_failed failed, $total_skipped skipped"
[ $total_failed = 0 ]
