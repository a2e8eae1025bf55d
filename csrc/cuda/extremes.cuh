// The largest and the smallest logit among the vectors that a thread holds.
#pragma once

#include "vector_io.cuh"

namespace entropy_ext {

// NaN is passed over, and met again where the logits are summed; −∞ and +∞ where nothing else was pushed.
template <class Storage>
class Extremes {
  using Real = typename RealOf<Storage>::Type;

 public:
  __device__ __forceinline__ void push(uint4 bits) {
    Real z[kVector<Storage>];
    unpack(bits, z, Storage());
#pragma unroll
    for (int i = 0; i < kVector<Storage>; ++i) {
      high_ = fmax(high_, z[i]);
      low_ = fmin(low_, z[i]);
    }
  }

  __device__ __forceinline__ Real high() const { return high_; }
  __device__ __forceinline__ Real low() const { return low_; }

 private:
  Real high_ = negative_infinity<Real>();
  Real low_ = -negative_infinity<Real>();
};

// Half precision in pairs, as it is stored: half the operations.
template <class Pair>
class PairExtremes {
 public:
  __device__ __forceinline__ void push(uint4 bits) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high_ = __hmax2(high_, bit_cast<Pair>(words[i]));
      low_ = __hmin2(low_, bit_cast<Pair>(words[i]));
    }
  }

  __device__ __forceinline__ float high() const { return fmax(widen(high_.x), widen(high_.y)); }
  __device__ __forceinline__ float low() const { return fmin(widen(low_.x), widen(low_.y)); }

 private:
  static __device__ __forceinline__ Pair both(float x) {
    Pair pair;
    narrow(x, &pair.x);
    narrow(x, &pair.y);
    return pair;
  }

  Pair high_ = both(negative_infinity<float>());
  Pair low_ = both(-negative_infinity<float>());
};

template <>
class Extremes<BFloat16> : public PairExtremes<__nv_bfloat162> {};
template <>
class Extremes<Float16> : public PairExtremes<__half2> {};

}  // namespace entropy_ext
