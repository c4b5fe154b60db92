// Attention forward against a plain softmax in f64, backward against finite differences in f64 and
// against the f64 gradients in f32; masks, grouped heads, strides, empty sizes, threads.
#include "kernels/attention.h"

#include <cstring>

#include "tensor/parallel.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

struct Sizes {
  int64_t batch, tq, tk, heads, kv_heads, d;
};

struct Problem {
  Tensor q, k, v, dout;
  AttentionArgs args;
};

struct Answer {
  Tensor out, lse, dq, dk, dv;
};

Problem make(const Sizes& s, bool causal, bool lengths, DType dtype) {
  Problem p;
  p.q = random_tensor({s.batch, s.tq, s.heads, s.d}, 1, dtype);
  p.k = random_tensor({s.batch, s.tk, s.kv_heads, s.d}, 2, dtype);
  p.v = random_tensor({s.batch, s.tk, s.kv_heads, s.d}, 3, dtype);
  p.dout = random_tensor({s.batch, s.tq, s.heads, s.d}, 4, dtype);
  p.args.scale = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, s.d)));
  p.args.causal = causal;
  if (lengths) {
    std::vector<int64_t> keys;
    for (int64_t b = 0; b < s.batch; ++b) keys.push_back(b == 0 ? 0 : (b * 7 + 1) % (s.tk + 1));
    p.args.key_lengths = Tensor::from(keys, {s.batch});
  }
  return p;
}

Answer run(const Problem& p) {
  const double nan = std::nan("");
  const DType dtype = p.q.dtype();
  Answer a;
  a.out = Tensor::full(p.q.shape(), nan, dtype);
  a.lse = Tensor::full({p.q.dim(0), p.q.dim(2), p.q.dim(1)}, nan, dtype);
  a.dq = Tensor::full(p.q.shape(), nan, dtype);
  a.dk = Tensor::full(p.k.shape(), nan, dtype);
  a.dv = Tensor::full(p.k.shape(), nan, dtype);
  cpu::attention(p.q, p.k, p.v, a.out, a.lse, p.args);
  cpu::attention_backward(p.q, p.k, p.v, a.out, a.lse, p.dout, a.dq, a.dk, a.dv, p.args);
  return a;
}

double dot(const Tensor& a, int64_t b, int64_t i, int64_t h, const Tensor& c, int64_t j,
           int64_t g) {
  double sum = 0;
  for (int64_t e = 0; e < a.dim(3); ++e) {
    sum += a.data<double>()[((b * a.dim(1) + i) * a.dim(2) + h) * a.dim(3) + e] *
           c.data<double>()[((b * c.dim(1) + j) * c.dim(2) + g) * c.dim(3) + e];
  }
  return sum;
}

// The textbook softmax over one query's row of scores.
Tensor reference_output(const Problem& p) {
  const Tensor q = p.q.to(DType::f64).contiguous(), k = p.k.to(DType::f64).contiguous(),
               v = p.v.to(DType::f64).contiguous(), out = Tensor::zeros(q.shape(), DType::f64);
  const int64_t tq = q.dim(1), tk = k.dim(1), heads = q.dim(2), d = q.dim(3);
  for (int64_t row = 0; row < q.dim(0) * tq * heads; ++row) {
    const int64_t b = row / (tq * heads), i = row / heads % tq, h = row % heads;
    const int64_t g = h / (heads / k.dim(2));
    double sum = 0;
    double* o = out.data<double>() + row * d;
    for (int64_t j = 0; j < tk; ++j) {
      if (p.args.causal && j > i + tk - tq) continue;
      if (p.args.key_lengths && j >= p.args.key_lengths.data<int64_t>()[b]) continue;
      const double e = std::exp(p.args.scale * dot(q, b, i, h, k, j, g));
      sum += e;
      for (int64_t c = 0; c < d; ++c) {
        o[c] += e * v.data<double>()[((b * tk + j) * k.dim(2) + g) * d + c];
      }
    }
    for (int64_t c = 0; c < d && sum > 0; ++c) o[c] /= sum;
  }
  return out;
}

double loss(const Problem& p) {
  const Tensor out = reference_output(p);
  double sum = 0;
  for (int64_t i = 0; i < out.numel(); ++i) sum += out.data<double>()[i] * p.dout.to_vector()[i];
  return sum;
}

