// CUDA as the kernels know it, executed on the CPU: included by csrc/cuda/launch.cuh when the
// compiler is not nvcc.
//
// A block is a set of fibers, one for each thread. A fiber runs alone until it meets a barrier or a
// warp collective; a seeded scheduler then picks who goes on, so that code that relies on an order
// it did not ask for gives different answers under different seeds. What the hardware leaves
// undefined is an error here: see simt.cpp for the list.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

// Of the fiber that runs; the scheduler sets them whenever it switches.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace simt {

using Stream = void*;
constexpr int kMultiprocessors = 4;

// Where a collective stands in the source. Lanes that meet must have come to the same place.
struct Site {
  const char* file;
  int line;
};

const char* run_grid(int64_t grid, int block, const std::function<void()>& kernel);
float exp2_approx_ftz(float x);

void* shared_memory(const void* key, const char* name, size_t bytes, size_t alignment);
void block_barrier(Site site);
void warp_barrier(unsigned mask, Site site);

enum class Shuffle { kXor, kDown, kUp, kIndex, kBallot };
// The bits that the lane named by (kind, operand) holds; of a ballot, which lanes hold other than 0.
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int operand, int width, Site site);
void check_access(const void* address, size_t bytes, Site site);

template <class T, size_t count>
T (&shared_array(const void* key, const char* name))[count] {
  return *static_cast<T(*)[count]>(shared_memory(key, name, sizeof(T) * count, alignof(T)));
}

template <class T>
T shuffle_value(Shuffle kind, unsigned mask, T value, int operand, int width, Site site) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= 8, "CUDA shuffles 4 and 8 byte numbers");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(kind, mask, bits, operand, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Relaxed, as on the device: they order no other access. The thread sanitizer knows them, and reports
// a plain access to the same word that nothing orders.
template <class T>
void atomic_add(T* to, T value, Site site) {
  static_assert(std::is_integral_v<T>, "sums of floats depend on the order of threads");
  check_access(to, sizeof(T), site);
  __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

template <class T>
void atomic_max(T* to, T value, Site site) {
  static_assert(std::is_integral_v<T>, "no kernel needs it of other numbers");
  check_access(to, sizeof(T), site);
  T before = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (before < value && !__atomic_compare_exchange_n(to, &before, value, true, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {
  }
}

}  // namespace simt

// Default arguments are evaluated where the call stands, which is how a collective knows its site.
#define SIMT_SITE_PARAMETERS const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SIMT_SITE simt::Site{file, line}

inline void __syncthreads(SIMT_SITE_PARAMETERS) { simt::block_barrier(SIMT_SITE); }

inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE_PARAMETERS) {
  simt::warp_barrier(mask, SIMT_SITE);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::shuffle_value(simt::Shuffle::kXor, mask, value, lanes, width, SIMT_SITE);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::shuffle_value(simt::Shuffle::kDown, mask, value, static_cast<int>(lanes), width,
                             SIMT_SITE);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::shuffle_value(simt::Shuffle::kUp, mask, value, static_cast<int>(lanes), width,
                             SIMT_SITE);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SIMT_SITE_PARAMETERS) {
  return simt::shuffle_value(simt::Shuffle::kIndex, mask, value, lane, width, SIMT_SITE);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE_PARAMETERS) {
  return static_cast<unsigned>(
      simt::shuffle(simt::Shuffle::kBallot, mask, predicate != 0 ? 1 : 0, 0, 32, SIMT_SITE));
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
// From 1: the lowest bit that is set; 0: none is.
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <class T>
T __ldg(const T* from, SIMT_SITE_PARAMETERS) {
  simt::check_access(from, sizeof(T), SIMT_SITE);
  return *from;
}

template <class T>
T __ldcs(const T* from, SIMT_SITE_PARAMETERS) {
  simt::check_access(from, sizeof(T), SIMT_SITE);
  return *from;
}

template <class T>
void __stcs(T* to, T value, SIMT_SITE_PARAMETERS) {
  simt::check_access(to, sizeof(T), SIMT_SITE);
  *to = value;
}
