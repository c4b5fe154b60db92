// Attention with causal masks, grouped queries and key lengths; rotary embedding.
#include <cmath>

#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

struct AttentionCase {
  int64_t B, Tq, Tk, H, Hkv, D;
  bool causal = false;
  std::vector<int64_t> key_lengths = {};
  std::vector<uint8_t> key_mask = {};
};

AttentionArgs args_of(const AttentionCase& c) {
  AttentionArgs args;
  args.scale = 1 / std::sqrt(static_cast<double>(c.D));
  args.causal = c.causal;
  if (!c.key_lengths.empty()) args.key_lengths = Tensor::from(c.key_lengths, {c.B});
  if (!c.key_mask.empty()) args.key_mask = Tensor::from(c.key_mask, {c.B, c.Tk});
  return args;
}

Tensor plain_attention(const AttentionCase& c, const Tensor& q, const Tensor& k, const Tensor& v) {
  const std::vector<double> qs = q.to_vector(), ks = k.to_vector(), vs = v.to_vector();
  std::vector<double> out(qs.size(), 0.0);
  const auto at = [&c](int64_t b, int64_t t, int64_t h, int64_t T, int64_t H) {
    return ((b * T + t) * H + h) * c.D;
  };
  for (int64_t b = 0; b < c.B; ++b)
    for (int64_t h = 0; h < c.H; ++h)
      for (int64_t i = 0; i < c.Tq; ++i) {
        const int64_t from = at(b, i, h, c.Tq, c.H), group = h / (c.H / c.Hkv);
        std::vector<double> p;
        double total = 0;
        for (int64_t j = 0; j < c.Tk; ++j) {
          const bool masked = (c.causal && j > i + c.Tk - c.Tq) ||
                              (!c.key_lengths.empty() && j >= c.key_lengths[b]) ||
                              (!c.key_mask.empty() && !c.key_mask[b * c.Tk + j]);
          double score = 0;
          for (int64_t d = 0; d < c.D; ++d)
            score += qs[from + d] * ks[at(b, j, group, c.Tk, c.Hkv) + d];
          p.push_back(masked ? 0 : std::exp(score / std::sqrt(static_cast<double>(c.D))));
          total += p.back();
        }
        for (int64_t j = 0; j < c.Tk && total > 0; ++j)
          for (int64_t d = 0; d < c.D; ++d)
            out[from + d] += p[j] / total * vs[at(b, j, group, c.Tk, c.Hkv) + d];
      }
  return Tensor::from(out, q.shape());
}

void check_attention(const AttentionCase& c) {
  INFO("causal ", c.causal, " lengths ", c.key_lengths.size());
  const Tensor q = normal64({c.B, c.Tq, c.H, c.D}, 1), k = normal64({c.B, c.Tk, c.Hkv, c.D}, 2),
               v = normal64({c.B, c.Tk, c.Hkv, c.D}, 3);
  const Op op = [args = args_of(c)](std::span<const Var> in) {
    return attention(in[0], in[1], in[2], args);
  };
  check_close(check_op("attention", op, {q, k, v}), plain_attention(c, q, k, v));
}

TEST_CASE("attention over all keys") {
  check_attention({2, 3, 3, 2, 2, 4});
  check_attention({1, 5, 7, 1, 1, 3});
  check_attention({2, 4, 1, 1, 1, 5});
  check_attention({1, 1, 1, 1, 1, 1});
}

TEST_CASE("attention with grouped queries") {
  check_attention({2, 3, 4, 4, 2, 3});
  check_attention({1, 4, 6, 3, 1, 2});
  check_attention({1, 5, 5, 4, 1, 2, true});
}

TEST_CASE("causal attention, also with fewer and more keys than queries") {
  check_attention({2, 5, 5, 1, 1, 3, true});
  check_attention({1, 3, 6, 2, 2, 3, true});
  check_attention({1, 6, 3, 2, 1, 3, true});  // the first three queries see no key
}

TEST_CASE("attention with key lengths") {
  check_attention({3, 4, 5, 2, 2, 3, false, {5, 2, 1}});
  check_attention({2, 4, 5, 2, 1, 3, false, {0, 9}});  // none, and more than there are
  check_attention({3, 5, 5, 2, 2, 3, true, {5, 2, 0}});
}

TEST_CASE("attention with a key mask: padding, holes, nothing at all") {
  check_attention({2, 3, 4, 2, 2, 3, false, {}, {1, 1, 0, 0, 1, 1, 1, 1}});
  check_attention({2, 3, 4, 2, 1, 3, false, {}, {1, 0, 1, 0, 0, 0, 0, 1}});
  check_attention({3, 4, 4, 2, 2, 3, true, {}, {0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0}});
  check_attention({2, 3, 4, 1, 1, 3, true, {3, 1}, {1, 0, 1, 1, 1, 1, 0, 0}});
  check_attention({2, 3, 4, 1, 1, 3, true, {2, 0}, {1, 1, 1, 0, 1, 1, 0, 0}});
}

