// Kernels that are right, and kernels that are wrong in one way each: what test_emulator.py holds
// the emulation to. Prints the error, or else the floats that the kernel wrote.
#include "cuda/launch.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "simt_control.h"

namespace entropy_ext {
namespace {

constexpr int kThreads = 64;

__device__ float warp_sum(float value, unsigned mask) {
  for (unsigned lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    value += __shfl_down_sync(mask, value, lanes);
  }
  return value;
}

template <bool kBarrier>
__global__ void block_sum(float* out) {
  SHARED_ARRAY(float, partial, kThreads / kWarpSize);
  const float sum = warp_sum(static_cast<float>(threadIdx.x), kAllLanes);
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = sum;
  if (kBarrier) __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = partial[0] + partial[1];
}

// Each lane takes what its neighbour put down.
template <bool kSync>
__global__ void neighbour(float* out) {
  SHARED_ARRAY(float, values, kThreads);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kSync) __syncwarp();
  const float taken = values[threadIdx.x ^ 1u];
  if (threadIdx.x < 2) out[threadIdx.x] = taken;
}

// The second round may not overwrite what the first still reads.
template <bool kBarrier>
__global__ void reused(float* out) {
  SHARED_ARRAY(float, value, 1);
  float sum = 0.0f;
  for (int round = 1; round <= 2; ++round) {
    if (threadIdx.x == 0) value[0] = static_cast<float>(round);
    __syncthreads();
    sum += value[0];
    if (kBarrier) __syncthreads();
  }
  if (threadIdx.x < 4) out[threadIdx.x] = sum;
}

__global__ void shuffles(float* out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int down = __shfl_down_sync(kAllLanes, lane, 3, 8);
  const unsigned up = __shfl_up_sync(kAllLanes, static_cast<unsigned>(lane), 3, 8);
  const double across = __shfl_xor_sync(kAllLanes, static_cast<double>(lane), 5);
  const float indexed = __shfl_sync(kAllLanes, static_cast<float>(lane), lane * lane + 1, 16);
  if (threadIdx.x >= kWarpSize) return;
  out[lane] = static_cast<float>(down);
  out[kWarpSize + lane] = static_cast<float>(up);
  out[2 * kWarpSize + lane] = static_cast<float>(across);
  out[3 * kWarpSize + lane] = indexed;
}

__global__ void half_masks(float* out) {
  const unsigned mask = threadIdx.x % kWarpSize < 16 ? 0x0000ffffu : 0xffff0000u;
  float sum = static_cast<float>(threadIdx.x);
  for (int lanes = 8; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(mask, sum, lanes);
  if (threadIdx.x % 16 == 0) out[threadIdx.x / 16] = sum;
}

__global__ void exponentials(float* out) {
  const float inputs[] = {-INFINITY, -127.0f, -126.0f, 0.0f, 1e-40f, 10.0f, 128.0f, NAN, 0.5f};
  if (threadIdx.x < 9) out[threadIdx.x] = fast_exp2(inputs[threadIdx.x]);
}

// In which order the threads of a block, and the blocks, came.
__global__ void order(float* out) {
  static int turn = 0;
  if (threadIdx.x == 0) {
    out[kThreads + turn / kThreads % 4] = static_cast<float>(blockIdx.x);
  }
  out[threadIdx.x] = static_cast<float>(turn++ % kThreads);
}

__global__ void barrier_of_half(float* out) {
  if (threadIdx.x < kThreads / 2) __syncthreads();
  out[0] = 0.0f;
}

__global__ void two_barriers(float* out) {
  if (threadIdx.x < kThreads / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[0] = 0.0f;
}

__global__ void leaves_before_shuffle(float* out) {
  if (threadIdx.x == 5) return;
  out[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

__global__ void two_shuffles(float* out) {
  if (threadIdx.x % kWarpSize < 16) {
    out[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
  } else {
    out[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
  }
}

__global__ void reads_foreign_lane(float* out) {
  if (threadIdx.x % kWarpSize < 16) out[0] = warp_sum(1.0f, 0x0000ffffu);
}

__global__ void not_in_mask(float* out) { out[0] = __shfl_xor_sync(0xfffffffeu, 1.0f, 1); }

__global__ void misaligned(float* out) {
  store_streaming(reinterpret_cast<uint4*>(out + 1), uint4{0, 0, 0, 0});
}

__global__ void beside_shared(float* out) {
  SHARED_ARRAY(float, values, kThreads);
  values[threadIdx.x + 1] = 0.0f;
  __syncthreads();
  out[0] = values[threadIdx.x];
}

__global__ void reads_unwritten(float* out) {
  SHARED_ARRAY(float, values, kThreads);
  if (threadIdx.x == 0) out[0] = values[1] * 0.0f;
}

__global__ void too_much_shared(float* out) {
  SHARED_ARRAY(double, values, 6145);
  values[0] = 0.0;
  out[0] = static_cast<float>(values[0]);
}

__global__ void writes_past_end(float* out) {
  if (threadIdx.x == 0) out[kThreads * 8] = 0.0f;
}

// Two threads write one place; which of them stays is anyone's guess, even if the values agree.
__global__ void write_race(float* out) { out[0] = 1.0f; }

// The same of two blocks.
__global__ void block_race(float* out) {
  if (threadIdx.x == 0) out[0] = 1.0f;
}

// In shared memory, then in global memory, where a sum and a maximum follow the blocks' own counts.
template <bool kAtomicShared, bool kAtomicGlobal>
__global__ void counts(float* out) {
  SHARED_ARRAY(uint32_t, count, 1);
  if (threadIdx.x == 0) *count = 0;
  __syncthreads();
  if (kAtomicShared) {
    atomic_add(count, uint32_t{threadIdx.x % 2 + 1});
  } else {
    *count += threadIdx.x % 2 + 1;
  }
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = static_cast<float>(*count);
  int64_t* const totals = reinterpret_cast<int64_t*>(out + kThreads);
  if (kAtomicGlobal) {
    atomic_add(&totals[0], int64_t{1} << 40);
    atomic_max(&totals[1], int64_t{blockIdx.x * kThreads + threadIdx.x});
  } else if (threadIdx.x == 0) {
    totals[0] += 1;
  }
}

// The word that others count in is read with nothing to wait for them.
__global__ void reads_while_others_count(float* out) {
  SHARED_ARRAY(uint32_t, count, 1);
  if (threadIdx.x == 0) *count = 0;
  __syncthreads();
  if (threadIdx.x != 0) atomic_add(count, uint32_t{1});
  if (threadIdx.x == 0) out[0] = static_cast<float>(*count);
}

__global__ void misaligned_atomic(float* out) {
  atomic_add(reinterpret_cast<int64_t*>(out + 1), int64_t{1});
}

__global__ void ballots(float* out) {
  const unsigned lane = threadIdx.x % kWarpSize;
  const unsigned odd = __ballot_sync(kAllLanes, lane % 2);
  const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  const unsigned few = __ballot_sync(mask, lane == 3 || lane == 20 || lane == 21);
  if (threadIdx.x >= kWarpSize) return;
  out[lane] = static_cast<float>(odd >> 16);
  out[kWarpSize + lane] = static_cast<float>(few);
  out[2 * kWarpSize + lane] = static_cast<float>(__popc(few));
  out[3 * kWarpSize + lane] = static_cast<float>(__ffs(static_cast<int>(few)));
}

__global__ void ballot_and_shuffle(float* out) {
  if (threadIdx.x % kWarpSize < 16) {
    out[0] = static_cast<float>(__ballot_sync(kAllLanes, 1));
  } else {
    out[0] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
  }
}

struct Case {
  const char* name;
  void (*kernel)(float*);
  int64_t grid = 4;
  int block = kThreads;
};

constexpr Case kCases[] = {
    {"block_sum", block_sum<true>},
    {"block_sum_without_barrier", block_sum<false>},
    {"neighbour", neighbour<true>, 1},
    {"neighbour_without_sync", neighbour<false>, 1},
    {"reused", reused<true>, 1},
    {"reused_without_barrier", reused<false>, 1},
    {"shuffles", shuffles, 1},
    {"half_masks", half_masks, 1},
    {"exponentials", exponentials, 1},
    {"order", order},
    {"barrier_of_half", barrier_of_half},
    {"two_barriers", two_barriers},
    {"leaves_before_shuffle", leaves_before_shuffle},
    {"two_shuffles", two_shuffles},
    {"reads_foreign_lane", reads_foreign_lane},
    {"not_in_mask", not_in_mask},
    {"misaligned", misaligned},
    {"beside_shared", beside_shared},
    {"reads_unwritten", reads_unwritten},
    {"too_much_shared", too_much_shared},
    {"writes_past_end", writes_past_end},
    {"write_race", write_race, 1},
    {"block_race", block_race},
    {"counts", counts<true, true>},
    {"counts_plainly_in_shared_memory", counts<false, true>},
    {"counts_plainly_in_global_memory", counts<true, false>},
    {"reads_while_others_count", reads_while_others_count, 1},
    {"misaligned_atomic", misaligned_atomic},
    {"ballots", ballots, 1},
    {"ballot_and_shuffle", ballot_and_shuffle},
    {"no_block", block_sum<true>, 0},
    {"part_of_a_warp", block_sum<true>, 1, 48},
    {"too_many_threads", block_sum<true>, 1, 1056},
};

}  // namespace
}  // namespace entropy_ext

int main(int count, char** arguments) {
  if (count != 3) return 2;
  simt::set_seed(std::strtoull(arguments[2], nullptr, 10));
  for (const auto& one : entropy_ext::kCases) {
    if (std::strcmp(one.name, arguments[1]) != 0) continue;
    std::vector<float> out(entropy_ext::kThreads * 8);
    if (const char* error = entropy_ext::launch(one.kernel, one.grid, one.block, nullptr, out.data())) {
      std::printf("error: %s\n", error);
      return 0;
    }
    for (const float value : out) std::printf("%.17g ", value);
    return 0;
  }
  return 2;
}
