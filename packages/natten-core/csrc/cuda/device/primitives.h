// The only things that kernels may do beyond plain C++: inline PTX under nvcc (ptx.h), and under any other compiler the
// emulator of the tests (tests/cuda_host), which runs the same kernels thread by thread on the CPU.
//
// A kernel is `template <...> DEV_KERNEL(threads[, blocks per multiprocessor]) name(Params p) {...}`, started by
// dev::start. DEV_SMEM(name) declares the address of its dynamic shared memory, which is always an integer: shared
// memory is reached by lds, sts, cp_async and ldmatrix alone, global memory by ldg, stg and cp_async alone. Plain
// pointer accesses work on the device too, but nothing checks them. threadIdx, blockIdx and gridDim are CUDA's.
//
// Kernels qualify the names (dev::max): CUDA puts some of them into the global namespace.
//
//   to_float(x), from_float<T>(f)            T: half, bf16 (rounded to nearest even), float, double
//   pack<T>(lo, hi), lo<T>(u), hi<T>(u)      two 16-bit floats in 32 bits
//   to_tf32(f), to_tf32(bits of f)           bits of the nearest tf32, ties away from zero: a factor of mma<tf32>
//   lds<T>(a), sts(a, v), ldg(p), stg(p, v)  any trivially copyable type of 1, 2, 4, 8 or 16 bytes, aligned to its size
//   cp_async<16 | 8 | 4>(shared, global, valid); cp_async_commit(); cp_async_wait<groups left pending>()
//   mbarrier_init(a, count), mbarrier_arrive(a), mbarrier_wait(a, parity), cp_async_mbarrier_arrive(a)
//   prefetch_global(p)                       brings 128 bytes to the second-level cache
//   ldmatrix_x1/2/4(r, a), ldmatrix_x1/2/4_trans(r, a), movmatrix(u)
//   mma<T>(d, a, b0, b1), mma<T>(d, a, b0, b1, c)   m16n8k16, T: half, bf16; m16n8k8, T: tf32
//   shfl_xor(v, mask), shfl(v, lane), any(p), all(p), ballot(p)   all lanes take part
//   syncthreads(), syncwarp(), bar_sync(id, threads), bar_arrive(id, threads)
//   ex2, lg2, rcp                            fp32 approximations of about 2^-22, subnormals flushed
//   exp2, log, fma, max, min                 float and double
//
// What an older architecture lacks traps there: everything compiles for sm_75, where cp_async and mma cannot run.
#pragma once

#include "cuda/device/fragments.h"
#include "cuda/device/types.h"

#if defined(__CUDACC__)
#include "cuda/device/ptx.h"
#else
#include "host_primitives.h"
#endif
