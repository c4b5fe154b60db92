// Optimisers, clipping, schedules against torch and transformers; averages; saved states that
// continue to the bit.
#include "autograd/optim.h"

#include <Eigen/Dense>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

const nlohmann::json& settings() {
  static const nlohmann::json j = nlohmann::json::parse(read_file(golden("optim/settings.json")));
  return j;
}

void set_gradient(const Var& v, const Tensor& grad) {
  Var(v).zero_grad();
  backward(v, grad);
}

TEST_CASE("AdamW walks the reference's way") {
  const SafeTensors file = SafeTensors::open(golden("optim/adamw.safetensors"));
  const Tensor grads = file.get("grads.f64");
  for (const auto& [run, options] : settings()["adamw"].items())
    for (DType dtype : {DType::f64, DType::f32}) {
      const std::string suffix = dtype == DType::f64 ? ".f64" : ".f32";
      const double limit = dtype == DType::f64 ? 1e-13 : 1e-6;
      INFO(run, suffix);
      const Var w(file.get("w0.f64").clone().to(dtype), true);
      AdamW optimiser({{"w", w}}, {options["betas"][0], options["betas"][1], options["eps"],
                                   options["weight_decay"]});
      const Tensor path = file.get(run + ".w" + suffix);
      for (int64_t step = 0; step < grads.dim(0); ++step) {
        set_gradient(w, grads.select(0, step).to(dtype).clone());
        optimiser.step(options["lr"]);
        check_close(w.value(), path.select(0, step).contiguous(), limit);
      }
      CHECK(optimiser.steps() == grads.dim(0));
      for (const auto& [name, t] : optimiser.state())
        if (name != "step") check_close(t, file.get(run + name.substr(1) + suffix), limit);
    }
}

TEST_CASE("AdamW leaves parameters without a gradient alone, and scales gradients") {
  const Var used(normal64({3}, 1), true), unused(normal64({3}, 2), true);
  const Tensor before = unused.value().clone(), grad = normal64({3}, 3);
  const Var twin(used.value().clone(), true);
  AdamW a({{"used", used}, {"unused", unused}}, {}), b({{"twin", twin}}, {});
  set_gradient(used, grad);
  set_gradient(twin, affine(Var(grad), 0.25).value());
  a.step(0.1, 0.25);
  b.step(0.1);
  CHECK(same_bits(unused.value(), before));
  CHECK(same_bits(used.value(), twin.value()));
}

TEST_CASE("norm and clipping are the reference's") {
  const SafeTensors file = SafeTensors::open(golden("optim/clip.safetensors"));
  std::vector<NamedVar> params;
  for (const char* name : {"a", "b"}) {
    const Tensor g = file.get(std::string(name) + ".f64");
    params.push_back({name, Var(Tensor::zeros(g.shape(), DType::f64), true)});
    set_gradient(params.back().var, g);
  }
  params.push_back({"none", Var(Tensor::zeros({2}, DType::f64), true)});
  const double norm = grad_norm(params);
  CHECK(grad_rms(params) == doctest::Approx(norm / std::sqrt(22.0)));
  for (double limit : {1.0, 100.0}) {
    const std::string prefix = limit == 1 ? "max1." : "max100.";
    CHECK(std::abs(norm - file.get(prefix + "norm.f64").item()) < 1e-13 * norm);
    const double factor = clip_factor(norm, limit);
    for (size_t i = 0; i < 2; ++i)
      check_close(affine(Var(params[i].var.grad()), factor).value(),
                  file.get(prefix + params[i].name + ".f64"), 1e-14);
  }
  CHECK(clip_factor(5, 0) == 1);
  CHECK(clip_factor(0, 1) == 1);
  CHECK(clip_factor(std::nan(""), 1) == 1);
  zero_grads(params);
  CHECK(grad_norm(params) == 0);
  CHECK(grad_rms(params) == 0);
}

std::vector<double> schedule(const char* name) {
  return settings()["schedules"][name].get<std::vector<double>>();
}

TEST_CASE("schedules are the reference's, but for a first warm-up step that is not lost") {
  const std::vector<double> warm = schedule("cosine_warmup_5_of_40"),
                            cold = schedule("cosine_warmup_0_of_20"),
                            constant = schedule("constant_warmup_4"),
                            floor = schedule("cosine_annealing_20_to_0.1");
  for (int64_t i = 0; i < 41; ++i) {
    // During warm-up, factor i is the reference's i + 1.
    CHECK(cosine_schedule(i, 5, 40) == doctest::Approx(warm[i < 5 ? i + 1 : i]).epsilon(1e-12));
    CHECK(cosine_schedule(i, 5, 40) > (i == 40 ? -1 : 0));
  }
  for (int64_t i = 0; i < 21; ++i) {
    CHECK(cosine_schedule(i, 0, 20) == doctest::Approx(cold[i]).epsilon(1e-12));
    CHECK(cosine_schedule(i, 0, 20, 0.1) == doctest::Approx(floor[i]).epsilon(1e-12));
  }
  for (int64_t i = 0; i + 1 < 8; ++i)
    CHECK(constant_schedule(i, 4) == doctest::Approx(constant[i + 1]).epsilon(1e-12));
  CHECK(constant_schedule(0, 0) == 1);
  CHECK(cosine_schedule(99, 5, 40, 0.2) == doctest::Approx(0.2));
}

