#include "kernels/linear_logprob.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

constexpr int64_t kIgnore = -100;

// Dtypes of x and w.
struct Types {
  DType x, w;
};
const Types kTypes[] = {
    {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::f32, DType::bf16}};

// Operands on the GPU; the values that the products there see, in f64 on the CPU.
struct Head {
  Tensor x, w, targets;
  Tensor x64, w64, targets_cpu;
  LinearLogProbArgs args;

  Head(const Shape& s, Types types, double temperature = 1) {
    const Tensor x_cpu = random_tensor({s[0], s[2]}, 1, types.x);
    const GpuInput w_both({s[1], s[2]}, 2, types.w);
    x = on_gpu(x_cpu), x64 = x_cpu.to(types.w).to(DType::f64);
    w = w_both.gpu, w64 = w_both.reference;
    std::vector<int64_t> ids;
    for (int64_t r = 0; r < s[0]; ++r) {
      ids.push_back(r % 4 == 2 ? kIgnore : (r * 977 + s[1] - 1) % s[1]);
    }
    targets_cpu = Tensor::from(ids, {s[0]}), targets = on_gpu(targets_cpu);
    args.temperature = temperature;
  }
  Head rows(int64_t begin, int64_t end) const {
    Head part = *this;
    part.x = x.slice(0, begin, end), part.targets = targets.slice(0, begin, end);
    return part;
  }
};

struct Outputs {
  Tensor log_prob, entropy, lse;
};

Outputs forward(const Head& h) {
  const Shape rows{h.x.dim(0)};
  const Outputs y{gpu_output(rows), gpu_output(rows), gpu_output(rows)};
  cuda::linear_log_prob(h.x, h.w, h.targets, h.args, y.log_prob, y.entropy, y.lse);
  return y;
}

Outputs reference(const Head& h) {
  const Tensor t = Tensor::empty({h.x.dim(0)}, DType::f64);
  const Outputs y{t, t.clone(), t.clone()};
  cpu::linear_log_prob(h.x64, h.w64, h.targets_cpu, h.args, y.log_prob, y.entropy, y.lse);
  return y;
}

LinearLogProbGrads grads_of(const Head& h) {
  const Shape rows{h.x.dim(0)};
  return {on_gpu(random_tensor(rows, 3)), on_gpu(random_tensor(rows, 4)),
          gpu_output(h.x.shape(), h.x.dtype()), gpu_output(h.w.shape())};
}

void backward(const Head& h, const Outputs& y, const LinearLogProbGrads& g) {
  cuda::linear_log_prob_backward(h.x, h.w, h.targets, h.args, y.entropy, y.lse, g);
}

LinearLogProbGrads reference_grads(const Head& h) {
  const Shape rows{h.x.dim(0)};
  const Outputs y = reference(h);
  const LinearLogProbGrads g{
      random_tensor(rows, 3).to(DType::f64), random_tensor(rows, 4).to(DType::f64),
      Tensor::empty(h.x64.shape(), DType::f64), Tensor::empty(h.w64.shape(), DType::f64)};
  cpu::linear_log_prob_backward(h.x64, h.w64, h.targets_cpu, h.args, y.entropy, y.lse, g);
  return g;
}

// T, V, K: one tile; a rest that is no whole pack; several of columns; one class; several of rows
// (kRows); nothing.
const Shape kSizes[] = {{9, 32, 5}, {5, 37, 8}, {3, 4100, 4}, {2, 8195, 3},
                        {4, 1, 3},  {0, 5, 2},  {2050, 3, 2}};

}  // namespace

TEST_CASE("gpu: log-prob, entropy and their gradients") {
  for (const Types& types : kTypes) {
    for (const Shape& s : kSizes) {
      INFO(to_string(s), " of ", dtype_name(types.x), ", ", dtype_name(types.w));
      const Head h(s, types, 0.7);
      const Outputs got = forward(h), expected = reference(h);
      check_close(got.log_prob, expected.log_prob);
      check_close(got.entropy, expected.entropy);
      check_close(got.lse, expected.lse);
      const LinearLogProbGrads g = grads_of(h), e = reference_grads(h);
      backward(h, got, g);
      if (s[1] == 1) {  // rounding alone
        check_close(g.dx, e.dx, 1);
        continue;
      }
      const double limit = tolerance(types.w);
      check_close(g.dx, e.dx, limit);
      check_close(g.dw, e.dw, limit);
    }
  }
}

