#include "kernels/norm.h"

#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

struct Case {
  Tensor x, dy;
  NormParams p;
};

// Bits of `parts`: 1 weight, 2 bias, 4 scale, 8 shift.
Case make_case(int64_t rows, int64_t columns, int64_t groups, unsigned parts, DType dtype) {
  Case c;
  c.x = random_tensor({rows, columns}, 1, dtype);
  c.dy = random_tensor({rows, columns}, 2, dtype);
  if (parts & 1) c.p.weight = random_tensor({columns}, 3, dtype);
  if (parts & 2) c.p.bias = random_tensor({columns}, 4, dtype);
  // As chunks of one wide projection: rows with a stride.
  const Tensor wide = random_tensor({groups, 3 * columns}, 5, dtype);
  if (parts & 4) c.p.scale = wide.slice(1, 0, columns);
  if (parts & 8) c.p.shift = wide.slice(1, columns, 2 * columns);
  return c;
}

struct Result {
  Tensor y, mean, rstd;
};

Result forward(const Tensor& x, const NormParams& p) {
  const int64_t rows = x.dim(0);
  Result r{Tensor::empty_like(x), Tensor::empty({rows}, x.dtype()),
           Tensor::empty({rows}, x.dtype())};
  cpu::layer_norm(x, p, r.y, r.mean, r.rstd);
  return r;
}

NormGrads backward(const Case& c, const Result& r, int64_t groups) {
  const Shape column = {c.x.dim(1)}, group = {groups, c.x.dim(1)};
  const DType dtype = c.x.dtype();
  NormGrads g;
  g.dx = Tensor::empty_like(c.x);
  if (c.p.weight) g.dweight = Tensor::empty(column, dtype);
  if (c.p.bias) g.dbias = Tensor::empty(column, dtype);
  if (c.p.scale) g.dscale = Tensor::empty(group, dtype);
  if (c.p.shift) g.dshift = Tensor::empty(group, dtype);
  cpu::layer_norm_backward(c.x, c.p, r.mean, r.rstd, c.dy, g);
  return g;
}

Tensor plain_layer_norm(const Case& c, int64_t groups) {
  const int64_t R = c.x.dim(0), C = c.x.dim(1);
  const std::vector<double> x = c.x.to_vector();
  const auto values = [](const Tensor& t) { return t ? t.to_vector() : std::vector<double>(); };
  const auto weight = values(c.p.weight), bias = values(c.p.bias), scale = values(c.p.scale),
             shift = values(c.p.shift);
  std::vector<double> y(x.size());
  for (int64_t r = 0; r < R; ++r) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < C; ++i) mean += x[r * C + i] / C;
    for (int64_t i = 0; i < C; ++i) variance += (x[r * C + i] - mean) * (x[r * C + i] - mean) / C;
    for (int64_t i = 0; i < C; ++i) {
      const int64_t k = r / (R / groups) * C + i;
      double v = (x[r * C + i] - mean) / std::sqrt(variance + c.p.eps);
      v = v * (weight.empty() ? 1 : weight[i]) + (bias.empty() ? 0 : bias[i]);
      y[r * C + i] = v * (1 + (scale.empty() ? 0 : scale[k])) + (shift.empty() ? 0 : shift[k]);
    }
  }
  return Tensor::from(y, c.x.shape());
}

NormParams to(const NormParams& p, DType dtype) {
  const auto cast = [dtype](const Tensor& t) { return t ? t.to(dtype) : t; };
  return {cast(p.weight), cast(p.bias), cast(p.scale), cast(p.shift), p.eps};
}

}  // namespace

TEST_CASE("layer norm against a plain loop") {
  for (int64_t C : {1, 3, 15, 16, 17, 32, 65, 100, 512, 1030}) {
    for (unsigned parts = 0; parts < 16; parts += C == 65 ? 1 : 5) {
      const Case c = make_case(12, C, 4, parts, DType::f32);
      CAPTURE(C);
      CAPTURE(parts);
      check_close(forward(c.x, c.p).y, plain_layer_norm(c, 4));
      const Case d = make_case(12, C, 4, parts, DType::f64);
      check_close(forward(d.x, d.p).y, plain_layer_norm(d, 4), 1e-8);
    }
  }
}

