#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Cross-builds the whole tree for arm64 and runs what can be run under user-mode
# emulation: the kernels' unit tests, and the binary on the built-in model, whose
# greedy tokens must be those of the reference kernels here.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
ok() { echo "[PASS] arm64::$1"; passed=$((passed + 1)); }
bad() { echo "[FAIL] arm64::$1: $2"; failed=$((failed + 1)); }
skip() { echo "[SKIP] arm64::$1: $2"; skipped=$((skipped + 1)); }
done_() { echo "$passed passed, $failed failed, $skipped skipped"; [ $failed = 0 ]; exit; }

if ! command -v aarch64-linux-gnu-gcc >/dev/null 2>&1; then
    skip build "aarch64-linux-gnu-gcc is not installed"
    done_
fi
if ! tools/packaging/arm64-sysroot.sh build/arm64/sysroot; then
    skip build "the arm64 packages cannot be fetched here"
    done_
fi
kernel_tests=()
for f in tests/unit/test_kernel*.c; do
    [ -e "$f" ] && kernel_tests+=("build/arm64/${f%.c}")
done
if make -s -j"$(nproc)" arm64 WERROR="${WERROR:-0}" ARM64_TARGETS="${kernel_tests[*]:-all}"; then
    ok build
else
    bad build "the cross build failed"
    done_
fi
file_arch=$(od -An -tx1 -j18 -N2 build/arm64/freehold | tr -d ' ')
if [ "$file_arch" = b700 ]; then ok machine; else bad machine "ELF machine $file_arch is not arm64 (b700)"; fi

qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64)
if [ -z "$qemu" ]; then
    skip run "qemu-user-static is not installed"
    done_
fi
libs=build/arm64/sysroot/usr/lib/aarch64-linux-gnu
run() { "$qemu" -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$PWD/$libs:$PWD/build/arm64/sysroot/lib/aarch64-linux-gnu" "$@"; }

for t in "${kernel_tests[@]}"; do
    if run "$t" </dev/null >build/arm64/out 2>&1; then
        grep -a '^\[\(SKIP\|====\)\]' build/arm64/out
    else
        tail -n 30 build/arm64/out
        bad "$(basename "$t")" "failed under emulation"
    fi
done

model=tools/demo/freehold-stories-13M-moe-Q8_0.gguf
args=(run -m "$model" -p "Once upon a time" -n 12 --temp 0)
if [ -x build/freehold ]; then
    here=$(FREEHOLD_ISA=ref build/freehold "${args[@]}" </dev/null 2>build/arm64/err)
    there=$(run build/arm64/freehold "${args[@]}" </dev/null 2>>build/arm64/err)
    if [ -n "$here" ] && [ "$here" = "$there" ]; then
        ok "greedy tokens: $there"
    else
        tail -n 5 build/arm64/err
        bad "greedy tokens" "here: '$here'; emulated: '$there'"
    fi
else
    bad "greedy tokens" "build/freehold is not there"
fi
done_
