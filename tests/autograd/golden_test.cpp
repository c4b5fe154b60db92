// Operators against torch in f64: tests/golden/ops.
#include <cmath>

#include "tensor/safetensors.h"
#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

// Rounding alone separates two f64 implementations; zeros in theory come out near 1e-17.
constexpr double kLimit = 1e-12;

void check_near(const std::string& name, const Tensor& actual, const Tensor& expected) {
  INFO(name);
  DOCTEST_REQUIRE(actual.defined());
  DOCTEST_REQUIRE((actual.shape() == expected.shape()));
  const std::vector<double> a = actual.to_vector(), e = expected.to_vector();
  double scale = 0.1, error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    scale = std::max(scale, std::abs(e[i]));
    if (!(std::abs(a[i] - e[i]) <= error)) error = std::abs(a[i] - e[i]);
  }
  CHECK(error <= kLimit * scale);
}

struct Family {
  SafeTensors file;
  explicit Family(const std::string& name)
      : file(SafeTensors::open(golden("ops/" + name + ".safetensors"))) {}

  bool has(const std::string& name) const { return file.contains(name + ".f64"); }
  Tensor get(const std::string& name) const { return file.get(name + ".f64"); }

  // Runs op on the case's inputs of these names (those it has) and compares everything.
  void check(const std::string& c, const std::vector<std::string>& names, const Op& op) const {
    INFO(c);
    std::vector<Var> in;
    for (const std::string& n : names)
      in.push_back(has(c + ".in." + n) ? Var(get(c + ".in." + n), true) : Var());
    const Var y = op(in);
    check_near("out", y.value(), get(c + ".out"));
    backward(y, get(c + ".grad_out"));
    for (size_t i = 0; i < names.size(); ++i)
      if (in[i]) check_near(names[i], in[i].grad(), get(c + ".grad." + names[i]));
  }
};

TEST_CASE("attention") {
  const Family f("attention");
  for (const char* c : {"full", "one_key", "tiles", "causal", "causal_tiles", "key_padding",
                        "causal_key_padding", "large_logits"}) {
    AttentionArgs args;
    args.causal = contains(c, "causal");
    const std::string mask = std::string(c) + ".in.key_mask";
    if (f.file.contains(mask)) args.key_mask = f.file.get(mask).to(DType::u8);
    f.check(c, {"q", "k", "v"}, [&](std::span<const Var> in) {
      const auto swap = [](const Var& x) { return permute(x, {0, 2, 1, 3}); };
      args.scale = 1 / std::sqrt(static_cast<double>(in[0].dim(3)));
      return swap(attention(swap(in[0]), swap(in[1]), swap(in[2]), args));
    });
  }
}

TEST_CASE("norms") {
  const Family f("norms");
  const std::vector<std::string> names{"x", "weight", "bias"};
  const auto layer = [](double eps) {
    return [eps](std::span<const Var> in) { return layer_norm(in[0], in[1], in[2], eps); };
  };
  f.check("layer_norm", names, layer(1e-5));
  f.check("layer_norm_plain", names, layer(1e-6));
  f.check("layer_norm_offset", names, layer(1e-6));
  for (const char* c : {"rms_norm", "rms_norm_small"})
    f.check(c, {"x", "weight"},
            [](std::span<const Var> in) { return rms_norm(in[0], in[1], 1e-6); });
  f.check("group_norm", names,
          [](std::span<const Var> in) { return group_norm(in[0], 3, in[1], in[2], 1e-5); });
  f.check("group_norm_one", names,
          [](std::span<const Var> in) { return group_norm(in[0], 1, in[1], in[2], 1e-6); });
}

TEST_CASE("conv2d") {
  const Family f("conv2d");
  const auto check = [&f](const char* c, const Conv2dArgs& args) {
    f.check(c, {"x", "weight", "bias"},
            [args](std::span<const Var> in) { return conv2d(in[0], in[1], in[2], args); });
  };
  check("k3_p1", {1, 1, 1});
  check("k3_s2_p1", {2, 1, 1});
  check("k2_s2", {2, 0, 1});
  check("k1", {1, 0, 1});
}

TEST_CASE("cross-entropy and softmax") {
  const Family f("cross_entropy");
  const auto targets = [&f](const char* c) { return f.file.get(std::string(c) + ".in.target"); };
  for (const char* c : {"mean", "large_logits"})
    f.check(c, {"logits"},
            [&](std::span<const Var> in) { return mean(cross_entropy(in[0], targets(c))); });
  f.check("none", {"logits"},
          [&](std::span<const Var> in) { return cross_entropy(in[0], targets("none")); });
  f.check("ignore", {"logits"}, [&](std::span<const Var> in) {
    return affine(sum(cross_entropy(in[0], targets("ignore"))), 1.0 / 5);  // 5 of 7 rows count
  });
  f.check("softmax", {"x"}, [](std::span<const Var> in) { return softmax(in[0]); });
  f.check("log_softmax", {"x"}, [](std::span<const Var> in) { return log(softmax(in[0])); });
}

TEST_CASE("activations") {
  const Family f("activations");
  const auto check = [&f](const char* c, Activation a) {
    f.check(c, {"x"}, [a](std::span<const Var> in) { return activation(a, in[0]); });
  };
  check("gelu_erf", Activation::gelu_erf);
  check("gelu_tanh", Activation::gelu_tanh);
  check("quick_gelu", Activation::quick_gelu);
  check("silu", Activation::silu);
  f.check("sigmoid", {"x"}, [](std::span<const Var> in) { return sigmoid(in[0]); });
  f.check("tanh", {"x"}, [](std::span<const Var> in) { return tanh(in[0]); });
}

}  // namespace
}  // namespace parlo