TEST_CASE("the trapezoid rises, stays, falls") {
  const double expected[] = {0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0};
  for (int64_t i = 0; i < 12; ++i)
    CHECK(trapezoid_schedule(i, 2, 10, 4) == doctest::Approx(expected[i]));
  CHECK(trapezoid_schedule(9, 0, 10, 0) == 1);
}

TEST_CASE("an average with and without warm-up, updated once a step") {
  for (bool warm_up : {true, false}) {
    const Var w(Tensor::from<double>({1, -2}, {2}), true);
    Ema ema({{"w", w}}, 0.9, warm_up);
    double expected = 1;
    for (int t = 0; t < 200; ++t) {
      const double now = std::sin(t);
      w.value().fill(now);
      ema.update();
      const double decay = warm_up ? std::min((1.0 + t) / (10.0 + t), 0.9) : 0.9;
      expected = decay * expected + (1 - decay) * now;
      const NamedTensors state = ema.state();
      CHECK(state[1].second.to_vector()[0] == doctest::Approx(expected).epsilon(1e-12));
      CHECK(state[0].second.item() == t + 1);
    }
    const Tensor trained = w.value().clone();
    ema.swap();
    CHECK(w.value().to_vector()[0] == doctest::Approx(expected).epsilon(1e-12));
    ema.swap();
    CHECK(same_bits(w.value(), trained));
  }
}

TEST_CASE("an average updated every eighth step, by the decay of that step") {
  const Var w(Tensor::from<double>({1}, {1}), true);
  Ema ema({{"w", w}}, 0.9, true, 8);
  double expected = 1;
  for (int t = 0; t < 40; ++t) {
    w.value().fill(std::cos(t));
    if (t == 20) {  // a checkpoint between two updates
      const NamedTensors state = ema.state();
      Ema other({{"w", w}}, 0.9, true, 8);
      other.load_state(state);
      ema = other;
    }
    ema.update();
    if (t % 8 == 7) {
      const double decay = std::min((1.0 + t) / (10.0 + t), 0.9);
      expected = decay * expected + (1 - decay) * std::cos(t);
    }
    CHECK(ema.state()[1].second.to_vector()[0] == doctest::Approx(expected).epsilon(1e-12));
  }
}

TEST_CASE("training goes on after the averages were swapped in and out") {
  const Var w(normal64({3}, 1), true), twin(w.value().clone(), true);
  AdamW a({{"w", w}}, {}), b({{"w", twin}}, {});
  Ema ema({{"w", w}}, 0.5), same({{"w", twin}}, 0.5);
  for (int i = 0; i < 4; ++i) {
    set_gradient(w, normal64({3}, 10 + i));
    set_gradient(twin, normal64({3}, 10 + i));
    a.step(0.1);
    b.step(0.1);
    ema.update();
    same.update();
    ema.swap();
    ema.swap();
  }
  CHECK(same_bits(w.value(), twin.value()));
  CHECK(same_bits(ema.state()[1].second, same.state()[1].second));
}

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::VectorXd singular_values(const Tensor& t) {
  const std::vector<double> v = t.to_vector();
  const Matrix m = Eigen::Map<const Matrix>(v.data(), t.dim(0), t.dim(1));
  return Eigen::JacobiSVD<Matrix>(m).singularValues();
}

TEST_CASE("Muon's update has singular values near 1, whatever the gradient's size") {
  for (const Shape& shape :
       {Shape{6, 4}, Shape{4, 6}, Shape{8, 8}, Shape{16, 3}, Shape{1, 5}, Shape{5, 1}})
    for (DType dtype : {DType::f32, DType::f64})
      for (double size : {1e-4, 1.0, 1e3}) {
        INFO(shape, size);
        const Var w(Tensor::zeros(shape, dtype), true);
        Muon muon({{"w", w}}, {});
        set_gradient(w, random_tensor(shape, 1, dtype, size));
        muon.step(1.0);
        const double rows_factor =
            std::sqrt(std::max(1.0, static_cast<double>(shape[0]) / static_cast<double>(shape[1])));
        const Eigen::VectorXd s = singular_values(w.value()) / rows_factor;
        // The quintic's fixed band; a tiny singular value needs more than five steps.
        CHECK(s.maxCoeff() < 1.3);
        CHECK(s.maxCoeff() > 0.6);
        if (shape[0] != shape[1]) CHECK(s.minCoeff() > 0.4);
      }
}

