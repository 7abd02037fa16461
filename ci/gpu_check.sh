#!/usr/bin/env bash
# Checks the CUDA kernels on a machine with a GPU, in stages of less than nine minutes:
#
#     ci/gpu_check.sh build|tests|rest|sanitize|op|op-more|models|box|all [FOLDER]
#
# It needs Python with torch, nvcc, scikit-build-core, pybind11, cmake, ninja and pytest, and no package registry. The
# wheel is built for the GPUs of this machine alone and put into build/gpu; a compiled module that lies in the source
# tree already is used as it is. Logs and JSON go to FOLDER (default: $OUT, else build/gpu/out).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stage=${1:-all}
out=${2:-${OUT:-build/gpu/out}}
mkdir -p "$out" build/gpu
python=${PYTHON:-python3}
core=packages/natten-core
limit=${LIMIT:-530}
began=$SECONDS
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

left() { echo $((limit - (SECONDS - began))); }

build() {
  local module=("$core"/src/natten_core/_C.*"$($python -c 'import sys; print(sys.implementation.cache_tag)')"*.so)
  if [[ -e ${module[0]} ]]; then
    export PYTHONPATH=$PWD/$core/src:$PWD/packages/dinat-zoo/src
  else
    export PYTHONPATH=$PWD/build/gpu/site:$PWD/packages/dinat-zoo/src
    if [[ ! -d build/gpu/site/natten_core ]]; then
      local gpus
      gpus=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | tr -d . | sort -u | paste -sd ';')
      CMAKE_ARGS="-DNATTEN_CUDA=ON -DNATTEN_CUDA_ARCHITECTURES=$gpus" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
        $python -m pip wheel -q --no-build-isolation --no-deps -w build/gpu "./$core" 2>&1 | tee "$out/build.txt" || return 1
      $python -m pip install -q --no-deps --no-compile --target build/gpu/site build/gpu/natten_core-*.whl || return 1
      ls -l build/gpu/*.whl
    fi
  fi
  $python -m natten_core | tee "$out/facts.txt"
}

# Runs pytest with as many processes as there is memory for; the rest of the arguments are pytest's.
pytest_() {
  local name=$1 several=()
  shift
  $python -c 'import xdist' 2>/dev/null && several=(-n "${JOBS:-8}")
  timeout "$(left)" $python -m pytest -q -p no:cacheprovider -W default "${several[@]}" "$@" > "$out/$name.txt" 2>&1
  local status=$?
  grep -E "^(FAILED|ERROR)" "$out/$name.txt" | head -n 40
  tail -n 1 "$out/$name.txt"
  return $status
}

tests() { pytest_ tests "$core"/tests/test_cuda*.py "$core"/tests/cuda_primitives; }

# The tests that need no GPU, which this machine's torch and Python may see otherwise than the one they were written on.
rest() { pytest_ rest "$core/tests" --ignore="$core/tests/cuda_host" --ignore="$core/tests/cuda_primitives" --deselect "$core/tests/test_cuda.py"; }

sanitize() {
  local both="level4 or level3-dilated or 8x8 or 2d-dilated-remainder or 2d-additional-grouped or 3d-everything"
  local more="level3- or 2d-prime or kernel-5 or dense-head-dim-24 or head-dim-36"
  sanitized sanitize "not box- and ($both)" "not box- and ($both or $more)"
}

# Under racecheck the cases of the second argument, under memcheck those of the third.
sanitized() {
  local status=0 name=$1 tool cases seconds
  for tool in memcheck racecheck; do
    cases=$2 seconds=$(left)
    [[ $tool == memcheck ]] && cases=$3 seconds=$((seconds * 3 / 5))
    # Without torch's caching, so that every tensor has bounds of its own.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$seconds" compute-sanitizer --tool "$tool" \
      --kernel-name kernel_substring=natten --error-exitcode 9 --log-file "$out/$name-$tool.txt" \
      $python -m pytest -q -x -p no:cacheprovider -W default "$core/tests/test_cuda.py" \
      -k "(test_values_and_gradients or test_fp32_in_tf32) and not packed and ($cases)" > "$out/$name-$tool-tests.txt" 2>&1 || status=$?
    echo "$tool: $(tail -n 1 "$out/$name-$tool-tests.txt"); $(tail -n 1 "$out/$name-$tool.txt")"
  done
  return $status
}

op() {
  $python $core/benchmarks/bench_cuda.py --short --families --seconds "$(($(left) - 60))" --out "$out/op.json" |
    tee "$out/op.txt"
}

op-more() {
  $python $core/benchmarks/bench_cuda.py --dtypes tf32 fp32 fp16 --batches 256 --peers dense-sdpa --rounds 15 \
    --seconds "$(($(left) / 3))" --out "$out/op-dtypes.json" | tee "$out/op-dtypes.txt"
  $python $core/benchmarks/bench_cuda.py --dtypes bf16 --batches 8 --others --peers flex dense-sdpa natten --rounds 15 \
    --seconds "$(($(left) - 60))" --out "$out/op-others.json" | tee "$out/op-others.txt"
}

# All of it for the box kernels, whose tests are in the stage `tests` too.
box() {
  local status=0
  pytest_ box "$core/tests/test_cuda.py" -k "box- or explain" || status=1
  $python $core/benchmarks/bench_cuda.py --dtypes bf16 --batches 8 --others --families --peers natten --rounds 15 \
    --problems video video-head-dim-64 --seconds "$(($(left) - 60))" --out "$out/op-box.json" |
    tee "$out/op-box.txt" || status=1
  sanitized box "box- and (3d-half or 1d-long or 2d-grouped)" "box- and (3d- or 1d-long or 2d-grouped or video-)" || status=1
  return $status
}

models() {
  $python $core/benchmarks/bench_cuda_models.py --seconds "$(($(left) - 60))" --out "$out/models.json" |
    tee "$out/models.txt"
}

case $stage in
  build | tests | rest | sanitize | op | op-more | models | box) ;;
  all)
    status=0
    for each in build tests rest sanitize op op-more models box; do "$0" "$each" "$out" || status=1; done
    exit $status
    ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac
build || { echo "the build failed"; exit 1; }
[[ $stage == build ]] || "$stage"
status=$?
echo "$stage: $((SECONDS - began)) s, exit status $status"
exit $status
