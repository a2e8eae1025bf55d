// Runs the kernels over tokens on cases read from standard input, each in memory of its own between
// red zones, and writes what they computed to standard output. selection_emulator.py is the other
// end.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "driver_io.h"
#include "selection_math.h"
#include "simt_control.h"

namespace {

using entropy_ext::Dtype;
using entropy_ext::MomentSums;
using entropy_ext::SelectState;
using simt::GuardedBytes;
using simt::Input;

enum class Operation : int64_t {
  kMoments,
  kMerge,
  kCovariance,
  kClipped,
  kSelect,
  kEntropyChange,
  kSteer,
};

// Eight bytes each, little-endian, in this order; then the arrays that are present, of the order in
// which run_… below names them.
struct Header {
  Operation operation;
  int64_t dtype;
  int64_t count;
  int64_t present;    // bit i: whether array i is
  int64_t offset;     // array i begins (offset + i) % 5 elements off a 16-byte boundary; 0: on one
  int64_t seed;       // of the schedule
  int64_t first;      // order of a selection, form of STEER
  int64_t second;     // rule of a selection, map of STEER
  int64_t ranks;      // of a selection: tokens are dealt to so many, which add their counts
  double numbers[3];  // bounds and fraction; clip range; weight range and floor
};

// The arrays of a case: inputs in the order of the header's bits, then outputs.
class Arrays {
 public:
  explicit Arrays(const Header& header) : header_(header) {}

  template <class T>
  const T* input(int64_t elements) {
    const int index = next_++;
    if ((header_.present >> index & 1) == 0) return nullptr;
    inputs_.emplace_back(elements * sizeof(T), offset(index) * sizeof(T));
    return reinterpret_cast<const T*>(inputs_.back().data());
  }
  // Real [count].
  const void* values() {
    if (header_.dtype == static_cast<int64_t>(Dtype::kFloat64)) return input<double>(header_.count);
    return input<float>(header_.count);
  }
  const bool* flags() { return reinterpret_cast<const bool*>(input<unsigned char>(header_.count)); }

  template <class T>
  T* output(int64_t elements) {
    outputs_.emplace_back(elements * sizeof(T), offset(next_++) * sizeof(T));
    return reinterpret_cast<T*>(outputs_.back().begin());
  }
  void* real_output() {
    if (header_.dtype == static_cast<int64_t>(Dtype::kFloat64)) return output<double>(header_.count);
    return output<float>(header_.count);
  }
  bool* flag_output() { return reinterpret_cast<bool*>(output<unsigned char>(header_.count)); }

  // Memory of which nothing is reported.
  template <class T>
  T* scratch(int64_t elements) {
    scratch_.emplace_back(elements * sizeof(T));
    return reinterpret_cast<T*>(scratch_.back().begin());
  }

  void answer(const char* error) const {
    std::string text = error == nullptr ? "" : error;
    for (const Input& input : inputs_) {
      if (text.empty() && !input.unchanged()) text = "an input was modified";
    }
    std::vector<const GuardedBytes*> written;
    for (const GuardedBytes& output : outputs_) {
      if (text.empty() && !output.intact()) text = "written beside an output";
      written.push_back(&output);
    }
    for (const GuardedBytes& memory : scratch_) {
      if (text.empty() && !memory.intact()) text = "written beside the scratch memory";
    }
    simt::write_result(text, written);
  }

 private:
  size_t offset(int index) const { return header_.offset == 0 ? 0 : (header_.offset + index) % 5; }

