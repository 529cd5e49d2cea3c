#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The kernel module's tests, all of them: it builds without a warning for every
# kernel whose headers are here, the kernel's own checkers find nothing, and it
# runs in User-Mode Linux and, where they are, in QEMU on Debian's kernels; with
# `debug`, on a kernel of our own with the kernel's checkers.
# What a host lacks is skipped by name.
set -u
shopt -s lastpipe
cd "$(dirname "$0")/.." || exit 1
top=$PWD
passed=0 failed=0 skipped=0
ok() { echo "[PASS] driver::$1"; passed=$((passed + 1)); }
bad() { echo "[FAIL] driver::$1"; failed=$((failed + 1)); }
skip() { echo "[SKIP] driver::$1: $2"; skipped=$((skipped + 1)); }
# verdict NAME: nothing on stdin is a pass, anything is the reason.
verdict() {
    local said
    said=$(cat)
    if [ -z "$said" ]; then ok "$1"; else bad "$1"; printf '%s\n' "$said" | head -n 60; fi
}

# copy DIR: the sources, where a kernel's build may leave its objects.
copy() {
    mkdir -p "$1"
    rsync -a --delete --include='*.[ch]' --include=driver/ --include=uapi/ --include=Kbuild --exclude='*' \
        Kbuild driver uapi "$1"/
}

# Headers of kernels from 6.1 on: those of the distribution's packages, not the running kernel's alone.
headers() {
    local dir
    for dir in /usr/src/linux-headers-*; do
        [ -e "$dir/Module.symvers" ] && echo "$dir"
    done | sort -V
}

