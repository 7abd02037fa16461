// Runs CUDA kernels on the CPU, block by block, one fiber for every thread, and reports what a device would not:
// races, accesses out of bounds or misaligned, memory never written, divergent warps, deadlocks. Header only, C++17.
//
// Not modelled: memory ordering weaker than barriers make it, warps of fewer than 32 threads, collectives of part of a
// warp, atomics, clusters, and time. Lanes gather for a collective by its place in the source, so lanes in different
// iterations of one loop pair up unnoticed, which shows as wrong results or a hang.
#pragma once

#include "emulator/block.h"
#include "emulator/copies.h"
#include "emulator/global.h"
#include "emulator/launch.h"
#include "emulator/mbarrier.h"
#include "emulator/report.h"
#include "emulator/shared.h"
#include "emulator/warp.h"
