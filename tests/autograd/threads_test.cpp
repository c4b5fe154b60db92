// A small network with attention, trained for 20 steps: the parameters have the same bits for 1, 2
// and 3 threads.
#include <cmath>

#include "autograd/optim.h"
#include "tensor/parallel.h"
#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

constexpr int64_t kBatch = 4, kTokens = 72, kWidth = 64, kHeads = 4;

struct Network {
  std::vector<NamedVar> params;
  Network() {
    const auto declare = [this](const char* name, const Shape& shape, double scale) {
      params.push_back(
          {name, Var(random_tensor(shape, static_cast<uint32_t>(params.size()), DType::f32, scale),
                     true)});
    };
    declare("qkv", {3 * kWidth, kWidth}, 0.12);
    declare("out", {kWidth, kWidth}, 0.12);
    declare("up", {4 * kWidth, kWidth}, 0.12);
    declare("up_bias", {4 * kWidth}, 0.1);
    declare("down", {kWidth, 4 * kWidth}, 0.06);
    declare("norm", {kWidth}, 1);
    declare("scale", {kBatch, kWidth}, 0.1);
    declare("gate", {kBatch, kWidth}, 1);
    declare("low_a", {4, kWidth}, 0.1);
    declare("low_b", {3 * kWidth, 4}, 0.1);
  }
  const Var& at(const std::string& name) const {
    for (const NamedVar& p : params)
      if (p.name == name) return p.var;
    throw Error("no parameter " + name);
  }

  Var forward(const Var& x) const {
    const LowRankVar low{at("low_a"), at("low_b"), 0.5};
    const Var n = layer_norm(x, at("norm"), {}, 1e-5, at("scale"), {});
    const std::vector<Var> qkv =
        chunk(linear(n, at("qkv"), {}, {.residual = {}, .low_rank = &low}), 2, 3);
    const Shape heads{kBatch, kTokens, kHeads, kWidth / kHeads};
    AttentionArgs args;
    args.scale = 0.25;
    args.causal = true;
    const Var o = attention(reshape(qkv[0], heads), reshape(qkv[1], heads),
                            rms_norm(reshape(qkv[2], heads), {}, 1e-6), args);
    const Var h = gate_residual(x, at("gate"), linear(reshape(o, x.shape()), at("out"), {}));
    const Var up =
        linear(h, at("up"), at("up_bias"), {.activation = Activation::gelu_tanh, .residual = {}});
    return linear(up, at("down"), {}, {.activation = Activation::none, .residual = h});
  }
};

std::vector<Tensor> train(int threads) {
  set_num_threads(threads);
  Network net;
  AdamW optimiser(net.params, {});
  Ema ema(net.params, 0.9);
  double first = 0, last = 0;
  for (int step = 0; step < 20; ++step) {
    const Var x(random_tensor({kBatch, kTokens, kWidth}, 1000 + step % 3));
    const Var target(random_tensor({kBatch, kTokens, kWidth}, 2000 + step % 3));
    zero_grads(net.params);
    const Var loss = mean(square(sub(net.forward(x), target)));
    backward(loss);
    optimiser.step(3e-3, clip_factor(grad_norm(net.params), 1.0));
    ema.update();
    (step ? last : first) = loss.value().item();
  }
  CHECK(last < first);
  std::vector<Tensor> out;
  for (const NamedVar& p : net.params) out.push_back(p.var.value());
  for (const auto& [name, t] : ema.state()) out.push_back(t);
  for (const auto& [name, t] : optimiser.state()) out.push_back(t);
  return out;
}

TEST_CASE("20 steps give the same bits for 1, 2 and 3 threads") {
  const int before = num_threads();
  const std::vector<Tensor> one = train(1);
  for (int threads : {1, 2, 3}) {
    const std::vector<Tensor> other = train(threads);
    for (size_t i = 0; i < one.size(); ++i) {
      INFO(threads, " threads, tensor ", i);
      CHECK(same_bits(one[i], other[i]));
    }
  }
  set_num_threads(before);
}

}  // namespace
}  // namespace parlo