  const Header& header_;
  int next_ = 0;
  std::deque<Input> inputs_;
  std::deque<GuardedBytes> outputs_;
  std::deque<GuardedBytes> scratch_;
};

const char* run_moments(const Header& header, Arrays& arrays) {
  entropy_ext::TokenMoments params = {};
  params.dtype = static_cast<Dtype>(header.dtype);
  params.count = header.count;
  params.logp = arrays.values();
  params.advantages = arrays.values();
  params.mask = arrays.flags();
  params.sums = arrays.output<MomentSums>(1);
  params.scratch = arrays.scratch<MomentSums>(entropy_ext::moment_blocks(header.count));
  return entropy_ext::token_moments_cuda(params, nullptr);
}

const char* run_merge(const Header& header, Arrays& arrays) {
  const auto* const parts = arrays.input<MomentSums>(header.count);
  auto* const sums = arrays.output<MomentSums>(1);
  return entropy_ext::merge_moments_cuda({header.count, parts, sums}, nullptr);
}

const char* run_covariance(const Header& header, Arrays& arrays) {
  entropy_ext::TokenCovariance params = {};
  params.dtype = static_cast<Dtype>(header.dtype);
  params.count = header.count;
  params.logp = arrays.values();
  params.advantages = arrays.values();
  params.mask = arrays.flags();
  params.sums = arrays.input<MomentSums>(1);
  params.covariance = arrays.real_output();
  return entropy_ext::token_covariance_cuda(params, nullptr);
}

const char* run_clipped(const Header& header, Arrays& arrays) {
  entropy_ext::ClippedTokens params = {};
  params.dtype = static_cast<Dtype>(header.dtype);
  params.count = header.count;
  params.logp = arrays.values();
  params.old_logp = arrays.values();
  params.advantages = arrays.values();
  params.mask = arrays.flags();
  params.clip_low = header.numbers[0];
  params.clip_high = header.numbers[1];
  params.clipped = arrays.flag_output();
  return entropy_ext::clipped_tokens_cuda(params, nullptr);
}

// Each rank has tokens, counters and states of its own, which follow each other in memory.
const char* run_select(const Header& header, Arrays& arrays) {
  entropy_ext::TokenSelect all = {};
  all.dtype = static_cast<Dtype>(header.dtype);
  all.order = static_cast<entropy_ext::SelectOrder>(header.first);
  all.rule = static_cast<entropy_ext::SelectCount>(header.second);
  all.count = header.count;
  all.values = arrays.values();
  all.mask = arrays.flags();
  all.excluded = arrays.flags();
  all.token_ids = arrays.input<int64_t>(header.count);
  all.seed = arrays.input<int64_t>(1);
  all.low = header.numbers[0];
  all.high = header.numbers[1];
  all.fraction = header.numbers[2];
  const int passes = entropy_ext::select_passes(all.dtype, all.order, all.rule, all.count,
                                                all.token_ids != nullptr);
  const int64_t ranks = header.ranks;
  const int64_t counters = passes * entropy_ext::kCounters;
  all.counters = arrays.output<int64_t>(ranks * counters);
  std::memset(all.counters, 0, ranks * counters * sizeof(int64_t));
  all.states = arrays.output<SelectState>(ranks * (passes + 1));
  all.selected = arrays.flag_output();

  std::vector<entropy_ext::TokenSelect> each(ranks, all);
  const int64_t value_bytes = all.dtype == Dtype::kFloat64 ? 8 : 4;
  for (int64_t r = 0; r < ranks; ++r) {
    const int64_t begin = header.count * r / ranks;
    each[r].count = header.count * (r + 1) / ranks - begin;
    each[r].values = static_cast<const char*>(all.values) + begin * value_bytes;
    each[r].mask = all.mask == nullptr ? nullptr : all.mask + begin;
    each[r].excluded = all.excluded == nullptr ? nullptr : all.excluded + begin;
    each[r].token_ids = all.token_ids == nullptr ? nullptr : all.token_ids + begin;
    each[r].counters = all.counters + r * counters;
    each[r].states = all.states + r * (passes + 1);
    each[r].selected = all.selected + begin;
  }
  for (int pass = 0; pass < passes; ++pass) {
    for (const auto& rank : each) {
      if (const char* error = entropy_ext::select_pass_cuda(rank, pass, nullptr)) return error;
    }
    const int64_t begin = int64_t{pass} * entropy_ext::kCounters;
    for (int64_t i = begin; i < begin + entropy_ext::kCounters; ++i) {
      int64_t sum = 0;
      for (const auto& rank : each) sum += rank.counters[i];
      for (const auto& rank : each) rank.counters[i] = sum;
    }
  }
  for (const auto& rank : each) {
    if (const char* error = entropy_ext::select_mark_cuda(rank, nullptr)) return error;
  }
  return nullptr;
}

const char* run_entropy_change(const Header& header, Arrays& arrays) {
  entropy_ext::EntropyChange params = {};
  params.dtype = static_cast<Dtype>(header.dtype);
  params.count = header.count;
  params.logp = arrays.values();
  params.entropy = arrays.values();
  params.collision = arrays.values();
  params.collision_logp = arrays.values();
  params.advantages = arrays.values();
  params.ratio = arrays.values();
  params.change = arrays.real_output();
  return entropy_ext::entropy_change_cuda(params, nullptr);
}

// Reports the range, M and the weights.
const char* run_steer(const Header& header, Arrays& arrays) {
  entropy_ext::SteerWeights params = {};
  params.dtype = static_cast<Dtype>(header.dtype);
  params.form = static_cast<entropy_ext::SteerForm>(header.first);
  params.map = static_cast<entropy_ext::WeightMap>(header.second);
  params.count = header.count;
  params.logp = arrays.values();
  params.old_logp = arrays.values();
  params.entropy = arrays.values();
  params.advantages = arrays.values();
  params.mask = arrays.flags();
  params.collision = arrays.values();
  params.collision_logp = arrays.values();
  params.lambda_min = header.numbers[0];
  params.lambda_max = header.numbers[1];
  params.floor = header.numbers[2];
  params.range = arrays.output<int64_t>(2);
  std::memset(params.range, 0, 2 * sizeof(int64_t));
  void* const sizes = arrays.real_output();
  params.weights = arrays.real_output();
  if (const char* error = entropy_ext::steer_range_cuda(params, nullptr)) return error;
  const int64_t real = params.dtype == Dtype::kFloat64 ? 8 : 4;
  std::memcpy(sizes, params.weights, header.count * real);
  return entropy_ext::steer_weights_cuda(params, nullptr);
}

const char* run(const Header& header, Arrays& arrays) {
  switch (header.operation) {
    case Operation::kMoments: return run_moments(header, arrays);
    case Operation::kMerge: return run_merge(header, arrays);
    case Operation::kCovariance: return run_covariance(header, arrays);
    case Operation::kClipped: return run_clipped(header, arrays);
    case Operation::kSelect: return run_select(header, arrays);
    case Operation::kEntropyChange: return run_entropy_change(header, arrays);
    case Operation::kSteer: return run_steer(header, arrays);
  }
  return "no such operation";
}

}  // namespace

int main() {
  Header header;
  while (simt::read_bytes(&header, sizeof(header))) {
    simt::set_seed(static_cast<uint64_t>(header.seed));
    Arrays arrays(header);
    arrays.answer(run(header, arrays));
  }
  return 0;
}
