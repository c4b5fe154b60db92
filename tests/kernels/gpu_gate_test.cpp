#include "kernels/elementwise.h"

#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

struct Case {
  GpuInput residual, y, dout;
  Tensor gate, gate64;  // a chunk of a wider projection: rows with a stride
  Case(int64_t rows, int64_t columns, int64_t groups, DType dtype, DType gate_dtype)
      : residual({rows, columns}, 1, dtype),
        y({rows, columns}, 2, dtype),
        dout({rows, columns}, 3, dtype) {
    const GpuInput wide({groups, 3 * columns}, 4, gate_dtype);
    gate = wide.gpu.slice(1, columns, 2 * columns);
    gate64 = wide.reference.slice(1, columns, 2 * columns);
  }
};

Tensor forward(const Case& c) {
  const Tensor out = gpu_output(c.y.gpu.shape(), c.y.gpu.dtype());
  cuda::gate_residual(c.residual.gpu, c.gate, c.y.gpu, out);
  return out;
}

struct Grads {
  Tensor dgate, dy;
};

Grads backward(const Case& c) {
  Grads g{gpu_output(c.gate.shape(), c.gate.dtype()), gpu_output(c.y.gpu.shape(), c.y.gpu.dtype())};
  cuda::gate_residual_backward(c.gate, c.y.gpu, c.dout.gpu, g.dgate, g.dy);
  return g;
}

}  // namespace

TEST_CASE("gpu: gate_residual and its gradients") {
  const int64_t shapes[][3] = {{1, 1, 1},     {6, 7, 3},    {6, 8, 2},
                               {130, 40, 2},  {35, 264, 1}, {3, 1000, 3},
                               {140, 513, 2}, {64, 72, 64}, {2200, 8, 1}};
  for (const DType dtype : kGpuTypes) {
    for (const DType gate_dtype : {dtype, DType::f32}) {
      for (const auto& [rows, columns, groups] : shapes) {
        INFO(concat(dtype_name(dtype), ", ", rows, " rows of ", columns, ", ", groups, " groups"));
        const Case c(rows, columns, groups, dtype, gate_dtype);
        const Tensor want = Tensor::empty({rows, columns}, DType::f64);
        const Tensor dgate = Tensor::empty({groups, columns}, DType::f64);
        cpu::gate_residual(c.residual.reference, c.gate64, c.y.reference, want);
        check_close(forward(c), want, tolerance(dtype));
        cpu::gate_residual_backward(c.gate64, c.y.reference, c.dout.reference, dgate, want);
        const Grads got = backward(c);
        check_close(got.dy, want, tolerance(dtype));
        check_close(got.dgate, dgate);
        // Only one of them.
        const Grads one{gpu_output(got.dgate.shape(), gate_dtype), gpu_output(want.shape(), dtype)};
        cuda::gate_residual_backward(c.gate, {}, c.dout.gpu, {}, one.dy);
        cuda::gate_residual_backward(c.gate, c.y.gpu, c.dout.gpu, one.dgate, {});
        CHECK(same_values(one.dy, got.dy));
        CHECK(same_values(one.dgate, got.dgate));
      }
    }
  }
}

TEST_CASE("gpu: gate_residual in place and not aligned") {
  for (const DType dtype : kGpuTypes) {
    const Case c(12, 64, 2, dtype, dtype);
    const Tensor want = forward(c), room = gpu_output({12 * 64 + 1}, dtype);
    const Tensor odd = room.slice(0, 1, 12 * 64 + 1).view({12, 64});
    odd.copy_from(c.residual.gpu);
    cuda::gate_residual(odd, c.gate, c.y.gpu, odd);
    CHECK(same_values(odd, want));
    const Tensor same = c.residual.gpu.clone();
    cuda::gate_residual(same, c.gate, c.y.gpu, same);
    CHECK(same_values(same, want));
  }
}

TEST_CASE("gpu: a sample's gate gradient has the same bits in any batch") {
  for (const DType dtype : kGpuTypes) {
    const Case all(300, 96, 2, dtype, dtype);
    Case one = all;
    const auto second = [](const Tensor& t) { return t.slice(0, t.dim(0) / 2, t.dim(0)); };
    one.y.gpu = second(all.y.gpu), one.dout.gpu = second(all.dout.gpu);
    one.residual.gpu = second(all.residual.gpu), one.gate = second(all.gate);
    const Grads g = backward(all), again = backward(all), g1 = backward(one);
    CHECK(same_values(second(forward(all)), forward(one)));
    CHECK(same_values(g.dgate, again.dgate));
    CHECK(same_values(second(g.dgate), g1.dgate));
    CHECK(same_values(second(g.dy), g1.dy));
  }
}

TEST_CASE("gpu: gates of nothing, and what is refused") {
  const Tensor none = gpu_output({0, 8}), gate = gpu_output({2, 8});
  cuda::gate_residual(none, gate, none, none);
  const Tensor dgate = gpu_output({2, 8});
  cuda::gate_residual_backward(gate, none, none, dgate, none);
  check_close(dgate, Tensor::zeros({2, 8}));
  const Tensor x = gpu_output({4, 8}, DType::bf16);
  const auto message = [&](const Tensor& g, const Tensor& residual) {
    return message_of([&] { cuda::gate_residual(residual, g, x, x); });
  };
  CHECK(contains(message(gpu_output({3, 8}, DType::bf16), x), "G dividing 4 rows"));
  CHECK(contains(message(gpu_output({2, 8}, DType::f64), x), "gate has shape"));
  CHECK(contains(message({}, x), "(nothing)"));
  CHECK(contains(message(gate, gpu_output({4, 8})), "residual has dtype f32"));
  CHECK(contains(message(gate, Tensor::zeros({4, 8}, DType::bf16)), "operands lie on"));
}

}  // namespace parlo::test
