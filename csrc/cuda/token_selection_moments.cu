// Moments of logp and advantage over the valid tokens on CUDA, and the covariance that they give.
//
// Two launches: blocks sum their tokens, one block adds what they found. Which thread takes which
// token, and the tree in which the sums meet, depend on the count alone: the same bits every time.
#include "../selection_math.h"
#include "token_groups.cuh"

namespace entropy_ext {
namespace {

// As many parts as the block that adds them has threads.
constexpr int64_t kMaxBlocks = kThreads;
// Of a thread at once, in the sums and in the covariance.
constexpr int kSummed = 16;
constexpr int kMapped = 4;

template <class Real>
__device__ __forceinline__ bool finite(Real x) {
  return x - x == Real(0);
}

__device__ __forceinline__ MomentSums shuffle_down(const MomentSums& sums, int lanes) {
  double numbers[kMomentSums];
  memcpy(numbers, &sums, sizeof(sums));
#pragma unroll
  for (int i = 0; i < kMomentSums; ++i) {
    numbers[i] = __shfl_down_sync(kAllLanes, numbers[i], lanes);
  }
  MomentSums other;
  memcpy(&other, numbers, sizeof(other));
  return other;
}

// Every thread of the block must call this. The total is valid in thread 0.
__device__ __forceinline__ MomentSums block_sums(MomentSums sums) {
  SHARED_ARRAY(MomentSums, warp_sums, kWarps);
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) add_sums(sums, shuffle_down(sums, lanes));
  if (threadIdx.x % kWarpSize == 0) warp_sums[threadIdx.x / kWarpSize] = sums;
  // Thread 0 reads what lane 0 of every warp wrote.
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) add_sums(sums, warp_sums[w]);
  }
  return sums;
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    sum_tokens(const __grid_constant__ TokenMoments params) {
  MomentSums sums = {};
  for (int64_t tile = blockIdx.x * kTile<kSummed>; tile < params.count;
       tile += gridDim.x * kTile<kSummed>) {
    const int64_t first = first_token(tile);
    Real logp[kSummed];
    Real advantages[kSummed];
    Flag valid[kSummed];
    load_tokens(params.logp, first, params.count, logp);
    load_tokens(params.advantages, first, params.count, advantages);
    load_flags(params.mask, first, params.count, true, valid);
#pragma unroll
    for (int k = 0; k < kSummed; ++k) {
      if (!valid[k]) continue;
      if (finite(logp[k]) && finite(advantages[k])) {
        add_token(sums, logp[k], advantages[k]);
      } else {
        sums.skipped = sums.skipped + 1;
      }
    }
  }
  sums = block_sums(sums);
  if (threadIdx.x == 0) params.scratch[blockIdx.x] = sums;
}

// One block.
__global__ void __launch_bounds__(kThreads) sum_parts(const __grid_constant__ MergeMoments params) {
  MomentSums sums = {};
  for (int64_t i = threadIdx.x; i < params.count; i += kThreads) add_sums(sums, params.parts[i]);
  sums = block_sums(sums);
  if (threadIdx.x == 0) *params.sums = sums;
}

template <class Real>
__global__ void __launch_bounds__(kThreads)
    token_covariance(const __grid_constant__ TokenCovariance params) {
  const int64_t first = first_token(blockIdx.x * kTile<kMapped>);
  const MomentSums& sums = *params.sums;
  const double mean_logp = mean_of(sums.logp, sums.counted);
  const double mean_advantage = mean_of(sums.advantage, sums.counted);
  Real logp[kMapped];
  Real advantages[kMapped];
  Flag valid[kMapped];
  load_tokens(params.logp, first, params.count, logp);
  load_tokens(params.advantages, first, params.count, advantages);
  load_flags(params.mask, first, params.count, true, valid);
  Real covariance[kMapped];
#pragma unroll
  for (int k = 0; k < kMapped; ++k) {
    const double both =
        covariance_of<double>(logp[k], advantages[k], mean_logp, mean_advantage);
    covariance[k] = valid[k] ? static_cast<Real>(both) : Real(0);
  }
  store_tokens(covariance, first, params.count, params.covariance);
}

template <class Real>
const char* moments(const TokenMoments& params, Stream stream) {
  const int64_t blocks = moment_blocks(params.count);
  const char* const error = launch(sum_tokens<Real>, blocks, kThreads, stream, params);
  if (error != nullptr) return error;
  return launch(sum_parts, 1, kThreads, stream, MergeMoments{blocks, params.scratch, params.sums});
}

}  // namespace

int64_t moment_blocks(int64_t count) {
  return tile_blocks<kSummed>(count, kMaxBlocks);
}

const char* token_moments_cuda(const TokenMoments& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  switch (params.dtype) {
    case Dtype::kFloat32: return moments<float>(params, on);
    case Dtype::kFloat64: return moments<double>(params, on);
    default: return "unknown dtype";
  }
}

const char* merge_moments_cuda(const MergeMoments& params, void* stream) {
  return launch(sum_parts, 1, kThreads, static_cast<Stream>(stream), params);
}

const char* token_covariance_cuda(const TokenCovariance& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  const int64_t blocks = tile_blocks<kMapped>(params.count);
  switch (params.dtype) {
    case Dtype::kFloat32: return launch(token_covariance<float>, blocks, kThreads, on, params);
    case Dtype::kFloat64: return launch(token_covariance<double>, blocks, kThreads, on, params);
    default: return "unknown dtype";
  }
}

}  // namespace entropy_ext
