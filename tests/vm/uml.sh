#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The module in User-Mode Linux: a kernel with KASAN, lockdep, kmemleak and
# KUnit that runs as a process, needs no privilege, and starts in a second.
#
#   tests/vm/uml.sh build   the kernel, from Debian's linux-source; says where
#   tests/vm/uml.sh run     the module, the tests, and what the kernel said
#
# The kernel lies in build/uml/HASH, the hash being that of its configuration,
# its source's version and its compiler's, so that it is built once.  A build
# that was cut off goes on where it stopped.
set -u
cd "$(dirname "$0")/../.." || exit 1
top=$PWD
jobs=-j$(nproc)
config=$top/tests/vm/uml.config
tarball=$(find /usr/src -maxdepth 1 -name 'linux-source-6.*.tar.xz' | sort -V | tail -n 1)

skip() {
    echo "[SKIP] uml: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

[ "$(uname -m)" = x86_64 ] || skip "this host is no x86-64"
[ -n "$tarball" ] || skip "no /usr/src/linux-source-6.*.tar.xz (Debian's linux-source package)"
for tool in flex bison bc xz; do
    command -v $tool >/dev/null || skip "$tool is not installed"
done
name=$(basename "$tarball" .tar.xz)
hash=$({ cat "$config"; dpkg-query -W -f '${Version}\n' "$name" 2>/dev/null || stat -c %s "$tarball"; gcc -dumpfullversion; } |
    sha256sum | cut -c1-12)
src=$top/build/uml/$name
out=$top/build/uml/$hash

unpack() {
    [ -e "$src/.unpacked" ] && cmp -s "$src/.unpacked" <(stat -c '%s %Y' "$tarball") && return 0
    rm -rf "$src"
    mkdir -p build/uml
    # Drivers that no User-Mode Linux has are left packed: Kconfig files are needed, sources are not.
    tar xf "$tarball" -C build/uml --exclude='*/drivers/gpu/drm/*.[ch]' --exclude='*/arch/*/boot/dts/*' \
        --exclude='*/Documentation/*/*' --exclude='*/drivers/net/*/*.[ch]' --exclude='*/drivers/media/*.[ch]' \
        --exclude='*/sound/*.[ch]' --exclude='*/tools/testing/*' --exclude='*/drivers/staging/*.[ch]' \
        --exclude='*/drivers/infiniband/*.[ch]' --exclude='*/drivers/scsi/*.[ch]' || return 1
    stat -c '%s %Y' "$tarball" >"$src/.unpacked"
}

configure() {
    [ -e "$out/.config" ] && return 0
    mkdir -p "$out"
    make -s -C "$src" ARCH=um O="$out" allnoconfig || return 1
    "$src/scripts/kconfig/merge_config.sh" -m -Q -O "$out" "$out/.config" "$config" >"$out/merge.log" || return 1
    make -s -C "$src" ARCH=um O="$out" olddefconfig || return 1
    # What was asked for and is not there has lost a dependency: the tests would be weaker than they say.
    local line bad=0
    while IFS= read -r line; do
        case $line in
        CONFIG_*=n) grep -q "^${line%=n}=" "$out/.config" || continue ;;
        CONFIG_*) grep -qxF "$line" "$out/.config" && continue ;;
        *) continue ;;
        esac
        echo "uml.config: $line did not come about"
        bad=1
    done <"$config"
    [ $bad = 0 ] || { rm -f "$out/.config"; return 1; }
}

build() {
    if ! [ -e "$out/.built" ]; then
        # Kernels of other configurations are of no use any more.
        find build/uml -mindepth 1 -maxdepth 1 ! -name "$name" ! -name "$hash" -exec rm -rf {} +
        unpack && configure || return 1
        make -s "$jobs" -C "$src" ARCH=um O="$out" linux modules >"$out/build.log" 2>&1 ||
            { tail -n 20 "$out/build.log"; return 1; }
        strip --strip-debug "$out/linux"
        touch "$out/.built"
    fi
}

# The module is built in a copy: a kernel's build leaves its objects beside the sources.
build_module() {
    local m=$top/build/module/uml
    mkdir -p "$m"
    rsync -a --delete --include='*.[ch]' --include=driver/ --include=uapi/ --include=Kbuild --exclude='*' \
        Kbuild driver uapi "$m"/
    make -s "$jobs" -C "$out" ARCH=um M="$m" modules >"$m/build.log" 2>&1 || { tail -n 20 "$m/build.log"; return 1; }
}

run() {
    local log=build/check/uml.log rc
    make -s build/tests/abi/abi || return 1
    build_module || return 1
    mkdir -p build/check
    timeout -k 5 "${UML_LIMIT_S:-240}" "$out/linux" mem=512M rootfstype=hostfs rootflags=/ ro \
        init="$top/tests/vm/init.sh" con=null con0=null,fd:1 quiet kunit.enable=1 \
        fh.mod="$top/build/module/uml" fh.abi="$top/build/tests/abi/abi" fh.args="--without=dma_edu,--without=dma_busy,--without=dmabuf_vgem$(printf ",%s" "$@" | sed "s/^,$//")" </dev/null >$log 2>&1
    rc=$?
    tr -d '\r' <$log
    stty sane 2>/dev/null
    grep -qax $'VM OK\r\\?' $log && return 0
    echo "uml: the test kernel did not come to its end (status $rc)"
    return 1
}

case ${1:-} in
build) build && echo "$out" ;;
run)
    shift
    build && run "$@"
    ;;
*)
    echo "usage: tests/vm/uml.sh build | run [TEST...]" >&2
    exit 2
    ;;
esac
