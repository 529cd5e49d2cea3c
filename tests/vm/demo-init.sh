#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the machine that tests/vm/demo.sh makes.  It does what
# udev, sysusers and systemd do on a host that has them, and stops at the first
# thing that goes wrong: only a machine that got to its end says `VM OK`.
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
chmod 1777 /tmp /dev/shm
uptime_s() { cut -d ' ' -f 1 /proc/uptime; }
init_s=$(uptime_s)
echo 1 >/proc/sys/kernel/printk
stop() {
    sync
    poweroff -f
    sleep 60
}
fail() {
    echo "vm-demo: $*"
    tail -n 20 /tmp/daemon.log 2>/dev/null
    dmesg | tail -n 5
    stop
}
# Poll @1 times a tenth of a second for a command to succeed.
within() { # TENTHS COMMAND...
    left=$1
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}
echo "READY $(uname -r)"
IFS= read -r prompt </etc/freehold/prompt
read -r tokens </etc/freehold/tokens
export prompt tokens

insmod /lib/modules/freehold.ko || fail "the module is refused"
mkdir -p /run/freehold
chown root:freehold /dev/freehold
chmod 660 /dev/freehold
chown freehold:root /dev/freehold-ctl
chmod 600 /dev/freehold-ctl
chown freehold:freehold /run/freehold
ip link set lo up

# The daemon and the client in a control group each, so that the log can tell them apart.  The daemon makes itself the
# user freehold and closes its doors.
mkdir /sys/fs/cgroup/freehold /sys/fs/cgroup/alice
(
    echo 0 >/sys/fs/cgroup/freehold/cgroup.procs
    ulimit -l unlimited
    ulimit -n 65536
    exec freehold serve --config /etc/freehold/freehold.conf
) >/tmp/daemon.log 2>&1 &
daemon=$!
is_ready() { grep -q 'ready on' /tmp/daemon.log || ! kill -0 $daemon 2>/dev/null; }
within 900 is_ready
grep -q 'ready on' /tmp/daemon.log || fail "the daemon is not ready"
ready_s=$(uptime_s)
grep 'sandbox: ' /tmp/daemon.log
grep 'ready on' /tmp/daemon.log
grep -q 'sandbox: .*user freehold' /tmp/daemon.log || fail "the daemon is not confined"

echo "--- alice asks over /dev/freehold: $prompt"
mkfifo /tmp/stream
tee /tmp/answer </tmp/stream &
tee=$!
(
    echo 0 >/sys/fs/cgroup/alice/cgroup.procs
    # shellcheck disable=SC2016 # the inner shell expands them
    exec su -s /bin/sh alice -c 'exec generate "$prompt" "$tokens" dev:'
) >/tmp/stream 2>/tmp/client.log &
client=$!
wait $client || { cat /tmp/client.log; fail "the client had no answer"; }
wait $tee

alice="uid 1000, pid $client, cgroup $(stat -c %i /sys/fs/cgroup/alice)"
echo "--- whom the kernel vouched for; the client was $alice:"
is_named() { grep "channel.*($alice)" /tmp/daemon.log; }
within 20 is_named || { grep channel /tmp/daemon.log; fail "the log does not name the client"; }

# The kernel hands what it does not know itself from its command line to its first process.
if [ "${demo:-}" = emulated ]; then
    echo "--- times in this machine, whose processor is emulated: no measure of any real one"
else
    echo "--- times in this machine"
fi
wget -q -O /tmp/metrics http://127.0.0.1:8080/metrics || fail "the daemon does not answer over HTTP"
awk -v init="$init_s" -v ready="$ready_s" '
    /^freehold_time_to_first_token_seconds_(sum|count) / || /^freehold_inter_token_latency_seconds_(sum|count) / { m[$1] = $2 }
    END {
        ttft = "freehold_time_to_first_token_seconds_"; itl = "freehold_inter_token_latency_seconds_"
        if (m[ttft "count"] != 1) { print "not one request, but", m[ttft "count"]; exit 1 }
        printf "kernel to first process   %8.2f s\n", init
        printf "module and daemon ready   %8.2f s\n", ready - init
        printf "time to first token       %8.1f ms\n", m[ttft "sum"] * 1000
        if (m[itl "count"] > 0) printf "each token after it       %8.1f ms\n", m[itl "sum"] / m[itl "count"] * 1000
    }' /tmp/metrics || fail "the metrics do not say what was measured"

kill $daemon
has_ended() { ! kill -0 $daemon 2>/dev/null; }
within 300 has_ended || fail "the daemon does not stop"
wait $daemon || fail "the daemon ended with status $?"
rmmod freehold || fail "the module is still in use"
freehold run --ctx 512 -p "$prompt" -n "$tokens" --temp 0 >/tmp/want 2>/tmp/run.log ||
    { cat /tmp/run.log; fail "freehold run does not"; }
# The example ends its answer with a line's end.
echo >>/tmp/want
cmp /tmp/answer /tmp/want || { cat /tmp/want; fail "freehold run says something else"; }
echo "the same tokens as: freehold run --temp 0, in this machine"
dmesg | grep -E 'BUG|WARNING|Oops|Call Trace|refcount_t' && fail "the kernel complained"
echo "VM OK"
stop
