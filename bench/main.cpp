// parlo-bench [--benchmark_filter=REGEX ...]: Google Benchmark's options. Everything takes well
// under two minutes on an idle machine.
#include <benchmark/benchmark.h>

#include "bench/peers.h"
#include "kernels/cpu/isa/isa.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("instruction set",
                              parlo::cpu::isa() == parlo::cpu::Isa::avx512 ? "avx512" : "avx2");
  benchmark::AddCustomContext("OpenBLAS core", parlo::bench::openblas_name());
  benchmark::AddCustomContext("share_%", "of the FMA probe, or of a copy in the L2");
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
