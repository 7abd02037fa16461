"""The benchmark of the CUDA kernels: what `bench_cuda.py` runs."""
