#!/usr/bin/env bash
# All that only a GPU can show, in under 8 minutes, with what is installed: correctness first, then figures.
# Usage: benchmarks/gpu.sh [FOLDER for the JSON files]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
python=${PYTHON:-python3}
unset NUMBA_ENABLE_CUDASIM
export NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS=0 NUMBA_CUDA_WARN_ON_IMPLICIT_COPY=0

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader || true
$python -c "import sys, numpy, numba; print('Python', sys.version.split()[0], 'numba', numba.__version__, 'numpy', numpy.__version__)"

echo "== every kernel against its oracle"
timeout 200 $python -m fastnn.cuda.check
if command -v compute-sanitizer >/dev/null; then
    echo "== compute-sanitizer: memory, races"
    for tool in memcheck racecheck; do
        timeout 45 compute-sanitizer --tool "$tool" --error-exitcode 3 $python -c "
import numpy as np
import fastnn
x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
for units in (16, 200):
    model = fastnn.Sequential([fastnn.Dense(units, 'tanh'), fastnn.Dropout(0.2), fastnn.Dense(3)], 'cross_entropy', device='cuda')
    model.fit(x, y, epochs=1, batch_size=24, verbose=False)
" 2>&1 | tail -3 || echo "$tool: it found something, or could not work here"
    done
fi

echo "== products and updates"
timeout 90 $python -m benchmarks.cuda

echo "== training beside the others"
timeout $((400 - SECONDS)) $python benchmarks/compare.py --device cuda --rounds 3 --json "$out/gpu-training.json"

echo "== large networks, products in tf32 for everybody"
timeout $((475 - SECONDS)) $python benchmarks/compare.py --device cuda --rounds 3 --workloads wide,wide4096 \
    --matmul-precision tf32 --json "$out/gpu-training-tf32.json"
