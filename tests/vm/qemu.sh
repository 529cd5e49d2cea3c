#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The module in QEMU on Debian's own kernels, 6.1 and 6.12: real paging, real PCI, an
# IOMMU, and the configuration that users have (no fault injection, so those
# tests are User-Mode Linux's alone).  Without KVM; the guest's root
# is the host's, read-only, through virtiofs.
#
#   tests/vm/qemu.sh run SERIES [TEST...]     SERIES: 6.1, 6.12
#
# The edu device is a bus master behind the IOMMU: the DMA map's test drives it.
set -u
cd "$(dirname "$0")/../.." || exit 1
top=$PWD
work=$top/build/qemu/${2:-}

skip() {
    echo "[SKIP] qemu-$series: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

if [ "${1:-}" != run ] || [ $# -lt 2 ]; then
    echo "usage: tests/vm/qemu.sh run SERIES [TEST...]" >&2
    exit 2
fi
series=$2
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
kernel=$(find /boot -maxdepth 1 -name "vmlinuz-$series.*" 2>/dev/null | sort -V | tail -n 1)
[ -n "$kernel" ] || skip "no /boot/vmlinuz-$series.* (Debian's linux-image-$series-amd64 or linux-image-amd64 package)"
release=${kernel#/boot/vmlinuz-}
headers=/usr/src/linux-headers-$release
[ -e "$headers/Module.symvers" ] || skip "no $headers to build the module with"
[ -d "/lib/modules/$release/kernel" ] || skip "no modules of $release"

# What a kernel of this series is known to lack, so that another's run has it.
without=--without=faults_
[ "$series" != 6.1 ] || without+=,--without=dmabuf_udmabuf,--without=dmabuf_heap,--without=pages_can_be_pinned

build() {
    local m=$top/build/module/$release f n=0
    mkdir -p "$m" "$work"
    rsync -a --delete --include='*.[ch]' --include=driver/ --include=uapi/ --include=Kbuild --exclude='*' \
        Kbuild driver uapi "$m"/
    make -s -j"$(nproc)" -C "$headers" M="$m" modules >"$m/build.log" 2>&1 || { tail -n 20 "$m/build.log"; return 1; }
    make -s build/tests/abi/abi || return 1

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
    echo "$top/tests/vm/init.sh" >"$work/root/path"
    chmod +x "$work/root/init"
    (cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
}

boot() { # LOG TEST...
    local log=$1 socket=$work/virtiofs.sock vpid rc
    shift
    "$virtiofsd" --socket-path="$socket" -o source=/ -o sandbox=chroot -o cache=auto >"$work/virtiofsd.log" 2>&1 &
    vpid=$!
    for _ in $(seq 50); do
        [ -S "$socket" ] && break
        sleep 0.1
    done
    timeout -k 5 "${QEMU_LIMIT_S:-150}" qemu-system-x86_64 -M q35,kernel-irqchip=split -accel tcg,thread=multi -cpu max \
        -m 1G -smp 2 -display none -serial stdio -monitor none -no-reboot -nodefaults -kernel "$kernel" \
        -initrd "$work/initrd.gz" -device intel-iommu,intremap=on,caching-mode=on \
        -device edu,dma_mask=0xffffffffffffffff,addr=0x10 \
        -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \
        -chardev socket,id=vf,path="$socket" -device vhost-user-fs-pci,chardev=vf,tag=root \
        -append "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc=reliable no_timer_check lpj=4000000 \
cryptomgr.notests intel_iommu=on fh.mod=$top/build/module/$release fh.abi=$top/build/tests/abi/abi \
fh.args=$without$(printf ",%s" "$@" | sed "s/^,$//")" </dev/null >"$log" 2>&1
    rc=$?
    kill "$vpid" 2>/dev/null
    wait "$vpid" 2>/dev/null
    rm -f "$socket"
    return $rc
}

build || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
mkdir -p build/check
log=build/check/qemu-$series-vm.log
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