TEST_CASE("gpu: log-prob of a row does not depend on its batch") {
  for (const Types& types : kTypes) {
    const Head h({2050, 5, 4}, types);
    const Outputs all = forward(h), again = forward(h);
    const LinearLogProbGrads g = grads_of(h);
    backward(h, all, g);
    CHECK(same_gpu_bits(all.log_prob, again.log_prob));
    for (const int64_t r : {0, 1023, 1024, 2049}) {
      const auto row = [r](const Tensor& t) { return t.slice(0, r, r + 1); };
      const Head one = h.rows(r, r + 1);
      const Outputs y = forward(one);
      CHECK(same_gpu_bits(y.log_prob, row(all.log_prob)));
      CHECK(same_gpu_bits(y.entropy, row(all.entropy)));
      const LinearLogProbGrads mine{
          row(g.d_log_prob), row(g.d_entropy), gpu_output(one.x.shape(), one.x.dtype()), {}};
      backward(one, y, mine);
      CHECK(same_gpu_bits(mine.dx, row(g.dx)));
    }
  }
}

TEST_CASE("gpu: log-prob gradients that are not given or not asked for") {
  const Head h({6, 40, 8}, kTypes[1]);
  const Outputs y = forward(h);
  const LinearLogProbGrads all = grads_of(h);
  backward(h, y, all);
  LinearLogProbGrads some = grads_of(h);
  some.dx = {};
  backward(h, y, some);
  CHECK(same_gpu_bits(some.dw, all.dw));
  const Tensor zero = Tensor::zeros({6}, DType::f32, kGpu);
  for (const bool log_prob : {true, false}) {
    const LinearLogProbGrads given =
        log_prob
            ? LinearLogProbGrads{all.d_log_prob, zero, gpu_output(h.x.shape(), DType::bf16), {}}
            : LinearLogProbGrads{zero, all.d_entropy, gpu_output(h.x.shape(), DType::bf16), {}};
    LinearLogProbGrads absent = given;
    (log_prob ? absent.d_entropy : absent.d_log_prob) = {};
    absent.dx = gpu_output(h.x.shape(), DType::bf16);
    backward(h, y, given);
    backward(h, y, absent);
    CHECK(same_values(given.dx.to(Device{}), absent.dx.to(Device{})));
  }
  const Tensor ignored = all.dx.slice(0, 2, 3).to(Device{});
  CHECK(same_values(ignored, Tensor::zeros(ignored.shape(), DType::bf16)));
}

TEST_CASE("gpu: log-prob of extreme and broken logits") {
  Head h({4, 3, 2}, kTypes[0]);
  h.x64 = Tensor::from<double>({1e4, 1, 1e4, 0, 1e4, 1, 0, 0}, {4, 2});
  h.w64 = Tensor::from<double>({1, 0, -1, 0, 1, 0.5}, {3, 2});
  h.targets_cpu = Tensor::from<int64_t>({1, 0, 2, 1}, {4});
  h.x = on_gpu(h.x64.to(DType::f32)), h.w = on_gpu(h.w64.to(DType::f32));
  h.targets = on_gpu(h.targets_cpu);
  const Outputs got = forward(h), expected = reference(h);
  check_close(got.log_prob, expected.log_prob);
  check_close(got.entropy, expected.entropy);
  const LinearLogProbGrads g = grads_of(h);
  backward(h, got, g);
  for (const double value : g.dx.to_vector()) CHECK(std::isfinite(value));
  h.x.slice(0, 1, 2).fill(std::nan(""));
  const std::vector<double> log_prob = forward(h).log_prob.to_vector();
  CHECK(std::isnan(log_prob[1]));
  CHECK(std::isfinite(log_prob[0]));
  // A logit that overflowed to -infinity has probability 0.
  Head over({1, 2, 1}, kTypes[0]);
  over.x.fill(1e30), over.w.fill(0), over.w.slice(0, 1, 2).fill(-1e30), over.targets.fill(0);
  const Outputs y = forward(over);
  CHECK(y.log_prob.item() == 0);
  CHECK(y.entropy.item() == 0);
  const LinearLogProbGrads gradient = grads_of(over);
  backward(over, y, gradient);
  CHECK(gradient.dw.slice(0, 1, 2).item() == 0);
}

TEST_CASE("gpu: a bad target of log-prob is named; what does not fit is refused") {
  Head h({3, 4, 2}, kTypes[0]);
  const auto message = [&] { return message_of([&] { forward(h); }); };
  h.targets = on_gpu(Tensor::from<int64_t>({0, 4, -1}, {3}));
  CHECK(contains(message(), "target 4 of row 1 is outside [0, 4)"));
  h.args.ignore_index = 4;
  CHECK(contains(message(), "target -1 of row 2 is outside [0, 4)"));
  h.targets = Tensor::zeros({3}, DType::i64);
  CHECK(contains(message(), "operands lie on"));
  h.targets = on_gpu(h.targets);
  h.w = Tensor::zeros({4, 3}, DType::f32, kGpu);
  CHECK(contains(message(), "expected (T, K) and (V, K)"));
  h.x = Tensor::zeros({3, 3}, DType::f64, kGpu), h.w = Tensor::zeros({4, 3}, DType::f64, kGpu);
  CHECK(contains(message(), "expected dtype f32 or bf16 on a GPU"));
}

}  // namespace parlo::test
