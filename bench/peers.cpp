#include "bench/peers.h"

#include <dlfcn.h>

#include <cstdlib>

#include "kernels/cpu/isa/isa.h"

extern "C" void parlo_bench_eigen_gemm(const float* a, bool trans_a, const float* b, bool trans_b,
                                       float* c, long m, long n, long k);

namespace parlo::bench {
namespace {

using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                       const float* a, int lda, const float* b, int ldb, float beta, float* c,
                       int ldc);

struct OpenBlas {
  Sgemm sgemm = nullptr;
  void (*set_threads)(int) = nullptr;
  const char* (*corename)() = nullptr;

  OpenBlas() {
    if (cpu::isa() == cpu::Isa::avx512) setenv("OPENBLAS_CORETYPE", "SKYLAKEX", 0);
    void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    sgemm = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
    set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
    corename = reinterpret_cast<const char* (*)()>(dlsym(library, "openblas_get_corename"));
  }
};

const OpenBlas& openblas() {
  static const OpenBlas library;
  return library;
}

}  // namespace

void eigen_gemm(const PeerGemm& g) {
  parlo_bench_eigen_gemm(g.a, g.trans_a, g.b, g.trans_b, g.c, g.m, g.n, g.k);
}

bool has_openblas() {
  return openblas().sgemm != nullptr;
}

std::string openblas_name() {
  return has_openblas() && openblas().corename ? openblas().corename() : "not installed";
}

void openblas_gemm(const PeerGemm& g, int threads) {
  constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;
  if (openblas().set_threads) openblas().set_threads(threads);
  const auto m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
  openblas().sgemm(kRowMajor, g.trans_a ? kTrans : kNoTrans, g.trans_b ? kTrans : kNoTrans, m, n, k,
                   1, g.a, g.trans_a ? m : k, g.b, g.trans_b ? k : n, 0, g.c, n);
}

}  // namespace parlo::bench
