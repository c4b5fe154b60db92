#include "kernels/cpu/isa/isa.h"

#include <cstdlib>
#include <string_view>

#include "tensor/error.h"

namespace parlo::cpu {
namespace {

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512cd");
}

Isa choose() {
  const char* wish = std::getenv("PARLO_ISA");
  if (!wish || !*wish) return has_avx512() ? Isa::avx512 : Isa::avx2;
  if (std::string_view(wish) == "avx2") return Isa::avx2;
  if (std::string_view(wish) == "avx512" && has_avx512()) return Isa::avx512;
  throw UsageError(concat("PARLO_ISA=", wish, ": expected avx2",
                          has_avx512() ? " or avx512" : " (this CPU has no AVX-512)"));
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

bool has_avx512_bf16() {
  static const bool has = isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
  return has;
}

}  // namespace parlo::cpu
