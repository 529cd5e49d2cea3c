#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The CUDA kernels without a GPU, part of the suite `gpu`: on the emulator (logic), with the address sanitizer (bounds),
# with the thread sanitizer (races); in another order of threads host.py runs them, on the stand-in.  Then what ptxas
# says of them, where nvcc is.
set -u
cd "$(dirname "$0")/../.." || exit 1
rc=0

# on SAN NAME=VALUE ARGUMENTS...: one run; its failures and its last line
on() {
    local dir=build log=build/check/gpu-kernels.log
    [ "$1" = plain ] || dir=build/$1
    mkdir -p build/check
    if ! make -s "-j$(nproc)" "SAN=${1#plain}" "$dir/gpu/check_simt" >"$log" 2>&1 ||
        ! env "$2" "$dir/gpu/check_simt" "${@:3}" >"$log" 2>&1; then
        rc=1
        echo "FAILED: the kernels on the emulator, $*"
        grep -v '^ok' "$log" | head -60
    fi
    grep ' passed, ' "$log"
}

on plain SIMT_ORDER=0
on asan ASAN_OPTIONS=detect_leaks=0 --small --seed 3
on tsan TSAN_OPTIONS=halt_on_error=1 --small --seed 2

# In check for one architecture, in a folder of its own: a minute of one core, for all of them it would be two.
if [ -z "$(make -s print-nvcc)" ]; then
    echo "[SKIP] gpu::nvcc: no nvcc here: whether the kernels compile for a GPU was not looked at"
    echo "0 passed, 0 failed, 1 skipped"
elif [ "${FREEHOLD_CHECK:-short}" = short ]; then
    fatbins=()
    for f in kernels/cuda/*.cu; do
        fatbins+=("build/sm90/cuda/$(basename "$f" .cu).fatbin")
    done
    make -s "-j$(nproc)" B=build/sm90 CUDA_SMS=90a "${fatbins[@]}" && tests/gpu/cuda_build.py build/sm90/cuda sm_90a || rc=1
else
    make -s "-j$(nproc)" cuda && tests/gpu/cuda_build.py build/cuda || rc=1
fi
exit $rc
