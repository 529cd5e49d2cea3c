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
    share/freehold/freehold-stories-13M-moe.md share/freehold/grafana/alerts.yml share/freehold/systemd/gpu.conf lib/systemd/system/freehold.service lib/sysusers.d/freehold.conf \
    share/bash-completion/completions/freehold etc/freehold/freehold.conf share/doc/freehold/README.md \
    lib/udev/rules.d/60-freehold.rules lib/modprobe.d/freehold.conf "src/freehold-$(make -s version)/Kbuild" \
    "src/freehold-$(make -s version)/dkms.conf" "src/freehold-$(make -s version)/driver/main.c" \
    "src/freehold-$(make -s version)/uapi/freehold.h"; do
    t "has $f" test -s "$root/usr/local/$f"
done
if pkg-config --exists 'libdpdk >= 22.11' 2>/dev/null; then
    t "has lib/freehold/freehold-dpdk.so" test -s "$root/usr/local/lib/freehold/freehold-dpdk.so"
    # From bin/, without being told where: other ways to it would hide that it cannot be found.
    finds_plugin() { "$root/usr/local/bin/freehold" doctor --json | grep -q 'freehold-dpdk.so can be loaded'; }
    t "the installed binary finds its plug-in" finds_plugin
else
    skip plugin "DPDK is not installed (libdpdk-dev)"
fi
t "the unit names the installed binary" grep -qx 'ExecStart=/usr/local/bin/freehold serve --config /usr/local/etc/freehold/freehold.conf' \
    "$root/usr/local/lib/systemd/system/freehold.service"
one_device() {
    local unit=$root/usr/local/lib/systemd/system/freehold.service
    grep -qx 'DevicePolicy=closed' "$unit" && [ "$(grep -c '^DeviceAllow=' "$unit")" = 1 ] &&
        grep -qx 'DeviceAllow=/dev/freehold-ctl rw' "$unit"
}
t "the unit allows one device" one_device
# By whatever names drivers, old and new, have in /proc/devices; systemd matches them as a shell does.
gpu_names() {
    local name glob
    glob=$(sed -n 's/^DeviceAllow=char-\(.*\) rw$/\1/p' "$root/usr/local/share/freehold/systemd/gpu.conf")
    [ -n "$glob" ] || return 1
    for name in nvidia nvidia-frontend nvidiactl nvidia-modeset nvidia-uvm nvidia-caps; do
        # shellcheck disable=SC2254
        case $name in $glob) ;; *) echo "$name is left out"; return 1 ;; esac
    done
    name=mem
    # shellcheck disable=SC2254
    case $name in $glob) return 1 ;; esac
}
t "the drop-in lets it at all devices of a GPU" gpu_names
help_lists() { # targets with a text, of every file that make reads
    local said target
    said=$(make -s help) || return 1
    for target in $(git ls-files Makefile '*.mk' | xargs sed -n 's/^\([a-z0-9-]*\):[^#]*## .*/\1/p'); do
        grep -q "^  $target  *[^ ]" <<<"$said" || { echo "make help leaves $target out"; return 1; }
    done
    grep -q '^  check-gpu ' <<<"$said"
}
t "make help lists every target" help_lists
t "no unreplaced names" bash -c "! grep -rnI '@[A-Z]*@' '$root/usr/local/lib' '$root/usr/local/etc'"
t "the installed binary runs" "$root/usr/local/bin/freehold" --version
edited() {
    echo '# mine' >>"$root/usr/local/etc/freehold/freehold.conf"
    make -s install DESTDIR="$root" && tail -n 1 "$root/usr/local/etc/freehold/freehold.conf" | grep -qx '# mine'
}
t "an edited configuration stays" edited

# The client library: what is installed is all that a program needs.
for f in include/freehold.h include/linux/freehold.h lib/libfreehold.so lib/libfreehold.so.0 lib/libfreehold.a \
    lib/pkgconfig/freehold.pc share/man/man3/freehold.3 share/man/man3/fh_open.3 share/man/man3/fh_close.3; do
    t "has $f" test -s "$root/usr/local/$f"
