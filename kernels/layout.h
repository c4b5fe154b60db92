// Moves of data: concatenation, gather and scatter-add, patches. f32 and f64.
#pragma once

#include <span>

#include "tensor/tensor.h"

namespace parlo {
namespace cpu {

// out = parts joined along axis. Parts may be strided.
void concat(std::span<const Tensor> parts, int axis, const Tensor& out);

// out[i, :] = table[index[i], :]; table [V, C], index i64 of any shape, out [index.numel(), C].
// An index outside [0, V) is an Error naming it.
void gather_rows(const Tensor& table, const Tensor& index, const Tensor& out);
// table[index[i], :] += rows[i, :], in the order of i.
void scatter_add_rows(const Tensor& rows, const Tensor& index, const Tensor& table);

// x [B, C, H, W] <-> tokens [B, (H/p)(W/p), F], F = p*p*C. channel_last: the feature order is
// (p_row, p_col, channel), as SD3's output; otherwise (channel, p_row, p_col), as a conv weight.
void patchify(const Tensor& x, int64_t patch, bool channel_last, const Tensor& tokens);
void unpatchify(const Tensor& tokens, int64_t patch, bool channel_last, const Tensor& x);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::concat) concat;
decltype(cpu::gather_rows) gather_rows;
decltype(cpu::scatter_add_rows) scatter_add_rows;
decltype(cpu::patchify) patchify;
decltype(cpu::unpatchify) unpatchify;
}  // namespace cuda

}  // namespace parlo
