// Radix selection on CUDA: a launch per digit counts how many candidates have which, the last one
// marks who is chosen. Nothing waits for the host.
//
// A launch begins with what the one before has counted: every block finds the next digit of the
// threshold there for itself, as no block may wait for another, and block 0 writes it down.
#include "../selection_math.h"
#include "token_groups.cuh"

namespace entropy_ext {
namespace {

// Few enough that adding their counts to those of all is cheap beside making them.
constexpr int64_t kMaxBlocks = 256;
// Tokens of a thread at once.
constexpr int kTokens = 16;

// Bins of a lane in the search for the threshold.
constexpr int kBinsPerLane = kBins / kThreads;

__device__ __forceinline__ int lane_of_thread() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}
__device__ __forceinline__ int warp_of_thread() {
  return static_cast<int>(threadIdx.x) / kWarpSize;
}

// Σ over the lanes up to this one.
__device__ __forceinline__ int64_t sum_up_to_lane(int64_t x) {
  for (int lanes = 1; lanes < kWarpSize; lanes *= 2) {
    const int64_t other = __shfl_up_sync(kAllLanes, x, lanes);
    if (lane_of_thread() >= lanes) x += other;
  }
  return x;
}

// states[pass]: what is known of the threshold once pass − 1 has counted. Every thread of every
// block must call this; all receive the same.
__device__ __forceinline__ SelectState state_before(const TokenSelect& params,
                                                    const SelectKeys& keys, int pass) {
  SHARED_ARRAY(int64_t, warp_totals, kWarps);
  SHARED_ARRAY(SelectState, found, 1);
  if (pass == 0) return SelectState{};
  SelectState state = params.states[pass - 1];
  if (state.resolved != 0) return state;

  // A lane holds neighbouring bins.
  const int64_t* const counters = params.counters + int64_t{pass - 1} * kCounters;
  const int first_bin = (warp_of_thread() * kWarpSize + lane_of_thread()) * kBinsPerLane;
  int64_t inside[kBinsPerLane];
  int64_t of_lane = 0;
#pragma unroll
  for (int i = 0; i < kBinsPerLane; ++i) {
    inside[i] = counters[first_bin + i];
    of_lane += inside[i];
  }
  const int64_t up_to_lane = sum_up_to_lane(of_lane);
  if (lane_of_thread() == kWarpSize - 1) warp_totals[warp_of_thread()] = up_to_lane;
  // Every warp reads the totals of all the others.
  __syncthreads();
  int64_t before_warp = 0;
  int64_t candidates = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp_of_thread()) before_warp += warp_totals[w];
    candidates += warp_totals[w];
  }
  if (pass == 1) {
    state = first_state(params.rule, params.fraction, counters[kBins], candidates);
    if (state.resolved != 0) return state;
  }

  // One bin holds the one that is needed.
  int digit = -1;
  int64_t digit_below = 0;
  int64_t digit_inside = 0;
  int64_t below = before_warp + up_to_lane - of_lane;
#pragma unroll
  for (int i = 0; i < kBinsPerLane; ++i) {
    if (below < state.need && state.need <= below + inside[i]) {
      digit = first_bin + i;
      digit_below = below;
      digit_inside = inside[i];
    }
    below += inside[i];
  }
  if (digit >= 0) *found = next_state(state, keys, digit, digit_below, digit_inside);
  // All read what one thread has found.
  __syncthreads();
  return *found;
}

__device__ __forceinline__ void record_state(const TokenSelect& params, int pass,
                                             const SelectState& state) {
  if (blockIdx.x == 0 && threadIdx.x == 0) params.states[pass] = state;
}

// The tokens of a thread: which are candidates, and their keys.
template <class Real, SelectOrder kOrder>
class Tokens {
 public:
  __device__ __forceinline__ Tokens(const TokenSelect& params, int64_t first, bool with_ids) {
    load_tokens(params.values, first, params.count, values_);
    load_flags(params.mask, first, params.count, true, valid_);
    load_flags(params.excluded, first, params.count, false, excluded_);
    if (kOrder != SelectOrder::kRandom && !with_ids) return;
    if (params.token_ids != nullptr) {
      load_tokens(params.token_ids, first, params.count, ids_);
    } else {
#pragma unroll
      for (int k = 0; k < kTokens; ++k) ids_[k] = token_position(first, k);
    }
  }

  __device__ __forceinline__ bool valid(int k) const { return valid_[k]; }
  __device__ __forceinline__ bool candidate(const TokenSelect& params, int k) const {
    return valid_[k] && !excluded_[k] && within(values_[k], params.low, params.high);
  }
  __device__ __forceinline__ uint64_t value_key(const TokenHash& hash, int k) const {
    return kOrder == SelectOrder::kRandom ? hash(ids_[k]) : descending_key(values_[k]);
  }
  // Where ids were asked for.
  __device__ __forceinline__ uint64_t id_key(const TokenSelect& params, int k) const {
    return params.token_ids == nullptr ? static_cast<uint64_t>(ids_[k])
                                       : entropy_ext::id_key(ids_, k);
  }

 private:
  Real values_[kTokens];
  Flag valid_[kTokens];
  Flag excluded_[kTokens];
  int64_t ids_[kTokens] = {};
};

