#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Keeps the dependency rule of Documentation/design/architecture.md: reads the
# includes of every source below ROOT (default: the repository) and names each
# one that points the wrong way.  `tests/deps.sh --self-test` first shows, on a
# made-up tree with one violation of every kind, that the rule can say no.
set -u
cd "$(dirname "$0")/.." || exit 1

# What the files of a room may include, as prefixes.  The longest matching room counts.
rules() {
    cat <<'EOF'
uapi/               -
driver/             uapi/ driver/
kernels/            kernels/
runtime/base/       uapi/ runtime/base/
runtime/wire/       uapi/ runtime/base/ runtime/wire/ runtime/net/dgram.h
runtime/lib/        uapi/ runtime/base/ runtime/lib/ runtime/wire/ runtime/net/dgram
runtime/model/      uapi/ runtime/base/ runtime/model/
runtime/sched/      uapi/ runtime/base/ runtime/sched/
runtime/accel/      uapi/ runtime/base/ runtime/model/ runtime/accel/ kernels/
runtime/engine/     uapi/ runtime/base/ runtime/model/ runtime/accel/ runtime/sched/ runtime/engine/
runtime/net/        uapi/ runtime/base/ runtime/wire/ runtime/net/
runtime/dpdk/       uapi/ runtime/base/ runtime/net/ runtime/dpdk/
runtime/trust/      uapi/ runtime/base/ runtime/trust/
runtime/daemon/     uapi/ runtime/
tools/              uapi/ runtime/ tools/ kernels/
tests/              uapi/ runtime/ tools/ kernels/ tests/
EOF
}

# Words that only some files may hold: an extended regular expression, what may hold it (a regular
# expression over paths), and why.  tests/ may hold anything.
words() {
    cat <<'EOF'
^[[:space:]]*#[[:space:]]*include[[:space:]]*<liburing @ ^runtime/(base/io[^/]*|net/dgram_uring[.]c)$ @ only runtime/base/io*.c and runtime/net/dgram_uring.c know liburing
GGUF_MAGIC|0x46554747 @ ^runtime/model/gguf[^/]*$ @ only runtime/model/gguf*.c knows the GGUF format
"/dev/freehold-ctl @ ^runtime/base/region[.]c$ @ only runtime/base/region.c opens /dev/freehold-ctl
"/dev/freehold" @ ^runtime/lib/ @ only runtime/lib opens /dev/freehold
^[[:space:]]*#[[:space:]]*include[[:space:]]*<rte_ @ ^runtime/dpdk/ @ only runtime/dpdk/ knows DPDK
<cuda[A-Za-z0-9_]*[.]h> @ ^kernels/cuda/ @ only kernels/cuda/ includes the CUDA toolkit, which the rest is built without
"libcuda[.]so @ ^runtime/accel/cuda_api[.]c$ @ only runtime/accel/cuda_api.c loads the CUDA driver
<sqlite3[.]h> @ ^runtime/trust/ @ only runtime/trust knows SQLite
<intel-ipsec-mb[.]h> @ ^runtime/wire/gcm[.]c$ @ only runtime/wire/gcm.c knows libipsec-mb
<openssl/ @ ^runtime/net/tls_lib[.]h$ @ only runtime/net/tls*.c knows OpenSSL
EOF
}