void check_gradient(const Problem& p, const Tensor& x, const Tensor& dx) {
  const double step = 1e-5;
  for (int64_t i = 0; i < x.numel(); i += 3) {
    double& value = x.data<double>()[i];
    const double kept = value;
    value = kept + step;
    const double up = loss(p);
    value = kept - step;
    const double down = loss(p);
    value = kept;
    const double want = (up - down) / (2 * step);
    CHECK(dx.data<double>()[i] == doctest::Approx(want).epsilon(1e-6).scale(1));
  }
}

Problem widened(const Problem& p) {
  return {p.q.to(DType::f64), p.k.to(DType::f64), p.v.to(DType::f64), p.dout.to(DType::f64),
          p.args};
}

void check_f32(const Sizes& s, bool causal, bool lengths) {
  const Problem p = make(s, causal, lengths, DType::f32);
  const Answer got = run(p), want = run(widened(p));
  INFO("B ", s.batch, " Tq ", s.tq, " Tk ", s.tk, " H ", s.heads, " Hkv ", s.kv_heads, " D ", s.d,
       " causal ", causal, " lengths ", lengths);
  check_close(got.out.to(DType::f64), want.out, 1e-5);
  check_close(got.lse.to(DType::f64), want.lse, 1e-5);
  check_close(got.dq.to(DType::f64), want.dq, 1e-5);
  check_close(got.dk.to(DType::f64), want.dk, 1e-5);
  check_close(got.dv.to(DType::f64), want.dv, 1e-5);
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
}

constexpr Sizes kSizes[] = {{2, 5, 5, 2, 2, 8},     {1, 1, 1, 1, 1, 1},      {2, 7, 11, 4, 2, 16},
                            {3, 11, 7, 3, 1, 5},    {2, 80, 80, 4, 4, 32},   {1, 70, 200, 2, 1, 64},
                            {2, 33, 130, 2, 2, 48}, {1, 129, 65, 1, 1, 128}, {2, 16, 16, 2, 2, 20}};

}  // namespace

TEST_CASE("forward in f64 equals the plain softmax") {
  for (const Sizes& s : {kSizes[0], kSizes[1], kSizes[2], kSizes[3]}) {
    for (int mask = 0; mask < 4; ++mask) {
      const Problem p = make(s, mask & 1, mask & 2, DType::f64);
      check_close(run(p).out, reference_output(p));
    }
  }
}

TEST_CASE("backward in f64 equals finite differences") {
  for (int mask = 0; mask < 4; ++mask) {
    for (const Sizes& s : {Sizes{2, 4, 5, 4, 2, 3}, Sizes{1, 5, 3, 2, 2, 4}}) {
      const Problem p = make(s, mask & 1, mask & 2, DType::f64);
      const Answer a = run(p);
      check_gradient(p, p.q, a.dq);
      check_gradient(p, p.k, a.dk);
      check_gradient(p, p.v, a.dv);
    }
  }
}

TEST_CASE("f32 against f64, with every mask") {
  for (const Sizes& s : kSizes) {
    for (int mask = 0; mask < 4; ++mask) check_f32(s, mask & 1, mask & 2);
  }
  check_f32({1, 300, 1100, 1, 1, 32}, true, false);
}

TEST_CASE("large scores do not overflow") {
  Problem p = make({1, 20, 40, 2, 2, 16}, false, false, DType::f32);
  p.args.scale = 100;
  const Answer got = run(p), want = run(widened(p));
  // Scores of 1e3 carry an error of 1e-4 in f32, which the exponential passes on.
  check_close(got.out.to(DType::f64), want.out, 2e-3);
}

TEST_CASE("a later block of keys outweighs the earlier ones, by a little or beyond f32") {
  for (const float gain : {2.0f, 50.0f}) {
    Problem p = make({1, 20, 600, 1, 1, 16}, false, false, DType::f32);
    float* late = p.k.slice(1, 512, 600).data<float>();
    for (int64_t i = 0; i < 88 * 16; ++i) late[i] *= gain;
    const Answer got = run(p), want = run(widened(p));
    check_close(got.out.to(DType::f64), want.out, 1e-4);
    check_close(got.lse.to(DType::f64), want.lse, 1e-5);
  }
}

