#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The module in User-Mode Linux: a kernel with KASAN, lockdep, kmemleak and
# KUnit that runs as a process, needs no privilege, and starts in a second.
#
#   tests/vm/uml.sh build          the kernel (see libkernel.sh); says where
#   tests/vm/uml.sh run [TEST...]  the module, the tests, and what the kernel said
set -u
cd "$(dirname "$0")/../.." || exit 1
top=$PWD
. tests/vm/libkernel.sh

skip() {
    echo "[SKIP] uml: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

[ "$(uname -m)" = x86_64 ] || skip "this host is no x86-64"
kernel_set uml um
lacks=$(kernel_missing)
[ -z "$lacks" ] || skip "$lacks"

# What only a machine with PCI, hugepages or vgem has.
without=--without=dma_edu,--without=dma_busy,--without=dmabuf_vgem,--without=bar_,--without=hugepages,--without=dma_of

run() {
    local log=build/check/uml.log limit_s=240 rc
    [ "${FREEHOLD_CHECK:-short}" != long ] || limit_s=1800
    make -s build/tests/abi/abi || return 1
    module_build "$kernel_out" "$top/build/module/uml" ARCH=um || return 1
    mkdir -p build/check
    # What a host's ptrace gives of a process's floating-point registers it does not take back where the CPU has AMX:
    # its first process dies of that (EFAULT), before anything of ours runs.
    boot "$limit_s" $log "$@"
    rc=$?
    if [ $rc = 134 ] && grep -qa 'ptrace set fp regs failed' $log && ! grep -qa '^READY' $log; then
        skip "this host's ptrace takes no floating-point registers from User-Mode Linux ($(grep -am 1 'ptrace set fp' $log | tr -d '\r'))"
    fi
    tr -d '\r' <$log
    stty sane 2>/dev/null
    grep -qax $'VM OK\r\\?' $log && return 0
    echo "uml: the test kernel did not come to its end (status $rc)"
    return 1
}

# boot LIMIT_S LOG [TEST...]
boot() {
    local limit_s=$1 log=$2
    shift 2
    timeout -k 5 "${UML_LIMIT_S:-$limit_s}" "$kernel_out/linux" mem=512M rootfstype=hostfs rootflags=/ ro \
        init="$top/tests/vm/init.sh" con=null con0=null,fd:1 quiet kunit.enable=1 \
        fh.mod="$top/build/module/uml" fh.abi="$top/build/tests/abi/abi" fh.set="$(vm_settings)" \
        fh.args="$without$(printf ",%s" "$@" | sed "s/^,$//")" </dev/null >"$log" 2>&1
}

case ${1:-} in
build) kernel_build linux modules && echo "$kernel_out" ;;
run)
    shift
    kernel_build linux modules && run "$@"
    ;;
*)
    echo "usage: tests/vm/uml.sh build | run [TEST...]" >&2
    exit 2
    ;;
esac
