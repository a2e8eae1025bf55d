// All that the kernels see of CUDA, and the only place here that asks which compiler is at work.
//
// Under nvcc this is the real thing. Under a host compiler "simt.h", found on the include path,
// stands in for it: tests/simt executes the kernels on the CPU that way. Kernel files include this
// header, project headers and standard headers, start kernels through launch() alone, and hold no
// inline assembly, so that the same text goes through both compilers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "simt.h"
#endif

namespace entropy_ext {

// Lanes of a warp, and the mask that names all of them.
constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

#if defined(__CUDACC__)

using Stream = cudaStream_t;

// `count` uninitialised objects shared by the block, at block scope in a kernel or a function it
// calls. Bytes, for an object with a default constructor may not be declared __shared__; a type
// with a comma in its name needs an alias.
#define SHARED_ARRAY(type, name, count)                                               \
  __shared__ __align__(alignof(type)) unsigned char name##_bytes[sizeof(type) * (count)]; \
  type(&name)[count] = reinterpret_cast<type(&)[count]>(name##_bytes)

// 2^x in one instruction, within 2 ulp; results below 2^−126 and subnormal x count as 0. Stated as
// assembly because exp2f without fast-math adds two instructions to keep subnormal results.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What a failed call leaves behind would otherwise surface in the next library that looks.
inline const char* error_text(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(status);
}

// Start kernel(arguments...) on `grid` blocks of `block` threads. nullptr, or what went wrong; an
// error inside the kernel shows only when the stream is next waited for.
template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), int64_t grid, int block, Stream stream,
                   Arguments&&... arguments) {
  // The runtime would take the low 32 bits of a larger grid without a word.
  if (grid < 1 || grid > INT32_MAX) return "grid size is not in [1, 2^31 - 1]";
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.stream = stream;
  return error_text(
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// At an address that is a multiple of the size.
template <class T>
__device__ __forceinline__ T load_aligned(const T* from) {
  return *from;
}
template <class T>
__device__ __forceinline__ void store_aligned(T* to, T value) {
  *to = value;
}

// Integers alone have atomic sums and maxima here: the order of threads leaves no trace in them.
__device__ __forceinline__ void atomic_add(uint32_t* to, uint32_t x) { atomicAdd(to, x); }
__device__ __forceinline__ void atomic_add(int64_t* to, int64_t x) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(x));
}
__device__ __forceinline__ void atomic_max(int64_t* to, int64_t x) {
  atomicMax(reinterpret_cast<long long*>(to), static_cast<long long>(x));
}

inline const char* multiprocessor_count(int device, int* count) {
  return error_text(cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device));
}

#else

using Stream = simt::Stream;

#define SHARED_ARRAY(type, name, count) \
  static char name##_site;              \
  type(&name)[count] = simt::shared_array<type, count>(&name##_site, #name)

inline float fast_exp2(float x) { return simt::exp2_approx_ftz(x); }

template <class T>
T load_aligned(const T* from, SIMT_SITE_PARAMETERS) {
  simt::check_access(from, sizeof(T), SIMT_SITE);
  return *from;
}

template <class T>
void store_aligned(T* to, T value, SIMT_SITE_PARAMETERS) {
  simt::check_access(to, sizeof(T), SIMT_SITE);
  *to = value;
}

template <class Integer>
void atomic_add(Integer* to, Integer x, SIMT_SITE_PARAMETERS) {
  simt::atomic_add(to, x, SIMT_SITE);
}

template <class Integer>
void atomic_max(Integer* to, Integer x, SIMT_SITE_PARAMETERS) {
  simt::atomic_max(to, x, SIMT_SITE);
}

template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), int64_t grid, int block, Stream,
                   Arguments&&... arguments) {
  return simt::run_grid(grid, block, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

inline const char* multiprocessor_count(int, int* count) {
  *count = simt::kMultiprocessors;
  return nullptr;
}

#endif

// There is no such instruction for double; float64 logits are for checking gradients, not for speed.
__device__ __forceinline__ double fast_exp2(double x) { return exp2(x); }

// Sixteen bytes at a 16-byte boundary. Logits are read once and gradients written once, hence
// evict-first: they leave the second-level cache to what is used again.
__device__ __forceinline__ uint4 load_streaming(const uint4* from) { return __ldcs(from); }
__device__ __forceinline__ void store_streaming(uint4* to, uint4 value) { __stcs(to, value); }

// For what this kernel does not write and other threads read again.
__device__ __forceinline__ uint4 load_cached(const uint4* from) { return __ldg(from); }

}  // namespace entropy_ext
