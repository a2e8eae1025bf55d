"""Faults to plant in the kernels over the vocabulary."""

from __future__ import annotations

from tests.simt.planting import Fault
from tests.simt.toolchain import QUICK_ADDRESS, QUICK_THREAD

REDUCE = "cuda/block_reduce.cuh"
IO = "cuda/vector_io.cuh"
EXTREMES = "cuda/extremes.cuh"
FORWARD = "cuda/token_stats_forward.cu"
BACKWARD = "cuda/token_stats_backward.cu"
MOMENTS = "softmax_moments.h"
ROWS = "rows.h"
KEPT = "kept_ids.h"
SUPPORT = "cuda/support_stats.cu"

FAULTS = [
    Fault(
        "no barrier before the block's maximum",
        REDUCE,
        "  // Every warp reads the maxima of all the others.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "no barrier before the block's total",
        REDUCE,
        "  // Thread 0 reads what lane 0 of every warp wrote.\n  __syncthreads();\n",
        "",
    ),
    Fault(
        "threads leave before the barrier",
        FORWARD,
        "  const auto total = block_total(moments, scale.log2);\n",
        "  if (threadIdx.x >= 128) return;\n"
        "  const auto total = block_total(moments, scale.log2);\n",
    ),
    Fault(
        "a lane leaves before the shuffle",
        REDUCE,
        "    moments.add(shuffle_down(moments, lanes));\n",
        "    if (lane != 31) moments.add(shuffle_down(moments, lanes));\n",
    ),
    Fault(
        "shuffle over half the distance",
        REDUCE,
        "__shfl_down_sync(kAllLanes, moments.dot, lanes)",
        "__shfl_down_sync(kAllLanes, moments.dot, lanes / 2)",
    ),
    Fault("one warp too many", REDUCE, "int w = 1; w < kWarps", "int w = 1; w <= kWarps"),
    Fault("shared maxima not written", REDUCE, "  if (lane == 0) warp_max[warp] = max;\n", ""),
    Fault(
        "a vector past the end of the row",
        IO,
        "if (bytes_ == 0 && begin >= begin_ && begin + kCount * step <= end_) {",
        "if (bytes_ == 0 && begin >= begin_ && begin + (kCount - 1) * step <= end_) {",
    ),
    Fault(
        "the upper half of a window past the end of the row",
        IO,
        "const int reach = aligned ? kWidth : 2 * kWidth;",
        "const int reach = kWidth;",
    ),
    Fault(
        "an element past the end of the row",
        IO,
        "column + i < end_;\n        Storage x;",
        "column + i <= end_;\n        Storage x;",
    ),
    Fault("misaligned loads", IO, "bytes_ == 0 && begin >= begin_", "begin >= begin_"),
    Fault(
        "a window before the storage, though nothing from there is used",
        IO,
        "return first + v * step >= begin_ && first",
        "return column + v * step >= begin_ && first",
        QUICK_ADDRESS,
    ),
    Fault(
        "what a neighbour overwrites in place is read, though nothing of it is used",
        IO,
        "if (!aligned) next[v] =",
        "next[v] =",
        QUICK_THREAD,
    ),
    Fault(
        "an incomplete vector passed over",
        IO,
        "straddles || (at + kWidth > begin_ && at < end_);",
        "straddles || (at + kWidth > begin_ && at + kWidth < end_);",
    ),
    Fault(
        "an incomplete vector in its neighbour's place",
        IO,
        "bits[w] = w == v ? elements : bits[w];",
        "bits[w] = w == kCount - 1 ? elements : bits[w];",
    ),
    Fault(
        "half of the pairs left out of the maximum",
        EXTREMES,
        "return fmax(widen(high_.x), widen(high_.y));",
        "return widen(high_.x);",
    ),
    Fault(
        "half of the pairs left out of the minimum",
        EXTREMES,
        "return fmin(widen(low_.x), widen(low_.y));",
        "return widen(low_.x);",
    ),
    Fault(
        "segments of another thread",
        FORWARD,
        "const Moments moments = merged[threadIdx.x];",
        "const Moments moments = merged[threadIdx.x ^ 1];",
    ),
    Fault("a window off by a word", IO, "bytes & 4 ? w[i + 1] : w[i]", "bytes & 4 ? w[i] : w[i]"),
    Fault(
        "a window past the end of the storage, though nothing from there is used",
        IO,
        "const int reach = aligned ? kWidth : 2 * kWidth;",
        "const int reach = kWidth + bytes_ / static_cast<int>(sizeof(Storage));",
        QUICK_ADDRESS,
    ),
    Fault(
        "−∞ − (−∞) in a thread without a finite logit",
        FORWARD,
        "moments.max == negative_infinity<Real>() ? Real(0) : moments.max;",
        "moments.max;",
    ),
    Fault(
        "0·∞ for a logit of −∞",
        FORWARD,
        "at_least((z[i] - centre) * log2_scale, Constants<Real>::kDeadExponent);",
        "(z[i] - centre) * log2_scale;",
    ),
    Fault(
        "−∞ − (−∞) in the merge",
        MOMENTS,
        "  if (old_max == new_max) return Real(0);\n",
        "",
    ),
    Fault(
        "Σ e·u left at a thread's former maximum",
        FORWARD,
        "    dot = fused(sum, shift, dot) * factor;\n    sum",
        "    dot = dot * factor;\n    sum",
    ),
    Fault(
        "Σ e²·u left at a thread's former maximum",
        FORWARD,
        "square_dot = fused(square, shift, square_dot) * factor * factor;",
        "square_dot = square_dot * factor * factor;",
    ),
    Fault(
        "finite logits counted twice",
        FORWARD,
        "moments.live += kLoads * kWidth;",
        "moments.live += 2 * kLoads * kWidth;",
    ),
    Fault(
        "row offsets in 32 bits",
        ROWS,
        "return offset + row * layout.stride[0];",
        "return static_cast<int32_t>(offset + row * layout.stride[0]);",
    ),
    Fault(
        "segments merged from right to left",
        FORWARD,
        "for (int s = 0; s < segments; ++s) {",
        "for (int s = segments; s-- > 0;) {",
    ),
    Fault(
        "scratch memory for one segment only",
        FORWARD,
        "return rows * segments * kThreads *",
        "return rows * kThreads *",
    ),
    Fault(
        "many threads write the same constant",
        FORWARD,
        "  if (threadIdx.x != 0) return;\n",
        "",
        QUICK_THREAD,
    ),
    Fault(
        "a vector stored past the end of the row",
        BACKWARD,
        "column >= begin && column + kVector<Storage> <= end",
        "column >= begin && column < end",
    ),
    Fault(
        "an element stored before the row",
        BACKWARD,
        "if (column + i >= begin && column + i < end)",
        "if (column + i < end)",
    ),
    Fault(
        "no block for the vector beyond whole tiles",
        BACKWARD,
        "(params.vocab + kVector<Storage> - 1 + block_columns - 1)",
        "(params.vocab + block_columns - 1)",
    ),
    Fault(
        "a block's second tile left out",
        BACKWARD,
        "tile < block_end && tile < end; tile += kTile<Storage>",
        "tile < block_end && tile < end; tile += 2 * kTile<Storage>",
    ),
    Fault(
        "the gradient of an impossible token",
        BACKWARD,
        " && z[i] != negative_infinity<Real>()",
        "",
    ),
    Fault(
        "half of the kept ids",
        SUPPORT,
        "begin += kThreads * kGathers) {",
        "begin += 2 * kThreads * kGathers) {",
    ),
    Fault(
        "a kept id past the end of the vocabulary",
        KEPT,
        "ids_[at] < vocab &&",
        "ids_[at] <= vocab &&",
    ),
    Fault(
        "ids that do not increase",
        KEPT,
        "(at == 0 || ids_[at - 1] < ids_[at]);",
        "true;",
    ),
    Fault(
        "the token counted twice where it is listed",
        KEPT,
        "inserted_ = place_ == listed_ || ids_[place_] != token_;",
        "inserted_ = true;",
    ),
    Fault(
        "0·∞ for a kept logit of −∞",
        SUPPORT,
        "const Real u = at_least((z[v] - centre) * log2_scale, Constants<Real>::kDeadExponent);",
        "const Real u = (z[v] - centre) * log2_scale;",
    ),
    Fault(
        "the token's gradient of the whole row lost where it is kept",
        SUPPORT,
        "      of_whole = of_whole + whole.at_token;\n",
        "",
    ),
    Fault(
        "kept gradients without those of the whole row",
        SUPPORT,
        "narrow(of_whole + of_part, out + id);",
        "narrow(of_part, out + id);",
    ),
    Fault(
        "the gradient of an impossible token among the kept",
        SUPPORT,
        "id == all.tokens[row] && logit != negative_infinity<Real>()",
        "id == all.tokens[row]",
    ),
    Fault(
        "the gradient of a malformed row left as it is",
        SUPPORT,
        "if (stats[2 * all.rows] == -negative_infinity<Real>()) {",
        "if (stats[2 * all.rows] == negative_infinity<Real>()) {",
    ),
    Fault(
        "kept ids of masked rows looked at",
        SUPPORT,
        "const bool counts = row_counts<Storage>(params, row);",
        "const bool counts = true;",
    ),
    Fault(
        "masked rows read by the backward pass",
        BACKWARD,
        "if (masked(params, r)) {",
        "if (false) {",
    ),
]
