// The wrappers of Hopper's warpgroup products (sm_90a) in ptx.cuh. Four warps: d[64, n] = a b, or
// += where `add`. Warp w has rows 16 w .. 16 w + 15; d[4 j .. 4 j + 3] of a lane lie as in
// mma_bf16, of columns 8 j .. Source: PTX ISA, "wgmma.mma_async".
#pragma once

#include "tensor/cuda/launch.cuh"

namespace parlo::cuda::ptx {

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all but the N latest groups are done; accumulators must not be touched before.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Operands of the assembler: accumulators and, for the text, their numbers.
#define PARLO_F8(i)                                                                   \
  "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), \
      "+f"(d[(i) + 5]), "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define PARLO_F32(i) PARLO_F8(i), PARLO_F8((i) + 8), PARLO_F8((i) + 16), PARLO_F8((i) + 24)
#define PARLO_F64(i) PARLO_F32(i), PARLO_F32((i) + 32)
#define PARLO_D32                                                                         \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23" \
  ",%24,%25,%26,%27,%28,%29,%30,%31"
#define PARLO_D64                                                                            \
  PARLO_D32                                                                                  \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53" \
  ",%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PARLO_D128                                                                           \
  PARLO_D64                                                                                  \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85" \
  ",%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105"   \
  ",%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122"    \
  ",%123,%124,%125,%126,%127"
// The product for n columns. `add` is the number of that operand, and `operands` follow d.
#define PARLO_WGMMA(n, d, add, operands) \
  "{\n .reg .pred p;\n"                  \
  " setp.ne.b32 p, %" add                \
  ", 0;\n"                               \
  "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" d "}, " operands ";\n}"

// a [64, 16] K-major and b either [n, 16] K-major or, Turned, [16, n] N-major, both in shared
// memory (descriptors).
template <bool Turned = false>
__device__ __forceinline__ void wgmma(float (&d)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(PARLO_WGMMA("64", PARLO_D32, "34", "%32, %33, p, 1, 1, 0, %35")
               : PARLO_F32(0)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Turned ? 1 : 0));
}
template <bool Turned = false>
__device__ __forceinline__ void wgmma(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(PARLO_WGMMA("128", PARLO_D64, "66", "%64, %65, p, 1, 1, 0, %67")
               : PARLO_F64(0)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Turned ? 1 : 0));
}
template <bool Turned = false>
__device__ __forceinline__ void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(PARLO_WGMMA("256", PARLO_D128, "130", "%128, %129, p, 1, 1, 0, %131")
               : PARLO_F64(0), PARLO_F64(64)
               : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Turned ? 1 : 0));
}
// a [64, 16] in registers, as of mma_bf16; b [16, n] N-major in shared memory.
__device__ __forceinline__ void wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                      bool add) {
  asm volatile(PARLO_WGMMA("64", PARLO_D32, "37", "{%32,%33,%34,%35}, %36, p, 1, 1, 1")
               : PARLO_F32(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
__device__ __forceinline__ void wgmma(float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                      bool add) {
  asm volatile(PARLO_WGMMA("128", PARLO_D64, "69", "{%64,%65,%66,%67}, %68, p, 1, 1, 1")
               : PARLO_F64(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
#undef PARLO_F8
#undef PARLO_F32
#undef PARLO_F64
#undef PARLO_D32
#undef PARLO_D64
#undef PARLO_D128
#undef PARLO_WGMMA

}  // namespace parlo::cuda::ptx
