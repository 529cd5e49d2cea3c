#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make vm-demo`: makes one initramfs of everything that a host of its own needs,
# boots it in QEMU, loads the module, starts the daemon with the built-in model,
# lets an example client of another user ask over /dev/freehold, shows whom the
# kernel vouched for and how long things took, and powers off.  The machine has
# no disk and sees nothing of the host's root: the seed of the appliance image.
#
#   tests/vm/demo.sh [PROMPT]       fails when something is missing, and says what
#   tests/vm/demo.sh --test         skips then: for tests/check.sh
#
# It ends well only if the client's tokens are those that `freehold run` gives in
# the same machine and, where this host has the same instructions, on the host.
#
#   PROMPT=TEXT                     as the argument
#   KERNEL=/boot/vmlinuz-RELEASE    another kernel than the newest with headers
#   KVM=1                           use KVM; else the processor is emulated
#   TOKENS=24                       tokens in all
#   BOOT=0                          make build/vm-demo/initrd, and no more
set -u
cd "$(dirname "$0")/../.." || exit 1
top=$PWD
. tests/vm/libkernel.sh
test=
if [ "${1:-}" = --test ]; then
    test=y
    shift
fi
prompt=${1:-${PROMPT:-Once upon a time}}
tokens=${TOKENS:-24}
work=$top/build/vm-demo
root=$work/root
log=$top/build/check/vm-demo.log
begin=$EPOCHREALTIME

bold='' off=''
if [ -t 1 ]; then
    bold=$'\e[1m' off=$'\e[0m'
fi
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }
say() { printf '%s[%5.1f s] %s%s\n' "$bold" "$(since "$begin")" "$*" "$off"; }
fail() {
    echo "vm-demo: $*" >&2
    if [ -n "$test" ]; then
        echo "[FAIL] vm-demo: $*"
        echo "0 passed, 1 failed, 0 skipped"
    fi
    exit 1
}

# What this host lacks is no fault of what is tested.
cannot() {
    [ -n "$test" ] || fail "$*"
    echo "[SKIP] vm-demo: $*"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

# --- what this host has -----------------------------------------------------
lacks='' packages=''
missing() { # WHAT PACKAGE
    lacks="$lacks${lacks:+, }$1"
    packages="$packages $2"
}
# The newest kernel that has headers beside it, unless one was named.
find_kernel() {
    local k
    kernel=${KERNEL:-}
    if [ -z "$kernel" ]; then
        while IFS= read -r k; do
            [ -e "/usr/src/linux-headers-${k#/boot/vmlinuz-}/Module.symvers" ] && kernel=$k
        done < <(find /boot -maxdepth 1 -name 'vmlinuz-[6-9].*' 2>/dev/null | sort -V)
    fi
    release=${kernel##*/vmlinuz-}
    headers=/usr/src/linux-headers-$release
    if [ -z "$kernel" ]; then
        missing "a kernel from 6.1 on in /boot with its headers in /usr/src" "linux-image-amd64 linux-headers-amd64"
    elif ! [ -e "$kernel" ]; then
        fail "KERNEL=$kernel: there is no such file"
    elif ! [ -r "$kernel" ]; then
        cannot "$kernel cannot be read: run this as root, or name a copy: KERNEL=DIR/vmlinuz-$release"
    elif ! [ -e "$headers/Module.symvers" ]; then
        missing "$headers, to build the module for $kernel" "linux-headers-$release"
    fi
}

look_for() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing "$1" "$2"
}

look_around() {
    case $tokens in
    '' | *[!0-9]* | 0) fail "TOKENS=$tokens: a number from 1 on is wanted" ;;
    esac
    case $prompt in
    '' | *$'\n'*) fail "the prompt must be one line" ;;
    esac
    [ "$(uname -m)" = x86_64 ] || cannot "this host is no x86-64"
    look_for qemu-system-x86_64 qemu-system-x86
    look_for busybox busybox-static
    look_for cpio cpio
    look_for rsync rsync
    look_for pkg-config pkg-config
    find_kernel
    if [ -n "${KVM:-}" ] && ! [ -w /dev/kvm ]; then
        fail "KVM=$KVM, and /dev/kvm cannot be opened; without KVM the processor is emulated"
    fi
    [ -n "$lacks" ] || return 0
    cannot "missing: $lacks.  \`make deps-check\` installs it; on Debian alone: apt-get install$packages"
}

# --- the initramfs ----------------------------------------------------------
# A program or library, and the libraries that it needs, where the loader looks for them.
copy_program() { # FILE TO
    local lib needs
    install -D -m 755 "$1" "$root$2" || return 1
    # It fails for what is linked statically, as busybox should be.
    needs=$(LD_LIBRARY_PATH=$work/tree/usr/local/lib ldd "$1" 2>/dev/null) || return 0
    case $needs in *'not found'*) printf '%s:\n%s\n' "$1" "$needs"; return 1 ;; esac
    while IFS= read -r lib; do
        [ -e "$root$lib" ] || install -D -m 755 "$(readlink -f "$lib")" "$root$lib" || return 1
    done < <(grep -o '/[^ )]*' <<<"$needs" | grep -vF "$top/" | sort -u)
}

