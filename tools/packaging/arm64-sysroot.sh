#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Unpacks the arm64 libraries that freehold links with under DIR, from the
# distribution's own packages.  apt works in folders under DIR, so that the
# system's architectures, lists and packages are left alone.  Does nothing when
# DIR is complete.
set -eu
dir=${1:?usage: arm64-sysroot.sh DIR}
packages='liburing-dev liburing2 libpcre2-dev libpcre2-8-0 libjansson-dev libjansson4 libhttp-parser-dev
libhttp-parser2.9 libseccomp-dev libseccomp2 libsodium-dev libsodium23 libzstd-dev libzstd1 libsqlite3-dev
libsqlite3-0 libssl-dev'

# Complete, and made from this very list.
[ -e "$dir/.complete" ] && [ "$(cat "$dir/.complete")" = "$packages" ] && exit 0
command -v apt-get >/dev/null 2>&1 || { echo "arm64-sysroot.sh: needs apt-get" >&2; exit 1; }

rm -rf "$dir"
mkdir -p "$dir/.apt/state/lists/partial" "$dir/.apt/cache/archives/partial" "$dir/.apt/deb"
dir=$(cd "$dir" && pwd)
: >"$dir/.apt/status"
get() {
    apt-get -q -o Dir::State="$dir/.apt/state" -o Dir::Cache="$dir/.apt/cache" -o Dir::State::status="$dir/.apt/status" \
        -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Acquire::Languages=none -o APT::Sandbox::User=root \
        "$@" >>"$dir/.apt/log" 2>&1
}
fail() {
    echo "arm64-sysroot.sh: $1; the last lines of apt:" >&2
    tail -n 5 "$dir/.apt/log" >&2
    exit 1
}
get update || true # a third-party list without arm64 is no reason to stop
# shellcheck disable=SC2086
(cd "$dir/.apt/deb" && get download $packages) || fail "cannot fetch the arm64 packages"
for deb in "$dir"/.apt/deb/*.deb; do
    dpkg-deb -x "$deb" "$dir"
done
# Only the criterion headers are wanted of the host; they are the same everywhere.
[ -d /usr/include/criterion ] && ln -sfn /usr/include/criterion "$dir/usr/include/criterion"
rm -rf "$dir/.apt" "$dir/usr/share/doc" "$dir/usr/share/man"
printf '%s\n' "$packages" >"$dir/.complete"
