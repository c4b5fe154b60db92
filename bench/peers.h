// Other libraries' products, in this process. Row-major, C = op(A) op(B), contiguous.
#pragma once

#include <cstdint>
#include <string>

namespace parlo::bench {

struct PeerGemm {
  const float* a;
  bool trans_a;
  const float* b;
  bool trans_b;
  float* c;
  int64_t m, n, k;
};

// Eigen, compiled for this very machine.
void eigen_gemm(const PeerGemm& g);

// OpenBLAS from the system at run time; false where it is not installed. Version 0.3.21 takes a
// CPU it does not know for a Haswell and runs at half speed: unless OPENBLAS_CORETYPE says
// otherwise it is told SKYLAKEX where there is AVX-512.
bool has_openblas();
void openblas_gemm(const PeerGemm& g, int threads);
std::string openblas_name();

}  // namespace parlo::bench
