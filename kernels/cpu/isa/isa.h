// Which instruction set the f32 kernels use. Every kernels/cpu/isa/NAME.cpp is compiled twice, for
// AVX2 + FMA and for AVX-512 (F, BW, DQ, VL, CD), and exports one table of function pointers:
//   struct NormIsa { void (*layer_norm)(...); };      // in NAME_isa.h
//   extern const NormIsa norm_avx2, norm_avx512;
// Such a file includes only <cstdint>, <cstddef>, <immintrin.h> and headers of this folder, and
// keeps all its code in an anonymous namespace: an inline function of the standard library
// compiled for AVX-512 could otherwise be the copy the linker keeps for everybody.
#pragma once

namespace parlo::cpu {

enum class Isa { avx2, avx512 };

// The best the CPU runs; PARLO_ISA=avx2 or avx512 in the environment overrides (tests).
Isa isa();
// AVX-512 BF16 dot products (vdpbf16ps) can be used.
bool has_avx512_bf16();

}  // namespace parlo::cpu

// The table of a family for this CPU: PARLO_ISA_TABLE(norm).layer_norm(...)
#define PARLO_ISA_TABLE(family) \
  (::parlo::cpu::isa() == ::parlo::cpu::Isa::avx512 ? family##_avx512 : family##_avx2)

// Inside a file that is compiled twice: the name of its table, norm_avx512 or norm_avx2.
#define PARLO_ISA_JOIN2(a, b) a##_##b
#define PARLO_ISA_JOIN(a, b) PARLO_ISA_JOIN2(a, b)
#define PARLO_ISA_NAME(family) PARLO_ISA_JOIN(family, PARLO_ISA)
