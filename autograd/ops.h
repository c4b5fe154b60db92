// Every differentiable op. Shapes broadcast where noted; dtypes f32 and f64 (linear's weight also
// bf16 when frozen). Bad shapes throw Error naming the op. One file a family under autograd/ops/.
#pragma once

#include <span>
#include <vector>

#include "autograd/var.h"
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/elementwise.h"
#include "kernels/linear_logprob.h"
#include "kernels/matmul.h"
#include "kernels/resize.h"
#include "kernels/rope.h"

namespace parlo {

// --- arithmetic.cpp: a (op) b with NumPy broadcasting, and maps of one operand.
// x in another floating dtype; its gradient comes back in x's.
Var cast(const Var& x, DType dtype);
// f(a) b of x [..., 2 F] = [a | b]: SwiGLU with silu.
Var glu(Activation f, const Var& x);
Var glu(Activation f, const Var& a, const Var& b);
Var add(const Var& a, const Var& b);
Var sub(const Var& a, const Var& b);
Var mul(const Var& a, const Var& b);
Var div(const Var& a, const Var& b);
Var unary(Unary f, const Var& x);
inline Var exp(const Var& x) {
  return unary(Unary::exp, x);
}
inline Var log(const Var& x) {
  return unary(Unary::log, x);
}
inline Var sqrt(const Var& x) {
  return unary(Unary::sqrt, x);
}
inline Var rsqrt(const Var& x) {
  return unary(Unary::rsqrt, x);
}
inline Var square(const Var& x) {
  return unary(Unary::square, x);
}
inline Var tanh(const Var& x) {
  return unary(Unary::tanh, x);
}
inline Var sigmoid(const Var& x) {
  return unary(Unary::sigmoid, x);
}
inline Var relu(const Var& x) {
  return unary(Unary::relu, x);
}
// alpha * x + c
Var affine(const Var& x, double alpha, double c = 0.0);
Var activation(Activation f, const Var& x);
inline Var silu(const Var& x) {
  return activation(Activation::silu, x);
}
// residual + gate * y: residual, y [B, ..., C]; gate [B, C].
Var gate_residual(const Var& residual, const Var& gate, const Var& y);

// --- matmul.cpp
// op(a) op(b) over the last two axes; leading axes equal or 1.
Var matmul(const Var& a, const Var& b, bool trans_a = false, bool trans_b = false);

// --- linear.cpp
// The low-rank term of a linear: scale * (x a') b', a [r, K], b [N, r].
struct LowRankVar {
  Var a, b;
  double scale = 1.0;
};
// One of several adapters in a batch: of rows [first, first + rows) of x seen as [rows, K].
struct LowRankRowsVar {
  int64_t first = 0, rows = 0;
  LowRankVar low_rank;
};
struct LinearExtras {
  Activation activation = Activation::none;
  Var residual;                          // added after the activation
  const LowRankVar* low_rank = nullptr;  // joins before the activation
  // Instead: sorted and apart, the same adapter as often as it likes; other rows have none.
  std::span<const LowRankRowsVar> low_rank_rows = {};
  Var gate = {};  // [B, N] for x [B, ..., K], with a residual: times the activation
};
// x [..., K], w [N, K], bias [N] or undefined -> [..., N].
Var linear(const Var& x, const Var& w, const Var& bias, const LinearExtras& extras = {});
// glu(f, linear(x, w, bias, extras)) in one pass: w [2 F, K] is the gate's rows and then the
// others', bias [2 F], the result [..., F]. Of the extras only low-rank terms, with b [2 F, r].
Var glu_linear(Activation f, const Var& x, const Var& w, const Var& bias,
               const LinearExtras& extras = {});

// --- norm.cpp
// Over the last axis of x [B, ..., C]. weight, bias [C] and scale, shift [B, C] may be undefined:
// y = norm(x) * weight + bias, then * (1 + scale) + shift.
Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps, const Var& scale = {},
               const Var& shift = {});
Var rms_norm(const Var& x, const Var& weight, double eps);
// y = rms_norm(sum), sum = x + residual, in one pass.
struct NormedSum {
  Var y, sum;
};
NormedSum add_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps);
// x [B, C, ...]; the activation of the result is none or silu. With channels_last a GPU lays its
// channels side by side, as convolutions read them, where C is a multiple of 8.
Var group_norm(const Var& x, int64_t groups, const Var& weight, const Var& bias, double eps,
               Activation activation = Activation::none, bool channels_last = false);