// One more in bin `digit` for every lane that counts. Lanes that agree with the first of them go as
// one, for many tokens have the same digit, or the same value: one by one they would queue for it.
__device__ __forceinline__ void count_digit(uint32_t (&histogram)[kBins], bool counts, int digit) {
  const unsigned counting = __ballot_sync(kAllLanes, counts);
  if (counting == 0) return;
  const int leader = __ffs(static_cast<int>(counting)) - 1;
  const int common = __shfl_sync(kAllLanes, digit, leader);
  const bool agrees = counts && digit == common;
  const unsigned agreeing = __ballot_sync(kAllLanes, agrees);
  if (lane_of_thread() == leader) {
    atomic_add(&histogram[common], static_cast<uint32_t>(__popc(agreeing)));
  } else if (counts && !agrees) {
    atomic_add(&histogram[digit], uint32_t{1});
  }
}

template <SelectOrder kOrder>
__device__ __forceinline__ TokenHash hash_of(const TokenSelect& params) {
  return TokenHash(kOrder == SelectOrder::kRandom ? *params.seed : 0);
}

// Digit `pass` of the candidates that agree with the threshold so far.
template <class Real, SelectOrder kOrder>
__global__ void __launch_bounds__(kThreads, 2)
    count_digits(const __grid_constant__ TokenSelect params,
                 const __grid_constant__ SelectKeys keys, int pass) {
  SHARED_ARRAY(uint32_t, histogram, kBins);
  SHARED_ARRAY(uint32_t, valid_tokens, 1);
  const SelectState state = state_before(params, keys, pass);
  record_state(params, pass, state);
  if (state.resolved != 0) return;

  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) histogram[bin] = 0;
  if (threadIdx.x == 0) *valid_tokens = 0;
  // Nobody counts in a bin before it is empty.
  __syncthreads();
  const TokenHash hash = hash_of<kOrder>(params);
  const bool with_ids = pass >= keys.value_passes();
  uint32_t valid = 0;
  for (int64_t tile = blockIdx.x * kTile<kTokens>; tile < params.count;
       tile += gridDim.x * kTile<kTokens>) {
    const Tokens<Real, kOrder> tokens(params, first_token(tile), with_ids);
#pragma unroll
    for (int k = 0; k < kTokens; ++k) {
      const uint64_t value_key = tokens.value_key(hash, k);
      const uint64_t id_key = tokens.id_key(params, k);
      const bool counts =
          tokens.candidate(params, k) && keys.compare(state, value_key, id_key) == 0;
      count_digit(histogram, counts, keys.digit(pass, value_key, id_key));
      valid += tokens.valid(k) ? 1 : 0;
    }
  }
  if (pass == 0) atomic_add(valid_tokens, valid);
  // All counts are in.
  __syncthreads();
  int64_t* const counters = params.counters + int64_t{pass} * kCounters;
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    if (histogram[bin] != 0) atomic_add(&counters[bin], int64_t{histogram[bin]});
  }
  if (pass == 0 && threadIdx.x == 0) atomic_add(&counters[kBins], int64_t{*valid_tokens});
}

template <class Real, SelectOrder kOrder>
__global__ void __launch_bounds__(kThreads, 2)
    mark_selected(const __grid_constant__ TokenSelect params,
                  const __grid_constant__ SelectKeys keys) {
  const SelectState state = state_before(params, keys, keys.passes());
  record_state(params, keys.passes(), state);
  const TokenHash hash = hash_of<kOrder>(params);
  const bool with_ids = state.digits > keys.value_passes();
  for (int64_t tile = blockIdx.x * kTile<kTokens>; tile < params.count;
       tile += gridDim.x * kTile<kTokens>) {
    const int64_t first = first_token(tile);
    const Tokens<Real, kOrder> tokens(params, first, with_ids);
    Flag selected[kTokens];
#pragma unroll
    for (int k = 0; k < kTokens; ++k) {
      const int order =
          keys.compare(state, tokens.value_key(hash, k), tokens.id_key(params, k));
      selected[k] = tokens.candidate(params, k) && order <= 0;
    }
    store_tokens(selected, first, params.count, params.selected);
  }
}

template <class Real>
const char* select_pass(const TokenSelect& params, int pass, Stream stream) {
  const auto kernel = params.order == SelectOrder::kRandom
                          ? count_digits<Real, SelectOrder::kRandom>
                          : count_digits<Real, SelectOrder::kLargest>;
  return launch(kernel, tile_blocks<kTokens>(params.count, kMaxBlocks), kThreads, stream, params,
                SelectKeys(params), pass);
}

template <class Real>
const char* select_mark(const TokenSelect& params, Stream stream) {
  const auto kernel = params.order == SelectOrder::kRandom
                          ? mark_selected<Real, SelectOrder::kRandom>
                          : mark_selected<Real, SelectOrder::kLargest>;
  return launch(kernel, tile_blocks<kTokens>(params.count, kMaxBlocks), kThreads, stream, params,
                SelectKeys(params));
}

}  // namespace

const char* select_pass_cuda(const TokenSelect& params, int pass, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  switch (params.dtype) {
    case Dtype::kFloat32: return select_pass<float>(params, pass, on);
    case Dtype::kFloat64: return select_pass<double>(params, pass, on);
    default: return "unknown dtype";
  }
}

const char* select_mark_cuda(const TokenSelect& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  switch (params.dtype) {
    case Dtype::kFloat32: return select_mark<float>(params, on);
    case Dtype::kFloat64: return select_mark<double>(params, on);
    default: return "unknown dtype";
  }
}

}  // namespace entropy_ext
