#!/usr/bin/env bash
# What needs a CUDA GPU: build, tests, compute-sanitizer, benchmarks.
#
#   bench/gpu_check.sh                all stages, in eight minutes at most
#   bench/gpu_check.sh build tests    some; build tests sanitizer bench selection grid head roofline
#   OUT=dir bench/gpu_check.sh        log, rows and plot in dir; else in runs/gpu_check
#   PYTHON=python3.12 …               the interpreter to build for; it needs torch with CUDA
#   LIMIT=600 …                       seconds for all stages together; each has a limit of its own
#   ENTROPY_EXT_COMMIT=0a1b2c3 …      what the rows say in a copy without .git
#
# Rows are added to bench/results as well. Exit code 0 when every stage passed; 1 when one failed,
# was stopped or could not start (the others still run), or there is no GPU; 2 for an unknown stage.
set -euo pipefail
set -m # commands in the background as process groups of their own, which SIGINT reaches

cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-runs/gpu_check}
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-480}
# Where nvcc and compute-sanitizer are, should nobody have said so.
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin PYTHONUNBUFFERED=1

# What each stage imports.
declare -A needs=(
    [build]="pip pybind11 scikit_build_core" [tests]="pytest hypothesis" [sanitizer]="numpy"
    [bench]="numpy typer rich" [selection]="numpy typer rich" [grid]="numpy typer rich"
    [head]="numpy typer rich" [roofline]="numpy typer rich matplotlib"
)
order=(build tests sanitizer bench selection grid head roofline)
stages=("${order[@]}")
if (($#)); then stages=("$@"); fi
for stage in "${stages[@]}"; do
    if [[ -z ${needs[$stage]:-} ]]; then
        echo "Unknown stage '$stage': expected some of ${order[*]}." >&2
        exit 2
    fi
done

if ! command -v "$PYTHON" >/dev/null; then
    echo "PYTHON: expected an interpreter, got '$PYTHON'." >&2
    exit 2
fi
if [[ ! $LIMIT =~ ^[0-9]+$ ]]; then
    echo "LIMIT: expected seconds, got '$LIMIT'." >&2
    exit 2
fi

mkdir -p "$OUT"
log=$OUT/gpu_check.log
say() { printf '%s\n' "$*" | tee -a "$log"; }

failed=()
running=
# run NAME SECONDS COMMAND: the output goes to the log and to the terminal. Not through a pipe: what
# a command leaves behind could hold it open. SIGINT, for pytest and bench then show what they have.
run() {
    local name=$1 limit=$2 started=$SECONDS left=$((LIMIT - SECONDS)) status=0 lines
    shift 2
    if ((left <= 0)); then
        say "== $name: LEFT OUT, all $LIMIT s are over"
        failed+=("$name")
        return
    fi
    say "== $name: $*"
    lines=$(wc -l <"$log")
    timeout --signal=INT --kill-after=15 $((limit < left ? limit : left)) \
        "$@" >>"$log" 2>&1 </dev/null &
    running=$!
    tail --lines=+$((lines + 1)) --follow --sleep-interval=0.1 --pid="$running" "$log" &
    wait "$running" || status=$?
    wait "$!" || true
    case $status in
        0) say "== $name: passed in $((SECONDS - started)) s" ;;
        124 | 137) say "== $name: STOPPED at its limit, after $((SECONDS - started)) s" ;;
        *) say "== $name: FAILED after $((SECONDS - started)) s" ;;
    esac
    ((status == 0)) || failed+=("$name")
}
trap 'kill -INT -- "-$running" 2>/dev/null || true; exit 130' INT TERM

# Three lines: the GPU, versions, the packages that are missing.
look='
import platform, re, sys
from importlib.util import find_spec
import torch
if not torch.cuda.is_available():
    sys.exit(1)
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
triton = __import__("triton").__version__ if find_spec("triton") else "none"
print("python", platform.python_version(), "torch", torch.__version__, "with CUDA",
      torch.version.cuda, "triton", triton)
print(*(name for name in dict.fromkeys(sys.argv[1:]) if not find_spec(name)))
'
wanted=
for stage in "${stages[@]}"; do wanted+=" ${needs[$stage]}"; done
# shellcheck disable=SC2086  # a list of words
if ! found=$("$PYTHON" -c "$look" $wanted 2>>"$log"); then
    say "No CUDA GPU that $PYTHON's torch can use: nothing was checked. See $log, and nvidia-smi."
    exit 1