TEST_CASE("Muon's update points against the gradient, along its singular vectors") {
  const Tensor g = random_tensor({5, 7}, 1, DType::f64);
  const Var w(Tensor::zeros({5, 7}, DType::f64), true);
  Muon muon({{"w", w}}, {});
  set_gradient(w, g);
  muon.step(1.0);
  const std::vector<double> gv = g.to_vector(), wv = w.value().to_vector();
  const Matrix gm = Eigen::Map<const Matrix>(gv.data(), 5, 7),
               wm = Eigen::Map<const Matrix>(wv.data(), 5, 7);
  // U' (-W) V is diagonal and positive.
  const Eigen::JacobiSVD<Matrix> svd(gm, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Matrix core = -svd.matrixU().transpose() * wm * svd.matrixV();
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 5; ++j) {
      if (i == j) CHECK(core(i, j) > 0.4);
      if (i != j) CHECK(std::abs(core(i, j)) < 1e-8);
    }
}

TEST_CASE("Muon descends a quadratic and decays weights") {
  const Tensor target = random_tensor({6, 9}, 2);
  const Var w(random_tensor({6, 9}, 3), true);
  Muon muon({{"w", w}}, {});
  const auto loss = [&] { return sum(square(sub(w, Var(target)))); };
  const double start = loss().value().item();
  for (int i = 0; i < 300; ++i) {
    Var(w).zero_grad();
    backward(loss());
    muon.step(0.1 * (1 - i / 300.0));
  }
  CHECK(loss().value().item() < 1e-3 * start);
  const Var decayed(Tensor::full({2, 2}, 1.0), true);
  Muon with_decay({{"w", decayed}}, {0.95, 5, 0.5});
  set_gradient(decayed, Tensor::zeros({2, 2}));
  with_decay.step(0.1);
  for (double v : decayed.value().to_vector()) CHECK(v == doctest::Approx(0.95));
  const Var vector(random_tensor({3}, 1), true);
  CHECK(contains(message_of([&] { Muon({{"bias", vector}}, {}); }), "bias has shape (3)"));
}

// Everything that training changes.
struct Run {
  Var w{random_tensor({6, 5}, 1), true}, v{random_tensor({5}, 2), true};
  Muon muon{{{"w", w}}, {}};
  AdamW adamw{{{"v", v}}, {0.9, 0.99, 1e-8, 0.01}};
  Ema ema{{{"w", w}, {"v", v}}, 0.95};

  void train(int from, int to) {
    for (int i = from; i < to; ++i) {
      const Var x(random_tensor({4, 6}, 100 + i));
      zero_grads({{"w", w}, {"v", v}});
      backward(sum(square(add(matmul(x, w), v))));
      muon.step(0.01);
      adamw.step(0.01, 0.5);
      ema.update();
    }
  }
  NamedTensors tensors() const {
    NamedTensors all{{"w", w.value()}, {"v", v.value()}};
    for (const NamedTensors& part : {muon.state(), adamw.state(), ema.state()})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }
};

TEST_CASE("a saved state continues to the bit") {
  const TemporaryFolder folder;
  Run whole, first, second;
  whole.train(0, 9);
  first.train(0, 4);
  save_safetensors(folder / "state.safetensors", first.tensors());
  const SafeTensors file = SafeTensors::open(folder / "state.safetensors");
  NamedTensors saved;
  for (const std::string& name : file.names()) saved.emplace_back(name, file.get(name));
  second.w.value().copy_from(file.get("w"));
  second.v.value().copy_from(file.get("v"));
  second.muon.load_state(saved);
  second.adamw.load_state(saved);
  second.ema.load_state(saved);
  second.train(4, 9);
  const NamedTensors a = whole.tensors(), b = second.tensors();
  for (size_t i = 0; i < a.size(); ++i) {
    INFO(a[i].first);
    CHECK(same_bits(a[i].second, b[i].second));
  }
  second.adamw.reset();
  CHECK(second.adamw.steps() == 0);
  for (const auto& [name, t] : second.adamw.state())
    for (double x : t.to_vector()) CHECK(x == 0);
}

TEST_CASE("a state that does not fit is refused as a whole, every name listed") {
  Run run;
  run.train(0, 2);
  const Tensor before = run.adamw.state()[1].second.clone();
  const NamedTensors wrong{{"step", Tensor::from<int64_t>({7}, {1})},
                           {"v.m", Tensor::zeros({5})},
                           {"v.v", Tensor::zeros({6})}};
  CHECK(contains(message_of([&] { run.adamw.load_state(wrong); }), "v.v"));
  CHECK(same_bits(run.adamw.state()[1].second, before));
  CHECK(run.adamw.steps() == 2);
  CHECK(contains(message_of([&] { run.muon.load_state({}); }), "w.momentum"));
  CHECK(contains(message_of([&] { run.ema.load_state(wrong); }), "ema.updates, w.ema, v.ema"));
}

}  // namespace
}  // namespace parlo
