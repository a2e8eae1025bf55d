// Statistics over the kept ids on CUDA: a block gathers the kept logits of a row, forward, and
// overwrites their gradients, backward. A few hundred scattered reads, beside the row's whole read.
#include "../kept_ids.h"
#include "block_reduce.cuh"
#include "vector_io.cuh"

namespace entropy_ext {
namespace {

// Logits that a thread has in flight.
constexpr int kGathers = 4;

// No check of the ids can raise here: one that breaks the rules counts as a logit of +∞, which
// makes the row NaN, and reads nothing.
template <class Storage>
__device__ __forceinline__ typename RealOf<Storage>::Type kept_logit(const Storage* z,
                                                                    const KeptIds& kept, int i,
                                                                    int64_t vocab) {
  using Real = typename RealOf<Storage>::Type;
  if (i >= kept.size()) return negative_infinity<Real>();
  return kept.holds(i, vocab) ? widen(z[kept[i]]) : -negative_infinity<Real>();
}

template <class Real>
__device__ __forceinline__ SoftmaxMoments<Real, false> moments_of(const Real (&z)[kGathers],
                                                                  Real log2_scale) {
  SoftmaxMoments<Real, false> moments;
#pragma unroll
  for (int v = 0; v < kGathers; ++v) moments.max = fmax(moments.max, z[v]);
  const Real centre = moments.max == negative_infinity<Real>() ? Real(0) : moments.max;
#pragma unroll
  for (int v = 0; v < kGathers; ++v) {
    const Real u = at_least((z[v] - centre) * log2_scale, Constants<Real>::kDeadExponent);
    const Real e = fast_exp2(u);
    moments.sum = moments.sum + e;
    moments.dot = fused(e, u, moments.dot);
    moments.live += z[v] > negative_infinity<Real>() ? 1 : 0;
  }
  return moments;
}

template <class Storage>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Storage>)
    support_forward(const __grid_constant__ SupportForward params) {
  using Real = typename RealOf<Storage>::Type;
  const int64_t row = blockIdx.x;
  const bool counts = row_counts<Storage>(params, row);
  if (!counts || !offsets_hold(params.support, params.rows, params.vocab, row)) {
    if (threadIdx.x != 0) return;
    const bool dropped = masked(params, row);
    const Real value = dropped ? Real(0) : not_a_number<Real>();
    // A maximum of +∞ tells the backward pass of a malformed support.
    const Real max = dropped ? Real(0) : -negative_infinity<Real>();
    write_support_row(params, row, value, value, max, value, value);
    return;
  }
  const Storage* const z = logits_of<Storage>(params, row);
  const TemperatureScale<Real> scale(temperature_of<Storage>(params, row));
  const KeptIds kept(params.support, row, params.tokens[row]);
  SoftmaxMoments<Real, false> moments;
  for (int begin = static_cast<int>(threadIdx.x); begin < kept.size();
       begin += kThreads * kGathers) {
    Real gathered[kGathers];
#pragma unroll
    for (int v = 0; v < kGathers; ++v) {
      gathered[v] = kept_logit(z, kept, begin + v * kThreads, params.vocab);
    }
    merge(moments, moments_of(gathered, scale.log2), scale.log2);
  }
  const auto total = block_total(moments, scale.log2);
  if (threadIdx.x == 0) {
    write_support_row<Real>(params, row, total, scale, widen(z[params.tokens[row]]));
  }
}

template <class Real>
__device__ __forceinline__ Real gradient_of(Real z, const RowGradient<Real>& row) {
  const Real u = at_least((z - row.row_max) * row.log2_scale, Constants<Real>::kDeadExponent);
  return fast_exp2(u) * fused(row.slope, u, row.offset);
}

template <class Storage>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<Storage>)
    support_backward(const __grid_constant__ SupportBackward params) {
  using Real = typename RealOf<Storage>::Type;
  const TokenStatsBackward& all = params.all;
  const int64_t row = blockIdx.x;
  // Zeros or NaN already.
  if (!row_counts<Storage>(all, row)) return;
  Storage* const out = static_cast<Storage*>(all.grad_logits) + row * all.vocab;
  const Real* const stats = static_cast<const Real*>(params.stats) + row;
  if (stats[2 * all.rows] == -negative_infinity<Real>()) {
    for (int64_t i = threadIdx.x; i < all.vocab; i += kThreads) narrow(not_a_number<Real>(), out + i);
    return;
  }
  const Storage* const z = logits_of<Storage>(all, row);
  const TemperatureScale<Real> scale(temperature_of<Storage>(all, row));
  const RowGradient<Real> whole(all, row, scale);
  const RowGradient<Real> part = support_gradient(params, row, scale);
  const KeptIds kept(params.support, row, all.tokens[row]);
  for (int i = static_cast<int>(threadIdx.x); i < kept.size(); i += kThreads) {
    const int32_t id = kept[i];
    const Real logit = widen(z[id]);
    // The entry anew, rather than added to what is there: half precision is rounded once.
    Real of_whole = gradient_of(logit, whole);
    Real of_part = gradient_of(logit, part);
    if (id == all.tokens[row] && logit != negative_infinity<Real>()) {
      of_whole = of_whole + whole.at_token;
      of_part = of_part + part.at_token;
    }
    narrow(of_whole + of_part, out + id);
  }
}

}  // namespace

const char* support_forward_cuda(const SupportForward& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  const int64_t rows = params.rows;
  switch (params.dtype) {
    case Dtype::kFloat32: return launch(support_forward<float>, rows, kThreads, on, params);
    case Dtype::kFloat64: return launch(support_forward<double>, rows, kThreads, on, params);
    case Dtype::kBFloat16: return launch(support_forward<BFloat16>, rows, kThreads, on, params);
    case Dtype::kFloat16: return launch(support_forward<Float16>, rows, kThreads, on, params);
  }
  return "unknown dtype";
}

const char* support_backward_cuda(const SupportBackward& params, void* stream) {
  const Stream on = static_cast<Stream>(stream);
  const int64_t rows = params.all.rows;
  switch (params.all.dtype) {
    case Dtype::kFloat32: return launch(support_backward<float>, rows, kThreads, on, params);
    case Dtype::kFloat64: return launch(support_backward<double>, rows, kThreads, on, params);
    case Dtype::kBFloat16: return launch(support_backward<BFloat16>, rows, kThreads, on, params);
    case Dtype::kFloat16: return launch(support_backward<Float16>, rows, kThreads, on, params);
  }
  return "unknown dtype";
}

}  // namespace entropy_ext
