// Forward pass on CUDA: one read of the logits, one exponential per element.
//
// A tile is what a block loads at once: kLoads vectors of 16 bytes per thread. A row is cut into at
// most kMaxSegments segments of whole tiles, a function of V and dtype. A thread forms the moments of
// its columns of a segment, merges those of the segments from left to right, and the block combines
// its threads. Where rows are too few to fill the device a block takes one segment, the threads'
// moments go through memory, and a second kernel does the same merging: the same tree, the same bits.
#include "block_reduce.cuh"
#include "extremes.cuh"

namespace entropy_ext {
namespace {

constexpr int kLoads = 4;
constexpr int kMaxSegments = 8;

template <class Storage>
constexpr int kTile = kThreads * kLoads * kVector<Storage>;

template <class Storage>
__host__ __device__ __forceinline__ int segment_columns(int vocab) {
  const int tiles = (vocab + kTile<Storage> - 1) / kTile<Storage>;
  return (tiles + kMaxSegments - 1) / kMaxSegments * kTile<Storage>;
}

template <class Storage>
__host__ __device__ __forceinline__ int segment_count(int vocab) {
  const int columns = segment_columns<Storage>(vocab);
  return (vocab + columns - 1) / columns;
}

// Σ over the columns that one thread has seen: of a tile, or of a segment.
template <class Real, bool kExtras>
struct ThreadSums {
  Real sum = 0;
  Real dot = 0;
  Real dot_u = 0;
  Real square = 0;
  Real square_dot = 0;

  __device__ __forceinline__ void push(Real e, Real u) {
    sum = sum + e;
    dot = fused(e, u, dot);
    if constexpr (kExtras) {
      const Real eu = e * u;
      dot_u = fused(eu, u, dot_u);
      square = fused(e, e, square);
      square_dot = fused(e, eu, square_dot);
    }
  }

  __device__ __forceinline__ void add(const ThreadSums& other) {
    sum = sum + other.sum;
    dot = dot + other.dot;
    if constexpr (kExtras) {
      dot_u = dot_u + other.dot_u;
      square = square + other.square;
      square_dot = square_dot + other.square_dot;
    }
  }
};

template <class Real, bool kExtras>
struct ThreadMoments : ThreadSums<Real, kExtras> {
  using ThreadSums<Real, kExtras>::sum;
  using ThreadSums<Real, kExtras>::dot;
  using ThreadSums<Real, kExtras>::dot_u;
  using ThreadSums<Real, kExtras>::square;
  using ThreadSums<Real, kExtras>::square_dot;
  Real max = negative_infinity<Real>();
  int32_t live = 0;

  __device__ __forceinline__ void raise_max(Real new_max, Real log2_scale) {
    const Real shift = shift_between(max, new_max, log2_scale);
    max = new_max;
    if (shift == Real(0)) return;
    const Real factor = fast_exp2(shift);
    if constexpr (kExtras) {
      dot_u = fused(shift, fused(shift, sum, dot + dot), dot_u) * factor;
      square_dot = fused(square, shift, square_dot) * factor * factor;
      square = square * factor * factor;
    }
    dot = fused(sum, shift, dot) * factor;
    sum = sum * factor;
  }