TEST_CASE("layer norm keeps precision far from zero") {
  Case c = make_case(4, 256, 1, 0, DType::f64);
  for (double& v : c.x.span<double>()) v = 1000 + v;
  const Tensor x32 = c.x.to(DType::f32);
  c.x = x32.to(DType::f64);
  check_close(forward(x32, c.p).y, plain_layer_norm(c, 1), 1e-4);
}

TEST_CASE("layer norm gradients by finite differences") {
  for (int64_t C : {5, 24}) {
    const int64_t groups = 3;
    Case c = make_case(6, C, groups, 15, DType::f64);
    c.p.scale = c.p.scale.clone();
    c.p.shift = c.p.shift.clone();
    const NormGrads g = backward(c, forward(c.x, c.p), groups);
    const auto loss = [&] { return weighted_sum(forward(c.x, c.p).y, c.dy); };
    check_close(g.dx, numeric_gradient(c.x, loss), 1e-7);
    check_close(g.dweight, numeric_gradient(c.p.weight, loss), 1e-7);
    check_close(g.dbias, numeric_gradient(c.p.bias, loss), 1e-7);
    check_close(g.dscale, numeric_gradient(c.p.scale, loss), 1e-7);
    check_close(g.dshift, numeric_gradient(c.p.shift, loss), 1e-7);
  }
}

TEST_CASE("layer norm backward in f32 follows f64") {
  for (int64_t C : {1, 7, 16, 33, 64, 300}) {
    for (unsigned parts : {0u, 3u, 12u, 15u, 4u, 1u}) {
      CAPTURE(C);
      CAPTURE(parts);
      const Case c = make_case(60, C, 4, parts, DType::f32);
      const Case d{c.x.to(DType::f64), c.dy.to(DType::f64), to(c.p, DType::f64)};
      const NormGrads g = backward(c, forward(c.x, c.p), 4), e = backward(d, forward(d.x, d.p), 4);
      // One column: dx is 0 but for rounding.
      if (C > 1) check_close(g.dx, e.dx, 2e-5);
      if (g.dweight && C > 1) check_close(g.dweight, e.dweight, 2e-5);
      if (g.dbias) check_close(g.dbias, e.dbias, 2e-5);
      if (g.dscale) check_close(g.dscale, e.dscale, 2e-5);
      if (g.dshift) check_close(g.dshift, e.dshift, 2e-5);
    }
  }
}

TEST_CASE("layer norm backward writes only what is asked for") {
  const Case c = make_case(6, 20, 2, 15, DType::f32);
  const Result r = forward(c.x, c.p);
  const NormGrads all = backward(c, r, 2);
  NormGrads only;
  only.dscale = Tensor::empty({2, 20});
  cpu::layer_norm_backward(c.x, c.p, r.mean, r.rstd, c.dy, only);
  CHECK(same_bits(only.dscale, all.dscale));
  NormGrads dx;
  dx.dx = Tensor::empty_like(c.x);
  cpu::layer_norm_backward(c.x, c.p, r.mean, r.rstd, c.dy, dx);
  CHECK(same_bits(dx.dx, all.dx));
}

