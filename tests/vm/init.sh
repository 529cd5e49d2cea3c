#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a test kernel: loads the module, runs the tests, looks
# at what the kernel said, unloads, and powers off.  The root is the host's,
# read-only.  The kernel's command line says where things are:
#   fh.mod=DIR    freehold.ko and freehold_kunit.ko
#   fh.abi=FILE   the test program
#   fh.args=A,B   its arguments, separated by commas
#   fh.mode=cost  count instructions, and nothing else
#   fh.set=A=1,B=2  its environment: how long some tests are
# shellcheck source=tests/vm/mounts.sh
. "${0%/*}/mounts.sh"
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
mkdir /tmp/cgroup && mount -t cgroup2 cgroup /tmp/cgroup

arg() { sed -n "s|.*\bfh\.$1=\([^ ]*\).*|\1|p" /proc/cmdline; }
mod=$(arg mod)
abi=$(arg abi)
# shellcheck disable=SC2046,SC2163
export $(arg set | tr , ' ')
# The kernel's own messages go to the log; the console is for results.
echo 1 >/proc/sys/kernel/printk
passed=0 failed=0
check() { # NAME: status of the command before
    if [ "$?" = 0 ]; then echo "[PASS] vm::$1"; passed=$((passed + 1))
    else echo "[FAIL] vm::$1"; failed=$((failed + 1)); fi
}

# Fault injection (tests/abi/test_faults.c): allocations that may wait fail too, and nothing is said about it.
for f in failslab fail_page_alloc; do
    [ -d /sys/kernel/debug/$f ] && echo N >/sys/kernel/debug/$f/ignore-gfp-wait
done
[ -d /sys/kernel/debug/fail_page_alloc ] && echo 0 >/sys/kernel/debug/fail_page_alloc/min-order
for f in failslab fail_page_alloc fail_usercopy; do
    [ -d /sys/kernel/debug/$f ] && echo 0 >/sys/kernel/debug/$f/verbose
done
# What the kernel said while it started is not ours.
dmesg -c >/tmp/boot.log

echo "READY $(uname -r)"
if [ -e "$mod/freehold_kunit.ko" ]; then
    insmod "$mod/freehold_kunit.ko"
    dmesg | grep -aE '^(\[[^]]*\] )? *(not )?ok [0-9]' | sed 's/^\[[^]]*\] *//' >/tmp/ktap
    cat /tmp/ktap
    grep -qx 'ok 1 freehold' /tmp/ktap && ! grep -q '^not ok' /tmp/ktap
    check kunit
    rmmod freehold_kunit
fi

if [ "$(arg mode)" = cost ]; then
    insmod "$mod/freehold.ko" unsafe_dma=1
    "$abi" --cost && echo "VM OK"
    exec "$abi" --poweroff
fi

# Exporters of dma-bufs, where they are modules; the stand-in for a GPU, where there is its BAR; hugepages.
modprobe -qa udmabuf vgem
[ ! -e "$mod/tests/vm/bar/fhbar.ko" ] || insmod "$mod/tests/vm/bar/fhbar.ko"
[ ! -e /proc/sys/vm/nr_hugepages ] || echo 8 >/proc/sys/vm/nr_hugepages
insmod "$mod/freehold.ko" unsafe_dma=1
check insmod
for e in /sys/kernel/tracing/events/freehold/*/enable; do [ -e "$e" ] && echo 1 >"$e"; done
# shellcheck disable=SC2046
"$abi" $(arg args | tr , ' ')
check abi
# All of them together make each event; a few that are named need not.
if [ -e /sys/kernel/tracing/trace ] && ! arg args | tr , '\n' | grep -qv '^--without='; then
    for e in fh_chan_create fh_chan_accept fh_chan_end fh_chan_free fh_mem_import fh_mem_free; do
        grep -q " $e: " /sys/kernel/tracing/trace || echo "no event $e"
    done >/tmp/no-events
    cat /tmp/no-events
    [ ! -s /tmp/no-events ]
    check tracepoints
fi
# Everything has been given back: what is left says so.
i=0
while [ $i -lt 50 ] && ! grep -qx 'channels	0' /sys/kernel/debug/freehold/state; do sleep 0.1; i=$((i + 1)); done
cat /sys/kernel/debug/freehold/state
printf 'runtime\t0\nclients\t0\nchannels\t0\nwaiting\t0\ndead\t0\n' >/tmp/want
grep -vE '^(created|region|dma)' /sys/kernel/debug/freehold/state | cmp -s - /tmp/want &&
    grep -qx 'regions	0' /sys/kernel/debug/freehold/state && grep -qx 'region_bytes	0' /sys/kernel/debug/freehold/state &&
    grep -qx 'dma_maps	0' /sys/kernel/debug/freehold/state
check counters-at-zero
if [ -e /sys/kernel/debug/kmemleak ]; then
    echo scan >/sys/kernel/debug/kmemleak
    sleep 1
    echo scan >/sys/kernel/debug/kmemleak
    grep -aE -A 30 'fh_|freehold' /sys/kernel/debug/kmemleak >/tmp/leaks
    head -n 60 /tmp/leaks
    [ ! -s /tmp/leaks ]
    check kmemleak
fi
rmmod freehold
check rmmod
# Unloaded and loaded again while clients and runtimes come and go: refused or done, never half of it.
"$abi" --load 40 &
load=$! n=0 refused=0
while kill -0 $load 2>/dev/null; do
    if [ -d /sys/module/freehold ]; then
        if rmmod freehold 2>/dev/null; then n=$((n + 1)); else refused=$((refused + 1)); fi
    else
        insmod "$mod/freehold.ko"
    fi
    # Both have been seen; a slow machine takes its time for it.
    [ $n -lt 3 ] || [ $refused -lt 3 ] || kill $load 2>/dev/null
done
wait $load
echo "unloaded $n times, refused $refused times"
[ $n -gt 0 ] && [ $refused -gt 0 ]
check unload-under-load
[ ! -d /sys/module/freehold ] || rmmod freehold
check rmmod-again
dmesg | grep -aE 'BUG|WARNING|KASAN|INFO: |possible|Oops|general protection|refcount_t|leaked|inconsistent|Call Trace' \
    >/tmp/splats
if [ -s /tmp/splats ]; then dmesg | tail -n 150; false; fi
check clean-log
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ] && echo "VM OK"
sync
exec "$abi" --poweroff