fi
{ read -r gpu; read -r versions; read -r missing || true; } <<<"$found"
say "GPU: $gpu; $versions; $(nvcc --version 2>/dev/null | grep release || echo 'no nvcc')"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo "${ENTROPY_EXT_COMMIT:-unknown}")
say "$(date --utc +%FT%TZ), commit $commit"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv 2>&1 |
    tee -a "$log" || true
if [[ -n $missing ]]; then
    say "Missing: $missing. To install: $PYTHON -m pip install $missing"
fi

csv=$OUT/$gpu.csv
bench=("$PYTHON" -m bench --device cuda --csv "$csv")
for stage in "${stages[@]}"; do
    for package in $missing; do
        if [[ " ${needs[$stage]} " == *" $package "* ]]; then
            say "== $stage: LEFT OUT for want of $package"
            failed+=("$stage")
            [[ $stage != build ]] || exit 1
            continue 2
        fi
    done
    case $stage in
        build)
            # Editable, for tests and benchmarks run from this folder, whose entropy_ext/ would
            # otherwise stand in the way of the installed one and has no compiled module.
            run build 180 env CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)" "$PYTHON" -m pip install \
                --disable-pip-version-check --no-build-isolation --no-deps \
                --config-settings=cmake.define.ENTROPY_CUDA=ON --editable .
            if [[ ${failed[*]} == *build ]]; then
                say "The build failed: nothing else was run."
                exit 1
            fi
            run "every kernel once" 60 "$PYTHON" -m bench.sanitizer_cases
            ;;
        tests)
            # No plugin that happens to be there: it could warn, and a warning is an error here. But
            # several processes where pytest-xdist is, for most tests keep the GPU waiting.
            workers=()
            if "$PYTHON" -c "import xdist" 2>/dev/null; then
                workers=(-p xdist --numprocesses "$(($(nproc) < 6 ? $(nproc) : 6))")
            fi
            run tests 200 env ENTROPY_EXT_TEST_DEVICES=cuda PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
                OMP_NUM_THREADS=2 "$PYTHON" -m pytest -q --tb=short --maxfail=50 \
                -o faulthandler_timeout=60 "${workers[@]}"
            ;;
        sanitizer)
            # Each tensor in an allocation of its own, or what overruns it lands in the next one.
            for tool in memcheck racecheck synccheck initcheck; do
                run "$tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer \
                    --tool "$tool" --kernel-name kns=entropy_ext --padding 512 \
                    --report-api-errors no --error-exitcode 1 "$PYTHON" -m bench.sanitizer_cases
            done
            ;;
        bench) run bench 150 "${bench[@]}" --rows 1,8192 --vocab 151936 ;;
        selection)
            run selection 60 "$PYTHON" -m bench.selection_bench --device cuda \
                --csv "$OUT/selection.csv"
            ;;
        grid)
            run grid 120 "${bench[@]}" --only ours --repeats 15 --rows 1,64,1024,8192,32768 \
                --vocab 32000,50257,128256,151936,262144
            ;;
        head)
            for hidden in 896 4096; do
                run "head $hidden" 60 "$PYTHON" -m bench.linear_head --device cuda --tokens 4096 \
                    --hidden "$hidden" --dtype bfloat16 --csv "$OUT/linear_head.csv"
            done
            ;;
        roofline)
            rows=$csv
            [[ -f $rows ]] || rows=bench/results/$gpu.csv
            run roofline 30 "$PYTHON" -m bench.roofline "$rows" --out "$OUT/$gpu.png"
            ;;
    esac
done

# Rows of this run next to those of earlier ones.
for kind in "" selection linear_head; do
    measured=$OUT/${kind:-$gpu}.csv
    kept=bench/results/${kind:+${kind/_/-}-}$gpu.csv
    if [[ -f $measured ]]; then
        touch "$kept"
        awk '!seen[$0]++' "$kept" "$measured" >"$kept.new"
        mv "$kept.new" "$kept"
        say "Rows in $measured and $kept"
    fi
done
if ((${#failed[@]})); then
    say "Not passed: ${failed[*]}"
    exit 1
fi
say "All passed in $SECONDS s"
