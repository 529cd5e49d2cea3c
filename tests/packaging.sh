#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make install` into a folder puts everything where the manual says, what was
# installed runs, `make uninstall` takes it away again, and `make deb` makes a
# package whose content and dependencies are right, the same one each time.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
t() { # NAME COMMAND...
    local name=$1
    shift
    if "$@" >build/check/packaging.out 2>&1; then
        echo "[PASS] packaging::$name"
        passed=$((passed + 1))
    else
        tail -n 15 build/check/packaging.out
        echo "[FAIL] packaging::$name"
        failed=$((failed + 1))
    fi
}
skip() { echo "[SKIP] packaging::$1: $2"; skipped=$((skipped + 1)); }
mkdir -p build/check
root=$PWD/build/check/root
rm -rf "$root"

t install make -s install DESTDIR="$root"
for f in bin/freehold include/linux/freehold.h share/man/man1/freehold.1 share/man/man1/freehold-serve.1 \
    share/man/man5/freehold.conf.5 share/freehold/freehold-stories-13M-moe-Q8_0.gguf \
    share/freehold/freehold-stories-13M-moe.md lib/systemd/system/freehold.service lib/sysusers.d/freehold.conf \
    share/bash-completion/completions/freehold etc/freehold/freehold.conf share/doc/freehold/README.md \
    lib/udev/rules.d/60-freehold.rules lib/modprobe.d/freehold.conf "src/freehold-$(make -s version)/Kbuild" \
    "src/freehold-$(make -s version)/dkms.conf" "src/freehold-$(make -s version)/driver/main.c" \
    "src/freehold-$(make -s version)/uapi/freehold.h"; do
    t "has $f" test -s "$root/usr/local/$f"
done
t "the unit names the installed binary" grep -qx 'ExecStart=/usr/local/bin/freehold serve --config /usr/local/etc/freehold/freehold.conf' \
    "$root/usr/local/lib/systemd/system/freehold.service"
one_device() {
    local unit=$root/usr/local/lib/systemd/system/freehold.service
    grep -qx 'DevicePolicy=closed' "$unit" && [ "$(grep -c '^DeviceAllow=' "$unit")" = 1 ] &&
        grep -qx 'DeviceAllow=/dev/freehold-ctl rw' "$unit"
}
t "the unit allows one device" one_device
t "no unreplaced names" bash -c "! grep -rn '@[A-Z]*@' '$root/usr/local/lib' '$root/usr/local/etc'"
t "the installed binary runs" "$root/usr/local/bin/freehold" --version
edited() {
    echo '# mine' >>"$root/usr/local/etc/freehold/freehold.conf"
    make -s install DESTDIR="$root" && tail -n 1 "$root/usr/local/etc/freehold/freehold.conf" | grep -qx '# mine'
}
t "an edited configuration stays" edited
gone() {
    make -s uninstall DESTDIR="$root"
    find "$root" -type f | grep -v 'etc/freehold/freehold.conf$' | grep . && return 1
    return 0
}
t uninstall gone
if command -v systemd-analyze >/dev/null 2>&1; then
    unit=build/check/freehold.service
    sed -e "s|@BINDIR@/freehold|$PWD/build/freehold|" -e 's|@SYSCONFDIR@|/etc|' tools/packaging/freehold.service >"$unit"
    verify() { systemd-analyze verify --man=no "$unit" 2>&1 | grep -F freehold.service | grep . && return 1; return 0; }
    t "the unit is sound" verify
    # 0 is shut, 10 is open; what is left open is the network, and one device.
    exposed() { systemd-analyze security --offline=true --threshold=25 --no-pager "$unit"; }
    t "the unit leaves little open" exposed
else
    skip "the unit is sound" "systemd-analyze is not installed"
    skip "the unit leaves little open" "systemd-analyze is not installed"
fi

if ! command -v dpkg-deb >/dev/null 2>&1 || ! command -v dpkg-shlibdeps >/dev/null 2>&1; then
    skip deb "dpkg-deb or dpkg-shlibdeps is not installed"
else
    rm -f build/*.deb
    t deb make -s -j"$(nproc)" deb
    deb=$(echo build/freehold_*.deb)
    dpkg-deb -c "$deb" >build/check/deb.list 2>/dev/null
    for f in ./usr/bin/freehold ./usr/share/freehold/freehold-stories-13M-moe-Q8_0.gguf ./etc/freehold/freehold.conf \
        ./usr/lib/systemd/system/freehold.service ./usr/share/man/man1/freehold.1.gz ./usr/share/doc/freehold/copyright; do
        t "deb has $f" grep -qF " $f" build/check/deb.list
    done
    t "everything belongs to root" bash -c "! grep -v ' root/root ' build/check/deb.list"
    for lib in libc6 libpcre2-8-0 libjansson4 libseccomp2 libhttp-parser2.9; do
        t "depends on $lib" bash -c "dpkg-deb -f '$deb' Depends | grep -qE '(^|, )$lib(t64)?( |,|\$)'"
    done
    same() {
        cp "$deb" build/check/first.deb
        make -s deb && cmp "$deb" build/check/first.deb
    }
    t "the same package twice" same
    unpacked() {
        rm -rf build/check/unpacked
        dpkg-deb -x "$deb" build/check/unpacked && build/check/unpacked/usr/bin/freehold --version
    }
    t "its binary runs" unpacked
    prefix() { strings -a build/check/unpacked/usr/bin/freehold | grep -qx '/usr/share/freehold.*'; }
    t "its binary knows where its model lies" prefix
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
