#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a guest whose network card no kernel looks after: hugepages,
# virtio-net behind the IOMMU, bound to vfio-pci; then the plug-in sends back what
# the host asks (dpdk_host.py), until the host makes the file that ends it.
#   fh.bin=FILE    freehold
#   fh.stop=FILE   there: stop
#   fh.set=A=1     FH_KEYS=DIR: then serve the built-in model there, until STOP.2 is there
# shellcheck source=tests/vm/mounts.sh
. "${0%/*}/mounts.sh"
arg() { sed -n "s|.*\bfh\.$1=\([^ ]*\).*|\1|p" /proc/cmdline; }
# shellcheck disable=SC2046,SC2163
export $(arg set | tr , ' ')
bin=$(arg bin) stop=$(arg stop) card=0000:00:12.0
echo 1 >/proc/sys/kernel/printk
end() { echo "$1"; sync; echo o >/proc/sysrq-trigger; sleep 60; }
echo "READY $(uname -r)"

echo 128 >/proc/sys/vm/nr_hugepages
modprobe vfio-pci
[ ! -e /sys/bus/pci/devices/$card/driver ] || echo $card >/sys/bus/pci/devices/$card/driver/unbind
echo vfio-pci >/sys/bus/pci/devices/$card/driver_override
echo $card >/sys/bus/pci/drivers_probe
echo "card: $(basename "$(readlink /sys/bus/pci/devices/$card/driver)"), IOMMU group $(basename "$(readlink /sys/bus/pci/devices/$card/iommu_group)"), hugepages $(cat /proc/sys/vm/nr_hugepages)"
# shellcheck disable=SC2086
"$bin" bench datagram --echo 192.0.2.1:7000 --dpdk $card --eal "-m 32 -a $card -- address=2001:db8::1/64 ${FH_OWN:-}" \
    ${FH_MTU:+--mtu $FH_MTU} --json --metrics >/tmp/out 2>&1 &
echo_pid=$!
i=0
until grep -q ready /tmp/out || ! kill -0 $echo_pid 2>/dev/null; do
    sleep 0.1
    i=$((i + 1))
    [ $i -lt 600 ] || break
done
grep -q ready /tmp/out || { cat /tmp/out; end "no echo"; }
echo LISTENING
until [ -e "$stop" ]; do sleep 0.2; done
kill $echo_pid
wait $echo_pid
echo "REPORT $?"
cat /tmp/out

if [ -n "${FH_KEYS:-}" ]; then
    ip link set lo up
    "$bin" serve --http 127.0.0.1:8080 --cache-dir none --threads 1 --udp 192.0.2.1:9000 --udp-key "$FH_KEYS/server.key" \
        --udp-clients "$FH_KEYS/clients" --udp-dpdk $card --udp-eal "-m 32 -a $card" --drain 1 >/tmp/out 2>&1 &
    serve_pid=$!
    i=0
    until grep -q 'ready on' /tmp/out || ! kill -0 $serve_pid 2>/dev/null; do
        sleep 0.1
        i=$((i + 1))
        [ $i -lt 600 ] || break
    done
    cat /tmp/out
    grep -q 'ready on' /tmp/out || end "no server"
    echo SERVING
    until [ -e "$stop.2" ]; do sleep 0.2; done
    wget -q -O - http://127.0.0.1:8080/metrics | grep '^freehold_udp_carrier_copied_bytes_total'
    kill $serve_pid
    wait $serve_pid
    echo "SERVED $?"
    tail -n 5 /tmp/out
fi
dmesg | grep -aE 'BUG|WARNING|DMAR.*fault|Oops|Call Trace' >/tmp/splats
[ ! -s /tmp/splats ] || { cat /tmp/splats; end "the kernel complains"; }
end "VM OK"
