// Stands in for the CUDA launchers in a build without nvcc.
#include "../token_stats.h"

namespace entropy_ext {
namespace {

constexpr char kError[] = "entropy_ext was built without CUDA; reinstall it where nvcc is found";

}  // namespace

int64_t token_stats_forward_scratch_bytes(Dtype, int64_t, int64_t, int) { return 0; }
const char* token_stats_forward_cuda(const TokenStatsForward&, void*) { return kError; }
const char* token_stats_backward_cuda(const TokenStatsBackward&, void*) { return kError; }
const char* cuda_multiprocessors(int, int*) { return kError; }

}  // namespace entropy_ext