build_all() {
    local dir name any=
    if ! command -v rsync >/dev/null; then
        skip build "rsync is not installed"
        return
    fi
    while IFS= read -r dir; do
        name=${dir#/usr/src/linux-headers-}
        any=y
        copy "build/module/$name"
        make -s -j"$(nproc)" -C "$dir" M="$top/build/module/$name" W=1 modules 2>&1 |
            grep -av '^Skipping BTF generation' | verdict "build-$name"
        # sparse looks at every file again, so the objects of before are of no use to it.
        if command -v sparse >/dev/null; then
            make -s -j"$(nproc)" -C "$dir" M="$top/build/module/$name" C=2 CF='-D__CHECK_ENDIAN__' modules 2>&1 |
                grep -a "$top/build/module" | grep -av 'Skipping BTF' | verdict "sparse-$name"
        else
            skip "sparse-$name" "sparse is not installed"
        fi
    done < <(headers)
    [ -n "$any" ] || skip build "no kernel headers in /usr/src (Debian: linux-headers-amd64)"
}

checkpatch() {
    local tarball dir=build/checkpatch member files
    tarball=$(find /usr/src -maxdepth 1 -name 'linux-source-6.*.tar.xz' | sort -V | tail -n 1)
    if [ -z "$tarball" ] || ! command -v perl >/dev/null; then
        skip checkpatch "needs perl and Debian's linux-source package"
        return
    fi
    member=$(basename "$tarball" .tar.xz)/scripts
    mkdir -p $dir
    if ! [ -e $dir/kernel-doc ]; then
        if [ -e "build/uml/$member/checkpatch.pl" ]; then
            (cd "build/uml/$member" && cp checkpatch.pl spelling.txt const_structs.checkpatch kernel-doc "$top/$dir"/)
        else
            tar xf "$tarball" -C $dir --strip-components=2 "$member"/{checkpatch.pl,spelling.txt,const_structs.checkpatch,kernel-doc}
        fi
    fi
    mapfile -t files < <(git ls-files -co --exclude-standard 'driver/*.[ch]' uapi/freehold.h)
    # The tree's lines are 120 columns.  Left out: the shape of tracepoints, which the kernel's own files have too;
    # versions in compat.h, whose purpose they are; an attribute macro that programs do not have.
    perl $dir/checkpatch.pl --no-tree --strict --terse --show-types --no-summary --max-line-length=120 -f \
        "${files[@]}" 2>&1 |
        grep -avE '^driver/trace[.]h:|^driver/compat[.]h:.*[ :](LINUX_VERSION_CODE|CONSTANT_COMPARISON):|:MACRO_ARG_REUSE:|^uapi/.*:PREFER_DEFINED_ATTRIBUTE_MACRO:' |
        verdict checkpatch
    perl $dir/kernel-doc -none -Wall "${files[@]}" 2>&1 | verdict kernel-doc
}

# The kernel's own semantic patches, those that look for faults rather than for taste.
coccinelle() {
    local scripts f
    scripts=$(find build/uml -maxdepth 3 -path '*/linux-source-6.*/scripts/coccinelle' 2>/dev/null | head -n 1)
    if ! command -v spatch >/dev/null; then
        skip coccinelle "coccinelle is not installed"
        return
    elif [ -z "$scripts" ]; then
        skip coccinelle "no unpacked linux-source (see uml)"
        return
    fi
    for f in free/kfree free/put_device locks/double_lock locks/mini_lock null/deref_null null/eno misc/returnvar \
        misc/semicolon misc/ifaddr misc/minmax misc/cond_no_effect api/err_cast api/ptr_ret api/vma_pages \
        api/memdup_user api/kvmalloc iterators/itnull iterators/list_entry_update tests/doublebitand; do
        [ -e "$scripts/$f.cocci" ] || continue
        spatch -D report --no-show-diff --very-quiet --cocci-file "$scripts/$f.cocci" --dir driver 2>/dev/null
    done | verdict coccinelle
}

# The description for syzkaller says what the header says.
syzlang() {
    if command -v python3 >/dev/null; then
        tests/vm/syzlang.py 2>&1 | verdict syzlang
    else
        skip syzlang "python3 is not installed"
    fi
}

# As DKMS builds it on a user's machine: from an installed tree, for each kernel whose headers are here.
dkms_builds() {
    local root=$top/build/dkms dir name version
    if ! command -v dkms >/dev/null || [ "$(id -u)" != 0 ]; then
        skip dkms "needs root and Debian's dkms package"
        return
    fi
    rm -rf "$root"
    make -s PREFIX=/usr DESTDIR="$root" install-module || { bad dkms-install; return; }
    version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' "$root"/usr/src/freehold-*/dkms.conf)
    mkdir -p "$root"/var/lib/dkms
    while IFS= read -r dir; do
        name=${dir#/usr/src/linux-headers-}
        # Their own trees, so that nothing of this machine's is touched.
        {
            dkms build "freehold/$version" -k "$name" --kernelsourcedir "$dir" --dkmstree "$root/var/lib/dkms" \
                --sourcetree "$root/usr/src" --installtree "$root/lib/modules" 2>&1
            find "$root/var/lib/dkms/freehold/$version/$name" -name 'freehold.ko*' | grep -q . || echo "no module"
        } >"$root/$name.log"
        grep -aqE '^no module|^Error' "$root/$name.log" || : >"$root/$name.log"
        verdict "dkms-$name" <"$root/$name.log"
    done < <(headers)
}

# The steps for Secure Boot of Documentation/userspace-api/freehold.rst, up to loading: a key, a signature, who it is by.
signing() {
    local dir=build/signing sign module
    module=$(find build/module -name freehold.ko -path '*amd64*' | sort -V | tail -n 1)
    sign=$(find /usr/src/linux-headers-*/scripts/ -name sign-file 2>/dev/null | sort -V | tail -n 1)
    if [ -z "$module" ] || [ -z "$sign" ] || ! command -v openssl >/dev/null || ! command -v modinfo >/dev/null; then
        skip signing "needs a built module, kernel headers with sign-file, openssl and modinfo"
        return
    fi
    rm -rf $dir
    mkdir -p $dir
    {
        openssl req -new -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=freehold module/" -outform DER \
            -keyout $dir/freehold.key -out $dir/freehold.der 2>/dev/null || echo "no key"
        cp "$module" $dir/freehold.ko
        [ -z "$(modinfo -F signer $dir/freehold.ko)" ] || echo "it was signed before"
        "$sign" sha256 $dir/freehold.key $dir/freehold.der $dir/freehold.ko || echo "sign-file failed"
        [ "$(modinfo -F signer $dir/freehold.ko)" = "freehold module" ] || echo "modinfo names no signer"
        [ "$(modinfo -F sig_hashalgo $dir/freehold.ko)" = sha256 ] || echo "modinfo names no hash"
        tail -c 28 $dir/freehold.ko | grep -qa 'Module signature appended' || echo "no signature at the end"
    } 2>&1 | verdict signing
    rm -f $dir/freehold.key
}

# Instructions of each call, beside those that were written down.
costs() {
    local out
    if ! command -v python3 >/dev/null; then
        skip costs "python3 is not installed"
        return
    fi
    if out=$(tests/perf/driver_costs.py 2>&1); then
        case $out in *"[SKIP]"*) skip costs "${out#*: }" ;; *) ok costs ;; esac
    else
        bad costs
    fi
    printf '%s\n' "$out" | grep -v '^\['
}

# What reads the sources, and builds one by one.
rest() {
    syzlang
    dkms_builds
    signing
    checkpatch
    coccinelle
}

rest=0
case ${1:-all} in
static) build_all; rest ;;
rest) rest ;;
# The kernel with the checkers is built in a quarter of an hour, so it has a suite of its own.
debug) if tests/vm/qemu.sh run debug; then ok qemu-debug-ends; else bad qemu-debug-ends; fi ;;
all)
    build_all
    # Its unpacked sources have what checkpatch and coccinelle need.
    tests/vm/uml.sh build >/dev/null
    # Beside what keeps one core busy.
    tests/driver.sh rest >build/driver-rest.log 2>&1 &
    rest=$!
    if tests/vm/uml.sh run; then ok uml-ends; else bad uml-ends; fi
    wait $rest
    rest=$?
    cat build/driver-rest.log
    # Each keeps one core busy.
    tests/vm/qemu.sh run 6.1 >build/qemu-6.1.log 2>&1 &
    other=$!
    if tests/vm/qemu.sh run 6.12; then ok qemu-6.12-ends; else bad qemu-6.12-ends; fi
    if wait $other; then other=ok; else other=bad; fi
    cat build/qemu-6.1.log
    $other qemu-6.1-ends
    costs
    ;;
*)
    echo "usage: tests/driver.sh [static | debug]" >&2
    exit 2
    ;;
esac
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] && [ $rest = 0 ]
