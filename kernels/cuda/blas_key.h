// By what an algorithm of cuBLASLt is remembered, and for which sizes it is asked.
#pragma once

#include <cstdint>

#include "kernels/cuda/algorithm_cache.h"
#include "kernels/cuda/blas.h"

namespace parlo::cuda {

// Bytes that every row of an operand starts at a multiple of, at most 16.
struct Alignments {
  int64_t a, b, add, out;  // `out` is that of c, the bias and aux
  explicit Alignments(const GemmArgs& g);
};

// Types, transposes, epilogue, alignments, N and K; the other sizes only with split_k.
AlgorithmKey algorithm_key(const GemmArgs& g, const Alignments& at);

// The problem that stands for all of one key: usual rows, one entry, rows as close together as
// their alignment allows and no better aligned. Its pointers must not be used.
GemmArgs usual_problem(const GemmArgs& g, const Alignments& at);

}  // namespace parlo::cuda
