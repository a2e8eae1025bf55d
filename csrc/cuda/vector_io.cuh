// Sixteen bytes of logits at a time, whatever the alignment of the row.
#pragma once

#include "../rows.h"
#include "launch.cuh"

namespace entropy_ext {

using BFloat16 = __nv_bfloat16;
using Float16 = __half;

// Elements in 16 bytes.
template <class Storage>
constexpr int kVector = 16 / static_cast<int>(sizeof(Storage));

// Blocks that must fit on a multiprocessor: with 64 bytes a thread in flight, enough to cover the
// latency of memory (64 KiB at 1024 threads). Doubles need twice the registers.
template <class Storage>
constexpr int kResidentBlocks = sizeof(Storage) == 8 ? 2 : 4;

template <class To, class From>
__device__ __forceinline__ To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(to));  // void*: __half2 has constructors
  return to;
}

// Widening bfloat16 is a shift; written so for two at once, it is one operation each.
__device__ __forceinline__ void unpack(uint4 bits, float (&out)[8], BFloat16) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = bit_cast<float>(words[i] << 16);
    out[2 * i + 1] = bit_cast<float>(words[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ void unpack(uint4 bits, float (&out)[8], Float16) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(bit_cast<__half2>(words[i]));
    out[2 * i] = pair.x;
    out[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void unpack(uint4 bits, float (&out)[4], float) {
  out[0] = bit_cast<float>(bits.x);
  out[1] = bit_cast<float>(bits.y);
  out[2] = bit_cast<float>(bits.z);
  out[3] = bit_cast<float>(bits.w);
}

__device__ __forceinline__ void unpack(uint4 bits, double (&out)[2], double) {
  out[0] = bit_cast<double>(make_uint2(bits.x, bits.y));
  out[1] = bit_cast<double>(make_uint2(bits.z, bits.w));
}

__device__ __forceinline__ uint4 pack(const float (&x)[8], BFloat16) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    words[i] = bit_cast<uint32_t>(__floats2bfloat162_rn(x[2 * i], x[2 * i + 1]));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ uint4 pack(const float (&x)[8], Float16) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    words[i] = bit_cast<uint32_t>(__floats2half2_rn(x[2 * i], x[2 * i + 1]));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ uint4 pack(const float (&x)[4], float) {
  return make_uint4(bit_cast<uint32_t>(x[0]), bit_cast<uint32_t>(x[1]), bit_cast<uint32_t>(x[2]),
                    bit_cast<uint32_t>(x[3]));
}

__device__ __forceinline__ uint4 pack(const double (&x)[2], double) {
  const uint2 low = bit_cast<uint2>(x[0]);
  const uint2 high = bit_cast<uint2>(x[1]);
  return make_uint4(low.x, low.y, high.x, high.y);
}

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(Float16 x) { return __half2float(x); }
__device__ __forceinline__ void narrow(float x, float* out) { *out = x; }
__device__ __forceinline__ void narrow(double x, double* out) { *out = x; }
__device__ __forceinline__ void narrow(float x, BFloat16* out) { *out = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, Float16* out) { *out = __float2half_rn(x); }

// Element i of 16 packed bytes, for elements that are read one by one.
template <class Storage>
__device__ __forceinline__ uint32_t placed(Storage x, int i) {
  static_assert(sizeof(Storage) <= 4, "a double fills two words: pack() places it");
  if constexpr (sizeof(Storage) == 4) {
    return bit_cast<uint32_t>(x);
  } else {
    return static_cast<uint32_t>(bit_cast<uint16_t>(x)) << (16 * (i % 2));
  }
}

// Sixteen bytes of −∞.
template <class Storage>
__device__ __forceinline__ uint4 nothing() {
  using Real = typename RealOf<Storage>::Type;
  Real x[kVector<Storage>];
#pragma unroll
  for (int i = 0; i < kVector<Storage>; ++i) x[i] = negative_infinity<Real>();
  return pack(x, Storage());
}

// The 16 bytes that begin `bytes` (0 … 15, a multiple of the element size, the same for the whole
// row) into the 32 bytes low, high. Selects, for registers cannot be indexed.
__device__ __forceinline__ uint4 window(uint4 low, uint4 high, int bytes) {
  uint32_t w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 6; ++i) w[i] = bytes & 8 ? w[i + 2] : w[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) w[i] = bytes & 4 ? w[i + 1] : w[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = bytes & 2 ? w[i] >> 16 | w[i + 1] << 16 : w[i];
  return make_uint4(w[0], w[1], w[2], w[3]);
}

// Reads columns [begin, end) of a row, 16 bytes at a time from any column, with −∞ beyond the ends.
//
// A row whose address is no multiple of 16 (odd V, a storage offset) is read as the aligned 16 bytes
// on either side of each vector, so that its elements still meet the accumulators that their column
// says; the second load finds in the first-level cache what the neighbouring thread fetched.
template <class Storage>
class RowReader {
 public:
  __device__ __forceinline__ RowReader(const Storage* row, int begin, int end)
      : row_(row),
        begin_(begin),
        end_(end),
        bytes_(static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16)) {}

  // The vectors v·threads + threadIdx.x, v = 0, 1, …, from column `begin` on, a multiple of kVector.
  // All are in flight before the first is used.
  template <int kCount>
  __device__ __forceinline__ void load(int begin, int threads, uint4 (&bits)[kCount]) const {
    constexpr int kWidth = kVector<Storage>;
    const int step = threads * kWidth;
    const int column = begin + static_cast<int>(threadIdx.x) * kWidth;
    if (bytes_ == 0 && begin >= begin_ && begin + kCount * step <= end_) {
#pragma unroll
      for (int v = 0; v < kCount; ++v) {
        bits[v] = load_streaming(reinterpret_cast<const uint4*>(row_ + column + v * step));
      }
      return;
    }
    const bool aligned = bytes_ == 0;
    const int first = column - bytes_ / static_cast<int>(sizeof(Storage));
    const int reach = aligned ? kWidth : 2 * kWidth;
    const auto inside = [&](int v) {
      return first + v * step >= begin_ && first + v * step + reach <= end_;
    };
    uint4 next[kCount];
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      if (inside(v)) {
        const uint4* const from = reinterpret_cast<const uint4*>(row_ + first + v * step);
        bits[v] = aligned ? load_streaming(from) : load_cached(from);
        if (!aligned) next[v] = load_cached(from + 1);
      }
    }
    bool straddles = false;
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      const int at = column + v * step;
      if (!inside(v)) {
        bits[v] = nothing<Storage>();
        straddles = straddles || (at + kWidth > begin_ && at < end_);
      } else if (!aligned) {
        bits[v] = window(bits[v], next[v], bytes_);
      }
    }
    if (!straddles) return;
    // At most four vectors of a row: the code once, with selects, for registers cannot be indexed.
#pragma unroll 1
    for (int v = 0; v < kCount; ++v) {
      if (inside(v)) continue;
      const uint4 elements = load_elements(column + v * step);
#pragma unroll
      for (int w = 0; w < kCount; ++w) bits[w] = w == v ? elements : bits[w];
    }
  }

 private:
  __device__ __forceinline__ uint4 load_elements(int column) const {
    if constexpr (sizeof(Storage) == 8) {
      double x[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool inside = column + i >= begin_ && column + i < end_;
        x[i] = inside ? row_[column + i] : negative_infinity<double>();
      }
      return pack(x, double());
    } else {
      constexpr int kPerWord = 4 / static_cast<int>(sizeof(Storage));
      uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < kVector<Storage>; ++i) {
        const bool inside = column + i >= begin_ && column + i < end_;
        Storage x;
        narrow(negative_infinity<float>(), &x);
        if (inside) x = row_[column + i];
        words[i / kPerWord] |= placed(x, i);
      }
      return make_uint4(words[0], words[1], words[2], words[3]);
    }
  }

  const Storage* row_;
  int begin_;
  int end_;
  int bytes_;
};

}  // namespace entropy_ext
