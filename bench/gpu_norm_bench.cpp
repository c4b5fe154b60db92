// Norms in bf16 against the copy: layer norm with modulation (scale and shift per sample), its
// gradient with frozen parameters, and RMS norms: of rows, of queries or keys per head, of a sum
// that is kept.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/add_rms_norm.h"

namespace parlo::bench {
namespace {

struct Rows {
  Tensor x, y, mean, rstd, dy;
  NormParams p;
};

Rows operands(RandomKey key, int64_t rows, int64_t columns, int64_t groups) {
  Rows o;
  o.x = normal(key.fold("x"), {rows, columns}), o.y = room({rows, columns});
  o.mean = room({rows}, DType::f32), o.rstd = room({rows}, DType::f32);
  if (groups > 0) {
    o.p.scale = normal(key.fold("scale"), {groups, columns});
    o.p.shift = normal(key.fold("shift"), {groups, columns});
  } else {
    o.p.weight = normal(key.fold("weight"), {columns});
  }
  return o;
}

void modulated(benchmark::State& state, int64_t batch, int64_t rows, int64_t columns) {
  const Timing t = rotate([=](RandomKey key) { return operands(key, rows, columns, batch); },
                          [](const Rows& o) { cuda::layer_norm(o.x, o.p, o.y, o.mean, o.rstd); });
  report(state, t, {0, 4.0 * static_cast<double>(rows * columns)});
}

// x and dy are read, dx written.
void modulated_backward(benchmark::State& state, int64_t batch, int64_t rows, int64_t columns) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Rows o = operands(key, rows, columns, batch);
        cuda::layer_norm(o.x, o.p, o.y, o.mean, o.rstd);
        o.dy = normal(key.fold("dy"), {rows, columns});
        return o;
      },
      [](const Rows& o) {
        NormGrads grads;
        grads.dx = o.y;
        cuda::layer_norm_backward(o.x, o.p, o.mean, o.rstd, o.dy, grads);
      });
  report(state, t, {0, 6.0 * static_cast<double>(rows * columns)});
}

void rms(benchmark::State& state, int64_t rows, int64_t columns) {
  const Timing t = rotate([=](RandomKey key) { return operands(key, rows, columns, 0); },
                          [](const Rows& o) { cuda::rms_norm(o.x, o.p, o.y, o.rstd); });
  report(state, t, {0, 4.0 * static_cast<double>(rows * columns)});
}

// x and residual are read, their sum and its norm written; backward: sum, dy and dsum, dx.
struct Sums {
  Tensor x, residual, sum, y, rstd;
  NormParams p;
};

void rms_of_sum(benchmark::State& state, int64_t rows, int64_t columns, bool gradient) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Sums o;
        o.x = normal(key.fold("x"), {rows, columns});
        o.residual = normal(key.fold("r"), {rows, columns});
        o.sum = gradient ? normal(key.fold("sum"), {rows, columns}) : room({rows, columns});
        o.y = room({rows, columns}), o.p.weight = normal(key.fold("weight"), {columns});
        o.rstd = gradient ? Tensor::full({rows}, 1, DType::f32, kGpu) : room({rows}, DType::f32);
        return o;
      },
      [=](const Sums& o) {
        if (gradient) {
          cuda::add_rms_norm_backward(o.sum, o.p, o.rstd, o.x, o.residual, o.y, {});
        } else {
          cuda::add_rms_norm(o.x, o.residual, o.p, o.sum, o.y, o.rstd);
        }
      });
  report(state, t, {0, 8.0 * static_cast<double>(rows * columns)});
}

}  // namespace

void add_gpu_norm() {
  for (const GpuShape& s : gpu_shapes("norm")) {
    const int64_t batch = s["batch"], rows = batch * s["tokens"], columns = s["columns"];
    const int64_t heads = s["heads"], d = s["d"];
    const auto add = [&](const char* what, auto body) {
      add_gpu_benchmark(std::string(what) + "/" + s.name(), body);
    };
    using State = benchmark::State;
    add("layer_norm_modulated", [=](State& st) { modulated(st, batch, rows, columns); });
    add("layer_norm_modulated_backward",
        [=](State& st) { modulated_backward(st, batch, rows, columns); });
    add("rms_norm", [=](State& st) { rms(st, rows, columns); });
    add("add_rms_norm", [=](State& st) { rms_of_sum(st, rows, columns, false); });
    add("add_rms_norm_backward", [=](State& st) { rms_of_sum(st, rows, columns, true); });
    add("qk_norm", [=](State& st) { rms(st, rows * heads, d); });
  }
}

}  // namespace parlo::bench
