// RMS norm of heads and rotary embedding, some tokens at a time while they are in the L1. The loops
// of norms want many rows side by side: tokens whose heads are not are gathered first.
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

constexpr int64_t kRows = 32;  // heads at a time, unless one token has more

// Tokens begin .. + count of a tensor of heads as rows [count * H, D] side by side.
template <class T>
class TokenRows {
 public:
  explicit TokenRows(const Tensor& t) : t_(t), direct_(t && t.is_contiguous()) {}

  // Where they are, or copied here.
  const T* read(int64_t begin, int64_t count) {
    if (direct_) return at(begin);
    copy(begin, count, [](T* from, T* here, int64_t d) { std::copy_n(from, d, here); });
    return room_.data();
  }
  T* read_copy(int64_t begin, int64_t count) {
    if (direct_) {
      room_.assign(at(begin), at(begin) + count * values());
    } else {
      read(begin, count);
    }
    return room_.data();
  }
  // Where they will be: written by write().
  T* place(int64_t begin, int64_t count) {
    if (direct_) return at(begin);
    room_.resize(static_cast<size_t>(count * values()));
    return room_.data();
  }
  void write(int64_t begin, int64_t count) {
    if (!direct_) copy(begin, count, [](T* to, T* here, int64_t d) { std::copy_n(here, d, to); });
  }

 private:
  int64_t values() const { return t_.dim(2) * t_.dim(3); }
  T* at(int64_t i) const {
    const int64_t steps = t_.dim(1);
    return t_.data<T>() + i / steps * t_.strides()[0] + i % steps * t_.strides()[1];
  }
  template <class Move>
  void copy(int64_t begin, int64_t count, Move move) {
    const int64_t heads = t_.dim(2), d = t_.dim(3), step = t_.strides()[2];
    room_.resize(static_cast<size_t>(count * values()));
    T* here = room_.data();
    for (int64_t i = 0; i < count; ++i) {
      T* token = at(begin + i);
      if (step == d) move(token, here + i * heads * d, heads * d);
      for (int64_t h = 0; step != d && h < heads; ++h)
        move(token + h * step, here + (i * heads + h) * d, d);
    }
  }

  const Tensor& t_;
  bool direct_;
  std::vector<T> room_;
};

// Turns the heads of tokens begin .. + count; sign -1 is the inverse.
template <class T>
void rotate_tokens(const HeadsPart& part, const QkNormRope& p, T sign, int64_t begin, int64_t count,
                   T* rows) {
  if (!part.rotates) return;
  const int64_t steps = part.any().dim(1), heads = part.any().dim(2), d = part.any().dim(3);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = (begin + i) % steps * (d / 2);
    const T *cos = p.cos.data<T>() + at, *sin = p.sin.data<T>() + at;
    for (int64_t h = 0; h < heads; ++h, rows += d)
      rotate(p.style, rows, cos, sin, sign, d / 2, rows);
  }
}

// body(begin, count) for the tokens of [first, last).
template <class Body>
void for_tokens(const HeadsPart& part, int64_t first, int64_t last, Body&& body) {
  const int64_t step = ceil_div(kRows, std::max<int64_t>(1, part.any().dim(2)));
  for (int64_t begin = first; begin < last; begin += step)
    body(begin, std::min(step, last - begin));
}

template <class T>
NormBlock<T> block_of(const HeadsPart& part, const QkNormRope& p, int64_t count, const T* x,
                      std::vector<T>& rstd) {
  NormBlock<T> b;
  b.x = x, b.gain = data_or_null<T>(part.weight);
  b.rows = count * part.any().dim(2), b.columns = part.any().dim(3), b.eps = p.eps;
  rstd.resize(static_cast<size_t>(b.rows));
  b.rstd = rstd.data();
  return b;
}

template <class T>
void forward_tokens(const HeadsPart& part, const QkNormRope& p, int64_t first, int64_t last) {
  const int64_t values = part.out.dim(2) * part.out.dim(3);
  TokenRows<T> x(part.x), out(part.out);
  std::vector<T> rstd;
  for_tokens(part, first, last, [&](int64_t begin, int64_t count) {
    const T* from = x.read(begin, count);
    T* to = out.place(begin, count);
    if (part.norm) {
      NormBlock<T> block = block_of<T>(part, p, count, from, rstd);
      block.y = to;
      norm_loops<T>().rms_norm(block);
    } else if (from != to) {
      std::copy_n(from, count * values, to);
    }
    rotate_tokens<T>(part, p, T{1}, begin, count, to);
    out.write(begin, count);
  });
}

// Adds sum of dout xhat over heads to dweight, if there is one.
template <class T>
void backward_tokens(const HeadsPart& part, const QkNormRope& p, int64_t first, int64_t last,
                     T* dweight) {
  TokenRows<T> x(part.x), dout(part.dout), out(part.out);
  std::vector<T> rstd, y;
  for_tokens(part, first, last, [&](int64_t begin, int64_t count) {
    T* g = dout.read_copy(begin, count);
    rotate_tokens<T>(part, p, T{-1}, begin, count, g);
    T* dx = part.out ? out.place(begin, count) : nullptr;
    const int64_t values = count * part.dout.dim(2) * part.dout.dim(3);
    if (part.norm) {
      NormBlock<T> block = block_of<T>(part, p, count, x.read(begin, count), rstd);
      y.resize(static_cast<size_t>(values));
      block.y = y.data();
      norm_loops<T>().rms_norm(block);  // for its rstd
      block.dy = g, block.dx = dx, block.dy_xhat = dweight;
      norm_loops<T>().rms_norm_backward(block);
    } else if (dx) {
      std::copy_n(g, values, dx);
    }
    if (part.out) out.write(begin, count);
  });
}

// Sums over blocks of tokens, which are added in order.
template <class T>
void backward_part(const HeadsPart& part, const QkNormRope& p) {
  const int64_t tokens = part.dout.dim(0) * part.dout.dim(1), d = part.dout.dim(3);
  const int64_t rows = row_grain(part.dout.dim(2) * d), blocks = ceil_div(tokens, rows);
  const Tensor sums = part.dweight ? Tensor::zeros({blocks, d}, part.dout.dtype()) : Tensor();
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      backward_tokens<T>(part, p, k * rows, std::min(tokens, (k + 1) * rows),
                         sums ? sums.data<T>() + k * d : nullptr);
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
      parallel_for(part.out.dim(0) * part.out.dim(1), grain,
                   [&](int64_t begin, int64_t end) { forward_tokens<T>(part, p, begin, end); });
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