TEST_CASE("a sample's masked attention has the same bits alone and in a batch") {
  const Tensor q = random_tensor({3, 5, 2, 8}, 1), k = random_tensor({3, 6, 2, 8}, 2);
  AttentionArgs args;
  args.causal = true;
  args.key_mask =
      Tensor::from<uint8_t>({1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1}, {3, 6});
  const Tensor together = attention(Var(q), Var(k), Var(k), args).value();
  for (int64_t b = 0; b < 3; ++b) {
    const auto part = [b](const Tensor& t) { return t.slice(0, b, b + 1); };
    AttentionArgs one = args;
    one.key_mask = part(args.key_mask);
    const Var keys(part(k));
    CHECK(same_bits(attention(Var(part(q)), keys, keys, one).value(), part(together)));
  }
}

TEST_CASE("attention beyond one tile") {
  check_attention({1, 70, 67, 1, 1, 2, true});
}

TEST_CASE("attention of empty operands") {
  check_attention({2, 0, 3, 2, 2, 4});
  check_attention({2, 3, 0, 2, 2, 4});
  check_attention({0, 3, 3, 2, 1, 4});
}

TEST_CASE("attention of parts of one qkv projection") {
  // The models slice q, k, v out of one [B, T, 3, H, D] tensor.
  AttentionArgs args;
  args.scale = 0.5;
  const Op op = [args](std::span<const Var> in) {
    std::vector<Var> parts;
    for (const Var& part : chunk(in[0], 2, 3))
      parts.push_back(reshape(part, {in[0].dim(0), in[0].dim(1), 2, 3}));
    return attention(parts[0], parts[1], parts[2], args);
  };
  check_op("attention", op, {normal64({2, 3, 3, 2, 3}, 4)});
}

TEST_CASE("attention names shapes that do not fit") {
  const Var q(normal64({2, 3, 4, 5}, 1)), k(normal64({2, 3, 3, 5}, 2)),
      v(normal64({2, 4, 4, 5}, 3));
  CHECK(contains(message_of([&] { attention(q, k, k, {}); }), "does not fit"));
  CHECK(contains(message_of([&] { attention(q, q, v, {}); }), "differ"));
}

TEST_CASE("rope rotates pairs or halves") {
  for (RopeStyle style : {RopeStyle::pairs, RopeStyle::halves})
    for (const Shape& shape : {Shape{2, 3, 2, 6}, Shape{1, 1, 1, 2}, Shape{2, 0, 1, 4}}) {
      const int64_t T = shape[1], H = shape[2], D = shape[3];
      std::vector<double> angles = normal64({T, D / 2}, 5).to_vector(), c, s;
      for (double a : angles) c.push_back(std::cos(a)), s.push_back(std::sin(a));
      const Tensor cosines = Tensor::from(c, {T, D / 2}), sines = Tensor::from(s, {T, D / 2});
      const Tensor x = normal64(shape, 6);
      const Op op = [=](std::span<const Var> in) {
        const DType dtype = in[0].dtype();
        return rope(in[0], cosines.to(dtype), sines.to(dtype), style);
      };
      std::vector<double> y = x.to_vector();
      for (int64_t row = 0; row < (D ? x.numel() / D : 0); ++row)
        for (int64_t i = 0; i < D / 2; ++i) {
          const bool pairs = style == RopeStyle::pairs;
          double &first = y[row * D + (pairs ? 2 * i : i)],
                 &second = y[row * D + (pairs ? 2 * i + 1 : i + D / 2)];
          const int64_t at = row / H % T * (D / 2) + i;
          const double a = first, b = second;
          first = a * c[at] - b * s[at];
          second = a * s[at] + b * c[at];
        }
      check_close(check_op("rope", op, {x}), Tensor::from(y, shape));
    }
}

TEST_CASE("norm and rotation of heads in one op") {
  for (const Shape& shape : {Shape{2, 3, 2, 6}, Shape{1, 1, 1, 2}, Shape{2, 0, 1, 4}})
    for (const RopeStyle style : {RopeStyle::pairs, RopeStyle::halves}) {
      const Tensor cos = random_tensor({shape[1], shape[3] / 2}, 7, DType::f64),
                   sin = random_tensor({shape[1], shape[3] / 2}, 8, DType::f64);
      const Tensor x = normal64(shape, 9, 1), weight = normal64({shape[3]}, 10, 1);
      const Op frozen = [&](std::span<const Var> in) {
        const DType dtype = in[0].dtype();  // f64, and f32
        return norm_rope(in[0], Var(weight.to(dtype)), 1e-6, cos.to(dtype), sin.to(dtype), style);
      };
      const Op trained = [&](std::span<const Var> in) {
        const DType dtype = in[0].dtype();
        return norm_rope(in[0], in[1], 1e-6, cos.to(dtype), sin.to(dtype), style);
      };
      check_close(check_op("norm_rope", frozen, {x}), check_op("norm_rope", trained, {x, weight}));
    }
}

}  // namespace
}  // namespace parlo
