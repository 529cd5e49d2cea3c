#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds a .deb from `make install`: mkdeb.sh BUILD_DIR OUT_DIR, with VERSION in
# the environment.  The result depends on the sources alone: times come from
# SOURCE_DATE_EPOCH or the last commit, owners are root.
set -eu
b=${1:?} out=${2:?} version=${VERSION:?}
arch=$(dpkg --print-architecture)
root=$b/root
rm -rf "$root" "$b/debian"
make -s PREFIX=/usr B="$b" DESTDIR="$root" install >/dev/null
strip --strip-unneeded "$root/usr/bin/freehold" "$root"/usr/lib/libfreehold.so.*.*
strip --strip-debug --enable-deterministic-archives "$root/usr/lib/libfreehold.a"
plugin=$root/usr/lib/freehold/freehold-dpdk.so
[ ! -e "$plugin" ] || strip --strip-unneeded "$plugin"
gzip -9n "$root"/usr/share/man/man*/*

mkdir -p "$root/DEBIAN" "$b/debian"
cat >"$root/usr/share/doc/freehold/copyright" <<'EOF'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: freehold

Files: *
Copyright: The Freehold authors
License: Apache-2.0

Files: usr/include/linux/freehold.h
Copyright: The Freehold authors
License: GPL-2.0-only WITH Linux-syscall-note

Files: usr/src/*
Copyright: The Freehold authors
License: GPL-2.0-only

Files: usr/share/freehold/*
Copyright: The Freehold authors
License: CC0-1.0

License: Apache-2.0
 /usr/share/common-licenses/Apache-2.0

License: GPL-2.0-only
 /usr/share/common-licenses/GPL-2

License: GPL-2.0-only WITH Linux-syscall-note
 /usr/share/common-licenses/GPL-2

License: CC0-1.0
 /usr/share/common-licenses/CC0-1.0
EOF

# dpkg-shlibdeps wants a debian/control beside it.
printf 'Source: freehold\n\nPackage: freehold\nArchitecture: any\n' >"$b/debian/control"
usr=$(cd "$root" && pwd)/usr
depends=$(cd "$b" && dpkg-shlibdeps -O "$usr/bin/freehold" "$usr"/lib/libfreehold.so.*.* 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || { echo "mkdeb.sh: dpkg-shlibdeps found no dependencies" >&2; exit 1; }

# DPDK is wanted by few: the plug-in's libraries, and the drivers that it loads, are no dependency. libcurl is loaded
# where traces are wanted.
suggests="libcurl4 | libcurl4t64, libjansson-dev, libhttp-parser-dev, libsodium-dev"
[ ! -e "$plugin" ] || suggests="$suggests, dpdk, libipsec-mb1"

cat >"$root/DEBIAN/control" <<EOF
Package: freehold
Version: $version
Architecture: $arch
Maintainer: The Freehold authors <freehold@localhost>
Installed-Size: $(du -ks --apparent-size "$root/usr" | cut -f1)
Depends: $depends
Recommends: systemd, libssl3 | libssl3t64
Suggests: $suggests
Section: science
Priority: optional
Description: server for open-weight language models on one Linux host
 Serves GGUF models with an HTTP API in OpenAI's form: continuous batching, a
 paged KV cache with prefix reuse, kernels for AVX2 and AVX-512, io_uring.
 A small model for a first try is part of the package, and so is libfreehold,
 the client library, with its header.
EOF
printf '/etc/freehold/freehold.conf\n' >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/postinst" <<'EOF'
#!/bin/sh
set -e
ldconfig
if [ "$1" = configure ] && command -v systemd-sysusers >/dev/null 2>&1; then
    systemd-sysusers freehold.conf || true
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
EOF
cat >"$root/DEBIAN/prerm" <<'EOF'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now freehold.service || true
fi
EOF
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
find "$root" -type d -exec chmod 755 {} +
(cd "$root" && find etc usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH
deb=$out/freehold_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz -b "$root" "$deb" >/dev/null
echo "$deb"
