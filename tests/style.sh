#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The house rules that a script can see, one test each.  A test that needs a
# program which is not here is skipped by name.
set -u
shopt -s lastpipe # verdict counts in this shell
cd "$(dirname "$0")/.." || exit 1

passed=0 failed=0 skipped=0
files() { git ls-files -- "$@" | while read -r f; do [ -e "$f" ] && echo "$f"; done; }
ok() { echo "[PASS] style::$1"; passed=$((passed + 1)); }
bad() { echo "[FAIL] style::$1"; failed=$((failed + 1)); }
skip() { echo "[SKIP] style::$1: $2"; skipped=$((skipped + 1)); }
# verdict NAME: nothing on stdin is a pass, anything is the reason.
verdict() {
    local said
    said=$(cat)
    if [ -z "$said" ]; then ok "$1"; else bad "$1"; printf '%s\n' "$said" | head -n 40; fi
}

if ! git rev-parse -q --git-dir >/dev/null 2>&1; then
    echo "[SKIP] style: this is no git checkout"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi

# Other versions of clang-format lay some lines out differently; 14 is what the tree was formatted with.
fmt=$(command -v clang-format-14 || command -v clang-format)
if [ -z "$fmt" ] || ! "$fmt" --version | grep -q 'version 14\.'; then
    skip clang-format "needs clang-format 14"
else
    # shellcheck disable=SC2046
    "$fmt" --dry-run -Werror $(files '*.c' '*.h') 2>&1 | grep -aE 'error:' | verdict clang-format
fi

# The first line names the licence, and the right one for the room.
files '*.c' '*.h' | while read -r f; do
    case $f in
    uapi/*) want='GPL-2.0-only WITH Linux-syscall-note' ;;
    tests/vm/bar/*.h) want='GPL-2.0-only WITH Linux-syscall-note' ;;
    driver/* | tests/vm/bar/*) want='GPL-2.0-only' ;;
    *) want='Apache-2.0' ;;
    esac
    case $f in
    *.h) line="/* SPDX-License-Identifier: $want */" ;;
    *) line="// SPDX-License-Identifier: $want" ;;
    esac
    [ "$(head -n 1 "$f")" = "$line" ] || echo "$f:1: want: $line"
done | verdict spdx-line

# A file opens with what it is for.
files '*.c' '*.h' | while read -r f; do
    [ "$(sed -n 2p "$f" | cut -c1-2)" = '/*' ] || echo "$f:2: no opening comment"
done | verdict opening-comment

files '*.c' '*.h' '*.cu' | while read -r f; do
    n=$(wc -l <"$f")
    [ "$n" -le 800 ] || echo "$f: $n lines"
done | verdict file-length

# A function that does not fit on two screens is two functions.
# shellcheck disable=SC2016 # the dollars are awk's
files '*.c' | xargs -r awk '
    FNR == 1 { begin = 0 }
    /^\{/ { begin = FNR; name = prev }
    /^\}/ { if (begin && FNR - begin > 100) print FILENAME ":" begin ": " FNR - begin " lines: " name; begin = 0 }
    { prev = $0 }' | verdict function-length

git grep -nIE '\b(TODO|FIXME|XXX)\b|not implemented|unimplemented|placeholder|\bstub' -- '*.c' '*.h' '*.py' '*.sh' ':!tests/style.sh' | verdict words

git grep -nIE '[[:space:]]+$' -- '*.c' '*.h' '*.py' '*.sh' '*.md' Makefile Kbuild '.ci/run' | cut -c1-120 | verdict trailing-space

files '*.c' '*.h' '*.sh' '*.py' '*.md' Makefile | while read -r f; do
    [ -s "$f" ] && [ -n "$(tail -c 1 "$f")" ] && echo "$f: no newline at the end"
done | verdict last-newline

# C keywords are followed by a space, bodies hang on the right line, no space before a call's bracket.
files '*.c' '*.h' | xargs -r grep -nE '^[[:space:]]*(if|for|while|switch)\(' | cut -c1-120 | verdict keyword-space

# No exit() below main, no volatile for synchronisation.
files 'kernels/*.[ch]' 'runtime/*.[ch]' | xargs -r grep -nE '(^|[^_[:alnum:]])(exit|abort)[[:space:]]*\(' |
    grep -vE ':[[:space:]]*(/?\*|//)' | cut -c1-120 | verdict no-exit
files 'kernels/*.[ch]' 'runtime/*.[ch]' | xargs -r grep -nwE 'volatile' | grep -vE '(asm|__asm__) volatile|sig_atomic_t|:[[:space:]]*(/?\*|//)' |
    cut -c1-120 | verdict no-volatile

# Reproducible: nothing that differs from build to build.
git grep -nE '__(DATE|TIME|TIMESTAMP)__' -- '*.c' '*.h' | verdict reproducible

# The tree speaks of no one machine.
git grep -nIE '/work/|/tmp/[a-z]+/|/home/[a-z]' -- . ':!tests/style.sh' | cut -c1-120 | verdict no-local-paths

# What lies at the top is what the plan names.
git ls-files | cut -d/ -f1 | sort -u |
    grep -vxE 'Kbuild|Makefile|README\.md|CONTRIBUTING\.md|driver|runtime|kernels|uapi|tools|tests|Documentation|LICENSES|\..*' | verdict top-level

files '*.sh' .ci/run tests/demo | while read -r f; do
    [ -x "$f" ] || case $f in tests/lib*.sh | tests/vm/lib*.sh) ;; *) echo "$f is not executable" ;; esac
done | verdict executable

if command -v shellcheck >/dev/null 2>&1; then
    # shellcheck disable=SC2046
    shellcheck -x -f gcc $(files '*.sh' .ci/run tests/demo) 2>&1 | verdict shellcheck
else
    skip shellcheck "shellcheck is not installed"
fi

# shellcheck disable=SC2046
python3 - $(files '*.py') <<'EOF' 2>&1 | verdict python-syntax
import ast, sys
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as f:
        ast.parse(f.read(), path)
EOF

if command -v reuse >/dev/null 2>&1; then
    mkdir -p build/check
    { reuse lint >build/check/reuse.txt 2>&1 || grep -aE '^\* |non-compliant|:$|^- ' build/check/reuse.txt; } | verdict reuse
else
    skip reuse "reuse is not installed"
fi

if command -v man >/dev/null 2>&1; then
    files 'Documentation/man/*.[0-9]' | while read -r f; do
        LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=100 man --warnings -E UTF-8 -l -Tutf8 -Z "$f" 2>&1 >/dev/null | sed "s|^|$f: |"
    done | verdict man-pages
else
    skip man-pages "man is not installed"
fi

# Links between the pages lead somewhere.
files '*.md' | while read -r f; do
    grep -oE '\]\([^)# ]+' "$f" | cut -c3- | grep -vE '^(https?|mailto):' | while read -r link; do
        [ -e "$(dirname "$f")/$link" ] || echo "$f: dead link: $link"
    done
done | verdict links

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
