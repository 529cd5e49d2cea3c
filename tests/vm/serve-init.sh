#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a test kernel in which the daemon serves /dev/freehold:
# loads the module as the package would, runs tests/vm/serve_*.c, unloads, and
# looks at what the kernel said.  The root is the host's, read-only.  The
# kernel's command line says:
#   fh.mod=DIR      freehold.ko
#   fh.args=A,B     which tests; all without it
#   fh.set=A=1,B=2  FH_ROUNDS, FH_SEED: of the test that kills at random moments
#   fh.mode=serve-cost  count a request's instructions, and nothing else
# shellcheck source=tests/vm/mounts.sh
. "${0%/*}/mounts.sh"
mount -t debugfs debug /sys/kernel/debug
mount -t cgroup2 cgroup /sys/fs/cgroup
arg() { sed -n "s|.*\bfh\.$1=\([^ ]*\).*|\1|p" /proc/cmdline; }
mod=$(arg mod)
# shellcheck disable=SC2046,SC2163
export $(arg set | tr , ' ') FREEHOLD="$tree/build/freehold"
echo 1 >/proc/sys/kernel/printk
passed=0 failed=0
check() { # NAME: status of the command before
    if [ "$?" = 0 ]; then echo "[PASS] vm::$1"; passed=$((passed + 1))
    else echo "[FAIL] vm::$1"; failed=$((failed + 1)); fi
}
dmesg -c >/tmp/boot.log
echo "READY $(uname -r)"

# What sysusers.d, tmpfiles.d and udev do on a real host.
cp /etc/passwd /etc/group /tmp
echo 'freehold:x:471:471::/:/usr/sbin/nologin' >>/tmp/passwd
echo 'freehold:x:471:' >>/tmp/group
mount --bind /tmp/passwd /etc/passwd
mount --bind /tmp/group /etc/group
mkdir -p /run/freehold
chown freehold:freehold /run/freehold
modprobe -qa vgem
# Reserved huge pages, for some regions and not for others.
[ ! -e /proc/sys/vm/nr_hugepages ] || echo 8 >/proc/sys/vm/nr_hugepages
insmod "$mod/freehold.ko"
check insmod
chown root:freehold /dev/freehold
chmod 660 /dev/freehold
chown freehold:root /dev/freehold-ctl

if [ "$(arg mode)" = serve-cost ]; then
    FH_MODEL=$(echo "$tree"/tools/demo/*.gguf)
    export FH_MODEL
    # While the host reads a file, the guest's clock leaps from timer to timer: let there be no timers yet.
    cat "$FREEHOLD" "$FH_MODEL" >/dev/null
    "$tree/build/tests/vm/serve" cost_of_requests && echo "VM OK"
    exec "$tree/build/tests/abi/abi" --poweroff
fi

# shellcheck disable=SC2046
"$tree/build/tests/vm/serve" $(arg args | tr , ' ')
check serve
"$FREEHOLD" doctor | grep -E ' (module|gpu) '
"$FREEHOLD" doctor | grep -q 'freehold.ko is loaded, ABI 1: 256 channels'
check doctor
i=0
while [ $i -lt 50 ] && ! grep -qx 'channels	0' /sys/kernel/debug/freehold/state; do sleep 0.1; i=$((i + 1)); done
cat /sys/kernel/debug/freehold/state
grep -qx 'channels	0' /sys/kernel/debug/freehold/state && grep -qx 'regions	0' /sys/kernel/debug/freehold/state &&
    grep -qx 'region_bytes	0' /sys/kernel/debug/freehold/state && grep -qx 'runtime	0' /sys/kernel/debug/freehold/state
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
dmesg | grep -aE 'BUG|WARNING|KASAN|INFO: |possible|Oops|general protection|refcount_t|leaked|inconsistent|Call Trace' \
    >/tmp/splats
if [ -s /tmp/splats ]; then dmesg | tail -n 150; false; fi
check clean-log
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ] && echo "VM OK"
sync
exec "$tree/build/tests/abi/abi" --poweroff