# The daemon and the library as `make install` lays them out, and the example as a stranger builds it from there.
build_parts() {
    module_build "$headers" "$top/build/module/$release" || return 1
    rm -rf "$work/tree"
    make -s PREFIX=/usr/local DESTDIR="$work/tree" all install || return 1
    PKG_CONFIG_PATH=$work/tree/usr/local/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$work/tree pkg-config \
        --cflags --libs freehold >"$work/flags" || return 1
    # shellcheck disable=SC2046
    ${CC:-cc} -O2 -Wall -Wextra tools/examples/generate.c $(cat "$work/flags") -Wl,-rpath,/usr/local/lib -o "$work/generate"
}

write_settings() {
    cat >"$root/etc/passwd" <<'END'
root:x:0:0::/:/bin/sh
freehold:x:471:471::/:/bin/false
alice:x:1000:1000::/:/bin/false
END
    # Who may open a channel: the group freehold.
    printf 'root:x:0:\nfreehold:x:471:alice\nalice:x:1000:\n' >"$root/etc/group"
    cat >"$root/etc/freehold/freehold.conf" <<'END'
ctx = 512
max-seqs = 4
channel = dev
http = 127.0.0.1:8080
END
    printf '%s\n' "$prompt" >"$root/etc/freehold/prompt"
    printf '%s\n' "$tokens" >"$root/etc/freehold/tokens"
}

fill_root() {
    local local=usr/local
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,etc/freehold,proc,run,sys,tmp,lib/modules,$local/lib}
    copy_program "$(command -v busybox)" /bin/busybox &&
        copy_program "$work/tree/$local/bin/freehold" /$local/bin/freehold &&
        copy_program "$work/generate" /$local/bin/generate &&
        cp -P "$work/tree/$local/lib"/libfreehold.so.* "$root/$local/lib"/ &&
        install -D -m 644 "$work/tree/$local/share/freehold"/*.gguf -t "$root/$local/share/freehold" &&
        install -m 644 "$top/build/module/$release/freehold.ko" "$root/lib/modules" || return 1
    write_settings
    install -m 755 tests/vm/demo-init.sh "$root/init"
    # Not compressed: an emulated processor would take longer to unpack it than to read it.
    (cd "$root" && find . | cpio -o -H newc --owner=+0:+0 --quiet) >"$work/initrd"
}

# --- the machine ------------------------------------------------------------
boot() {
    local accel=(-accel "tcg,thread=multi" -cpu max) options='tsc=reliable no_timer_check lpj=4000000 mitigations=off demo=emulated'
    if [ -n "${KVM:-}" ]; then
        accel=(-accel kvm -cpu host) options=
    fi
    # shellcheck disable=SC2086
    timeout -k 5 "${QEMU_LIMIT_S:-240}" qemu-system-x86_64 -M q35 "${accel[@]}" -m 1G -smp 2 -display none -serial stdio \
        -monitor none -no-reboot -nodefaults -kernel "$kernel" -initrd "$work/initrd" \
        -append "console=ttyS0 panic=-1 quiet cryptomgr.notests $options" </dev/null 2>&1 | stdbuf -o0 tr -d '\r' | tee "$log"
}

# The answer as the client printed it, between the machine's own lines.
answer() { sed -n '/^--- alice asks/,/^--- whom/p' "$log" | sed '1d;$d'; }

# On the host's own processor, with the kernels that the machine used: the same bytes.
compare_with_host() {
    local isa want
    isa=$(sed -n 's/.*ready on .*, cpu\/\([a-z0-9]*\),.*/\1/p' "$log" | head -n 1)
    if ! want=$("$work/tree/usr/local/bin/freehold" run -m tools/demo/*.gguf --isa "${isa:-none}" --ctx 512 -p "$prompt" -n "$tokens" \
        --temp 0 2>"$work/run.log"); then
        echo "not compared with the host, which does not run the kernels '$isa': $(tail -n 1 "$work/run.log")"
        return 0
    fi
    [ "$want" = "$(answer)" ] || fail "freehold run --isa $isa says on this host: $want"
    echo "the same on this host: freehold run --isa $isa"
}

look_around
mkdir -p "$work" "$(dirname "$log")"
how='emulated processor'
[ -z "${KVM:-}" ] || how=KVM
say "building the daemon, the client library and its example, and the module for Linux $release"
build_parts || fail "the build failed"
say "making the initramfs"
fill_root || fail "the initramfs could not be made"
echo "          $(du -m "$work/initrd" | cut -f 1) MiB, of them the model $(du -mc tools/demo/*.gguf | tail -n 1 | cut -f 1)"
if [ "${BOOT:-1}" = 0 ]; then
    say "made ${work#"$top"/}/initrd; boot it with $kernel"
    exit 0
fi
say "booting it in QEMU ($how)"
# One boot in some dozens dies before it says anything (a race in QEMU's emulation): that is tried again.
for _ in 1 2 3; do
    boot
    grep -qa '^READY ' "$log" && break
    say "the machine said nothing; again"
done
grep -qax 'VM OK' "$log" || fail "the machine did not come to its end; what it said is in ${log#"$top"/}"
compare_with_host
say "done"
if [ -n "$test" ]; then
    echo "[PASS] vm-demo"
    echo "1 passed, 0 failed, 0 skipped"
fi