// --- attention.cpp: q [B, Tq, H, D], k, v [B, Tk, Hkv, D] -> [B, Tq, H, D].
Var attention(const Var& q, const Var& k, const Var& v, const AttentionArgs& args);
// The same over tokens in two tensors, as if they followed each other on one axis: image and text
// of a joint block. `second` may be undefined; the result is cut as q is, v as k is.
struct TokenVars {
  Var first, second;
};
TokenVars joint_attention(const TokenVars& q, const TokenVars& k, const TokenVars& v,
                          const AttentionArgs& args);
// x [B, T, H, D]; cos, sin [T, D/2].
Var rope(const Var& x, const Tensor& cos, const Tensor& sin, RopeStyle style);

// --- heads.cpp: rms_norm over D and then rope, in one pass. Weights [D] and angles may be
// undefined.
struct HeadParams {
  bool norm = true;
  Var q_weight, k_weight;
  double eps = 1e-6;
  Tensor cos, sin;
  RopeStyle style = RopeStyle::pairs;
};
struct HeadVars {
  Var q, k, v;
};
// Of one projection qkv [B, T, H + 2 kv_heads, D]: v is a view of it.
HeadVars qk_norm_rope(const Var& qkv, int64_t kv_heads, const HeadParams& params);
// Of q [B, T, H, D] and k [B, T, Hkv, D]; no v.
HeadVars qk_norm_rope(const Var& q, const Var& k, const HeadParams& params);
Var norm_rope(const Var& x, const Var& weight, double eps, const Tensor& cos = {},
              const Tensor& sin = {}, RopeStyle style = RopeStyle::pairs);

// --- reduce.cpp
// Sums over axes; they stay as size 1 with keep, else they are dropped. No axes: all.
Var sum(const Var& x, std::vector<int> axes = {}, bool keep = false);
Var mean(const Var& x, std::vector<int> axes = {}, bool keep = false);
// Over the last axis.
Var softmax(const Var& x);
// logits [..., C], targets [...] i64 -> losses [...].
Var cross_entropy(const Var& logits, const Tensor& targets, int64_t ignore_index = -100);
// x / sqrt(sum x^2) over the last axis, as CLIP normalises embeddings.
Var l2_normalize(const Var& x);

// --- log_prob.cpp
// Of tokens targets [...] i64 under softmax(x w' / temperature), x [..., K], w [V, K]: kernels of
// that name. w may be bf16, frozen or not.
struct LogProbs {
  Var log_prob, entropy;  // [...]
};
LogProbs linear_log_prob(const Var& x, const Var& w, const Tensor& targets,
                         const LinearLogProbArgs& args = {});

// --- layout.cpp
Var reshape(const Var& x, const Shape& shape);  // one -1 allowed
Var permute(const Var& x, std::vector<int> order);
Var cat(std::span<const Var> parts, int axis);
Var slice(const Var& x, int axis, int64_t begin, int64_t end);
// n equal slices of an axis.
std::vector<Var> chunk(const Var& x, int axis, int64_t n);
// Rows of table [V, C] by index (i64, any shape) -> [index..., C].
Var gather_rows(const Var& table, const Tensor& index);
Var patchify(const Var& x, int64_t patch, bool channel_last);
Var unpatchify(const Var& tokens, int64_t patch, bool channel_last, const Shape& image);

// --- conv.cpp
// x [B, I, D, H, W], w [O, I / groups, kd, kh, kw]; bias [O] and residual, added to the result, may
// be undefined. See kernels/conv.h for the padding, causal_conv3d for that of causal video models.
Var conv3d(const Var& x, const Var& w, const Var& bias, const Conv3dArgs& args,
           const Var& residual = {});
Var conv2d(const Var& x, const Var& w, const Var& bias, const Conv2dArgs& args);
// x [B, C, ...] with sizes (...) of the result, as many as x has.
Var resize(const Var& x, const Shape& sizes, const ResizeArgs& args);

}  // namespace parlo
