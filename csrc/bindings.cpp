// The compiled module: functions of addresses, sizes and strides. Python has checked all of it.
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "binding.h"
#include "cpu/gradient_memory.h"
#include "support_stats.h"
#include "token_stats.h"

namespace py = pybind11;
using namespace entropy_ext;

namespace {

RowLayout row_layout(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  if (sizes.size() != strides.size() || sizes.size() > kMaxLeadingDims) {
    throw std::invalid_argument("sizes and strides: expected equal lengths up to " +
                                std::to_string(kMaxLeadingDims));
  }
  RowLayout layout{};
  layout.ndim = static_cast<int32_t>(sizes.size());
  for (size_t d = 0; d < sizes.size(); ++d) {
    layout.size[d] = sizes[d];
    layout.stride[d] = strides[d];
  }
  return layout;
}

// What both passes read: the logits and one number of each kind per row.
template <class Params>
Params row_params(int dtype, Address logits, const std::vector<int64_t>& sizes,
                  const std::vector<int64_t>& strides, int64_t rows, int64_t vocab, Address tokens,
                  Address temperature, int64_t temperature_stride, Address mask) {
  Params params{};
  params.dtype = static_cast<Dtype>(dtype);
  params.logits = pointer<void>(logits);
  params.layout = row_layout(sizes, strides);
  params.rows = rows;
  params.vocab = vocab;
  params.tokens = pointer<int64_t>(tokens);
  params.temperature = pointer<void>(temperature);
  params.temperature_stride = temperature_stride;
  params.mask = pointer<bool>(mask);
  return params;
}

TokenStatsBackward backward_params(int dtype, Address logits, const std::vector<int64_t>& sizes,
                                   const std::vector<int64_t>& strides, int64_t rows,
                                   int64_t vocab, Address tokens, Address temperature,
                                   int64_t temperature_stride, Address mask, Address entropy,
                                   Address row_max, Address row_sum, Address grad_logp,
                                   Address grad_entropy, Address grad_lse, Address grad_logits) {
  auto params =
      row_params<TokenStatsBackward>(dtype, logits, sizes, strides, rows, vocab, tokens,
                                     temperature, temperature_stride, mask);
  params.entropy = pointer<void>(entropy);
  params.row_max = pointer<void>(row_max);
  params.row_sum = pointer<void>(row_sum);
  params.grad_logp = pointer<void>(grad_logp);
  params.grad_entropy = pointer<void>(grad_entropy);
  params.grad_lse = pointer<void>(grad_lse);
  params.grad_logits = pointer<void>(grad_logits);
  return params;
}

Support support_of(Address offsets, Address ids, int64_t count) {
  return {pointer<int64_t>(offsets), pointer<int32_t>(ids), count};
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.attr("isa") = cpu_isa();
  m.attr("max_leading_dims") = kMaxLeadingDims;
#if defined(ENTROPY_EXT_CUDA)
  m.attr("cuda_architectures") = ENTROPY_EXT_CUDA;
#else
  m.attr("cuda_architectures") = py::none();
#endif

  m.def(
      "token_stats_forward",
      [](int dtype, Address logits, const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& strides, int64_t rows, int64_t vocab, Address tokens,
         Address temperature, int64_t temperature_stride, Address mask, Address logp,
         Address entropy, Address lse, Address row_max, Address row_sum, Address extras,
         Address scratch, int threads, bool cuda, Address stream) -> int64_t {
        auto params =
            row_params<TokenStatsForward>(dtype, logits, sizes, strides, rows, vocab, tokens,
                                          temperature, temperature_stride, mask);
        params.logp = pointer<void>(logp);
        params.entropy = pointer<void>(entropy);
        params.lse = pointer<void>(lse);
        params.row_max = pointer<void>(row_max);
        params.row_sum = pointer<void>(row_sum);
        params.extras = pointer<void>(extras);
        params.scratch = pointer<void>(scratch);
        py::gil_scoped_release unlocked;
        if (!cuda) return token_stats_forward_cpu(params, threads);
        raise_if(token_stats_forward_cuda(params, pointer<void>(stream)));
        return kNoBadRow;
      },
      py::kw_only(), py::arg("dtype"), py::arg("logits"), py::arg("sizes"), py::arg("strides"),
      py::arg("rows"), py::arg("vocab"), py::arg("tokens"), py::arg("temperature"),
      py::arg("temperature_stride"), py::arg("mask"), py::arg("logp"), py::arg("entropy"),
      py::arg("lse"), py::arg("row_max"), py::arg("row_sum"), py::arg("extras"),
      py::arg("scratch"), py::arg("threads"), py::arg("cuda"), py::arg("stream"));

  m.def(
      "token_stats_backward",
      [](int dtype, Address logits, const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& strides, int64_t rows, int64_t vocab, Address tokens,
         Address temperature, int64_t temperature_stride, Address mask, Address entropy,
         Address row_max, Address row_sum, Address grad_logp, Address grad_entropy,
         Address grad_lse, Address grad_logits, int threads, bool cuda, Address stream) {
        const auto params = backward_params(
            dtype, logits, sizes, strides, rows, vocab, tokens, temperature, temperature_stride,
            mask, entropy, row_max, row_sum, grad_logp, grad_entropy, grad_lse, grad_logits);
        py::gil_scoped_release unlocked;
        if (!cuda) return token_stats_backward_cpu(params, threads);
        raise_if(token_stats_backward_cuda(params, pointer<void>(stream)));
      },
      py::kw_only(), py::arg("dtype"), py::arg("logits"), py::arg("sizes"), py::arg("strides"),
      py::arg("rows"), py::arg("vocab"), py::arg("tokens"), py::arg("temperature"),
      py::arg("temperature_stride"), py::arg("mask"), py::arg("entropy"), py::arg("row_max"),
      py::arg("row_sum"), py::arg("grad_logp"), py::arg("grad_entropy"), py::arg("grad_lse"),
      py::arg("grad_logits"), py::arg("threads"), py::arg("cuda"), py::arg("stream"));

  m.def(
      "support_forward",
      [](int dtype, Address logits, const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& strides, int64_t rows, int64_t vocab, Address tokens,
         Address temperature, int64_t temperature_stride, Address mask, Address offsets,
         Address ids, int64_t count, Address stats, int threads, bool cuda,
         Address stream) -> int64_t {
        auto params = row_params<SupportForward>(dtype, logits, sizes, strides, rows, vocab,
                                                 tokens, temperature, temperature_stride, mask);
        params.support = support_of(offsets, ids, count);
        params.stats = pointer<void>(stats);
        py::gil_scoped_release unlocked;
        if (!cuda) return support_forward_cpu(params, threads);
        raise_if(support_forward_cuda(params, pointer<void>(stream)));
        return kNoBadRow;
      },
      py::kw_only(), py::arg("dtype"), py::arg("logits"), py::arg("sizes"), py::arg("strides"),
      py::arg("rows"), py::arg("vocab"), py::arg("tokens"), py::arg("temperature"),
      py::arg("temperature_stride"), py::arg("mask"), py::arg("offsets"), py::arg("ids"),
      py::arg("count"), py::arg("stats"), py::arg("threads"), py::arg("cuda"), py::arg("stream"));

  m.def(
      "support_backward",
      [](int dtype, Address logits, const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& strides, int64_t rows, int64_t vocab, Address tokens,
         Address temperature, int64_t temperature_stride, Address mask, Address entropy,
         Address row_max, Address row_sum, Address grad_logp, Address grad_entropy,
         Address grad_lse, Address grad_logits, Address offsets, Address ids, int64_t count,
         Address stats, Address grad_stats, int threads, bool cuda, Address stream) -> int64_t {
        SupportBackward params{};
        params.all = backward_params(dtype, logits, sizes, strides, rows, vocab, tokens,
                                     temperature, temperature_stride, mask, entropy, row_max,
                                     row_sum, grad_logp, grad_entropy, grad_lse, grad_logits);
        params.support = support_of(offsets, ids, count);
        params.stats = pointer<void>(stats);
        params.grad_stats = pointer<void>(grad_stats);
        py::gil_scoped_release unlocked;
        if (!cuda) return support_backward_cpu(params, threads);
        raise_if(support_backward_cuda(params, pointer<void>(stream)));
        return kNoBadRow;
      },
      py::kw_only(), py::arg("dtype"), py::arg("logits"), py::arg("sizes"), py::arg("strides"),
      py::arg("rows"), py::arg("vocab"), py::arg("tokens"), py::arg("temperature"),
      py::arg("temperature_stride"), py::arg("mask"), py::arg("entropy"), py::arg("row_max"),
      py::arg("row_sum"), py::arg("grad_logp"), py::arg("grad_entropy"), py::arg("grad_lse"),
      py::arg("grad_logits"), py::arg("offsets"), py::arg("ids"), py::arg("count"),
      py::arg("stats"), py::arg("grad_stats"), py::arg("threads"), py::arg("cuda"),
      py::arg("stream"));

  m.def(
      "forward_scratch_bytes",
      [](int dtype, int64_t rows, int64_t vocab, int device) {
        int multiprocessors = 0;
        raise_if(cuda_multiprocessors(device, &multiprocessors));
        return token_stats_forward_scratch_bytes(static_cast<Dtype>(dtype), rows, vocab,
                                                 multiprocessors);
      },
      py::kw_only(), py::arg("dtype"), py::arg("rows"), py::arg("vocab"), py::arg("device"));

#if defined(__linux__)
  py::class_<GradientMemory>(m, "GradientMemory", py::buffer_protocol())
      .def(py::init([](int64_t bytes) { return std::make_unique<GradientMemory>(bytes); }),
           py::kw_only(), py::arg("bytes"))
      .def_buffer([](GradientMemory& memory) {
        return py::buffer_info(static_cast<uint8_t*>(memory.data()), memory.bytes());
      });
#endif

  bind_token_selection(m);
}
