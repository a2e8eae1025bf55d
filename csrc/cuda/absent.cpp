// Stands in for the CUDA launchers in a build without nvcc.
#include "../support_stats.h"
#include "../token_selection.h"
#include "../token_stats.h"

namespace entropy_ext {
namespace {

constexpr char kError[] = "built without CUDA; reinstall it where nvcc is found";

}  // namespace

int64_t token_stats_forward_scratch_bytes(Dtype, int64_t, int64_t, int) { return 0; }
const char* token_stats_forward_cuda(const TokenStatsForward&, void*) { return kError; }
const char* token_stats_backward_cuda(const TokenStatsBackward&, void*) { return kError; }
const char* support_forward_cuda(const SupportForward&, void*) { return kError; }
const char* support_backward_cuda(const SupportBackward&, void*) { return kError; }
int64_t moment_blocks(int64_t) { return 0; }
const char* token_moments_cuda(const TokenMoments&, void*) { return kError; }
const char* merge_moments_cuda(const MergeMoments&, void*) { return kError; }
const char* token_covariance_cuda(const TokenCovariance&, void*) { return kError; }
const char* clipped_tokens_cuda(const ClippedTokens&, void*) { return kError; }
const char* select_pass_cuda(const TokenSelect&, int, void*) { return kError; }
const char* select_mark_cuda(const TokenSelect&, void*) { return kError; }
const char* entropy_change_cuda(const EntropyChange&, void*) { return kError; }
const char* steer_range_cuda(const SteerWeights&, void*) { return kError; }
const char* steer_weights_cuda(const SteerWeights&, void*) { return kError; }
const char* cuda_multiprocessors(int, int*) { return kError; }

}  // namespace entropy_ext
