// Softmax moments of a block's threads, combined in an order that is a function of nothing.
#pragma once

#include "../softmax_moments.h"
#include "launch.cuh"

namespace entropy_ext {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

template <class Real, bool kExtras>
__device__ __forceinline__ SoftmaxMoments<Real, kExtras> shuffle_down(
    const SoftmaxMoments<Real, kExtras>& moments, int lanes) {
  SoftmaxMoments<Real, kExtras> other;
  other.max = moments.max;
  other.sum = __shfl_down_sync(kAllLanes, moments.sum, lanes);
  other.dot = __shfl_down_sync(kAllLanes, moments.dot, lanes);
  other.live = __shfl_down_sync(kAllLanes, moments.live, lanes);
  if constexpr (kExtras) {
    other.scatter = __shfl_down_sync(kAllLanes, moments.scatter, lanes);
    other.square = __shfl_down_sync(kAllLanes, moments.square, lanes);
    other.square_dot = __shfl_down_sync(kAllLanes, moments.square_dot, lanes);
  }
  return other;
}

// Every thread of the block must call this. The total is valid in thread 0.
//
// The maximum first: once all threads stand at the block's maximum, one exponential each, the rest
// is additions.
template <class Real, bool kExtras>
__device__ __forceinline__ SoftmaxMoments<Real, kExtras> block_total(
    SoftmaxMoments<Real, kExtras> moments, Real log2_scale) {
  using Moments = SoftmaxMoments<Real, kExtras>;
  SHARED_ARRAY(Real, warp_max, kWarps);
  SHARED_ARRAY(Moments, warp_total, kWarps);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;

  Real max = moments.max;
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    const Real other = __shfl_xor_sync(kAllLanes, max, lanes);
    max = max > other ? max : other;
  }
  if (lane == 0) warp_max[warp] = max;
  // Every warp reads the maxima of all the others.
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) max = max > warp_max[w] ? max : warp_max[w];

  move_max(moments, max, log2_scale);
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    moments.add(shuffle_down(moments, lanes));
  }
  if (lane == 0) warp_total[warp] = moments;
  // Thread 0 reads what lane 0 of every warp wrote.
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) moments.add(warp_total[w]);
  }
  return moments;
}

}  // namespace entropy_ext
