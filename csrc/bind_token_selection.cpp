// The token functions of the compiled module. Those that return an int return the position of the
// first token in error, or −1.
#include "binding.h"
#include "selection_math.h"

namespace py = pybind11;

namespace entropy_ext {
namespace {

// Step d < passes of a selection is pass d, the last step the mark.
int64_t select_steps(const TokenSelect& params, int first, int last, int threads, bool cuda,
                     void* stream) {
  const int passes = SelectKeys(params).passes();
  int64_t bad = -1;
  for (int step = first; step < last && bad < 0; ++step) {
    if (step < passes) {
      if (cuda) {
        raise_if(select_pass_cuda(params, step, stream));
      } else {
        bad = select_pass_cpu(params, step, threads);
      }
    } else if (cuda) {
      raise_if(select_mark_cuda(params, stream));
    } else {
      select_mark_cpu(params, threads);
    }
  }
  return bad;
}

}  // namespace

void bind_token_selection(py::module_& m) {
  m.attr("moment_sums") = kMomentSums;
  m.attr("select_counters") = kCounters;
  m.attr("select_state_words") = kStateWords;
  m.attr("select_range") = kSelectRange;

  m.def("moment_blocks", &moment_blocks, py::arg("count"));

  m.def(
      "token_moments",
      [](int dtype, int64_t count, Address logp, Address advantages, Address mask, Address sums,
         Address scratch, int threads, bool cuda, Address stream) -> int64_t {
        TokenMoments params{};
        params.dtype = static_cast<Dtype>(dtype);
        params.count = count;
        params.logp = pointer<void>(logp);
        params.advantages = pointer<void>(advantages);
        params.mask = pointer<bool>(mask);
        params.sums = pointer<MomentSums>(sums);
        params.scratch = pointer<MomentSums>(scratch);
        py::gil_scoped_release unlocked;
        if (!cuda) return token_moments_cpu(params, threads);
        raise_if(token_moments_cuda(params, pointer<void>(stream)));
        return -1;
      },
      py::kw_only(), py::arg("dtype"), py::arg("count"), py::arg("logp"), py::arg("advantages"),
      py::arg("mask"), py::arg("sums"), py::arg("scratch"), py::arg("threads"), py::arg("cuda"),
      py::arg("stream"));

  m.def(
      "merge_moments",
      [](int64_t count, Address parts, Address sums, bool cuda, Address stream) {
        MergeMoments params{};
        params.count = count;
        params.parts = pointer<MomentSums>(parts);
        params.sums = pointer<MomentSums>(sums);
        py::gil_scoped_release unlocked;
        if (!cuda) return merge_moments_cpu(params);
        raise_if(merge_moments_cuda(params, pointer<void>(stream)));
      },
      py::kw_only(), py::arg("count"), py::arg("parts"), py::arg("sums"), py::arg("cuda"),
      py::arg("stream"));

  m.def(
      "token_covariance",
      [](int dtype, int64_t count, Address logp, Address advantages, Address mask, Address sums,
         Address covariance, int threads, bool cuda, Address stream) -> int64_t {
        TokenCovariance params{};
        params.dtype = static_cast<Dtype>(dtype);
        params.count = count;
        params.logp = pointer<void>(logp);
        params.advantages = pointer<void>(advantages);
        params.mask = pointer<bool>(mask);
        params.sums = pointer<MomentSums>(sums);
        params.covariance = pointer<void>(covariance);
        py::gil_scoped_release unlocked;
        if (!cuda) return token_covariance_cpu(params, threads);
        raise_if(token_covariance_cuda(params, pointer<void>(stream)));
        return -1;
      },
      py::kw_only(), py::arg("dtype"), py::arg("count"), py::arg("logp"), py::arg("advantages"),
      py::arg("mask"), py::arg("sums"), py::arg("covariance"), py::arg("threads"),
      py::arg("cuda"), py::arg("stream"));

  m.def(
      "clipped_tokens",
      [](int dtype, int64_t count, Address logp, Address old_logp, Address advantages,
         Address mask, double clip_low, double clip_high, Address clipped, int threads, bool cuda,
         Address stream) {
        ClippedTokens params{};
        params.dtype = static_cast<Dtype>(dtype);
        params.count = count;
        params.logp = pointer<void>(logp);
        params.old_logp = pointer<void>(old_logp);
        params.advantages = pointer<void>(advantages);
        params.mask = pointer<bool>(mask);
        params.clip_low = clip_low;
        params.clip_high = clip_high;
        params.clipped = pointer<bool>(clipped);
        py::gil_scoped_release unlocked;
        if (!cuda) return clipped_tokens_cpu(params, threads);
        raise_if(clipped_tokens_cuda(params, pointer<void>(stream)));
      },
      py::kw_only(), py::arg("dtype"), py::arg("count"), py::arg("logp"), py::arg("old_logp"),
      py::arg("advantages"), py::arg("mask"), py::arg("clip_low"), py::arg("clip_high"),
      py::arg("clipped"), py::arg("threads"), py::arg("cuda"), py::arg("stream"));

  m.def(
      "select_passes",
      [](int dtype, int order, int rule, int64_t count, bool has_ids) {
        return select_passes(static_cast<Dtype>(dtype), static_cast<SelectOrder>(order),
                             static_cast<SelectCount>(rule), count, has_ids);
      },
      py::kw_only(), py::arg("dtype"), py::arg("order"), py::arg("rule"), py::arg("count"),
      py::arg("has_ids"));

  m.def(
      "select_steps",
      [](int dtype, int order, int rule, int64_t count, Address values, Address mask,
         Address excluded, Address token_ids, Address seed, double low, double high,
         double fraction, Address counters, Address states, Address selected, Address digits,
         Address agreeing, Address agreed, int first, int last, int threads, bool cuda,
         Address stream) {
        TokenSelect params{};
        params.dtype = static_cast<Dtype>(dtype);
        params.order = static_cast<SelectOrder>(order);
        params.rule = static_cast<SelectCount>(rule);
        params.count = count;
        params.values = pointer<void>(values);
        params.mask = pointer<bool>(mask);
        params.excluded = pointer<bool>(excluded);
        params.token_ids = pointer<int64_t>(token_ids);
        params.seed = pointer<int64_t>(seed);
        params.low = low;
        params.high = high;
        params.fraction = fraction;
        params.counters = pointer<int64_t>(counters);
        params.states = pointer<SelectState>(states);
        params.selected = pointer<bool>(selected);
        params.digits = pointer<uint16_t>(digits);
        params.agreeing = pointer<uint16_t>(agreeing);
        params.agreed = pointer<int64_t>(agreed);
        py::gil_scoped_release unlocked;
        return select_steps(params, first, last, threads, cuda, pointer<void>(stream));
      },
      py::kw_only(), py::arg("dtype"), py::arg("order"), py::arg("rule"), py::arg("count"),
      py::arg("values"), py::arg("mask"), py::arg("excluded"), py::arg("token_ids"),
      py::arg("seed"), py::arg("low"), py::arg("high"), py::arg("fraction"), py::arg("counters"),
      py::arg("states"), py::arg("selected"), py::arg("digits"), py::arg("agreeing"),
      py::arg("agreed"), py::arg("first"), py::arg("last"), py::arg("threads"), py::arg("cuda"),
      py::arg("stream"));

  m.def(
      "entropy_change",
      [](int dtype, int64_t count, Address logp, Address entropy, Address collision,
         Address collision_logp, Address advantages, Address ratio, Address change, int threads,
         bool cuda, Address stream) {
        EntropyChange params{};
        params.dtype = static_cast<Dtype>(dtype);
        params.count = count;
        params.logp = pointer<void>(logp);
        params.entropy = pointer<void>(entropy);
        params.collision = pointer<void>(collision);
        params.collision_logp = pointer<void>(collision_logp);
        params.advantages = pointer<void>(advantages);
        params.ratio = pointer<void>(ratio);
        params.change = pointer<void>(change);
        py::gil_scoped_release unlocked;
        if (!cuda) return entropy_change_cpu(params, threads);
        raise_if(entropy_change_cuda(params, pointer<void>(stream)));
      },
      py::kw_only(), py::arg("dtype"), py::arg("count"), py::arg("logp"), py::arg("entropy"),
      py::arg("collision"), py::arg("collision_logp"), py::arg("advantages"), py::arg("ratio"),
      py::arg("change"), py::arg("threads"), py::arg("cuda"), py::arg("stream"));

  // The range, then the map from it: two calls, for ranks may share the range in between.
  const auto bind_steer = [&m](const char* name, auto run) {
    m.def(
        name,
        [run](int dtype, int form, int weight_map, int64_t count, Address logp, Address old_logp,
              Address entropy, Address advantages, Address mask, Address collision,
              Address collision_logp, double lambda_min, double lambda_max, double floor,
              Address range, Address weights, int threads, bool cuda, Address stream) -> int64_t {
          SteerWeights params{};
          params.dtype = static_cast<Dtype>(dtype);
          params.form = static_cast<SteerForm>(form);
          params.map = static_cast<WeightMap>(weight_map);
          params.count = count;
          params.logp = pointer<void>(logp);
          params.old_logp = pointer<void>(old_logp);
          params.entropy = pointer<void>(entropy);
          params.advantages = pointer<void>(advantages);
          params.mask = pointer<bool>(mask);
          params.collision = pointer<void>(collision);
          params.collision_logp = pointer<void>(collision_logp);
          params.lambda_min = lambda_min;
          params.lambda_max = lambda_max;
          params.floor = floor;
          params.range = pointer<int64_t>(range);
          params.weights = pointer<void>(weights);
          py::gil_scoped_release unlocked;
          return run(params, threads, cuda, pointer<void>(stream));
        },
        py::kw_only(), py::arg("dtype"), py::arg("form"), py::arg("weight_map"), py::arg("count"),
        py::arg("logp"), py::arg("old_logp"), py::arg("entropy"), py::arg("advantages"),
        py::arg("mask"), py::arg("collision"), py::arg("collision_logp"), py::arg("lambda_min"),
        py::arg("lambda_max"), py::arg("floor"), py::arg("range"), py::arg("weights"),
        py::arg("threads"), py::arg("cuda"), py::arg("stream"));
  };
  bind_steer("steer_range", [](const SteerWeights& params, int threads, bool cuda, void* stream) {
    if (!cuda) return steer_range_cpu(params, threads);
    raise_if(steer_range_cuda(params, stream));
    return int64_t{-1};
  });
  bind_steer("steer_weights", [](const SteerWeights& params, int threads, bool cuda, void* stream) {
    if (cuda) {
      raise_if(steer_weights_cuda(params, stream));
    } else {
      steer_weights_cpu(params, threads);
    }
    return int64_t{-1};
  });
}

}  // namespace entropy_ext
