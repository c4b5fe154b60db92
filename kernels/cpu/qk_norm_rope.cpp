// RMS norm of heads and rotary embedding, one token at a time in a buffer that stays in the L1.
#include "kernels/qk_norm_rope.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/norm_rows.h"
#include "kernels/cpu/rotate.h"
#include "kernels/qk_norm_rope_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// The heads of one token, [H, D] with a stride between heads.
template <class T>
T* token(const Tensor& t, int64_t i) {
  const int64_t steps = t.dim(1);
  return t.data<T>() + i / steps * t.strides()[0] + i % steps * t.strides()[1];
}

template <class T>
void copy_heads(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t heads,
                int64_t d) {
  for (int64_t h = 0; h < heads; ++h) std::copy_n(from + h * from_stride, d, to + h * to_stride);
}

// Turns the heads in a buffer [H, D]; sign -1 is the inverse.
template <class T>
void rotate_heads(const QkNormRope& p, int64_t position, T sign, int64_t heads, int64_t d,
                  T* buffer) {
  const T* cos = p.cos.data<T>() + position * (d / 2);
  const T* sin = p.sin.data<T>() + position * (d / 2);
  for (int64_t h = 0; h < heads; ++h)
    rotate(p.style, buffer + h * d, cos, sin, sign, d / 2, buffer + h * d);
}

template <class T>
struct Buffers {
  std::vector<T> x, y, g, rstd;  // y and g: backward
  NormBlock<T> block;

  Buffers(const HeadsPart& part, const QkNormRope& p) {
    const int64_t heads = part.any().dim(2), d = part.any().dim(3);
    x.resize(static_cast<size_t>(heads * d));
    if (part.dout) y.resize(x.size()), g.resize(x.size());
    rstd.resize(static_cast<size_t>(heads));
    block.x = block.y = x.data();
    block.gain = data_or_null<T>(part.weight);
    block.rows = heads, block.columns = d, block.eps = p.eps;
    block.rstd = rstd.data();
  }
};

template <class T>
void forward_token(const HeadsPart& part, const QkNormRope& p, int64_t i, Buffers<T>& b) {
  const int64_t heads = part.out.dim(2), d = part.out.dim(3);
  copy_heads<T>(token<T>(part.x, i), part.x.strides()[2], b.x.data(), d, heads, d);
  if (part.norm) norm_loops<T>().rms_norm(b.block);
  if (part.rotates) rotate_heads<T>(p, i % part.out.dim(1), T{1}, heads, d, b.x.data());
  copy_heads<T>(b.x.data(), d, token<T>(part.out, i), part.out.strides()[2], heads, d);
}

// Adds sum of dout xhat over heads to dweight, if there is one.
template <class T>
void backward_token(const HeadsPart& part, const QkNormRope& p, int64_t i, Buffers<T>& b,
                    T* dweight) {
  const int64_t heads = part.dout.dim(2), d = part.dout.dim(3);
  copy_heads<T>(token<T>(part.dout, i), part.dout.strides()[2], b.g.data(), d, heads, d);
  if (part.rotates) rotate_heads<T>(p, i % part.dout.dim(1), T{-1}, heads, d, b.g.data());
  if (part.norm) {
    NormBlock<T> block = b.block;
    copy_heads<T>(token<T>(part.x, i), part.x.strides()[2], b.x.data(), d, heads, d);
    block.y = b.y.data();
    norm_loops<T>().rms_norm(block);  // for its rstd
    block.dy = b.g.data(), block.dx = b.g.data(), block.dy_xhat = dweight;
    norm_loops<T>().rms_norm_backward(block);
  }
  if (part.out)
    copy_heads<T>(b.g.data(), d, token<T>(part.out, i), part.out.strides()[2], heads, d);
}

// Sums over blocks of tokens, which are added in order.
template <class T>
void backward_part(const HeadsPart& part, const QkNormRope& p) {
  const int64_t tokens = part.dout.dim(0) * part.dout.dim(1), d = part.dout.dim(3);
  const int64_t rows = row_grain(part.dout.dim(2) * d), blocks = ceil_div(tokens, rows);
  const Tensor sums = part.dweight ? Tensor::zeros({blocks, d}, part.dout.dtype()) : Tensor();
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    Buffers<T> buffers(part, p);
    for (int64_t k = begin; k < end; ++k)
      for (int64_t i = k * rows; i < std::min(tokens, (k + 1) * rows); ++i)
        backward_token<T>(part, p, i, buffers, sums ? sums.data<T>() + k * d : nullptr);
  });
  if (!part.dweight) return;
  std::vector<double> total(static_cast<size_t>(d));
  add_rows(sums.data<T>(), blocks, d, total.data());
  for (int64_t c = 0; c < d; ++c) part.dweight.data<T>()[c] = static_cast<T>(total[c]);
}

}  // namespace

void qk_norm_rope(const QkvHeads& x, const QkNormRope& p, const QkvHeads& out) {
  for (const HeadsPart& part : forward_parts(x, p, out)) {
    visit_float(part.out.dtype(), "qk_norm_rope", [&](auto type) {
      using T = decltype(type);
      const int64_t grain = row_grain(part.out.dim(2) * part.out.dim(3));
      parallel_for(part.out.dim(0) * part.out.dim(1), grain, [&](int64_t begin, int64_t end) {
        Buffers<T> buffers(part, p);
        for (int64_t i = begin; i < end; ++i) forward_token<T>(part, p, i, buffers);
      });
    });
  }
}

void qk_norm_rope_backward(const QkvHeads& x, const QkNormRope& p, const QkvHeads& dout,
                           const QkNormRopeGrads& grads) {
  for (const HeadsPart& part : backward_parts(x, p, dout, grads)) {
    visit_float(part.dout.dtype(), "qk_norm_rope_backward",
                [&](auto type) { backward_part<decltype(type)>(part, p); });
  }
}

}  // namespace parlo::cpu