TEST_CASE("a sample's layer norm does not depend on the batch") {
  for (int64_t C : {16, 72, 130}) {
    const int64_t groups = 4, tokens = 700;  // more than one block of rows a sample
    const Case c = make_case(groups * tokens, C, groups, 15, DType::f32);
    const Result r = forward(c.x, c.p);
    const NormGrads g = backward(c, r, groups);
    for (int64_t b = 0; b < groups; ++b) {
      const auto rows = [&](const Tensor& t) { return t.slice(0, b * tokens, (b + 1) * tokens); };
      NormParams p = c.p;
      p.scale = c.p.scale.slice(0, b, b + 1);
      p.shift = c.p.shift.slice(0, b, b + 1);
      const Case one{rows(c.x).clone(), rows(c.dy).clone(), p};
      const Result s = forward(one.x, p);
      CHECK(same_bits(s.y, rows(r.y)));
      CHECK(same_bits(s.mean, rows(r.mean)));
      const NormGrads h = backward(one, s, 1);
      CHECK(same_bits(h.dx, rows(g.dx)));
      CHECK(same_bits(h.dscale, g.dscale.slice(0, b, b + 1)));
      CHECK(same_bits(h.dshift, g.dshift.slice(0, b, b + 1)));
    }
    const Case row{c.x.slice(0, 5, 6),
                   c.dy.slice(0, 5, 6),
                   {c.p.weight, c.p.bias, c.p.scale.slice(0, 0, 1), c.p.shift.slice(0, 0, 1)}};
    const Result s = forward(row.x, row.p);
    CHECK(same_bits(s.y, r.y.slice(0, 5, 6)));
    CHECK(same_bits(backward(row, s, 1).dx, g.dx.slice(0, 5, 6)));
  }
}

TEST_CASE("norms are the same bits for any number of threads") {
  const Case c = make_case(1200, 130, 3, 15, DType::f32);
  check_thread_counts([&] {
    const Result r = forward(c.x, c.p);
    const NormGrads g = backward(c, r, 3);
    return std::vector<Tensor>{r.y, r.mean, r.rstd, g.dx, g.dweight, g.dbias, g.dscale, g.dshift};
  });
}

TEST_CASE("NaN and infinity stay in their row") {
  Case c = make_case(3, 40, 1, 3, DType::f32);
  const Tensor clean = forward(c.x, c.p).y;
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY}) {
    const Tensor x = c.x.clone();
    x.data<float>()[40 + 37] = bad;
    const Tensor y = forward(x, c.p).y;
    for (int64_t i = 0; i < 40; ++i) CHECK(std::isnan(y.data<float>()[40 + i]));
    CHECK(same_bits(y.slice(0, 0, 1), clean.slice(0, 0, 1)));
    CHECK(same_bits(y.slice(0, 2, 3), clean.slice(0, 2, 3)));
  }
}

TEST_CASE("empty norms") {
  for (Shape shape : {Shape{0, 8}, Shape{4, 0}}) {
    const Tensor x = Tensor::empty(shape), rows = Tensor::empty({shape[0]});
    NormGrads g;
    g.dx = Tensor::empty(shape);
    g.dweight = Tensor::full({shape[1]}, 7);
    cpu::layer_norm(x, {}, g.dx, rows, rows);
    cpu::layer_norm_backward(x, {}, rows, rows, x, g);
    for (float v : g.dweight.span<float>()) CHECK(v == 0);
    cpu::rms_norm(x, {}, g.dx, rows);
    cpu::rms_norm_backward(x, {}, rows, x, g);
  }
}

