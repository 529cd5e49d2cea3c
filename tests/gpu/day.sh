#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# All that a GPU has to say about these kernels, in one command of at most nine minutes and one folder of logs.
#
#   tests/gpu/day.sh pack [FOLDER]         what the day needs, in one folder (default build/gpu-day): programs, the
#                                          libraries that they load, fat binaries, golden outputs and small models.
#                                          The machine with the GPU needs an NVIDIA driver, bash and python3, no more.
#   tests/gpu/day.sh run [FOLDER [LOGS]]   there: run it all; LOGS (default FOLDER/logs) holds a log a part, and
#                                          summary.md, to be summed up in Documentation/design/gpu-results.md.
#
# DAY_SECONDS (540): no part begins after them, and none outlasts them.  DAY_MODELS_MIB (24): of models, at most.
# DAY_PARTS: only these of facts check golden bench memcheck racecheck synccheck.  DAY_CHECK: further arguments of
# check_gpu.  CUDA_SMS: fat binaries for these alone (make's own default: all).
set -u
cd "$(dirname "$0")/../.." || exit 1
mode=${1:-} folder=${2:-build/gpu-day}

# Those that say most first: as many as there is room for.
models="llama-Q4_K_M llama-BF16 llama-Q8_0 llama-MXFP4 llama-Q6_K qwen3moe gpt-oss-MXFP4 llama-Q4_0 llama-Q5_K_M llama-F16
gemma2 qwen2moe phi3-longrope qwen3 phi3 qwen2 llama31 gpt-oss llama-Q4_K_M-mix"

pack_models() {
    local shared=${FREEHOLD_SHARED:-../shared} room=$((${DAY_MODELS_MIB:-24} << 20)) m bytes
    mkdir -p "$folder/shared/models/micro" "$folder/shared/golden/micro/exact"
    for m in $models; do
        if [ ! -e "$shared/models/micro/$m.gguf" ] || [ ! -e "$shared/golden/micro/$m.jsonl" ]; then continue; fi
        bytes=$(stat -c %s "$shared/models/micro/$m.gguf")
        [ "$bytes" -le "$room" ] || continue
        room=$((room - bytes))
        cp "$shared/models/micro/$m.gguf" "$folder/shared/models/micro/"
        cp "$shared/golden/micro/$m.jsonl" "$folder/shared/golden/micro/"
        cp "$shared/golden/micro/exact/$m.jsonl" "$folder/shared/golden/micro/exact/" 2>/dev/null
    done
}

