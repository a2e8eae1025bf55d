// Runs the token statistics kernels on cases read from standard input, each in memory of its own
// between red zones, and writes what they computed to standard output. emulator.py is the other end.
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "driver_io.h"
#include "simt_control.h"
#include "support_stats.h"
#include "token_stats.h"

namespace {

using entropy_ext::Dtype;
using simt::GuardedBytes;
using simt::Input;

// Little-endian int64 throughout, in this order; then the arrays that emulator.py lists.
struct Header {
  int64_t dtype;
  int64_t rows;
  int64_t vocab;
  int64_t ndim;
  int64_t size[entropy_ext::kMaxLeadingDims];
  int64_t stride[entropy_ext::kMaxLeadingDims];
  int64_t storage;         // elements from the first logit to the end of the storage
  int64_t first;           // elements before them, which count for the alignment alone
  int64_t temperatures;    // 1 or rows
  int64_t has_mask;
  int64_t extras;
  int64_t backward;
  int64_t inplace;         // the gradient overwrites the logits, whose rows have no gaps then
  int64_t multiprocessors;
  int64_t seed;
  int64_t ulps;            // error of fast_exp2
  int64_t row_distance;    // elements between rows, which the storage holds without a gap; or 0
  int64_t has_support;
  int64_t kept;            // ids of the support
};

size_t element_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32: return 4;
    case Dtype::kFloat64: return 8;
    case Dtype::kBFloat16:
    case Dtype::kFloat16: return 2;
  }
  return 0;
}

// Rows so far apart that their distance needs 64 bits, in memory of which only they exist.
class FarRows {
 public:
  FarRows(const Header& header, const unsigned char* rows, size_t element)
      : bytes_(((header.rows - 1) * header.row_distance + header.vocab) * element) {
    void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::exit(2);
    begin_ = static_cast<unsigned char*>(memory);
    for (int64_t r = 0; r < header.rows; ++r) {
      std::memcpy(begin_ + r * header.row_distance * element, rows + r * header.vocab * element,
                  header.vocab * element);
    }
  }
  ~FarRows() { munmap(begin_, bytes_); }
  FarRows(const FarRows&) = delete;
  FarRows& operator=(const FarRows&) = delete;

  const unsigned char* begin() const { return begin_; }

 private:
  size_t bytes_;
  unsigned char* begin_;
};

// What the forward and the backward pass are told about the logits and the rows.
template <class Params>
Params common_params(const Header& header, const unsigned char* logits, const Input& tokens,
                     const Input& temperature, const Input& mask) {
  Params params = {};
  params.dtype = static_cast<Dtype>(header.dtype);
  params.logits = logits;
  params.layout.ndim = static_cast<int32_t>(header.ndim);
  for (int d = 0; d < entropy_ext::kMaxLeadingDims; ++d) {
    params.layout.size[d] = header.size[d];
    params.layout.stride[d] = header.stride[d];
  }
  params.rows = header.rows;
  params.vocab = header.vocab;
  params.tokens = reinterpret_cast<const int64_t*>(tokens.data());
  params.temperature = temperature.data();
  params.temperature_stride = header.temperatures == 1 ? 0 : 1;
  params.mask = header.has_mask != 0 ? reinterpret_cast<const bool*>(mask.data()) : nullptr;
  return params;
}