TEST_CASE("rms norm: plain loop, gradients, f32, rows alone") {
  for (int64_t C : {1, 5, 16, 24, 32, 64, 80, 128, 200}) {
    for (bool weighted : {false, true}) {
      CAPTURE(C);
      const int64_t R = 9;
      const Tensor x = random_tensor({R, C}, 1, DType::f64),
                   dy = random_tensor({R, C}, 2, DType::f64);
      NormParams p;
      if (weighted) p.weight = random_tensor({C}, 3, DType::f64);
      const Tensor y = Tensor::empty_like(x), rstd = Tensor::empty({R}, DType::f64);
      const auto run = [&] { cpu::rms_norm(x, p, y, rstd); };
      run();
      for (int64_t r = 0; r < R; ++r) {
        double squares = 0;
        for (int64_t i = 0; i < C; ++i) squares += std::pow(x.data<double>()[r * C + i], 2);
        for (int64_t i = 0; i < C; ++i) {
          const double w = weighted ? p.weight.data<double>()[i] : 1;
          CHECK(y.data<double>()[r * C + i] ==
                doctest::Approx(x.data<double>()[r * C + i] / std::sqrt(squares / C + p.eps) * w)
                    .epsilon(1e-10));
        }
      }
      NormGrads g;
      g.dx = Tensor::empty_like(x);
      if (weighted) g.dweight = Tensor::empty({C}, DType::f64);
      cpu::rms_norm_backward(x, p, rstd, dy, g);
      const auto loss = [&] {
        Tensor z = Tensor::empty_like(x), s = Tensor::empty({R}, DType::f64);
        cpu::rms_norm(x, p, z, s);
        return weighted_sum(z, dy);
      };
      check_close(g.dx, numeric_gradient(x, loss), C == 1 ? 1e-3 : 1e-6);
      if (weighted) check_close(g.dweight, numeric_gradient(p.weight, loss), 1e-6);

      const Tensor x32 = x.to(DType::f32), dy32 = dy.to(DType::f32);
      const NormParams p32 = to(p, DType::f32);
      const Tensor y32 = Tensor::empty_like(x32), rstd32 = Tensor::empty({R});
      cpu::rms_norm(x32, p32, y32, rstd32);
      check_close(y32, y);
      NormGrads g32;
      g32.dx = Tensor::empty_like(x32);
      if (weighted) g32.dweight = Tensor::empty({C});
      cpu::rms_norm_backward(x32, p32, rstd32, dy32, g32);
      if (C > 1) check_close(g32.dx, g.dx, 2e-5);
      if (weighted) check_close(g32.dweight, g.dweight);

      const Tensor one = Tensor::empty({1, C}), one_rstd = Tensor::empty({1});
      cpu::rms_norm(x32.slice(0, 7, 8), p32, one, one_rstd);
      CHECK(same_bits(one, y32.slice(0, 7, 8)));
      NormGrads h;
      h.dx = Tensor::empty({1, C});
      cpu::rms_norm_backward(x32.slice(0, 7, 8), p32, one_rstd, dy32.slice(0, 7, 8), h);
      CHECK(same_bits(h.dx, g32.dx.slice(0, 7, 8)));
    }
  }
}

TEST_CASE("rms norm is the same bits for any number of threads") {
  const Tensor x = random_tensor({5000, 24}, 1), dy = random_tensor({5000, 24}, 2);
  const NormParams p{random_tensor({24}, 3), {}, {}, {}};
  check_thread_counts([&] {
    const Tensor y = Tensor::empty_like(x), rstd = Tensor::empty({5000});
    cpu::rms_norm(x, p, y, rstd);
    NormGrads g;
    g.dx = Tensor::empty_like(x);
    g.dweight = Tensor::empty({24});
    cpu::rms_norm_backward(x, p, rstd, dy, g);
    return std::vector<Tensor>{y, rstd, g.dx, g.dweight};
  });
}

TEST_CASE("group norm with silu: a sample alone, and any number of threads") {
  const Tensor x = random_tensor({3, 6, 7}, 1), dy = random_tensor({3, 6, 7}, 2);
  NormParams p{random_tensor({6}, 3), random_tensor({6}, 4), {}, {}};
  p.activation = Activation::silu;
  const auto run = [&p](const Tensor& x, const Tensor& dy) {
    const Tensor y = Tensor::empty_like(x), mean = Tensor::empty({x.dim(0), 2});
    const Tensor rstd = Tensor::empty_like(mean);
    cpu::group_norm(x, 2, p, y, mean, rstd);
    NormGrads g;
    g.dx = Tensor::empty_like(x);
    cpu::group_norm_backward(x, 2, p, mean, rstd, dy, g);
    return std::vector<Tensor>{y, g.dx};
  };
  const std::vector<Tensor> all = run(x, dy), last = run(x.slice(0, 2, 3), dy.slice(0, 2, 3));
  for (size_t i = 0; i < 2; ++i) CHECK(same_bits(all[i].slice(0, 2, 3), last[i]));
  check_thread_counts([&] { return run(x, dy); });
}

