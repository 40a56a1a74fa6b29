#!/usr/bin/env bash
# Tests and measures the GPU machine that this folder lies on; needs nothing but the NVIDIA driver. ./run.sh [RESULTS_FOLDER]
#
# Every step has a time limit and its own process: a kernel that hangs or breaks its context takes no other step with it, and
# nothing stops at a failure. What could not be done is named with its reason. All that is found goes to results.json; the words
# of each step to logs/. May be run again at any time: it starts afresh.
set -u
export LC_ALL=C
cd "$(dirname "$0")" || exit 1
here=$PWD
results=${1:-$here/results}
mkdir -p "$results" || exit 1
results=$(cd "$results" && pwd)
logs=$results/logs
rm -rf "$logs" "$results/train-cpu" "$results/train-gpu" "$results/scores" "$results/results.json" "$results"/*.jsonl
mkdir -p "$logs" "$results/scores"
touch "$results"/{steps,cases,benches,peers}.jsonl
export FINDAP_CUBIN=$here/cubin FINDAP_GOLDEN=$here/golden

# ---- What was found, as JSON ----

# Standard input as a JSON string; what is not plain text is left out.
json_text() {
    printf '"'
    tr -cd '\11\12\40-\176' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/ /g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'
    printf '"'
}

# record LIST NAME STATUS SECONDS NOTE
record() {
    printf '{"name": %s, "status": "%s", "seconds": %s, "note": %s}\n' \
        "$(printf %s "$2" | json_text)" "$3" "$4" "$(printf %s "$5" | json_text)" >>"$results/$1.jsonl"
    printf '%-8s %8.1f s  %s%s\n' "$3" "$4" "$2" "${5:+: $(printf %s "$5" | head -n 1 | cut -c 1-150)}"
}

# The lines of a file of JSON objects as a list.
list() {
    printf '['
    awk '/^\{.*\}$/ { printf "%s\n    %s", separator, $0; separator = "," }' "$1"
    printf '\n  ]'
}

# ---- Steps ----

# step LIST NAME LIMIT_SECONDS COMMAND...: runs it, and records how it ended with its telling lines.
step() {
    local into=$1 name=$2 limit=$3
    shift 3
    local log=$logs/${name//[^A-Za-z0-9_.-]/_}.log begin=$EPOCHREALTIME status note=
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1 </dev/null
    local code=$?
    local seconds
    seconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }')
    case $code in
    0) status=passed note=$(grep -a '^kernel ' "$log") ;;
    3) status=skipped note=$(tail -n 1 "$log") ;;
    124 | 137) status=timeout note="stopped after $limit s
$(tail -n 5 "$log")" ;;
    *) status=failed note="exit code $code
$(grep -a -A 3 -m 1 'panicked at\|error:\|ERROR' "$log" || tail -n 5 "$log")" ;;
    esac
    # a test that found its device or compiler missing says so, perhaps behind its name, and returns
    if [ $status = passed ] && grep -a -q '\(^\|\.\.\. \)skipped: ' "$log"; then
        status=skipped note=$(grep -a -m 1 -o 'skipped: .*' "$log")
    fi
    record "$into" "$name" "$status" "$seconds" "$note"
    [ $status = passed ]
}

skip() {
    record "$1" "$2" skipped 0 "$3"
}

clocks() {
    nvidia-smi --query-gpu=name,driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu,memory.total,ecc.mode.current \
        --format=csv 2>&1 | json_text
}

started=$(date -u +%Y-%m-%dT%H:%M:%SZ)
clocks_before=$(command -v nvidia-smi >/dev/null && clocks || echo null)
device=$(./bench_cuda --device 2>/dev/null | head -n 1)
case $device in
'{"device"'*) no_gpu= ;;
*) no_gpu="no GPU can be used here: ${device:-bench_cuda does not start}" ;;
esac
[ -z "$no_gpu" ] || echo "$no_gpu. Only what needs none is done."

step steps "doctor" 60 ./findap doctor --json
doctor=$(cat "$logs/doctor.log")
case $doctor in '{'*) ;; *) doctor=null ;; esac

# run_cases TITLE BINARY PATTERN [BUT]: each test of the binary whose name has the pattern, in its own process.
run_cases() {
    local title=$1 binary=$2 tests
    tests=$("$binary" --list --format terse 2>/dev/null | sed -n 's/: test$//p' | grep -E "$3" | grep -E -v "${4:-^$}")
    if [ -n "$no_gpu" ]; then
        skip steps "$title" "$no_gpu; $(printf '%s\n' "$tests" | grep -c .) cases were not run"
        return
    fi
    local failed=0 count=0 begin=$EPOCHREALTIME before
    before=$(grep -c '"status": "skipped"' "$results/cases.jsonl")
    for test in $tests; do
        count=$((count + 1))
        step cases "$test" 300 "$binary" --exact "$test" --test-threads 1 --nocapture
        tail -n 1 "$results/cases.jsonl" | grep -q '"status": "\(failed\|timeout\)"' && failed=$((failed + 1))
    done
    local skipped=$(($(grep -c '"status": "skipped"' "$results/cases.jsonl") - before))
    local status=passed
    [ $failed = 0 ] && [ $count != 0 ] || status=failed
    # such as Hopper's on another device; a case says why
    [ $failed = 0 ] && [ $skipped = "$count" ] && status=skipped
    record steps "$title" $status "$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }')" \
        "$count cases, $failed failed, $skipped skipped"
}

# First what the kernels rest on: a wrong model of the Hopper units explains every failure after it.
run_cases "probes of the Hopper units" ./kernel_tests 'cuda::tests::probes::'
run_cases "cases of the kernels" ./kernel_tests 'cuda::tests::' 'cuda::tests::probes::'
run_cases "cases of the model" ./model_tests '^tests::(device|generate)::'

# ---- The golden numbers of transformers ----

# error SCORES: how far log-probabilities are off in the root mean square, and how large they are.
error() {
    sed 's/.*"logprobs":\[\([^]]*\)\].*/\1/' "$1" | tr ',' '\n' | paste -d ' ' - parity/logprobs.txt | awk '
        NF != 2 || ($1 == "null") != ($2 == "null") { bad = 1 }
        $1 != "null" { off += ($1 - $2) ^ 2; size += $2 ^ 2; count++ }
        END { if (bad || count == 0) print "nan nan"; else printf "%.9g %.9g\n", sqrt(off / count), sqrt(size / count) }'
}

