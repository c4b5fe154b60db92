// bugs_test BUG SEED: runs the correct twin of a planted bug, then the bug, and says by its exit
// code what happened: 0 nothing was noticed, 1 the simulator (or a sanitizer) reported it, 2 the
// values are wrong, 3 the correct twin fails, 4 no such bug. run_bugs.sh compares that with
// bugs_expected.txt.
#include "tests/simt/bugs/async_bugs.cuh"
#include "tests/simt/bugs/block_bugs.cuh"
#include "tests/simt/bugs/gemm.cuh"

namespace {

enum Outcome { kUnnoticed, kReported, kWrongValues, kTwinFails, kUnknown };

using Kernel = void (*)(float*, const float*);
struct Case {
  const char* name;
  Kernel fixed, bug;
  size_t smem;
  unsigned blocks;
};
#define CASE(name, smem, blocks)                                \
  Case {                                                        \
#name, name##_kernel < 0>, name##_kernel < 1>, smem, blocks \
  }
const Case kCases[] = {
    CASE(sum, 0, 1),           CASE(reuse, 0, 1),          CASE(warp, 0, 1),
    CASE(shared_oob, 0, 1),    CASE(dynamic_oob, 1024, 1), CASE(global_oob, 0, 1),
    CASE(misaligned, 0, 1),    CASE(uninit, 0, 1),         CASE(divergent, 0, 1),
    CASE(two_barriers, 0, 1),  CASE(shuffle, 0, 1),        CASE(bar_arrive, 0, 1),
    CASE(shared_atomic, 0, 1), CASE(blocks, 0, 2),         CASE(ldg, 0, 2),
    CASE(banks, 0, 1),         CASE(cp_async, 0, 1),       CASE(cp_async_mbar, 0, 1),
    CASE(proxy, 8192, 1),      CASE(mbar_init, 0, 1),      CASE(bulk_tx, 1024, 1),
    CASE(store_reuse, 512, 1), CASE(store_exit, 512, 1),   CASE(store_proxy, 512, 1),
    CASE(stmatrix, 0, 1),
};
#undef CASE

template <int Bug>
bool last_block(const float* in) {
  const Device<float> partial(8), out(32);
  const Device<int> count(std::vector<int>{0});
  launch(last_block_kernel<Bug>, dim3(8), dim3(32), 0, out.p, in, partial.p, count.p);
  return out.get()[0] == 28.0f / 256;
}

// Outcome of `bug` after that of its correct twin; both say whether their values were right.
template <class Fixed, class Bug>
Outcome judge(Fixed fixed, Bug bug) {
  try {
    if (!fixed()) return kTwinFails;
  } catch (const std::exception& e) {
    std::printf("the correct twin fails: %s\n", e.what());
    return kTwinFails;
  }
  simt::print_lint();
  try {
    const bool right = bug();
    simt::print_lint();
    return right ? kUnnoticed : kWrongValues;
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return kReported;
  }
}

Outcome run_case(const Case& c, const float* in) {
  std::vector<float> want;
  const auto values = [&](Kernel kernel) {
    const Device<float> out(256);
    launch(kernel, dim3(c.blocks), dim3(256), c.smem, out.p, in);
    return out.get();
  };
  const auto fixed = [&] {
    want = values(c.fixed);
    return true;
  };
  return judge(fixed, [&] { return close(c.name, values(c.bug), want, 0.0f); });
}

Outcome run(const std::string& name) {
  std::vector<float> in(256);
  for (int i = 0; i < 256; ++i) in[i] = float(i) / 256;
  const Device<float> din(in);
  const auto plain_gemm = [] { return gemm<kNoBug>(128, 128, 384); };
#define GEMM(bug) judge(plain_gemm, [] { return gemm<bug>(128, 128, 384); })
  if (name == "gemm_desc") return GEMM(kBadDescriptor);
  if (name == "gemm_phase") return GEMM(kWrongPhase);
  if (name == "gemm_release") return GEMM(kEarlyRelease);
  if (name == "gemm_empty") return GEMM(kNoEmptyWait);
  if (name == "gemm_tx") return GEMM(kShortTx);
  if (name == "gemm_fence") return GEMM(kNoWgmmaFence);
#undef GEMM
  if (name == "last_block")
    return judge([&] { return last_block<0>(din.p); }, [&] { return last_block<1>(din.p); });
  for (const Case& c : kCases)
    if (name == c.name) return run_case(c, din.p);
  return kUnknown;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  simt::options().seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  simt::options().lint = name == "banks";
  return run(name);
}
