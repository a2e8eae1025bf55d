#!/usr/bin/env bash
# Everything that needs a CUDA GPU, in one go: build, test suite, compute-sanitizer, benchmark.
#
#   bench/gpu_check.sh            log and CSV in runs/gpu_check, rows also in bench/results
#   OUT=dir bench/gpu_check.sh    log and CSV in dir
#   PYTHON=python3.12 …           the interpreter to build for; it needs torch with CUDA
#
# Exit code 0 when every step passed, 1 when one failed or there is no GPU.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-runs/gpu_check}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
log=$OUT/gpu_check.log
: >"$log"

say() { printf '%s\n' "$*" | tee -a "$log"; }

# Runs a step in the log and on the terminal; a failure is counted, and the next step still runs.
failed=0
step() {
    local name=$1 started=$SECONDS
    shift
    say "== $name: $*"
    if "$@" 2>&1 | tee -a "$log"; then
        say "== $name: passed in $((SECONDS - started)) s"
    else
        say "== $name: FAILED after $((SECONDS - started)) s"
        failed=1
    fi
}

find_gpu='
import re, sys, torch
if not torch.cuda.is_available():
    sys.exit(1)
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
'
if ! gpu=$("$PYTHON" -c "$find_gpu" 2>>"$log"); then
    say "No CUDA GPU that $PYTHON's torch can use: nothing was checked. See $log, and nvidia-smi."
    exit 1
fi
say "GPU: $gpu"
command -v nvidia-smi >/dev/null &&
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv | tee -a "$log"

# Editable, for tests and benchmark run from this folder, whose entropy_ext/ would otherwise stand in
# the way of the installed one and has no compiled module.
step build "$PYTHON" -m pip install --no-build-isolation --no-deps --editable .
if ((failed)); then
    say "The build failed: nothing else was run."
    exit 1
fi

step tests env ENTROPY_EXT_TEST_DEVICES=cuda "$PYTHON" -m pytest -q --maxfail=20

# The sanitizer slows a kernel a hundredfold: a few shapes that reach every loading path suffice.
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$PYTHON" -m bench.sanitizer_cases
    done
else
    say "== sanitizer: skipped, compute-sanitizer is not installed"
fi

# Every peer on a few shapes, ours on the whole grid, and the chunked head on the two hidden sizes.
csv=$OUT/$gpu.csv
step benchmark "$PYTHON" -m bench --device cuda --csv "$csv"
step grid "$PYTHON" -m bench --device cuda --csv "$csv" --only ours --repeats 15 \
    --rows 1,64,1024,8192,32768 --vocab 32000,50257,128256,151936,262144
for hidden in 896 4096; do
    step "chunked head $hidden" "$PYTHON" -m bench.linear_head --device cuda --csv "$OUT/linear_head.csv" \
        --tokens 4096 --hidden "$hidden" --dtype bfloat16
done
step roofline "$PYTHON" -m bench.roofline "$csv"
for kind in "" selection linear_head; do
    measured=$OUT/${kind:-$gpu}.csv
    kept=bench/results/${kind:+${kind/_/-}-}$gpu.csv
    if [[ -f $measured ]]; then
        cp "$measured" "$kept"
        say "Rows in $measured and $kept"
    fi
done
exit "$failed"
