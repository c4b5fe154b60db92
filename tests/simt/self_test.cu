// Checks every emulated instruction and runtime function against plain C++, under schedules 0..5.
#include "tests/simt/self_test.cuh"

int main() {
  struct {
    const char* name;
    void (*run)();
  } const tests[] = {{"threads", test_threads},
                     {"matrix", test_matrix},
                     {"wgmma", test_wgmma},
                     {"bulk", test_bulk},
                     {"runtime", test_runtime}};
  for (uint64_t seed = 0; seed < 6; ++seed) {
    simt::options().seed = seed;
    for (const auto& test : tests) {
      try {
        test.run();
      } catch (const std::exception& e) {
        ++failures;
        std::printf("FAIL %s, schedule %d: %s\n", test.name, int(seed), e.what());
      }
    }
  }
  if (simt::stats().unhooked) {
    ++failures;
    std::printf("FAIL: %d shared bytes written without a hook\n", int(simt::stats().unhooked));
  }
  std::printf("%d failures, %.0f ms in kernels\n", failures, simt::stats().ms);
  return failures ? 1 : 0;
}