# The rule of the tests: the truth is transformers in f32. f32 on the GPU may have three times the error of the CPU, plus four roundings of
# the numbers. In bf16 activations are rounded as weights are, and both enter every product alike: three times the error of the CPU over
# weights in bf16, which rounds those alone.
compare_scores() {
    local device dtype cpu size gpu
    for dtype in f32 bf16; do
        for device in cpu cuda:0; do
            ./findap score golden/models/tiny --input parity/rows.jsonl --output "$results/scores/$device-$dtype.jsonl" \
                --device "$device" --dtype "$dtype" || return 1
        done
        read -r cpu size <<<"$(error "$results/scores/cpu-$dtype.jsonl")"
        read -r gpu size <<<"$(error "$results/scores/cuda:0-$dtype.jsonl")"
        echo "kernel scores: $dtype, off by $gpu on the GPU and $cpu on the CPU, of $size"
        awk -v gpu="$gpu" -v cpu="$cpu" -v size="$size" 'BEGIN { exit !(gpu <= 3 * cpu + 4 * size / 2 ^ 24) }' || return 1
    done
}

# compared NAME FUNCTION: a step that is a function of this script.
compared() {
    local log=$logs/${1// /-}.log begin=$EPOCHREALTIME status
    if [ -n "$no_gpu" ]; then
        skip steps "$1" "$no_gpu"
        return
    fi
    "$2" >"$log" 2>&1 && status=passed || status=failed
    record steps "$1" $status "$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }')" \
        "$(grep -a "^kernel " "$log" || tail -n 3 "$log")"
}

compared "golden scores" compare_scores

# ---- Training on the CPU and on the GPU ----

train() {
    timeout --kill-after=10 900 ./findap train recipes/demo.toml --stage group1 --run-dir "$results/train-$1" "${@:2}" \
        --set world.entities_per_kind=8 --set world.finance_entities_per_kind=8 --set world.general_texts=400 \
        --set world.finance_texts=400 --set world.general_chats=400 --set world.finance_chats=200 \
        --set world.finance_exercises=50 --set 'eval.stages=[]'
}

last_loss() {
    sed -n 's/.*"loss":\([0-9.eE+-]*\).*/\1/p' "$results/train-$1/group1/metrics.jsonl" | tail -n 1
}

compare_training() {
    train cpu --set run.device=cpu || return 1
    train gpu --set run.device=cuda:0 || return 1
    local cpu gpu
    cpu=$(last_loss cpu) gpu=$(last_loss gpu)
    echo "kernel training: loss of the last step $cpu on the CPU, $gpu on the GPU"
    # other formats and another order of sums: a few parts in a hundred after some dozen steps, where a wrong gradient does not learn
    awk -v a="$cpu" -v b="$gpu" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a > 0 && b > 0 && d <= 0.05 * a) }'
}

