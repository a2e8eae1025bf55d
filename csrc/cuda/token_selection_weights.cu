// What is computed token by token on CUDA: where the PPO clip binds, the change of the entropy, and
// the STEER weights.
//
// In double throughout: these are differences of nearly equal numbers, and the traffic of a few
// bytes a token takes as long as their arithmetic.
#include "../selection_math.h"
#include "token_groups.cuh"

namespace entropy_ext {
namespace {

// Blocks that find the range of |Ω|: few, as each adds its own to that of all.
constexpr int64_t kMaxRangeBlocks = 256;
// Tokens of a thread.
constexpr int kTokens = 4;

struct Exponential {
  __device__ __forceinline__ double operator()(double x) const { return exp(x); }
};

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    clipped_tokens(const __grid_constant__ ClippedTokens params, const ClipRange range) {
  const int64_t first = first_token(blockIdx.x * kTile<kTokens>);
  Real logp[kTokens];
  Real old_logp[kTokens];
  Real advantages[kTokens];
  Flag valid[kTokens];
  load_tokens(params.logp, first, params.count, logp);
  load_tokens(params.old_logp, first, params.count, old_logp);
  load_tokens(params.advantages, first, params.count, advantages);
  load_flags(params.mask, first, params.count, true, valid);
  Flag clipped[kTokens];
#pragma unroll
  for (int k = 0; k < kTokens; ++k) {
    clipped[k] = valid[k] && range.binds(static_cast<double>(logp[k]) - old_logp[k], advantages[k]);
  }
  store_tokens(clipped, first, params.count, params.clipped);
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    entropy_change(const __grid_constant__ EntropyChange params) {
  const int64_t first = first_token(blockIdx.x * kTile<kTokens>);
  Real logp[kTokens];
  Real entropy[kTokens];
  Real collision[kTokens];
  Real collision_logp[kTokens];
  Real advantages[kTokens];
  Real ratio[kTokens] = {Real(1), Real(1), Real(1), Real(1)};
  load_tokens(params.logp, first, params.count, logp);
  load_tokens(params.entropy, first, params.count, entropy);
  load_tokens(params.collision, first, params.count, collision);
  load_tokens(params.collision_logp, first, params.count, collision_logp);
  load_tokens(params.advantages, first, params.count, advantages);
  if (params.ratio != nullptr) load_tokens(params.ratio, first, params.count, ratio);
  Real change[kTokens];
#pragma unroll
  for (int k = 0; k < kTokens; ++k) {
    change[k] = static_cast<Real>(entropy_change_of<double>(
        Exponential(), logp[k], entropy[k], collision[k], collision_logp[k], advantages[k],
        ratio[k]));
  }
  store_tokens(change, first, params.count, params.change);
}

__device__ __forceinline__ int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Of all lanes, to all lanes.
__device__ __forceinline__ int64_t warp_maximum(int64_t x) {
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    x = larger(x, __shfl_xor_sync(kAllLanes, x, lanes));
  }
  return x;
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    steer_range(const __grid_constant__ SteerWeights params) {
  SHARED_ARRAY(int64_t, greatest_of_warp, kWarps);
  SHARED_ARRAY(int64_t, least_of_warp, kWarps);
  int64_t greatest = 0;
  int64_t least = 0;
  for (int64_t tile = blockIdx.x * kTile<kTokens>; tile < params.count;
       tile += gridDim.x * kTile<kTokens>) {
    const int64_t first = first_token(tile);
    Real logp[kTokens];
    Real old_logp[kTokens];
    Real entropy[kTokens];
    Real advantages[kTokens];
    Real collision[kTokens] = {};
    Real collision_logp[kTokens] = {};
    Flag valid[kTokens];
    load_tokens(params.logp, first, params.count, logp);
    load_tokens(params.old_logp, first, params.count, old_logp);
    load_tokens(params.entropy, first, params.count, entropy);
    load_tokens(params.advantages, first, params.count, advantages);
    if (params.form == SteerForm::kExact) {
      load_tokens(params.collision, first, params.count, collision);
      load_tokens(params.collision_logp, first, params.count, collision_logp);
    }
    load_flags(params.mask, first, params.count, true, valid);
    Real sizes[kTokens];
#pragma unroll
    for (int k = 0; k < kTokens; ++k) {
      const double change =
          steer_change<double>(params.form, Exponential(), logp[k], old_logp[k], entropy[k],
                               advantages[k], collision[k], collision_logp[k]);
      const Real size = static_cast<Real>(fabs(change));
      // x − x is 0, and NaN where x is not finite, as a change beyond the range of Real is not.
      const Real finite = (size - size) + (logp[k] - logp[k]) + (old_logp[k] - old_logp[k]) +
                          (entropy[k] - entropy[k]) + (advantages[k] - advantages[k]) +
                          (collision[k] - collision[k]) + (collision_logp[k] - collision_logp[k]);
      sizes[k] = valid[k] ? size + finite : Real(0);
      if (!valid[k] || sizes[k] != sizes[k]) continue;
      const double wide = sizes[k];
      int64_t bits;
      memcpy(&bits, &wide, sizeof(bits));
      greatest = larger(greatest, bits);
      least = larger(least, INT64_MAX - bits);
    }
    store_tokens(sizes, first, params.count, params.weights);
  }
  greatest = warp_maximum(greatest);
  least = warp_maximum(least);
  if (threadIdx.x % kWarpSize == 0) {
    greatest_of_warp[threadIdx.x / kWarpSize] = greatest;
    least_of_warp[threadIdx.x / kWarpSize] = least;
  }
  // Thread 0 reads what lane 0 of every warp wrote.
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) {
    greatest = larger(greatest, greatest_of_warp[w]);
    least = larger(least, least_of_warp[w]);
  }
  atomic_max(&params.range[0], greatest);
  atomic_max(&params.range[1], least);
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    steer_weights(const __grid_constant__ SteerWeights params) {
  const int64_t first = first_token(blockIdx.x * kTile<kTokens>);
  const SteerMap map(params);
  Real sizes[kTokens];
  Flag valid[kTokens];
  load_tokens(params.weights, first, params.count, sizes);
  load_flags(params.mask, first, params.count, true, valid);
  Real weights[kTokens];
#pragma unroll
  for (int k = 0; k < kTokens; ++k) {
    weights[k] = valid[k] ? static_cast<Real>(map(Exponential(), double{sizes[k]})) : Real(0);
  }
  store_tokens(weights, first, params.count, params.weights);
}

}  // namespace

const char* clipped_tokens_cuda(const ClippedTokens& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  const int64_t blocks = tile_blocks<kTokens>(params.count);
  const ClipRange range(params.clip_low, params.clip_high);
  switch (params.dtype) {
    case Dtype::kFloat32:
      return launch(clipped_tokens<float>, blocks, kThreads, on, params, range);
    case Dtype::kFloat64:
      return launch(clipped_tokens<double>, blocks, kThreads, on, params, range);
    default: return "unknown dtype";
  }
}

const char* entropy_change_cuda(const EntropyChange& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  const int64_t blocks = tile_blocks<kTokens>(params.count);
  switch (params.dtype) {
    case Dtype::kFloat32: return launch(entropy_change<float>, blocks, kThreads, on, params);
    case Dtype::kFloat64: return launch(entropy_change<double>, blocks, kThreads, on, params);
    default: return "unknown dtype";
  }
}

const char* steer_range_cuda(const SteerWeights& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  const int64_t blocks = tile_blocks<kTokens>(params.count, kMaxRangeBlocks);
  switch (params.dtype) {
    case Dtype::kFloat32: return launch(steer_range<float>, blocks, kThreads, on, params);
    case Dtype::kFloat64: return launch(steer_range<double>, blocks, kThreads, on, params);
    default: return "unknown dtype";
  }
}

const char* steer_weights_cuda(const SteerWeights& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  const int64_t blocks = tile_blocks<kTokens>(params.count);
  switch (params.dtype) {
    case Dtype::kFloat32: return launch(steer_weights<float>, blocks, kThreads, on, params);
    case Dtype::kFloat64: return launch(steer_weights<double>, blocks, kThreads, on, params);
    default: return "unknown dtype";
  }
}

}  // namespace entropy_ext
