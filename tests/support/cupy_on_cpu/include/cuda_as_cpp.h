// CUDA's language as C++: what stands before the source of every kernel that the CPU executes.
#pragma once
#define __CUDACC_VER_MAJOR__ 13
#include <algorithm>
#include <cassert>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct Size3 {
  unsigned x, y, z;
};

extern "C" {
extern Size3 threadIdx, blockIdx, blockDim, gridDim;
extern void* pretended_device_shared_memory;
extern double pretended_device_shuffled[1024];
void __syncthreads();
void pretended_device_sync_warp();
}

// ---- warps

static const int warpSize = 32;

inline void __syncwarp(unsigned = 0xffffffffu) { pretended_device_sync_warp(); }

inline unsigned pretended_thread() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

inline unsigned pretended_lane() { return pretended_thread() % warpSize; }

template <class T> T pretended_shuffle(T value, int lane) {
  static_assert(sizeof(T) <= 8, "a shuffle of more than 8 bytes");
  unsigned thread = pretended_thread();
  memcpy(&pretended_device_shuffled[thread], &value, sizeof(T));
  pretended_device_sync_warp();
  T found;
  unsigned from = thread / warpSize * warpSize + lane % warpSize;
  memcpy(&found, &pretended_device_shuffled[from], sizeof(T));
  pretended_device_sync_warp();
  return found;
}

template <class T> T __shfl_sync(unsigned, T value, int lane, int = 32) {
  return pretended_shuffle(value, lane);
}

template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return pretended_shuffle(value, pretended_lane() ^ mask);
}

template <class T> T __shfl_down_sync(unsigned, T value, unsigned by, int = 32) {
  unsigned lane = pretended_lane();
  return pretended_shuffle(value, lane + by < warpSize ? lane + by : lane);
}

template <class T> T __shfl_up_sync(unsigned, T value, unsigned by, int = 32) {
  unsigned lane = pretended_lane();
  return pretended_shuffle(value, lane >= by ? lane - by : lane);
}

#define __threadfence()

// ---- numbers

using std::complex;
using std::conj;
using std::imag;
using std::real;
namespace thrust {
using std::complex;
}

#include "cuda_math.h"

// ---- atomic operations; threads run one after the other

#define PRETENDED_ATOMICS(T)                 \
  inline T atomicAdd(T* place, T value) {    \
    T old = *place;                          \
    *place = old + value;                    \
    return old;                              \
  }                                          \
  inline T atomicExch(T* place, T value) {   \
    T old = *place;                          \
    *place = value;                          \
    return old;                              \
  }                                          \
  inline T atomicCAS(T* place, T expected, T value) { \
    T old = *place;                          \
    if (old == expected) *place = value;     \
    return old;                              \
  }                                          \
  inline T atomicMax(T* place, T value) {    \
    T old = *place;                          \
    if (value > old) *place = value;         \
    return old;                              \
  }                                          \
  inline T atomicMin(T* place, T value) {    \
    T old = *place;                          \
    if (value < old) *place = value;         \
    return old;                              \
  }
PRETENDED_ATOMICS(int)
PRETENDED_ATOMICS(unsigned)
PRETENDED_ATOMICS(unsigned long long)

inline float atomicAdd(float* place, float value) {
  float old = *place;
  *place = old + value;
  return old;
}

inline double atomicAdd(double* place, double value) {
  double old = *place;
  *place = old + value;
  return old;
}

#include "kernel_entry.h"
