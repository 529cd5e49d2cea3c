#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Unpacks promtool, and nothing else of Debian's package `prometheus`, as DIR/promtool: installed, the package would
# start a server.  20 MB to fetch; done once.  Where it cannot be had that is said, and is no failure.
set -eu
dir=${1:?usage: promtool.sh DIR}

command -v promtool >/dev/null 2>&1 && exit 0
[ ! -x "$dir/promtool" ] || exit 0
command -v apt-get >/dev/null 2>&1 || exit 0
mkdir -p "$dir"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
get() { (cd "$tmp" && apt-get -q -o APT::Sandbox::User=root download prometheus) >"$tmp/log" 2>&1; }
# The lists may be missing or old.
get || { apt-get -q update >/dev/null 2>&1 && get; } || {
    echo "promtool.sh: prometheus cannot be fetched: $(tail -n 1 "$tmp/log")" >&2
    exit 0
}
dpkg-deb --fsys-tarfile "$tmp"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$tmp/promtool"
chmod 755 "$tmp/promtool"
mv "$tmp/promtool" "$dir/promtool"
