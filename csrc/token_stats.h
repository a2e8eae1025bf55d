// Plain structs and launchers of the token statistics. No framework and no Python here: raw
// addresses, sizes and strides come in; a row number, an error text or nothing goes out.
#pragma once

#include <cstdint>

namespace entropy_ext {

enum class Dtype : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// Leading dimensions of the logits, adjacent ones merged where their strides allow.
constexpr int kMaxLeadingDims = 8;

struct RowLayout {
  int32_t ndim;
  int64_t size[kMaxLeadingDims];
  int64_t stride[kMaxLeadingDims];  // in elements
};

// "Real" below is float, and double for float64 logits. A row is one token.
struct TokenStatsForward {
  Dtype dtype;
  const void* logits;       // [rows, vocab], rows placed by `layout`, columns contiguous
  RowLayout layout;
  int64_t rows;
  int64_t vocab;
  const int64_t* tokens;    // [rows]
  const void* temperature;  // Real [rows], or [1] when temperature_stride is 0
  int64_t temperature_stride;
  const bool* mask;         // [rows], nullptr: every row counts
  void* logp;               // Real [rows]
  void* entropy;            // Real [rows]
  void* lse;                // Real [rows]
  void* row_max;            // Real [rows]   max z, for the backward pass
  void* row_sum;            // Real [rows]   Σ exp((z − max z)/τ), for the backward pass
  void* extras;             // Real [4, rows]: collision, collision_logp, varentropy, max_logp; or nullptr
  void* scratch;            // CUDA only: forward_scratch_bytes() of device memory, nullptr when 0
};

struct TokenStatsBackward {
  Dtype dtype;
  const void* logits;       // as in the forward pass
  RowLayout layout;
  int64_t rows;
  int64_t vocab;
  const int64_t* tokens;    // [rows]
  const void* temperature;  // as in the forward pass
  int64_t temperature_stride;
  const bool* mask;         // [rows] or nullptr
  const void* entropy;      // Real [rows], as the forward pass wrote them
  const void* row_max;      // Real [rows]
  const void* row_sum;      // Real [rows]
  const void* grad_logp;    // Real [rows]
  const void* grad_entropy; // Real [rows]
  const void* grad_lse;     // Real [rows]
  void* grad_logits;        // [rows, vocab] contiguous, dtype of the logits
};

constexpr int64_t kNoBadRow = -1;

// The CPU forward pass returns the first unmasked row whose token or temperature is out of range,
// before it writes anything, or kNoBadRow.
int64_t token_stats_forward_cpu(const TokenStatsForward& params, int threads);
void token_stats_backward_cpu(const TokenStatsBackward& params, int threads);

// Name of the instruction set that the CPU functions use.
const char* cpu_isa();

// The CUDA launchers return nullptr, or what the runtime said. Out-of-range tokens and temperatures
// give NaN in their row, for a check would have to wait for the device.
int64_t token_stats_forward_scratch_bytes(Dtype dtype, int64_t rows, int64_t vocab,
                                          int multiprocessors);
const char* token_stats_forward_cuda(const TokenStatsForward& params, void* stream);
const char* token_stats_backward_cuda(const TokenStatsBackward& params, void* stream);
const char* cuda_multiprocessors(int device, int* count);

}  // namespace entropy_ext
