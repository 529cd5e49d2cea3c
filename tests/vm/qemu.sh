#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The module in QEMU: real paging, real PCI, an IOMMU.  On Debian's own kernels,
# 6.1 and 6.12, with the configuration that users have; and on a kernel of our
# own with the kernel's checkers and peer-to-peer DMA (debug.config), which
# has fault injection too.  Without KVM; the guest's root is the host's,
# read-only, through virtiofs.
#
#   tests/vm/qemu.sh run SERIES [TEST...]     SERIES: 6.1, 6.12, debug
#   tests/vm/qemu.sh serve SERIES [TEST...]   the daemon, and clients of the module (serve_*.c)
#   tests/vm/qemu.sh build debug              that kernel alone; says where
#   tests/vm/qemu.sh dpdk SERIES              a card under vfio-pci and the DPDK plug-in, the host asks (dpdk_host.py)
#   tests/vm/qemu.sh dpdk-cost SERIES         the same card, the kernel's and DPDK's: instructions (tests/perf/dpdk_cost.py)
#   tests/vm/qemu.sh ktls SERIES [TEST...]    TLS, where the kernel encrypts (tests/e2e/test_ktls.py)
#   tests/vm/qemu.sh cost SERIES              what calls cost in instructions (tests/abi/cost.c)
#   tests/vm/qemu.sh serve-cost SERIES        what a request to the daemon does (tests/vm/serve_cost.c)
#
# The edu device is a bus master behind the IOMMU: the DMA map's test drives it.
# The memory of an ivshmem device stands in for a GPU's (bar/fhbar.c).
set -u
cd "$(dirname "$0")/../.." || exit 1
top=$PWD
. tests/vm/libkernel.sh
work=$top/build/qemu/${2:-}

skip() {
    echo "[SKIP] qemu-$series: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

case ${1:-}/${2:-} in
run/?* | serve/?* | ktls/6.* | dpdk/6.* | dpdk-cost/6.* | build/debug | cost/6.* | serve-cost/6.*) ;;
*)
    echo "usage: tests/vm/qemu.sh run|serve SERIES [TEST...] | dpdk SERIES | build debug | ktls|cost|serve-cost|dpdk-cost SERIES" >&2
    exit 2
    ;;
esac
what=$1 series=$2
shift 2
[ "$(uname -m)" = x86_64 ] || skip "this host is no x86-64"
command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is not installed"
virtiofsd=
for candidate in /usr/lib/qemu/virtiofsd /usr/libexec/virtiofsd; do
    [ -x $candidate ] && virtiofsd=$candidate && break
done
[ -n "$virtiofsd" ] || skip "virtiofsd is not installed"
[ "$(id -u)" = 0 ] || skip "virtiofsd needs root to share the root"
busybox=$(command -v busybox) || skip "busybox-static is not installed"
for tool in cpio modprobe; do
    command -v $tool >/dev/null || skip "$tool is not installed"
done
if [ "$series" = debug ]; then
    kernel_set debug x86_64
    lacks=$(kernel_missing)
    [ -z "$lacks" ] || skip "$lacks"
    kernel=$kernel_out/vmlinux headers=$kernel_out release=debug
    if [ "$what" = build ]; then
        kernel_build vmlinux modules && echo "$kernel_out"
        exit
    fi
else
    kernel=$(find /boot -maxdepth 1 -name "vmlinuz-$series.*" 2>/dev/null | sort -V | tail -n 1)
    [ -n "$kernel" ] || skip "no /boot/vmlinuz-$series.* (Debian's linux-image-$series-amd64 or linux-image-amd64 package)"
    release=${kernel#/boot/vmlinuz-}
    headers=/usr/src/linux-headers-$release
    [ -e "$headers/Module.symvers" ] || skip "no $headers to build the module with"
    [ -d "/lib/modules/$release/kernel" ] || skip "no modules of $release"
fi

# What a kernel of this series is known to lack, so that another's run has it.
case $series in
debug) without=--without=dmabuf_vgem,--without=region_prime_vgem limit_s=400 ;;
6.1) without=--without=faults_,--without=dmabuf_udmabuf,--without=dmabuf_heap,--without=pages_can_be_pinned limit_s=150 ;;
*) without=--without=faults_ limit_s=150 ;;
esac
# 50 rounds of killing the daemon and its clients; 1,000 in `make check-long`.
boot_init=$top/tests/vm/init.sh
case $what in
serve) boot_init=$top/tests/vm/serve-init.sh limit_s=500 without=$without,--without=cost_ ;;
serve-cost) boot_init=$top/tests/vm/serve-init.sh ;;
ktls) boot_init=$top/tests/vm/ktls-init.sh limit_s=400 without= ;;
dpdk) boot_init=$top/tests/vm/dpdk-init.sh limit_s=120 ;;
dpdk-cost) boot_init=$top/tests/vm/dpdk-cost-init.sh limit_s=300 ;;
esac
case $what in
dpdk*)
    [ -e build/freehold-dpdk.so ] || make -s build/freehold-dpdk.so 2>/dev/null || skip "DPDK is not installed (libdpdk-dev)"
    ;;
