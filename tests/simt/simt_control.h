// What a test chooses about the emulation, beside the kernel it launches.
#pragma once

#include <cstdint>

namespace simt {

// The order in which blocks and threads run from here on.
void set_seed(uint64_t seed);

// Let fast_exp2(float) err by up to `ulps`, a function of its argument and `seed`, for the hardware
// promises no more than 2.
void set_rounding(int ulps, uint64_t seed);

}  // namespace simt
