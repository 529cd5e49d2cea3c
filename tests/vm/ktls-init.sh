#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a guest whose kernel has kTLS: the tests of TLS, which find
# it there (tests/e2e/test_ktls.py).
#   fh.bin=FILE    freehold
#   fh.args=A,B    unit test programs, and modules or tests of tests/e2e; without the latter all of TLS
# shellcheck source=tests/vm/mounts.sh
. "${0%/*}/mounts.sh"
arg() { sed -n "s|.*\bfh\.$1=\([^ ]*\).*|\1|p" /proc/cmdline; }
FREEHOLD=$(arg bin) TMPDIR=/tmp HOME=/tmp PYTHONDONTWRITEBYTECODE=1
export FREEHOLD TMPDIR HOME PYTHONDONTWRITEBYTECODE
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
echo 1 >/proc/sys/kernel/printk
end() { echo "$1"; sync; echo o >/proc/sysrq-trigger; sleep 60; }
echo "READY $(uname -r)"
ip link set lo up
# As systemd would have it: enough for io_uring's table of connections.
# shellcheck disable=SC3045
ulimit -n 524288
modprobe tls || end "no tls.ko"
cd "$tree" || end "no tree"
bad='' names=''
for t in $(arg args | tr , ' '); do
    case $t in
    build/asan/*) tests/unit.sh --san asan "$t" || bad=y ;;
    build/*) tests/unit.sh "$t" || bad=y ;;
    *) names="$names $t" ;;
    esac
done
# shellcheck disable=SC2086
python3 tests/e2e/run.py ${names:-test_ktls test_tls} || bad=y
cat /proc/net/tls_stat
dmesg | grep -aE 'BUG|WARNING|Oops|Call Trace' >/tmp/splats
[ ! -s /tmp/splats ] || { cat /tmp/splats; end "the kernel complains"; }
[ -z "$bad" ] || end "a test failed"
end "VM OK"