esac
# Five minutes of the fuzzer are added by `make check-long`, on the kernel that has the checkers.
[ "$series" = debug ] || [ "$what" = serve ] || [ "${FREEHOLD_CHECK:-short}" != long ] || export FREEHOLD_CHECK=short
[ "${FREEHOLD_CHECK:-short}" != long ] || limit_s=3600

build() {
    local m=$top/build/module/$release
    mkdir -p "$m" "$work"
    if [ "$what" = ktls ]; then
        make -s build/freehold build/tests/unit/test_http_tls && initrd
        return
    fi
    if [ "$what" = dpdk ]; then
        make -s build/freehold build/freehold-dpdk.so && initrd
        return
    fi
    if [ "$what" = dpdk-cost ]; then
        make -s build/freehold build/freehold-dpdk.so build/tests/vm/udp_echo build/tests/vm/insn.so && initrd
        return
    fi
    [ "$series" != debug ] || kernel_build vmlinux modules || return 1
    module_build "$headers" "$m" || return 1
    mkdir -p "$m/tests/vm/bar"
    cp tests/vm/bar/* "$m/tests/vm/bar"/
    make -s -j"$(nproc)" -C "$headers" M="$m/tests/vm/bar" W=1 modules >"$m/bar.log" 2>&1 || { cat "$m/bar.log"; return 1; }
    make -s build/tests/abi/abi || return 1
    [ "${what%-cost}" != serve ] || make -s build/freehold build/tests/vm/serve || return 1
    # Our own kernel finds the root by itself.
    [ "$series" != debug ] || return 0
    initrd
}

# What finds the root, with the modules that it takes.
initrd() {
    local f n=0
    rm -rf "$work/root"
    mkdir -p "$work/root"/{bin,proc,sys,dev,r,m}
    cp "$busybox" "$work/root/bin/busybox"
    # What it takes to see the root, in the order in which modules need each other; some kernels have it built in.
    modprobe -a -n -S "$release" --show-depends virtio_pci virtiofs | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' |
        while IFS= read -r f; do
            n=$((n + 1))
            case $f in
            *.xz) xz -dc "$f" ;;
            *.zst) zstd -qdc "$f" ;;
            *) cat "$f" ;;
            esac >"$work/root/m/$(printf %02d $n).ko"
        done
    cat >"$work/root/init" <<'END'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for m in /m/*.ko; do $b insmod $m; done
$b mount -t virtiofs -o ro root /r || { echo "qemu: no root"; $b poweroff -f; }
init=$($b sed -n 1p /path)
$b umount /proc
$b umount /dev
exec $b switch_root /r "$init"
END
    echo "$boot_init" >"$work/root/path"
    chmod +x "$work/root/init"
    (cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
}

# One guest nanosecond is one instruction, on one core, so that a figure repeats.
accel=(-accel "tcg,thread=multi" -smp 2)
case $what in
cost | serve-cost) accel=(-accel "tcg,thread=single" -icount "shift=0,sleep=off" -smp 1) ;;
# The host asks, so the guest's idle time has to last as long as the host's.  A string move counts once a round: a
# processor that claims to be fast at it would make the kernel's copies dearer than they are.
dpdk-cost) accel=(-accel "tcg,thread=single" -icount "shift=0" -smp 1 -plugin "$top/build/tests/vm/insn.so,counts=$work/insn${FH_BLOCKS:+,blocks=on}") ;;
esac

# A card whose wire is a pair of UDP sockets: one datagram is one Ethernet frame.
net=() iotlb=
mtu=
[ "$what" != dpdk ] || mtu=,host_mtu=9000
# DPDK's vectors want one buffer a frame; the kernel's driver is none the worse for it.
[ "$what" != dpdk-cost ] || mtu=,mrg_rxbuf=off
[ "${what%-cost}" != dpdk ] || net=(
    -netdev "dgram,id=n0,local.type=inet,local.host=127.0.0.1,local.port=${FH_PORT_GUEST:-0},remote.type=inet,remote.host=127.0.0.1,remote.port=${FH_PORT_HOST:-0}"
    -device "virtio-net-pci,netdev=n0,addr=0x12,iommu_platform=on,disable-legacy=on$mtu,mac=02:00:00:00:00:01")
[ "${what%-cost}" != dpdk ] || iotlb=,device-iotlb=on
cpu=max,family=23
[ "$what" != dpdk-cost ] || cpu=$cpu,erms=off,fsrm=off

root=(-initrd "$work/initrd.gz") init=
# So that a profile finds its functions; that memory is not cleared a second time, which costs the kernel's side most;
# and that the kernel's driver maps no buffers, unless it is told to.
[ "$what" != dpdk-cost ] || init="norandmaps init_on_alloc=0 iommu=pt"
if [ "$series" = debug ]; then
    root=() init="root=root rootfstype=virtiofs ro init=$boot_init"
fi

# cache=always: virtiofsd writes files into the guest's memory behind QEMU's back, which then does not know that code
# which it has translated is gone.  With cache=auto the guest's kernel drops a file's pages at each open, and a page that
# held one program's code soon holds another's at the same address: 164 of 1,080 small programs crashed, with
# init_on_alloc=0 (memory that is cleared is seen to change), and now none.
boot() { # LOG TEST...
    local log=$1 socket=$work/virtiofs.sock vpid qpid rc
    shift
    "$virtiofsd" --socket-path="$socket" -o source=/ -o sandbox=chroot -o cache=always >"$work/virtiofsd.log" 2>&1 &
    vpid=$!
    for _ in $(seq 50); do
        [ -S "$socket" ] && break
        sleep 0.1
    done
    timeout -k 5 "${QEMU_LIMIT_S:-$limit_s}" qemu-system-x86_64 -M q35,kernel-irqchip=split "${accel[@]}" -cpu "$cpu" \
        -m 1G -display none -serial stdio -monitor none -no-reboot -nodefaults -kernel "$kernel" \
        "${root[@]}" -device "intel-iommu,intremap=on,caching-mode=on$iotlb" \
        "${net[@]}" -device edu,dma_mask=0xffffffffffffffff,addr=0x10 \
        -object memory-backend-memfd,id=bar,share=on,size=16M -device ivshmem-plain,memdev=bar,addr=0x11 \
        -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \
        -chardev socket,id=vf,path="$socket" -device vhost-user-fs-pci,chardev=vf,tag=root \
        -append "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc=reliable no_timer_check lpj=4000000 \
cryptomgr.notests intel_iommu=on $init fh.bin=$top/build/freehold fh.stop=$work/stop fh.mode=$what fh.mod=$top/build/module/$release fh.abi=$top/build/tests/abi/abi \
fh.set=$(vm_settings)${FH_GUEST_SET:+,$FH_GUEST_SET} fh.args=$without$(printf ",%s" "$@" | sed "s/^,$//")" </dev/null >"$log" 2>&1 &
    qpid=$!
    # Whoever ends us ends them, too: the next guest wants their socket.
    trap 'kill $qpid $vpid 2>/dev/null; exit 143' TERM INT
    wait "$qpid"
    rc=$?
    trap - TERM INT
    kill "$vpid" 2>/dev/null
    wait "$vpid" 2>/dev/null
    rm -f "$socket"
    return $rc
}

# The host's part starts the guest's by calling this script again.
if [ -z "${FH_PORT_HOST:-}" ]; then
    mkdir -p build/check "$work"
    case $what in
    dpdk) exec tests/vm/dpdk_host.py "$series" "$work/stop" "build/check/qemu-$series-dpdk.log" ;;
    dpdk-cost) FH_CHECKED=1 exec tests/perf/dpdk_cost.py --series "$series" "$@" ;;
    esac
fi
[ "$what" != ktls ] || [ $# != 0 ] || set -- build/tests/unit/test_http_tls
build || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
mkdir -p build/check "$work"
log=build/check/qemu-$series-vm.log
[ "$what" = run ] || log=build/check/qemu-$series-$what.log
# One boot in some dozens dies before it says anything (a race in QEMU's emulation): that is tried again.
for _ in 1 2 3; do
    boot "$log" "$@"
    rc=$?
    grep -qa '^READY ' "$log" && break
    echo "qemu: the guest did not come up; again"
done
tr -d '\r' <"$log"
grep -qa '^VM OK' "$log" && exit 0
echo "qemu: the guest did not come to its end (status $rc)"
exit 1
