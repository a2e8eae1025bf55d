// The host twin of ex2.approx.ftz.f32.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "random.h"
#include "simt.h"
#include "simt_control.h"

namespace simt {
namespace {

int max_ulps = 0;
uint64_t rounding_seed = 0;

}  // namespace

void set_rounding(int ulps, uint64_t seed) {
  max_ulps = ulps;
  rounding_seed = seed;
}

float exp2_approx_ftz(float x) {
  const float exact = std::exp2(x);
  if (exact < FLT_MIN) return 0.0f;
  // At integers the hardware is exact as well.
  if (max_ulps == 0 || !(exact <= FLT_MAX / 2) || x == std::floor(x)) return exact;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  Random random{bits ^ rounding_seed << 32};
  std::memcpy(&bits, &exact, sizeof(bits));
  bits += static_cast<uint32_t>(random.below(2 * max_ulps + 1)) - static_cast<uint32_t>(max_ulps);
  float rounded;
  std::memcpy(&rounded, &bits, sizeof(rounded));
  return rounded < FLT_MIN ? 0.0f : rounded;
}

}  // namespace simt