  __device__ __forceinline__ SoftmaxMoments<Real, kExtras> mergeable() const {
    SoftmaxMoments<Real, kExtras> moments;
    moments.max = max;
    moments.sum = sum;
    moments.dot = dot;
    moments.live = live;
    if constexpr (kExtras) {
      moments.set_scatter(sum, dot, dot_u);
      moments.square = square;
      moments.square_dot = square_dot;
    }
    return moments;
  }
};

template <class Storage, bool kExtras>
__device__ __forceinline__ SoftmaxMoments<typename RealOf<Storage>::Type, kExtras> segment_moments(
    const RowReader<Storage>& reader, int begin, int end,
    typename RealOf<Storage>::Type log2_scale) {
  using Real = typename RealOf<Storage>::Type;
  constexpr int kWidth = kVector<Storage>;
  ThreadMoments<Real, kExtras> moments;
  for (int tile = begin; tile < end; tile += kTile<Storage>) {
    uint4 bits[kLoads];
    reader.load(tile, kThreads, bits);

    Extremes<Storage> extremes;
#pragma unroll
    for (int v = 0; v < kLoads; ++v) extremes.push(bits[v]);
    const Real high = extremes.high();
    const Real low = extremes.low();
    moments.raise_max(high > moments.max ? high : moments.max, log2_scale);
    // Until a finite logit comes, u = −∞ − centre must not be −∞ − (−∞).
    const Real centre = moments.max == negative_infinity<Real>() ? Real(0) : moments.max;

    // A tile is summed apart: added one by one to the row's largest term, a tail of small ones would
    // be rounded away.
    ThreadSums<Real, kExtras> sums;
    if ((low - centre) * log2_scale >= Constants<Real>::kMinExponent) {
#pragma unroll
      for (int v = 0; v < kLoads; ++v) {
        Real z[kWidth];
        unpack(bits[v], z, Storage());
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const Real u = (z[i] - centre) * log2_scale;
          sums.push(fast_exp2(u), u);
        }
      }
      moments.live += kLoads * kWidth;
    } else {
      // Some 2^u vanishes, a logit is −∞, or the row has ended: test every element.
#pragma unroll
      for (int v = 0; v < kLoads; ++v) {
        Real z[kWidth];
        unpack(bits[v], z, Storage());
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const Real u = at_least((z[i] - centre) * log2_scale, Constants<Real>::kDeadExponent);
          sums.push(fast_exp2(u), u);
          moments.live += z[i] > negative_infinity<Real>() ? 1 : 0;
        }
      }
    }
    moments.add(sums);
  }
  return moments.mergeable();
}

// What stands in a row that does not count: 0 where it is masked, NaN where its input is bad.
template <class Storage, bool kExtras>
__device__ __forceinline__ void write_uncounted_row(const TokenStatsForward& params, int64_t row) {
  using Real = typename RealOf<Storage>::Type;
  if (threadIdx.x != 0) return;
  write_constant_row<Real, kExtras>(params, row,
                                    masked(params, row) ? Real(0) : not_a_number<Real>());
}

// What a row needs at its end is read then, rather than held in registers all along.
template <class Storage, bool kExtras>
__device__ __forceinline__ void finish_row(
    const TokenStatsForward& params, int64_t row,
    const SoftmaxMoments<typename RealOf<Storage>::Type, kExtras>& moments) {
  using Real = typename RealOf<Storage>::Type;
  const TemperatureScale<Real> scale(temperature_of<Storage>(params, row));
  const auto total = block_total(moments, scale.log2);
  if (threadIdx.x == 0) {
    const Real token_logit = widen(logits_of<Storage>(params, row)[params.tokens[row]]);
    write_row<Real, kExtras>(params, row, total, scale, token_logit);
  }
}

template <class Storage, bool kExtras>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Storage>)
    forward_rows(const __grid_constant__ TokenStatsForward params) {
  using Real = typename RealOf<Storage>::Type;
  const int64_t row = blockIdx.x;
  if (!row_counts<Storage>(params, row)) {
    write_uncounted_row<Storage, kExtras>(params, row);
    return;
  }
  const Real log2_scale = TemperatureScale<Real>(temperature_of<Storage>(params, row)).log2;
  const int vocab = static_cast<int>(params.vocab);
  const RowReader<Storage> reader(logits_of<Storage>(params, row), 0, vocab);
  const int columns = segment_columns<Storage>(vocab);
  using Moments = SoftmaxMoments<Real, kExtras>;
  // Wanted once a segment, and otherwise in the way of the tiles' registers.
  SHARED_ARRAY(Moments, merged, kThreads);
  merged[threadIdx.x] = Moments();
  for (int begin = 0; begin < vocab; begin += columns) {
    const int end = begin + columns < vocab ? begin + columns : vocab;
    const Moments of_segment = segment_moments<Storage, kExtras>(reader, begin, end, log2_scale);
    merge(merged[threadIdx.x], of_segment, log2_scale);
  }
  const Moments moments = merged[threadIdx.x];
  finish_row<Storage, kExtras>(params, row, moments);
}