pack() {
    local b=build
    # Fat binaries of other architectures are another build.
    [ -z "${CUDA_SMS:-}" ] || b=build/day-${CUDA_SMS// /-}
    rm -rf "$folder"
    mkdir -p "$folder/cuda" "$folder/limits" "$folder/lib"
    [ -n "$(make -s print-nvcc)" ] || { echo "no nvcc here (set NVCC): there is nothing to run on a GPU" && exit 1; }
    make -s "-j$(nproc)" "B=$b" cuda "$b/gpu/bench_limits.fatbin" "$b/gpu/check_gpu" "$b/gpu/bench_gpu" &&
        make -s "-j$(nproc)" "B=$b" "CUDA_DIR=$b/cuda" all || exit 1
    ! "$b/freehold" doctor 2>/dev/null | grep "no kernels are built in" || exit 1
    cp "$b/gpu/check_gpu" "$b/gpu/bench_gpu" "$b/freehold" "$folder/"
    strip "$folder/check_gpu" "$folder/bench_gpu" "$folder/freehold"
    cp "$b"/cuda/*.fatbin "$folder/cuda/"
    cp "$b/gpu/bench_limits.fatbin" "$folder/limits/"
    # All but the C library's own, which belong to the kernel and the loader of the machine.
    ldd "$b/freehold" | awk '$3 ~ /^\// && $1 !~ /^(libc|libm|libpthread|libdl|librt|ld-linux.*)\.so/ { print $3 }' |
        xargs -r cp -Lt "$folder/lib"
    pack_models
    git describe --always --dirty >"$folder/version" 2>/dev/null
    du -sh "$folder"
}

# part NAME COMMAND...: with what is left of the time; its log, and a line of the summary
part() {
    local name=$1 left=$((begin + ${DAY_SECONDS:-540} - $(date +%s))) from=$EPOCHREALTIME rc text
    shift
    [[ " ${DAY_PARTS:-$name} " == *" $name "* ]] || return
    if [ "$left" -le 5 ]; then
        rc=1 text="not run: no time was left"
    else
        timeout -k 5 "$left" tests/gpu/day.sh part "$folder" "$@" >"$logs/$name.log" 2>&1
        case $? in
        0) text=passed ;;
        77) text="skipped: $(tail -1 "$logs/$name.log")" ;;
        124 | 137) rc=1 text="cut off after $left s" ;;
        *) rc=1 text=FAILED ;;
        esac
    fi
    printf '| %s | %s | %.1f |\n' "$name" "$text" "$(awk "BEGIN { print $EPOCHREALTIME - $from }")" | tee -a "$logs/table"
    [ -z "${rc:-}" ] || failed=1
}

facts() {
    cat "$folder/version"
    uname -sr
    nvidia-smi -q -d MEMORY,CLOCK,ECC,PERFORMANCE || true
    LD_LIBRARY_PATH=$libs "$folder/freehold" doctor || true
}

# Each group of kernels in a process of its own, as an illegal access ends all that comes after it.
check() {
    local rc=0 p
    for p in rows mm moe attn sample; do
        # shellcheck disable=SC2086
        "$folder/check_gpu" --fatbins "$folder/cuda" ${DAY_CHECK:-} "$p" || rc=1
    done
    return $rc
}

golden() {
    command -v python3 >/dev/null || { echo "no python3 here" && return 77; }
    # Keys and values are f16 on a GPU, and the name of the CPU's kernels says nothing.
    LD_LIBRARY_PATH=$libs FREEHOLD_DEVICE=cuda FREEHOLD_SHARED=$folder/shared \
        python3 tests/e2e/golden.py --freehold "$folder/freehold" --isa avx2 ${DAY_GOLDEN:+--only "$DAY_GOLDEN"}
}

bench() {
    "$folder/bench_gpu" --fatbins "$folder/cuda:$folder/limits"
}

# sanitize TOOL
sanitize() {
    local tool
    tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) ||
        { echo "no compute-sanitizer here" && return 77; }
    "$tool" --tool "$1" --error-exitcode 1 --print-limit 20 "$folder/check_gpu" --fatbins "$folder/cuda" --small
}

summary() {
    local name
    name=$(sed -n 's/^device: //p' "$logs/check.log" 2>/dev/null | head -1)
    {
        echo "# ${name:-no device}, $(date -u +%Y-%m-%d)"
        echo
        echo "Version $(cat "$folder/version"); \`tests/gpu/day.sh run\`, $(($(date +%s) - begin)) s."
        echo
        echo "| part | result | s |"
        echo "| --- | --- | --- |"
        cat "$logs/table"
        grep -sHE '^(FAILED|gpu: )|FAILED' "$logs"/{check,golden,memcheck,racecheck,synccheck}.log | sed "s|^$logs/||" |
            head -40 | { echo && sed 's/^/    /'; }
        grep -shE ' passed, ' "$logs"/{check,golden}.log | { echo && sed 's/^/    /'; }
        [ -e "$logs/bench.log" ] && { echo && sed 's/^/    /' "$logs/bench.log"; }
    } >"$logs/summary.md"
    rm -f "$logs/table"
    cat "$logs/summary.md"
}

run() {
    [ -x "$folder/check_gpu" ] || { echo "$folder is not there: tests/gpu/day.sh pack makes it" && exit 1; }
    mkdir -p "$logs" && : >"$logs/table"
    part facts facts
    part check check
    part golden golden
    part bench bench
    part memcheck sanitize memcheck
    part racecheck sanitize racecheck
    part synccheck sanitize synccheck
    summary
}

case $mode in
pack) pack ;;
run)
    folder=$(realpath "$folder") logs=${3:-$folder/logs} begin=$(date +%s) failed=0
    run
    exit $failed
    ;;
part) # of a run, by itself: FOLDER NAME [ARGUMENT]
    libs=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    "${@:3}"
    ;;
*)
    sed -n '4,18s/^# \{0,1\}//p' tests/gpu/day.sh
    exit 2
    ;;
esac
