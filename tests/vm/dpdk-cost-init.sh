#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a guest in which the ways of answering a datagram are
# counted in instructions (tests/perf/dpdk_cost.py): one card, in turn the
# kernel's and DPDK's.  A way is there when it has said PHASE NAME, and ends
# when the host makes the file that is named.
#   fh.bin=FILE    freehold
#   fh.stop=FILE   there with .1 behind it: the first way ends; .2: the second ...
#   fh.set=A=1     FH_KEYS=DIR, FH_MODEL=FILE, FH_OWN=A;B: options of the plug-in's;
#                  FH_WAYS=A;B: these ways alone; FH_SYMBOLS=1: say where functions lie, for a profile
# shellcheck source=tests/vm/mounts.sh
. "${0%/*}/mounts.sh"
arg() { sed -n "s|.*\bfh\.$1=\([^ ]*\).*|\1|p" /proc/cmdline; }
# shellcheck disable=SC2046,SC2163
export $(arg set | tr , ' ')
bin=$(arg bin) stop=$(arg stop) card=0000:00:12.0 n=0
pci=/sys/bus/pci/devices/$card
echo 1 >/proc/sys/kernel/printk
end() { echo "$1"; sync; echo o >/proc/sysrq-trigger; sleep 60; }
echo "READY $(uname -r)"
echo 128 >/proc/sys/vm/nr_hugepages

# way NAME READY COMMAND...: runs until the host has seen enough of it.
way() {
    name=$1 ready=$2
    shift 2
    case ";$FH_WAYS;" in *";$name;"*) ;; *) return ;; esac
    n=$((n + 1))
    "$@" >/tmp/out 2>&1 &
    pid=$!
    i=0
    until grep -q "$ready" /tmp/out || ! kill -0 $pid 2>/dev/null || [ $i = 600 ]; do
        sleep 0.1
        i=$((i + 1))
    done
    grep -q "$ready" /tmp/out || { cat /tmp/out; dmesg | grep -a segfault; end "$name does not start"; }
    [ -z "${FH_SYMBOLS:-}" ] || sed -n "s/^\(.* r-xp .*\)$/MAP $name \1/p" /proc/$pid/maps
    echo "PHASE $name"
    # Rarely: looking costs instructions, too.
    until [ -e "$stop.$n" ]; do sleep 2; done
    case $name in serve*) wget -q -O - http://127.0.0.1:8080/metrics | grep -E '^freehold_(udp|dpdk|engine)_[a-z_]*(\{[^}]*\})? [1-9]' | sed "s/^/METRIC $name /" ;; esac
    kill $pid
    wait $pid
    echo "ENDED $name $?"
    cat /tmp/out
}

# card_to DRIVER [IOMMU]: as it is at boot, identity, the card reaches all memory, and no buffer has to be mapped for it.
card_to() {
    [ ! -e $pci/driver ] || echo $card >$pci/driver/unbind
    [ -z "${2:-}" ] || echo "$2" >$pci/iommu_group/type
    echo "$1" >$pci/driver_override
    echo $card >/sys/bus/pci/drivers_probe
    echo "card: $(basename "$(readlink $pci/driver)"), IOMMU group $(basename "$(readlink $pci/iommu_group)"), $(cat $pci/iommu_group/type)"
}

kernel_up() {
    for dev in "$pci"/virtio*/net/*; do dev=${dev##*/}; done
    ip addr add 192.0.2.1/24 dev "$dev"
    ip link set "$dev" up
}

serve() { # NAME OPTION...
    name=$1
    shift
    way "$name" 'ready on' "$bin" serve -m "null:$FH_MODEL" --http 127.0.0.1:8080 --cache-dir none --threads 1 --max-seqs 128 \
        --udp 192.0.2.1:9000 --udp-key "$FH_KEYS/server.key" --udp-clients "$FH_KEYS/clients" --drain 1 "$@"
}

# dash has it.
# shellcheck disable=SC3045
ulimit -n 65536
ip link set lo up
[ -z "${FH_SYMBOLS:-}" ] || { echo "SYMBOLS"; grep -i ' [tw] ' /proc/kallsyms | cut -d' ' -f1,3 | gzip -9 | base64 -w 0; echo; }
modprobe virtio_net
echo "card: $(cat $pci/iommu_group/type)"
kernel_up
way echo_batch ready "${bin%/*}/tests/vm/udp_echo" batch 192.0.2.1 7000
way echo_single ready "${bin%/*}/tests/vm/udp_echo" single 192.0.2.1 7000
serve serve_kernel
# Each buffer mapped for the card and taken away again, as much as vfio keeps the card from the rest of memory.
card_to virtio-pci DMA
kernel_up
way echo_batch_iommu ready "${bin%/*}/tests/vm/udp_echo" batch 192.0.2.1 7000

modprobe vfio-pci
card_to vfio-pci
own=$(echo "${FH_OWN:-}" | tr ';' ' ')
way echo_dpdk ready "$bin" bench datagram --echo 192.0.2.1:7000 --dpdk $card --eal "-m 32 -a $card,vectorized=1 -- $own" --json --metrics
serve serve_dpdk --udp-dpdk $card --udp-eal "-m 32 -a $card,vectorized=1 -- $own"
serve serve_engine --udp-dpdk $card --udp-eal "-m 32 -a $card,vectorized=1 -- $own" --udp-on-engine
dmesg | grep -aE 'BUG|WARNING|DMAR.*fault|Oops|Call Trace' >/tmp/splats
[ ! -s /tmp/splats ] || { cat /tmp/splats; end "the kernel complains"; }
end "VM OK"