check_includes() { # ROOT
    (cd "$1" && find uapi driver kernels runtime tools tests -name '*.[ch]' -o -name '*.cu' 2>/dev/null) | sort |
        (cd "$1" && xargs -r grep -nHE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' 2>/dev/null) |
        awk -v rules="$(rules)" '
        BEGIN {
            n = split(rules, line, "\n")
            for (i = 1; i <= n; i++) {
                m = split(line[i], w, " ")
                allowed[w[1]] = " "
                for (j = 2; j <= m; j++)
                    allowed[w[1]] = allowed[w[1]] w[j] " "
            }
        }
        {
            split($0, f, ":")
            path = f[1]
            inc = $0
            sub(/^[^"]*"/, "", inc)
            sub(/".*/, "", inc)
            room = ""
            for (r in allowed)
                if (index(path, r) == 1 && length(r) > length(room))
                    room = r
            ok = 0
            k = split(allowed[room], a, " ")
            for (i = 1; i <= k; i++)
                if (a[i] != "-" && index(inc, a[i]) == 1)
                    ok = 1
            if (!ok) {
                why = (inc ~ /^(uapi|driver|kernels|runtime|tools|tests)\//) ? room " may not include it" : "includes are rooted at the repository"
                printf "%s:%s: \"%s\": %s\n", path, f[2], inc, why
                bad++
            }
        }
        END { exit bad != 0 }'
}

check_words() { # ROOT
    local bad=0 line pattern rest where why hits
    while IFS= read -r line; do
        pattern=${line%% @ *}
        rest=${line#* @ }
        where=${rest%% @ *}
        why=${rest#* @ }
        hits=$( (cd "$1" && grep -rnE --include='*.[ch]' --include='*.cu' -- "$pattern" driver kernels runtime tools 2>/dev/null) |
            awk -F: -v where="$where" '$1 !~ where { print $1 ":" $2 }')
        if [ -n "$hits" ]; then
            while IFS= read -r h; do echo "$h: $why"; done <<<"$hits"
            bad=1
        fi
    done < <(words)
    # Arithmetic only: no I/O, no allocation, no locks.
    hits=$( (cd "$1" && grep -rnE --include='*.[ch]' '\<(malloc|calloc|realloc|free|fopen|open|read|write|printf|fprintf|pthread_[a-z_]+|mmap)[[:space:]]*\(' kernels 2>/dev/null) |
        grep -vE '^[^:]*:[0-9]+:[[:space:]]*(/?\*|//)' | cut -d: -f1,2)
    if [ -n "$hits" ]; then
        while IFS= read -r h; do echo "$h: kernels are arithmetic only: no I/O, no allocation, no locks"; done <<<"$hits"
        bad=1
    fi
    return $bad
}

check() { # ROOT
    local bad=0
    check_includes "$1" || bad=1
    check_words "$1" || bad=1
    return $bad
}

# Every line: the file of the made-up tree, and its only line, which must be refused.
violations() {
    cat <<'EOF'
uapi/freehold.h #include "runtime/base/err.h"
driver/main.c #include "runtime/base/err.h"
kernels/ref/a.c #include "runtime/base/err.h"
runtime/base/a.c #include "runtime/model/gguf.h"
runtime/model/a.c #include "runtime/accel/accel.h"
runtime/model/b.c #include "kernels/kernels.h"
runtime/accel/a.c #include "runtime/engine/engine.h"
runtime/sched/a.c #include "runtime/accel/accel.h"
runtime/sched/b.c #include "runtime/net/http.h"
runtime/engine/a.c #include "runtime/net/http.h"
runtime/engine/b.c #include "kernels/kernels.h"
runtime/net/a.c #include "runtime/engine/engine.h"
runtime/net/b.c #include "runtime/model/model.h"
runtime/trust/a.c #include "runtime/net/http.h"
runtime/daemon/a.c #include "tools/cmd.h"
runtime/lib/a.c #include "runtime/engine/engine.h"
runtime/lib/b.c #include "runtime/net/chan.h"
runtime/wire/a.c #include "runtime/net/chan.h"
runtime/net/c.c #include "http_parse.h"
runtime/net/d.c #include <liburing.h>
runtime/net/e.c int x = 0x46554747;
runtime/net/f.c char *p = "/dev/freehold-ctl";
runtime/net/g.c char *p = "/dev/freehold";
runtime/accel/cpu.c #include <cuda.h>
runtime/accel/cuda.c #include <cuda.h>
runtime/accel/cuda.c char *p = "libcuda.so.1";
runtime/daemon/b.c #include <sqlite3.h>
runtime/net/http.c #include <openssl/ssl.h>
runtime/net/g.c #include <rte_mbuf.h>
runtime/dpdk/a.c #include "runtime/engine/engine.h"
kernels/ref/b.c void f(void) { g(malloc(1)); }
EOF
}

# And what must be let through.
allowed_lines() {
    cat <<'EOF'
runtime/base/io_uring.c #include <liburing.h>
runtime/model/gguf.c int x = 0x46554747;
runtime/accel/cpu.c #include "kernels/kernels.h"
runtime/accel/cuda_api.c char *p = "libcuda.so.1";
kernels/cuda/mm.cuh #include <cuda_fp16.h>
runtime/engine/step.c #include "runtime/accel/accel.h"
runtime/daemon/serve.c #include "runtime/net/http.h"
runtime/net/http.c #include "runtime/base/request.h"
runtime/wire/a.c #include "runtime/net/dgram.h"
runtime/lib/udp.c #include "runtime/wire/client.h"
runtime/dpdk/send.c #include <rte_mbuf.h>
tools/main.c #include "runtime/daemon/daemon.h"
tests/unit/test_a.c #include "kernels/kernels.h"
EOF
}

self_test() {
    local dir path text nr=0 failed=0
    dir=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$dir'" EXIT
    while read -r path text; do
        rm -rf "${dir:?}"/*
        mkdir -p "$dir/$(dirname "$path")"
        printf '%s\n' "$text" >"$dir/$path"
        nr=$((nr + 1))
        if check "$dir" >"$dir/out"; then
            echo "deps: the rule let through: $path: $text"
            failed=$((failed + 1))
        elif ! grep -q "^$path:1: " "$dir/out"; then
            echo "deps: the rule said no to $path, but not where: $(cat "$dir/out")"
            failed=$((failed + 1))
        fi
    done < <(violations)
    rm -rf "${dir:?}"/*
    while read -r path text; do
        mkdir -p "$dir/$(dirname "$path")"
        printf '%s\n' "$text" >"$dir/$path"
    done < <(allowed_lines)
    nr=$((nr + 1))
    check "$dir" || { echo "deps: the rule refused what is allowed"; failed=$((failed + 1)); }
    echo "$((nr - failed)) passed, $failed failed, 0 skipped"
    [ $failed = 0 ]
}

case ${1:-} in
--self-test) self_test ;;
*)
    if check "${1:-.}"; then
        echo "1 passed, 0 failed, 0 skipped"
    else
        echo "0 passed, 1 failed, 0 skipped"
        exit 1
    fi
    ;;
esac
