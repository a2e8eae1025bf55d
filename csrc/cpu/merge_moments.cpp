#include "../selection_math.h"

namespace entropy_ext {

// A handful of additions, the same under every instruction set.
void merge_moments_cpu(const MergeMoments& params) {
  MomentSums sums{};
  for (int64_t i = 0; i < params.count; ++i) add_sums(sums, params.parts[i]);
  *params.sums = sums;
}

}  // namespace entropy_ext
