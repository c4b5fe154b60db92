// What the other figures are set against: a copy within the device, and cuBLASLt's bf16 product at
// 8192^3 on random data. Measured once a process, whatever is asked for first.
#include "bench/gpu_measure.h"

namespace parlo::bench {

void add_gpu_ceilings() {
  add_gpu_benchmark("ceiling/copy", [](benchmark::State& state) {
    const Ceilings& c = ceilings();
    report(state, c.copy, {0, c.copy_rate * c.copy.median});
  });
  add_gpu_benchmark("ceiling/gemm_8192", [](benchmark::State& state) {
    const Ceilings& c = ceilings();
    report(state, c.gemm, {c.gemm_rate * c.gemm.median, 0});
  });
}

}  // namespace parlo::bench
