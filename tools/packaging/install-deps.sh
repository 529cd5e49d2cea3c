#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing for the groups named as arguments: build, check, browser, dpdk
# (the plug-in for DPDK, which is left out where it is not there),
# kernel (what the kernel module and its tests need; the tests skip what is not there).
# Silent when nothing is missing.  Debian 12 and Ubuntu 24.04; as root, or with
# sudo.  Elsewhere it says what to install and leaves it to you.
set -eu

build='gcc make pkg-config libc6-dev liburing-dev libpcre2-dev libjansson-dev libseccomp-dev libhttp-parser-dev libsodium-dev libzstd-dev libsqlite3-dev libssl-dev
curl python3'
# One of several names is enough where distributions differ ("a|b").
check='libcriterion-dev clang libclang-rt-14-dev|libclang-rt-18-dev|libclang-rt-dev clang-format-14|clang-format reuse shellcheck
man-db dpkg-dev python3-venv gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static valgrind llvm-14|llvm
golang-go golang-golang-x-mod-dev python3-cryptography openssl iputils-ping'
# The dashboard's test looks at it in a browser (100 MB to fetch); Ubuntu's package is a snap, which may be missing.
browser='chromium|chromium-browser'
# What freehold-dpdk.so is built from (25 MB to fetch); without it everything else is built and tested.
# AES-GCM for its packets in half of the instructions: loaded when it is there (runtime/wire/gcm.c).
dpdk='libdpdk-dev libipsec-mb-dev'
kernel='linux-headers-6.12-amd64|linux-headers-generic linux-headers-amd64|linux-headers-generic linux-source-6.12|linux-source
linux-image-6.12-amd64|linux-image-generic linux-image-amd64|linux-image-generic flex bison bc rsync kmod xz-utils perl libelf-dev libssl-dev sparse coccinelle dkms busybox-static cpio
qemu-system-x86 qemu-system-common'

want=''
optional=''
for group in "$@"; do
    case $group in
    build) want="$want $build" ;;
    check) want="$want $check" ;;
    browser)
        want="$want $browser"
        optional=y
        ;;
    dpdk)
        want="$want $dpdk"
        optional=y
        ;;
    kernel)
        # No other machine builds or runs these; a name that a distribution lacks is left to the tests to say.
        [ "$(uname -m)" = x86_64 ] || continue
        want="$want $kernel"
        optional=y
        ;;
    *) echo "install-deps.sh: no group '$group' (build, browser, check, dpdk, kernel)" >&2; exit 2 ;;
    esac
done

if ! command -v dpkg-query >/dev/null 2>&1; then
    for cmd in gcc make pkg-config python3 curl; do
        command -v $cmd >/dev/null 2>&1 || { echo "freehold: install $cmd; then, as development packages:" \
            "liburing, pcre2, jansson, libseccomp, http-parser, libsodium, libzstd, sqlite3, openssl" >&2; exit 1; }
    done
    exit 0
fi

have() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

missing=
for alternatives in $want; do
    found=
    for p in $(echo "$alternatives" | tr '|' ' '); do
        have "$p" && found=y
    done
    [ -n "$found" ] || missing="$missing $alternatives"
done
# A compiler or an interpreter from elsewhere will do as well as the package.
still=
for m in $missing; do
    case $m in
    gcc | make | curl | python3 | clang | shellcheck | pkg-config | reuse) command -v "$m" >/dev/null 2>&1 && continue ;;
    esac
    still="$still $m"
done
[ -n "$still" ] || exit 0

run=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "freehold: missing packages, and neither root nor sudo to install them; as root, run:" >&2
        echo "    apt-get install$still" >&2
        exit 1
    }
    run=sudo
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    $run env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}
apt update || {
    # One broken third-party list is no reason to stop; the install below decides.
    echo "freehold: apt-get update had complaints; going on" >&2
}
names=
for alternatives in $still; do
    pick=
    for p in $(echo "$alternatives" | tr '|' ' '); do
        if [ -z "$pick" ] && apt-cache show "$p" >/dev/null 2>&1; then
            pick=$p
        fi
    done
    [ -n "$pick" ] || [ -z "$optional" ] || continue
    names="$names ${pick:-${alternatives%%|*}}"
done
[ -n "$names" ] || exit 0
echo "freehold: installing$names"
# shellcheck disable=SC2086
apt install --no-install-recommends $names || {
    echo "freehold: apt-get install$names failed:" >&2
    tail -n 15 "$log" >&2
    exit 1
}