// A block per segment; scratch holds the moments of its threads, [rows, segments, kThreads].
template <class Storage, bool kExtras>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Storage>)
    forward_segments(const __grid_constant__ TokenStatsForward params) {
  using Real = typename RealOf<Storage>::Type;
  const int vocab = static_cast<int>(params.vocab);
  const int segments = segment_count<Storage>(vocab);
  const int64_t row = blockIdx.x / segments;
  if (!row_counts<Storage>(params, row)) return;
  const Real log2_scale = TemperatureScale<Real>(temperature_of<Storage>(params, row)).log2;
  const RowReader<Storage> reader(logits_of<Storage>(params, row), 0, vocab);
  const int columns = segment_columns<Storage>(vocab);
  const int begin = static_cast<int>(blockIdx.x % segments) * columns;
  const int end = begin + columns < vocab ? begin + columns : vocab;
  auto* const scratch = static_cast<SoftmaxMoments<Real, kExtras>*>(params.scratch);
  scratch[int64_t{blockIdx.x} * kThreads + threadIdx.x] =
      segment_moments<Storage, kExtras>(reader, begin, end, log2_scale);
}

template <class Storage, bool kExtras>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Storage>)
    forward_merge(const __grid_constant__ TokenStatsForward params) {
  using Real = typename RealOf<Storage>::Type;
  const int64_t row = blockIdx.x;
  if (!row_counts<Storage>(params, row)) {
    write_uncounted_row<Storage, kExtras>(params, row);
    return;
  }
  const Real log2_scale = TemperatureScale<Real>(temperature_of<Storage>(params, row)).log2;
  const int segments = segment_count<Storage>(static_cast<int>(params.vocab));
  const auto* const scratch = static_cast<const SoftmaxMoments<Real, kExtras>*>(params.scratch);
  SoftmaxMoments<Real, kExtras> moments;
  for (int s = 0; s < segments; ++s) {
    merge(moments, scratch[(row * segments + s) * kThreads + threadIdx.x], log2_scale);
  }
  finish_row<Storage, kExtras>(params, row, moments);
}

template <class Storage, bool kExtras>
const char* forward(const TokenStatsForward& params, Stream stream) {
  if (params.scratch == nullptr) {
    return launch(forward_rows<Storage, kExtras>, params.rows, kThreads, stream, params);
  }
  const int64_t blocks = params.rows * segment_count<Storage>(static_cast<int>(params.vocab));
  const char* const error =
      launch(forward_segments<Storage, kExtras>, blocks, kThreads, stream, params);
  if (error != nullptr) return error;
  return launch(forward_merge<Storage, kExtras>, params.rows, kThreads, stream, params);
}

template <class Storage>
const char* forward(const TokenStatsForward& params, Stream stream) {
  return params.extras == nullptr ? forward<Storage, false>(params, stream)
                                  : forward<Storage, true>(params, stream);
}

template <class Storage>
int64_t scratch_bytes(int64_t rows, int vocab, int multiprocessors) {
  using Real = typename RealOf<Storage>::Type;
  const int segments = segment_count<Storage>(vocab);
  // Two blocks per multiprocessor keep enough loads in flight; below that, share rows.
  if (segments == 1 || rows >= int64_t{2} * multiprocessors) return 0;
  return rows * segments * kThreads * static_cast<int64_t>(sizeof(SoftmaxMoments<Real, true>));
}

}  // namespace

int64_t token_stats_forward_scratch_bytes(Dtype dtype, int64_t rows, int64_t vocab,
                                          int multiprocessors) {
  const int columns = static_cast<int>(vocab);
  switch (dtype) {
    case Dtype::kFloat32: return scratch_bytes<float>(rows, columns, multiprocessors);
    case Dtype::kFloat64: return scratch_bytes<double>(rows, columns, multiprocessors);
    case Dtype::kBFloat16: return scratch_bytes<BFloat16>(rows, columns, multiprocessors);
    case Dtype::kFloat16: return scratch_bytes<Float16>(rows, columns, multiprocessors);
  }
  return 0;
}

const char* token_stats_forward_cuda(const TokenStatsForward& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  switch (params.dtype) {
    case Dtype::kFloat32: return forward<float>(params, on);
    case Dtype::kFloat64: return forward<double>(params, on);
    case Dtype::kBFloat16: return forward<BFloat16>(params, on);
    case Dtype::kFloat16: return forward<Float16>(params, on);
  }
  return "unknown dtype";
}

const char* cuda_multiprocessors(int device, int* count) {
  return multiprocessor_count(device, count);
}

}  // namespace entropy_ext