TEST_CASE("group norm: plain loop, gradients, samples alone, threads") {
  const int64_t B = 3, C = 6, S = 7, groups = 2, n = C / groups * S;
  const Tensor x = random_tensor({B, C, S}, 1, DType::f64),
               dy = random_tensor({B, C, S}, 2, DType::f64);
  const NormParams p{random_tensor({C}, 3, DType::f64), random_tensor({C}, 4, DType::f64), {}, {}};
  const auto run = [groups](const Tensor& x, const NormParams& p) {
    const Shape stats = {x.dim(0), groups};
    Result r{Tensor::empty_like(x), Tensor::empty(stats, x.dtype()),
             Tensor::empty(stats, x.dtype())};
    cpu::group_norm(x, groups, p, r.y, r.mean, r.rstd);
    return r;
  };
  const auto gradients = [groups](const Tensor& x, const NormParams& p, const Result& r,
                                  const Tensor& dy) {
    NormGrads g;
    g.dx = Tensor::empty_like(x);
    g.dweight = Tensor::empty({x.dim(1)}, x.dtype());
    g.dbias = Tensor::empty({x.dim(1)}, x.dtype());
    cpu::group_norm_backward(x, groups, p, r.mean, r.rstd, dy, g);
    return g;
  };
  const Result r = run(x, p);
  for (int64_t k = 0; k < B * groups; ++k) {
    const double* v = x.data<double>() + k * n;
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; ++i) mean += v[i] / n;
    for (int64_t i = 0; i < n; ++i) variance += (v[i] - mean) * (v[i] - mean) / n;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t c = k % groups * (C / groups) + i / S;
      const double expected =
          (v[i] - mean) / std::sqrt(variance + p.eps) * p.weight.data<double>()[c] +
          p.bias.data<double>()[c];
      CHECK(r.y.data<double>()[k * n + i] == doctest::Approx(expected).epsilon(1e-9));
    }
  }
  const NormGrads g = gradients(x, p, r, dy);
  const auto loss = [&] { return weighted_sum(run(x, p).y, dy); };
  check_close(g.dx, numeric_gradient(x, loss), 1e-7);
  check_close(g.dweight, numeric_gradient(p.weight, loss), 1e-7);
  check_close(g.dbias, numeric_gradient(p.bias, loss), 1e-7);

  const Tensor x32 = x.to(DType::f32), dy32 = dy.to(DType::f32);
  const NormParams p32 = to(p, DType::f32);
  const Result r32 = run(x32, p32);
  check_close(r32.y, r.y);
  const NormGrads g32 = gradients(x32, p32, r32, dy32);
  check_close(g32.dx, g.dx, 2e-5);
  const Result one = run(x32.slice(0, 1, 2).clone(), p32);
  CHECK(same_bits(one.y, r32.y.slice(0, 1, 2)));

  const Tensor big = random_tensor({2, 6, 9000}, 6), dbig = random_tensor({2, 6, 9000}, 7);
  check_thread_counts([&] {
    const Result s = run(big, p32);
    const NormGrads h = gradients(big, p32, s, dbig);
    return std::vector<Tensor>{s.y, h.dx, h.dweight, h.dbias};
  });
}

TEST_CASE("norm refuses what does not fit, by name") {
  const Tensor x = Tensor::zeros({4, 8}), rows = Tensor::empty({4});
  const auto message = [&](const NormParams& p) {
    return message_of([&] { cpu::layer_norm(x, p, x, rows, rows); });
  };
  CHECK(contains(message({Tensor::zeros({7}), {}, {}, {}}), "weight"));
  CHECK(contains(message({{}, {}, Tensor::zeros({3, 8}), {}}), "scale"));
  CHECK(contains(message({{}, {}, {}, Tensor::zeros({8, 2}).transpose(0, 1)}), "shift"));
  CHECK(contains(message({{}, Tensor::zeros({8}, DType::f64), {}, {}}), "bias"));
  CHECK(message({}) == "");
}