void run_case(const Header& header) {
  const Dtype dtype = static_cast<Dtype>(header.dtype);
  const size_t real = dtype == Dtype::kFloat64 ? 8 : 4;
  const size_t per_row = header.rows * real;
  const Input storage(header.storage * element_bytes(dtype),
                      header.first * element_bytes(dtype) % simt::kGuardBytes);
  const Input tokens(header.rows * sizeof(int64_t));
  const Input temperature(header.temperatures * real);
  const Input mask(header.has_mask != 0 ? header.rows : 0);
  const Input grad_logp(header.backward != 0 ? per_row : 0);
  const Input grad_entropy(header.backward != 0 ? per_row : 0);
  const Input grad_lse(header.backward != 0 ? per_row : 0);
  const bool with_support = header.has_support != 0;
  const size_t support_bytes = with_support ? entropy_ext::kSupportStats * per_row : 0;
  const Input offsets(with_support ? (header.rows + 1) * sizeof(int64_t) : 0);
  const Input ids(header.kept * sizeof(int32_t));
  const Input grad_support(header.backward != 0 ? support_bytes : 0);

  const GuardedBytes logp(per_row), entropy(per_row), lse(per_row), row_max(per_row),
      row_sum(per_row), extras(header.extras != 0 ? 4 * per_row : 0),
      grad_logits(header.backward != 0 ? header.rows * header.vocab * element_bytes(dtype) : 0),
      support_stats(support_bytes),
      scratch(entropy_ext::token_stats_forward_scratch_bytes(
          dtype, header.rows, header.vocab, static_cast<int>(header.multiprocessors)));
  const std::vector<const GuardedBytes*> outputs = {
      &logp, &entropy, &lse, &row_max, &row_sum, &extras, &support_stats, &grad_logits};
  const entropy_ext::Support support = {reinterpret_cast<const int64_t*>(offsets.data()),
                                        reinterpret_cast<const int32_t*>(ids.data()), header.kept};

  std::optional<FarRows> far_rows;
  if (header.row_distance != 0) far_rows.emplace(header, storage.data(), element_bytes(dtype));
  const unsigned char* const logits = far_rows ? far_rows->begin() : storage.data();

  simt::set_seed(static_cast<uint64_t>(header.seed));
  simt::set_rounding(static_cast<int>(header.ulps), static_cast<uint64_t>(header.seed));
  auto forward = common_params<entropy_ext::TokenStatsForward>(header, logits, tokens,
                                                               temperature, mask);
  forward.logp = logp.begin();
  forward.entropy = entropy.begin();
  forward.lse = lse.begin();
  forward.row_max = row_max.begin();
  forward.row_sum = row_sum.begin();
  forward.extras = header.extras != 0 ? extras.begin() : nullptr;
  forward.scratch = scratch.bytes() != 0 ? scratch.begin() : nullptr;
  const char* error = entropy_ext::token_stats_forward_cuda(forward, nullptr);
  if (error == nullptr && with_support) {
    auto params = common_params<entropy_ext::SupportForward>(header, logits, tokens, temperature,
                                                             mask);
    params.support = support;
    params.stats = support_stats.begin();
    error = entropy_ext::support_forward_cuda(params, nullptr);
  }

  if (error == nullptr && header.backward != 0) {
    auto backward = common_params<entropy_ext::TokenStatsBackward>(header, logits, tokens,
                                                                   temperature, mask);
    backward.entropy = entropy.begin();
    backward.row_max = row_max.begin();
    backward.row_sum = row_sum.begin();
    backward.grad_logp = grad_logp.data();
    backward.grad_entropy = grad_entropy.data();
    backward.grad_lse = grad_lse.data();
    backward.grad_logits = header.inplace != 0 ? storage.data() : grad_logits.begin();
    error = entropy_ext::token_stats_backward_cuda(backward, nullptr);
    if (error == nullptr && with_support) {
      error = entropy_ext::support_backward_cuda(
          {backward, support, support_stats.begin(), grad_support.data()}, nullptr);
    }
    if (header.inplace != 0) storage.move_to(grad_logits.begin(), grad_logits.bytes());
  }

  std::string text = error == nullptr ? "" : error;
  for (const Input* input : {&storage, &tokens, &temperature, &mask, &grad_logp, &grad_entropy,
                             &grad_lse, &offsets, &ids, &grad_support}) {
    if (text.empty() && !input->unchanged()) text = "an input was modified";
  }
  for (const GuardedBytes* output : outputs) {
    if (text.empty() && !output->intact()) text = "written beside an output";
  }
  if (text.empty() && !scratch.intact()) text = "written beside the scratch memory";
  simt::write_result(text, outputs);
}

}  // namespace

int main() {
  Header header;
  while (simt::read_bytes(&header, sizeof(header))) run_case(header);
  return 0;
}
