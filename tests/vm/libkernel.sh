# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Kernels for tests, built from Debian's linux-source; uml.sh and qemu.sh source
# this.  A kernel lies in build/NAME/HASH, the hash being that of its
# configuration, its source's version and its compiler's, so that it is built
# once; a build that was cut off goes on where it stopped.  The unpacked
# sources, in build/uml, serve all of them, and the checkers of tests/driver.sh.
#
#   kernel_set NAME ARCH     sets kernel_src and kernel_out from tests/vm/NAME.config
#   kernel_missing           says what a build lacks on this host; nothing: nothing
#   kernel_build TARGET...   builds them, if they are not there
#   module_build DIR COPY    our module for the kernel built in DIR
#   vm_settings              the tests' lengths, for init.sh: FREEHOLD_CHECK=long, or what is set, else short ones
: "${top:?the root of the tree}"
kernel_tarball=$(find /usr/src -maxdepth 1 -name 'linux-source-6.*.tar.xz' | sort -V | tail -n 1)
kernel_jobs=-j$(nproc)
# A cache of compilations, where there is one, makes a second checkout's kernel a matter of a minute.
kernel_cc=gcc
! command -v ccache >/dev/null || kernel_cc="ccache gcc"

# User-Mode Linux of 6.12 has a flush_tlb_mm() that walks mappings which it has not locked.  A process that is killed in
# the middle of fork leaves a mark among them (dup_mmap()), which is taken for a mapping: a panic, without any module too,
# at XA_ZERO_ENTRY + 8; and pages that another process takes away are a lockdep splat.  Our tests kill and revoke: here
# the function marks the whole address space as changed, as it would if everything were mapped.
kernel_um_fix='/^void flush_tlb_mm(/,/^}/{/vma;$\|VMA_ITERATOR\|for_each_vma\|^$/d;s/vma->vm_start, vma->vm_end/0, TASK_SIZE/}'

kernel_set() { # NAME ARCH
    local source
    kernel_name=$1
    kernel_arch=$2
    kernel_config=$top/tests/vm/$1.config
    source=$(basename "${kernel_tarball:-none}" .tar.xz)
    kernel_hash=$({
        cat "$kernel_config"
        dpkg-query -W -f '${Version}\n' "$source" 2>/dev/null || stat -c %s "$kernel_tarball" 2>/dev/null
        gcc -dumpfullversion
        [ "$kernel_arch" != um ] || echo "$kernel_um_fix"
    } | sha256sum | cut -c1-12)
    kernel_src=$top/build/uml/$source
    kernel_out=$top/build/$1/$kernel_hash
}

kernel_missing() {
    local tool
    [ -n "$kernel_tarball" ] || { echo "no /usr/src/linux-source-6.*.tar.xz (Debian's linux-source package)"; return; }
    for tool in flex bison bc xz; do
        command -v $tool >/dev/null || { echo "$tool is not installed"; return; }
    done
}

kernel_unpack() {
    [ -e "$kernel_src/.unpacked" ] && cmp -s "$kernel_src/.unpacked" <(stat -c '%s %Y' "$kernel_tarball") && return 0
    rm -rf "$kernel_src"
    mkdir -p "$top/build/uml"
    # Drivers that no test kernel has are left packed: Kconfig files are needed, sources are not.
    tar xf "$kernel_tarball" -C "$top/build/uml" --exclude='*/drivers/gpu/drm/*.[ch]' --exclude='*/arch/*/boot/dts/*' \
        --exclude='*/Documentation/*/*' --exclude='*/drivers/net/*/*.[ch]' --exclude='*/drivers/media/*.[ch]' \
        --exclude='*/sound/*.[ch]' --exclude='*/tools/testing/*' --exclude='*/drivers/staging/*.[ch]' \
        --exclude='*/drivers/infiniband/*.[ch]' --exclude='*/drivers/scsi/*.[ch]' || return 1
    stat -c '%s %Y' "$kernel_tarball" >"$kernel_src/.unpacked"
}

kernel_make() { make -s -C "$kernel_src" ARCH="$kernel_arch" CC="$kernel_cc" O="$kernel_out" "$@"; }

kernel_configure() {
    local line bad=0
    [ -e "$kernel_out/.config" ] && return 0
    mkdir -p "$kernel_out"
    kernel_make allnoconfig || return 1
    "$kernel_src/scripts/kconfig/merge_config.sh" -m -Q -O "$kernel_out" "$kernel_out/.config" "$kernel_config" \
        >"$kernel_out/merge.log" || return 1
    kernel_make olddefconfig || return 1
    # What was asked for and is not there has lost a dependency: the tests would be weaker than they say.
    while IFS= read -r line; do
        case $line in
        CONFIG_*=n) grep -q "^${line%=n}=" "$kernel_out/.config" || continue ;;
        CONFIG_*) grep -qxF "$line" "$kernel_out/.config" && continue ;;
        *) continue ;;
        esac
        echo "$kernel_name.config: $line did not come about"
        bad=1
    done <"$kernel_config"
    [ $bad = 0 ] || { rm -f "$kernel_out/.config"; return 1; }
}

kernel_build() { # TARGET...
    [ -e "$kernel_out/.built" ] && return 0
    # Kernels of other configurations are of no use any more.
    mkdir -p "$top/build/$kernel_name"
    find "$top/build/$kernel_name" -mindepth 1 -maxdepth 1 ! -name 'linux-source-*' ! -name "$kernel_hash" -exec rm -rf {} +
    kernel_unpack && kernel_configure || return 1
    [ "$kernel_arch" != um ] || sed -i "$kernel_um_fix" "$kernel_src/arch/um/kernel/tlb.c" || return 1
    kernel_make "$kernel_jobs" "$@" >"$kernel_out/build.log" 2>&1 || { tail -n 20 "$kernel_out/build.log"; return 1; }
    [ "$kernel_arch" != um ] || strip --strip-debug "$kernel_out/linux"
    touch "$kernel_out/.built"
}

# A module of ours, built in a copy: a kernel's build leaves its objects beside the sources.
module_build() { # KERNEL_DIR COPY [MAKE_ARGUMENT...]
    local dir=$1 m=$2
    shift 2
    mkdir -p "$m"
    rsync -a --delete --include='*.[ch]' --include=driver/ --include=uapi/ --include=Kbuild --exclude='*' \
        "$top"/{Kbuild,driver,uapi} "$m"/
    make -s "$kernel_jobs" -C "$dir" M="$m" "$@" modules >"$m/build.log" 2>&1 || { tail -n 20 "$m/build.log"; return 1; }
}

vm_settings() {
    local rounds=50 fuzz=3000 fuzz_s=0
    [ "${FREEHOLD_CHECK:-short}" != long ] || { rounds=1000; fuzz=0; fuzz_s=300; }
    printf 'FH_ROUNDS=%s,FH_FUZZ_ROUNDS=%s,FH_FUZZ_S=%s,FH_SEED=%s' "${FH_ROUNDS:-$rounds}" "${FH_FUZZ_ROUNDS:-$fuzz}" \
        "${FH_FUZZ_S:-$fuzz_s}" "${FH_SEED:-1}"
}
