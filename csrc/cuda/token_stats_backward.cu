// Backward pass on CUDA: one read of the logits, one write of their gradient.
//
// Element by element, once a row's constants are known; so vectors are laid out where the gradient's
// 16-byte boundaries are, and how a row is shared among blocks changes no bit.
#include "../row_gradient.h"
#include "block_reduce.cuh"
#include "vector_io.cuh"

namespace entropy_ext {
namespace {

constexpr int kLoads = 4;

template <class Storage>
constexpr int kTile = kThreads * kLoads * kVector<Storage>;

// Blocks of several tiles read a row's constants less often; with few rows, single tiles spread over
// more of the device.
constexpr int64_t kManyRows = 512;
constexpr int kTilesPerBlock = 4;

template <class Storage>
__device__ __forceinline__ void store_vector(
    const typename RealOf<Storage>::Type (&gradient)[kVector<Storage>], Storage* row,
    int column, int begin, int end) {
  if (column >= begin && column + kVector<Storage> <= end) {
    store_streaming(reinterpret_cast<uint4*>(row + column), pack(gradient, Storage()));
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector<Storage>; ++i) {
    if (column + i >= begin && column + i < end) narrow(gradient[i], row + column + i);
  }
}

template <class Storage>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Storage>)
    backward_rows(const __grid_constant__ TokenStatsBackward params, int blocks_per_row,
                  int tiles_per_block) {
  using Real = typename RealOf<Storage>::Type;
  constexpr int kWidth = kVector<Storage>;
  const int64_t r = blockIdx.x / blocks_per_row;
  // Columns are counted from the 16-byte boundary at or before the gradient's row.
  Storage* const row_begin = static_cast<Storage*>(params.grad_logits) + r * params.vocab;
  const int begin = static_cast<int>(reinterpret_cast<uintptr_t>(row_begin) % 16 / sizeof(Storage));
  const int end = begin + static_cast<int>(params.vocab);
  Storage* const out = row_begin - begin;
  const int block_begin =
      static_cast<int>(blockIdx.x % blocks_per_row) * tiles_per_block * kTile<Storage>;
  const int block_end = block_begin + tiles_per_block * kTile<Storage>;

  if (masked(params, r)) {
    const Real zeros[kWidth] = {};
    for (int column = block_begin + static_cast<int>(threadIdx.x) * kWidth;
         column < block_end && column < end; column += kThreads * kWidth) {
      store_vector<Storage>(zeros, out, column, begin, end);
    }
    return;
  }

  const Storage* const z_row = logits_of<Storage>(params, r) - begin;
  const TemperatureScale<Real> scale(temperature_of<Storage>(params, r));
  const RowGradient<Real> row(params, r, scale);
  const int64_t token = params.tokens[r] + begin;
  const RowReader<Storage> reader(z_row, begin, end);
  for (int tile = block_begin; tile < block_end && tile < end; tile += kTile<Storage>) {
    uint4 bits[kLoads];
    reader.load(tile, kThreads, bits);
#pragma unroll
    for (int v = 0; v < kLoads; ++v) {
      const int column = tile + (v * kThreads + static_cast<int>(threadIdx.x)) * kWidth;
      Real z[kWidth];
      unpack(bits[v], z, Storage());
      Real gradient[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Real u = at_least((z[i] - row.row_max) * row.log2_scale,
                                Constants<Real>::kDeadExponent);
        gradient[i] = fast_exp2(u) * fused(row.slope, u, row.offset);
      }
      if (token >= column && token < column + kWidth) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          // An impossible token has no gradient of its own.
          const bool here = column + i == token && z[i] != negative_infinity<Real>();
          if (here) gradient[i] = gradient[i] + row.at_token;
        }
      }
      store_vector<Storage>(gradient, out, column, begin, end);
    }
  }
}

template <class Storage>
const char* backward(const TokenStatsBackward& params, Stream stream) {
  const int tiles_per_block = params.rows >= kManyRows ? kTilesPerBlock : 1;
  const int64_t block_columns = tiles_per_block * kTile<Storage>;
  // One vector more than V asks for: a row that begins off a boundary may reach into it.
  const int64_t blocks_per_row =
      (params.vocab + kVector<Storage> - 1 + block_columns - 1) / block_columns;
  return launch(backward_rows<Storage>, params.rows * blocks_per_row, kThreads, stream, params,
                static_cast<int>(blocks_per_row), tiles_per_block);
}

}  // namespace

const char* token_stats_backward_cuda(const TokenStatsBackward& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  switch (params.dtype) {
    case Dtype::kFloat32: return backward<float>(params, on);
    case Dtype::kFloat64: return backward<double>(params, on);
    case Dtype::kBFloat16: return backward<BFloat16>(params, on);
    case Dtype::kFloat16: return backward<Float16>(params, on);
  }
  return "unknown dtype";
}

}  // namespace entropy_ext