TEST_CASE("strides: q, k and v as slices of one tensor, heads moved") {
  const Tensor qkv = random_tensor({2, 40, 3, 4, 32}, 7), outs = random_tensor({2, 4, 40, 32}, 8);
  Problem p = make({2, 40, 40, 4, 4, 32}, false, false, DType::f32), plain = p;
  p.q = qkv.select(2, 0), p.k = qkv.select(2, 1), p.v = qkv.select(2, 2);
  plain.q = p.q.contiguous(), plain.k = p.k.contiguous(), plain.v = p.v.contiguous();
  const Tensor grads = Tensor::empty({2, 40, 3, 4, 32}), lse = Tensor::empty({2, 4, 40});
  const Tensor out = outs.permute({0, 2, 1, 3});
  const Answer want = run(plain);
  cpu::attention(p.q, p.k, p.v, out, lse, p.args);
  cpu::attention_backward(p.q, p.k, p.v, out, lse, p.dout, grads.select(2, 0), grads.select(2, 1),
                          grads.select(2, 2), p.args);
  CHECK(same_bytes(out.contiguous(), want.out));
  CHECK(same_bytes(grads.select(2, 0).contiguous(), want.dq));
  CHECK(same_bytes(grads.select(2, 1).contiguous(), want.dk));
  CHECK(same_bytes(grads.select(2, 2).contiguous(), want.dv));
}

TEST_CASE("the same bits for any number of threads and any batch") {
  for (const Sizes& s : {Sizes{5, 80, 80, 4, 4, 32}, Sizes{2, 300, 333, 2, 1, 48}}) {
    const Problem p = make(s, true, true, DType::f32);
    set_num_threads(1);
    const Answer one = run(p);
    for (int threads : {2, 3}) {
      set_num_threads(threads);
      const Answer many = run(p);
      CHECK(same_bytes(many.out, one.out));
      CHECK(same_bytes(many.lse, one.lse));
      CHECK(same_bytes(many.dq, one.dq));
      CHECK(same_bytes(many.dk, one.dk));
      CHECK(same_bytes(many.dv, one.dv));
    }
    Problem last = p;
    const int64_t b = s.batch - 1;
    for (Tensor* t : {&last.q, &last.k, &last.v, &last.dout}) *t = t->slice(0, b, b + 1);
    last.args.key_lengths = p.args.key_lengths.slice(0, b, b + 1);
    const Answer alone = run(last);
    CHECK(same_bytes(alone.out, one.out.slice(0, b, b + 1)));
    CHECK(same_bytes(alone.dk, one.dk.slice(0, b, b + 1)));
  }
  set_num_threads(2);
}

TEST_CASE("empty sizes and rows without keys") {
  for (const Sizes& s :
       {Sizes{0, 3, 3, 2, 2, 8}, Sizes{2, 0, 3, 2, 2, 8}, Sizes{2, 3, 0, 2, 2, 8}}) {
    const Answer a = run(make(s, false, false, DType::f32));
    CHECK(same_values(a.out, Tensor::zeros(a.out.shape())));
    CHECK(same_values(a.dq, Tensor::zeros(a.dq.shape())));
    CHECK(same_values(a.dk, Tensor::zeros(a.dk.shape())));
    CHECK(same_values(a.dv, Tensor::zeros(a.dv.shape())));
  }
  // Causal with more queries than keys: the first rows see none.
  const Answer a = run(make({1, 9, 4, 1, 1, 16}, true, false, DType::f32));
  CHECK(same_values(a.out.slice(1, 0, 5).contiguous(), Tensor::zeros({1, 5, 1, 16})));
  CHECK(same_values(a.dq.slice(1, 0, 5).contiguous(), Tensor::zeros({1, 5, 1, 16})));
}

TEST_CASE("NaN in one query reaches its row and no other") {
  const Problem p = make({1, 20, 20, 1, 1, 16}, false, false, DType::f32);
  p.q.slice(1, 3, 4).slice(3, 2, 3).fill(std::nan(""));
  const Answer a = run(p);
  for (int64_t i = 0; i < 20; ++i) {
    CHECK(std::isnan(a.out.data<float>()[i * 16]) == (i == 3));
    CHECK(std::isnan(a.dq.data<float>()[i * 16]) == (i == 3));
  }
  CHECK(std::isnan(a.dk.data<float>()[0]));
}

TEST_CASE("faults are named") {
  const Problem p = make({1, 4, 4, 3, 2, 8}, false, false, DType::f32);
  const Tensor out = Tensor::empty(p.q.shape()), lse = Tensor::empty({1, 3, 4});
  CHECK(contains(message_of([&] { cpu::attention(p.q, p.k, p.v, out, lse, p.args); }),
                 "multiple of the 2 heads"));
}