compared "training on CPU and GPU" compare_training

# ---- Checked by NVIDIA's tools ----

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
for tool in memcheck synccheck racecheck; do
    if [ -n "$no_gpu" ]; then
        skip steps "compute-sanitizer $tool" "$no_gpu"
    elif [ -z "$sanitizer" ]; then
        skip steps "compute-sanitizer $tool" "compute-sanitizer is not installed here"
    else
        step steps "compute-sanitizer $tool" 900 "$sanitizer" --tool "$tool" --error-exitcode 9 \
            ./kernel_tests cuda::tests:: --test-threads 1
    fi
done

# ---- Speed ----

# bench LIST NAME LIMIT_SECONDS COMMAND...
bench() {
    if [ -n "$no_gpu" ]; then
        skip steps "$2" "$no_gpu"
        return
    fi
    step steps "${@:2}"
    grep -a '^{.*}$' "$logs/${2//[^A-Za-z0-9_.-]/_}.log" >>"$results/$1.jsonl"
}

bench benches "kernel benches" 1800 ./bench_cuda

# Whole training steps over 8192 tokens in documents of 1024 and in one, with random weights: the shapes of Llama 3.2 1B and Llama 3 8B.
one_b="hidden=2048 layers=16 heads=32 kv_heads=8 ffn=8192 vocab=128256 tied=1"
eight_b="hidden=4096 layers=32 heads=32 kv_heads=8 ffn=14336 vocab=128256 tied=0"
for documents in 1 8; do
    # shellcheck disable=SC2086 # keys are words
    bench benches "step 1B bf16, 8192 tokens in $documents" 900 \
        ./bench_step $one_b device=cuda:0 compute=bf16 recompute=block sequence=8192 documents=$documents steps=10 warm=3
done
# With a state in f32 the larger one takes 144 GB.
# shellcheck disable=SC2086
bench benches "step 8B bf16, state in bf16, 8192 tokens in 1" 1200 \
    ./bench_step $eight_b device=cuda:0 compute=bf16 state=bf16 recompute=block sequence=8192 steps=5 warm=2

python=
for candidate in "${FINDAP_PYTHON:-}" python3 python /opt/conda/bin/python "$HOME"/*/bin/python3; do
    if [ -n "$candidate" ] && timeout 120 "$candidate" -c 'import torch; assert torch.cuda.is_available()' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -n "$python" ]; then
    bench peers "peer: torch attention" 900 "$python" peers/attention_torch.py
else
    skip steps "peer: torch attention" "no Python with torch that sees a GPU was found; FINDAP_PYTHON names one"
fi

# ---- All in one file ----

{
    printf '{\n  "schema": 1,\n  "commit": %s,\n  "started": "%s",\n  "ended": "%s",\n' \
        "$(head -n 1 commit | json_text)" "$started" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    printf '  "machine": {"host": %s, "kernel": %s, "cpu": %s, "cores": %s, "system": %s},\n' \
        "$(uname -n | json_text)" "$(uname -r | json_text)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | json_text)" \
        "$(nproc)" "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release | json_text)"
    printf '  "gpu": %s,\n' "$([ -n "$no_gpu" ] && echo null || echo "$device")"
    printf '  "no_gpu": %s,\n' "$([ -n "$no_gpu" ] && printf %s "$no_gpu" | json_text || echo null)"
    printf '  "clocks_before": %s,\n  "clocks_after": %s,\n' "$clocks_before" \
        "$(command -v nvidia-smi >/dev/null && clocks || echo null)"
    printf '  "doctor": %s,\n' "$doctor"
    for name in steps cases benches peers; do
        printf '  "%s": %s' $name "$(list "$results/$name.jsonl")"
        [ $name = peers ] && printf '\n' || printf ',\n'
    done
    printf '}\n'
} >"$results/results.json"
count() { cat "$results"/{steps,cases}.jsonl | grep -c "\"status\": \"$1\""; }
echo "$(count passed) passed, $(count failed) failed, $(count timeout) timed out, $(count skipped) skipped: $results/results.json"
[ "$(count failed)$(count timeout)" = 00 ]
