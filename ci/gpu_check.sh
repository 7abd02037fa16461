#!/usr/bin/env bash
# Checks the CUDA kernels on a machine with a GPU, in stages of less than nine minutes:
#
#     ci/gpu_check.sh build|tests|box|sanitize|op|models|train|sm90|op-more|rest|all [FOLDER]
#
# LIMIT is the seconds that a stage has (default: 530). What a stage leaves off for want of time is in its log and JSON.
# With half an hour of a GPU take the first six; docs/kernels/cuda-testing.md says what each confirms.
#
# It needs Python with torch, nvcc, scikit-build-core, pybind11, cmake, ninja and pytest, and no package registry. The
# wheel is built for the GPUs of this machine alone and put into build/gpu; a compiled module that lies in the source
# tree already is used as it is. Logs and JSON go to FOLDER (default: $OUT, else build/gpu/out); how each stage ended is
# in stages.json there.
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
    install_wheel || return 1
  fi
  $python -m natten_core | tee "$out/facts.txt"
}

# Builds a wheel for the GPUs here and installs it into build/gpu/site, unless one of these sources is there.
install_wheel() {
  local sources gpus
  sources=$(cd $core && find csrc src cmake *.txt *.toml -type f ! -name '*.pyc' | sort | xargs sha256sum)
  [[ -e build/gpu/sources && $(< build/gpu/sources) == "$sources" ]] && return
  rm -rf build/gpu/site build/gpu/*.whl
  gpus=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | tr -d . | sort -u | paste -sd ';')
  CMAKE_ARGS="-DNATTEN_CUDA=ON -DNATTEN_CUDA_ARCHITECTURES=$gpus" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
    timeout "$(left)" $python -m pip wheel -q --no-build-isolation --no-deps -w build/gpu "./$core" 2>&1 |
    tee "$out/build.txt" || return 1
  $python -m pip install -q --no-deps --no-compile --target build/gpu/site build/gpu/natten_core-*.whl || return 1
  ls -l build/gpu/*.whl
  echo "$sources" > build/gpu/sources
}

# Runs a benchmark, which begins nothing new in the last of SECONDS and has written what it has when it is stopped.
bench() {
  local name=$1 script=$2 seconds=$3
  shift 3
  timeout "$seconds" $python "$core/benchmarks/$script.py" "$@" --seconds "$((seconds > 60 ? seconds - 60 : 0))" \
    --out "$out/$name.json" | tee "$out/$name.txt"
}

# Runs pytest for at most SECONDS, in several processes where it can; the rest of the arguments are pytest's.
pytest_() {
  local name=$1 seconds=$2 several=()
  shift 2
  $python -c 'import xdist' 2>/dev/null && several=(-n "${JOBS:-8}")
  timeout "$seconds" $python -m pytest -q -p no:cacheprovider -W default "${several[@]}" "$@" > "$out/$name.txt" 2>&1
  local status=$?
  grep -E "^(FAILED|ERROR)" "$out/$name.txt" | head -n 40
  tail -n 1 "$out/$name.txt"
  return $status
}

tests() { pytest_ tests "$(left)" "$core"/tests/test_cuda*.py "$core"/tests/cuda_{device,primitives}; }

# The tests that need no GPU, which this machine's torch and Python may see otherwise than the one they were written on.
rest() {
  pytest_ rest "$(left)" "$core/tests" --ignore="$core/tests/cuda_host" --ignore="$core/tests/cuda_primitives" \
    --ignore="$core/tests/cuda_device"
}

sanitize() {
  local both="level4 or level3-dilated or 8x8 or 2d-dilated-remainder or 2d-additional-grouped or 3d-everything"
  local more="level3- or 2d-prime or kernel-5 or dense-head-dim-24 or head-dim-36"
  local results="(values_and_gradients or fp32_in_tf32)" stages="test_two_stages and (2d-dilated-remainder or 3d-everything)"
  sanitized sanitize "$(left)" "$results and not box- and ($both)" \
    "$results and not box- and ($both or $more) or $stages"
}

# Under racecheck the tests of the third argument, under memcheck those of the fourth.
sanitized() {
  local status=0 name=$1 seconds=$2 tool tests share
  for tool in memcheck racecheck; do
    tests=$3 share=$((seconds * 2 / 5))
    [[ $tool == memcheck ]] && tests=$4 share=$((seconds * 3 / 5))
    # Without torch's caching, so that every tensor has bounds of its own.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$share" compute-sanitizer --tool "$tool" \
      --kernel-name kernel_substring=natten --error-exitcode 9 --log-file "$out/$name-$tool.txt" \
      $python -m pytest -q -x -p no:cacheprovider -W default "$core/tests/cuda_device" \
      -k "not packed and ($tests)" > "$out/$name-$tool-tests.txt" 2>&1 || status=$?
    echo "$tool: $(tail -n 1 "$out/$name-$tool-tests.txt"); $(tail -n 1 "$out/$name-$tool.txt")"
  done
  return $status
}

# All of it for the box kernels, whose tests are in the stage `tests` too.
box() {
  local status=0 results="(values_and_gradients or fp32_in_tf32)"
  pytest_ box "$(($(left) / 3))" "$core/tests/cuda_device" -k "box- or explain" || status=1
  bench op-box bench_cuda "$(($(left) / 2))" --dtypes bf16 tf32 --batches 8 --others --families --peers natten --rounds 15 \
    --problems video video-head-dim-64 || status=1
  sanitized box "$(left)" "$results and box- and (3d-half or 1d-long or 2d-grouped)" \
    "$results and box- and (3d- or 1d-long or 2d-grouped or video-)" || status=1
  return $status
}

op() { bench op bench_cuda "$(left)" --short --families; }

op-more() {
  local status=0
  bench op-dtypes bench_cuda "$(($(left) / 3))" --dtypes tf32 fp32 fp16 --batches 256 --peers dense-sdpa \
    --rounds 15 || status=1
  bench op-copies bench_cuda "$(($(left) / 4))" --dtypes bf16 --batches 8 --others --families --peers dense-sdpa \
    --rounds 15 --problems head-dim-31 || status=1
  bench op-others bench_cuda "$(left)" --dtypes bf16 --batches 8 --others --peers flex dense-sdpa natten \
    --rounds 15 || status=1
  return $status
}

# What kernels for sm_90a would have to beat: docs/kernels/cuda-sm90.md.
sm90() {
  bench op-sm90 bench_cuda "$(left)" --dtypes bf16 --batches 8 --others --peers natten flex-no-bias --rounds 15 \
    --problems kernel-13 head-dim-64 head-dim-128 large-map video video-head-dim-64
}

models() { bench models bench_cuda_models "$(left)"; }

# Training steps, which `models` leaves out; half the batch, as all models lie in memory together.
train() {
  bench models-train bench_cuda_models "$(left)" --train --batch 128 --models dinat_tiny swin_tiny_patch4_window7_224
}

# Adds to stages.json how the stage ended, with the last line of each of its logs.
record() {
  $python - "$out" "$stage" "$1" "$2" "$limit" <<'END'
import json, pathlib, sys, time
folder, stage, status, seconds, limit = pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
file, began = folder / "stages.json", time.time() - seconds
logs = {log.name: log.read_text(errors="replace").splitlines() for log in sorted(folder.glob("*.txt"))
        if log.stat().st_mtime >= began}
stages = json.loads(file.read_text()) if file.is_file() else {}
stages[stage] = {"status": status, "seconds": seconds, "limit": limit,
                 "logs": {name: lines[-1] for name, lines in logs.items() if lines}}
file.write_text(json.dumps(stages, indent=1) + "\n")
END
}

case $stage in
  build | tests | box | sanitize | op | models | train | sm90 | op-more | rest) ;;
  all)
    status=0
    for each in build tests box sanitize op models train sm90 op-more rest; do "$0" "$each" "$out" || status=1; done
    exit $status
    ;;
  *) sed -n '2,12p' "$0"; exit 2 ;;
esac
build
status=$?
if ((status)); then
  echo "the build failed"
elif [[ $stage != build ]]; then
  "$stage"
  status=$?
fi
record "$status" "$((SECONDS - began))"
echo "$stage: $((SECONDS - began)) s, exit status $status"
exit $status
