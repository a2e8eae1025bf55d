// Arrays of one number per token, several tokens to a thread.
//
// Memory is read in groups of four neighbouring tokens: 16 bytes of float. A thread has kTokens of
// them, in groups a block's width apart, so that neighbouring threads read neighbouring groups.
#pragma once

#include <cstring>
#include <type_traits>

#include "block_reduce.cuh"

namespace entropy_ext {

constexpr int kGroup = 4;

// What a block takes at once, where each thread has kTokens.
template <int kTokens>
constexpr int64_t kTile = int64_t{kThreads} * kTokens;

// Blocks of one tile each, `most` at most. At least one: with no tokens there may still be something
// to write.
template <int kTokens>
int64_t tile_blocks(int64_t count, int64_t most = INT32_MAX) {
  const int64_t tiles = count > 0 ? (count + kTile<kTokens> - 1) / kTile<kTokens> : 1;
  return tiles < most ? tiles : most;
}

// Where the tokens of this thread stand: the first of the tile that begins at `tile`, and number k
// from there.
__device__ __forceinline__ int64_t first_token(int64_t tile) {
  return tile + int64_t{threadIdx.x} * kGroup;
}
__device__ __forceinline__ int64_t token_position(int64_t first, int k) {
  return first + k / kGroup * (kThreads * kGroup) + k % kGroup;
}

// 16 bytes, or 4 where a group is no longer.
template <class T>
using GroupAccess = std::conditional_t<sizeof(T) == 1, uint32_t, uint4>;

// Whether all tokens of this thread exist, in groups that begin where wide accesses may.
template <int kTokens, class T>
__device__ __forceinline__ bool whole_groups(const T* array, int64_t first, int64_t count) {
  return token_position(first, kTokens - 1) < count &&
         reinterpret_cast<uintptr_t>(array) % sizeof(GroupAccess<T>) == 0;
}

// 0 beyond the end. A group at a time where it can be; all loads are in flight before the first is
// used.
template <int kTokens, class T>
__device__ __forceinline__ void load_tokens(const void* from, int64_t first, int64_t count,
                                            T (&tokens)[kTokens]) {
  using Access = GroupAccess<T>;
  constexpr int kAccesses = sizeof(T) * kGroup / sizeof(Access);
  const T* const array = static_cast<const T*>(from);
  if (whole_groups<kTokens>(array, first, count)) {
#pragma unroll
    for (int k = 0; k < kTokens; k += kGroup) {
      const T* const group = array + token_position(first, k);
      Access bits[kAccesses];
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) {
        bits[i] = load_aligned(reinterpret_cast<const Access*>(group) + i);
      }
      memcpy(tokens + k, bits, sizeof(bits));
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < kTokens; ++k) {
    const int64_t position = token_position(first, k);
    tokens[k] = position < count ? array[position] : T(0);
  }
}

template <int kTokens, class T>
__device__ __forceinline__ void store_tokens(const T (&tokens)[kTokens], int64_t first,
                                             int64_t count, void* to) {
  using Access = GroupAccess<T>;
  constexpr int kAccesses = sizeof(T) * kGroup / sizeof(Access);
  T* const array = static_cast<T*>(to);
  if (whole_groups<kTokens>(array, first, count)) {
#pragma unroll
    for (int k = 0; k < kTokens; k += kGroup) {
      Access bits[kAccesses];
      memcpy(bits, tokens + k, sizeof(bits));
      Access* const group = reinterpret_cast<Access*>(array + token_position(first, k));
#pragma unroll
      for (int i = 0; i < kAccesses; ++i) store_aligned(group + i, bits[i]);
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < kTokens; ++k) {
    const int64_t position = token_position(first, k);
    if (position < count) array[position] = tokens[k];
  }
}

// A flag is a byte that is not 0.
using Flag = unsigned char;

// Of an array that may be absent: then `absent` for every token that exists.
template <int kTokens>
__device__ __forceinline__ void load_flags(const bool* from, int64_t first, int64_t count,
                                           bool absent, Flag (&flags)[kTokens]) {
  if (from != nullptr) {
    load_tokens(from, first, count, flags);
    return;
  }
#pragma unroll
  for (int k = 0; k < kTokens; ++k) flags[k] = absent && token_position(first, k) < count;
}

}  // namespace entropy_ext
