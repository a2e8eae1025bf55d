// The gradient of a vector of logits.
#pragma once

#include "../row_gradient.h"
#include "simd.h"

namespace entropy_ext::ENTROPY_EXT_ISA {

template <class Real>
ENTROPY_INLINE Vector<Real> gradient_of(Vector<Real> z, const RowGradient<Real>& row) {
  Vector<Real> u = (z - splat(row.row_max)) * splat(row.log2_scale);
  const Vector<Real> e = exp2_guarded<Real>(u);
  return e * fused(splat(row.slope), u, splat(row.offset));
}

}  // namespace entropy_ext::ENTROPY_EXT_ISA
