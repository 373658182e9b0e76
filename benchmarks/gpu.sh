#!/usr/bin/env bash
# All that only a GPU can show, in under 8 minutes, with what is installed: correctness first, then figures. A stage that
# fails or takes too long does not keep the next ones from running; the exit code is 1 where one did.
# Usage: benchmarks/gpu.sh [FOLDER for what was found, made if need be]; LIMIT=480 are the seconds it may take in all.
set -uo pipefail
out=$(mkdir -p "${1:-.}" && cd "${1:-.}" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
limit=${LIMIT:-480}
python=${PYTHON:-python3}
failed=0
unset NUMBA_ENABLE_CUDASIM
export NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS=0 NUMBA_CUDA_WARN_ON_IMPLICIT_COPY=0 PYTHONUNBUFFERED=1

# stage NAME SECONDS COMMAND...: run it for at most so long, and no longer than is left; what it prints is kept, too
stage() {
    local name=$1 most=$2 left=$((limit - SECONDS))
    shift 2
    printf '\n== %s (%d s so far)\n' "$name" "$SECONDS"
    if [ "$left" -lt 5 ]; then
        echo "left out: no time is left"
        failed=1
        return
    fi
    timeout -k 10 "$((most < left ? most : left))" "$@" 2>&1 | tee "$out/gpu-$name.txt"
    local status=${PIPESTATUS[0]}
    if [ "$status" -ne 0 ]; then
        echo "-- $name ended with $status$([ "$status" -eq 124 ] && echo ", since its time was up")"
        failed=1
    fi
}

# sanitize TOOL: a few steps in one block (of less and of more than 48 KB), by few rows and stage by stage
sanitize() {
    compute-sanitizer --tool "$1" --error-exitcode 3 "$python" -c "
import numpy as np
import fastnn
x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
for units in (16, 128, 512, 600):
    model = fastnn.Sequential([fastnn.Dense(units, 'tanh'), fastnn.Dropout(0.2), fastnn.Dense(3)], 'cross_entropy', device='cuda')
    model.fit(x, y, epochs=1, batch_size=24, verbose=False)
"
}
export -f sanitize
export python

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader || true
"$python" -c "import sys, numpy, numba; print('Python', sys.version.split()[0], 'numba', numba.__version__, 'numpy', numpy.__version__)"
"$python" -c "import sys; from fastnn import cuda; sys.exit(cuda.missing() or 0)" || exit 2

stage check 200 "$python" -m fastnn.cuda.check
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        stage "$tool" 40 bash -c "sanitize $tool"
    done
fi
stage limits 90 "$python" -m benchmarks.cuda
stage training 240 "$python" benchmarks/compare.py --device cuda --rounds 3 --json "$out/gpu-training.json"
stage training-tf32 80 "$python" benchmarks/compare.py --device cuda --rounds 3 \
    --workloads wide,wide4096 --matmul-precision tf32 --json "$out/gpu-training-tf32.json"
exit "$failed"
