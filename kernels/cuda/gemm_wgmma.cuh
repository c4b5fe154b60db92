// The products of gemm_sm90.cu, both operands in shared memory: d[64, N] = a b, or += where `add`,
// with a [64, 16] K-major and b either [N, 16] K-major or, Turned, [16, N] N-major. Accumulators
// lie as in ptx.cuh. Source: PTX ISA, "wgmma.mma_async".
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace parlo::cuda::ptx {

#ifdef PARLO_SIMT

template <bool Turned, int N>
inline void wgmma_tile(float (&d)[N], uint64_t a, uint64_t b, bool add, SIMT_HERE) {
  simt::wgmma(d, 2 * N, nullptr, a, b, add, simt::kBf16, false, Turned, loc);
}

#else

#define PARLO_F8(i)                                                                   \
  "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), \
      "+f"(d[(i) + 5]), "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define PARLO_F32(i) PARLO_F8(i), PARLO_F8((i) + 8), PARLO_F8((i) + 16), PARLO_F8((i) + 24)
#define PARLO_D64                                                                                \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"   \
  "%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PARLO_D128                                                                              \
  PARLO_D64                                                                                     \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,"   \
  "%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106," \
  "%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,"  \
  "%125,%126,%127"

template <bool Turned>
__device__ __forceinline__ void wgmma_tile(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" PARLO_D64
      "}, %64, %65, p, 1, 1, 0, %67;\n}"
      : PARLO_F32(0), PARLO_F32(32)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Turned ? 1 : 0));
}
template <bool Turned>
__device__ __forceinline__ void wgmma_tile(float (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" PARLO_D128
      "}, %128, %129, p, 1, 1, 0, %131;\n}"
      : PARLO_F32(0), PARLO_F32(32), PARLO_F32(64), PARLO_F32(96)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Turned ? 1 : 0));
}
#undef PARLO_F8
#undef PARLO_F32
#undef PARLO_D64
#undef PARLO_D128

#endif

}  // namespace parlo::cuda::ptx