done
export PKG_CONFIG_PATH=$root/usr/local/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
public=$(sed -n 's/^\t\t\(fh_[a-z_]*\);$/\1/p' runtime/lib/libfreehold.map)
exported() { # of the header, of the shared and of the static library
    [ "$(sed -n 's/^FH_API .*[ *]\(fh_[a-z_]*\)(.*/\1/p' runtime/lib/freehold.h | sort)" = "$public" ] &&
        [ "$(nm -D --defined-only "$root/usr/local/lib/libfreehold.so" | sed -n 's/.* T \(.*\)@@FREEHOLD_0.1$/\1/p' | sort)" = "$public" ] &&
        [ "$(nm -D --defined-only "$root/usr/local/lib/libfreehold.so" | grep -vc '@@FREEHOLD_0.1$')" = 1 ] &&
        [ "$(nm -g --defined-only "$root/usr/local/lib/libfreehold.a" | sed -n 's/.* [A-Z] \(.*\)$/\1/p' | sort)" = "$public" ]
}
t "the libraries show what the header declares and nothing else" exported
t "libfreehold.so is called libfreehold.so.0" bash -c "readelf -d '$root/usr/local/lib/libfreehold.so' | grep -q 'SONAME.*\[libfreehold.so.0\]'"
manual() {
    local f
    for f in $public; do
        test -s "$root/usr/local/share/man/man3/$f.3" || { echo "no manual page for $f"; return 1; }
        grep -rlq "\\bf$f\\b\|$f(" "$root/usr/local/share/man/man3/"*.3 || return 1
    done
}
t "every function has a manual page" manual
rm -rf build/check/examples && cp -r tools/examples build/check/examples
t "the examples build from what is installed" make -s -C build/check/examples CFLAGS='-O1 -Wall -Wextra -Werror'
nobody() {
    local said
    said=$(LD_LIBRARY_PATH=$root/usr/local/lib build/check/examples/generate x 1 unix:/nowhere/socket 2>&1) && return 1
    echo "$said"
    grep -q 'generate: unix:/nowhere/socket: No such file or directory: is .freehold serve. running' <<<"$said"
}
t "an example says that nobody is there" nobody
static() {
    # shellcheck disable=SC2046
    cc -O1 -Wall -Werror tools/examples/generate.c $(pkg-config --cflags freehold) "$root/usr/local/lib/libfreehold.a" \
        $(pkg-config --static --libs-only-l freehold | sed 's/-lfreehold//') -o build/check/generate-static &&
        build/check/generate-static x 1 unix:/nowhere/socket 2>&1 | grep -q 'is .freehold serve. running'
}
t "an example links with the static library" static
if command -v c++ >/dev/null 2>&1; then
    cxx() {
        # shellcheck disable=SC2046
        c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror tests/e2e/cxx.cc $(pkg-config --cflags --libs freehold) \
            -o build/check/cxx && LD_LIBRARY_PATH=$root/usr/local/lib build/check/cxx
    }
    t "a C++ program builds and runs" cxx
else
    skip "a C++ program builds and runs" "there is no C++ compiler"
fi
unset PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
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
    # The same with what lets it at GPUs; and a word that is wrong there is seen.
    drop_in() {
        mkdir -p "$unit.d"
        cp tools/packaging/gpu.conf "$unit.d/gpu.conf"
        verify || return 1
        sed -i 's/^DeviceAllow=char-/DeviceAllow=chart-/' "$unit.d/gpu.conf"
        ! verify
    }
    t "the drop-in for GPUs is sound" drop_in
    rm -rf "$unit.d"
    # 0 is shut, 10 is open; what is left open is the network, and one device.
    exposed() { systemd-analyze security --offline=true --threshold=25 --no-pager "$unit"; }
    t "the unit leaves little open" exposed
else
    skip "the unit is sound" "systemd-analyze is not installed"
    skip "the drop-in for GPUs is sound" "systemd-analyze is not installed"
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
        ./usr/lib/systemd/system/freehold.service ./usr/share/man/man1/freehold.1.gz ./usr/share/doc/freehold/copyright \
        ./usr/include/freehold.h ./usr/lib/libfreehold.so.0 ./usr/lib/pkgconfig/freehold.pc ./usr/share/man/man3/fh_open.3.gz; do
        t "deb has $f" grep -qF " $f" build/check/deb.list
    done
    t "everything belongs to root" bash -c "! grep -v ' root/root ' build/check/deb.list"
    for lib in libc6 libpcre2-8-0 libjansson4 libseccomp2 libhttp-parser2.9 libsodium23 libzstd1 libsqlite3-0; do
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
