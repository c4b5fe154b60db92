// The FLUX transformer against diffusers: outputs, gradients of inputs, weights and adapters; and
// what must hold to the bit: batches, threads, checkpoints, files.
#include "models/axial_rope.h"
#include "models/flux_transformer.h"
#include "tensor/file.h"
#include "tensor/parallel.h"
#include "tests/models/golden.h"

namespace parlo {
namespace {

using namespace test;

const std::vector<std::string> kGradients{"hidden_states", "encoder_hidden_states",
                                          "pooled_projections", "timestep", "guidance"};

FluxInputs leaves(const GoldenCase& c) {
  const auto leaf = [&c](const char* name) {
    return c.inputs.contains(name) ? c.input(name) : Var();
  };
  FluxInputs in{leaf("hidden_states"),
                leaf("encoder_hidden_states"),
                leaf("pooled_projections"),
                leaf("timestep"),
                leaf("img_ids"),
                leaf("txt_ids"),
                leaf("guidance")};
  for (Var* ids : {&in.img_ids, &in.txt_ids}) ids->set_requires_grad(false);
  return in;
}

std::vector<Var> with_gradients(const FluxInputs& in) {
  return {in.hidden_states, in.encoder_hidden_states, in.pooled_projections, in.timestep,
          in.guidance};
}

TEST_CASE("sample and gradients of inputs and weights are the reference's") {
  for (const char* name : {"flux_a", "flux_b"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = FluxTransformer::load(c.folder);
    model->params().set_requires_grad(true);
    const FluxInputs in = leaves(c);
    const Var sample = model->forward(in);
    check_parity("sample", sample.value(), c.outputs.get("sample"));
    backward(sample, c.inputs.get("grad_output"));
    const std::vector<Var> given = with_gradients(in);
    for (size_t i = 0; i < given.size(); ++i) {
      if (given[i]) {
        check_parity(kGradients[i], given[i].grad(), c.outputs.get("grad." + kGradients[i]));
      }
    }
    const SafeTensors grads = SafeTensors::open(c.folder + "/parameter_grads.safetensors");
    for (const std::string& weight : grads.names()) {
      check_parity(weight, model->params().at(weight).grad(), grads.get(weight));
    }
    CHECK(grads.size() > 40);
  }
}

// Inputs of `batch` samples that fit a configuration.
FluxInputs random_inputs(const FluxConfig& c, int64_t batch, int64_t rows, int64_t columns,
                         int64_t tokens) {
  std::vector<float> t, g, ids;
  for (int64_t b = 0; b < batch; ++b) {
    t.push_back(1.0f - 0.1713f * static_cast<float>(b));
    g.push_back(3.5f + static_cast<float>(b));
  }
  for (int64_t i = 0; i < rows * columns; ++i) {
    for (int64_t v : {int64_t{0}, i / columns, i % columns}) ids.push_back(static_cast<float>(v));
  }
  return {Var(random_tensor({batch, rows * columns, c.in_channels}, 1)),
          Var(random_tensor({batch, tokens, c.joint_attention_dim}, 2)),
          Var(random_tensor({batch, c.pooled_projection_dim}, 3)),
          Var(Tensor::from(t, {batch})),
          Var(Tensor::from(ids, {rows * columns, 3})),
          Var(Tensor::zeros({tokens, 3})),
          c.guidance_embeds ? Var(Tensor::from(g, {batch})) : Var()};
}

FluxInputs sample_of(const FluxInputs& in, int64_t b) {
  const auto row = [b](const Var& v) { return v ? slice(v, 0, b, b + 1) : v; };
  return {row(in.hidden_states),
          row(in.encoder_hidden_states),
          row(in.pooled_projections),
          row(in.timestep),
          in.img_ids,
          in.txt_ids,
          row(in.guidance)};
}

TEST_CASE("a sample has the same bits alone and in a batch, for any number of threads") {
  const auto check = [](const FluxTransformer& model) {
    const NoGrad guard;
    const FluxInputs in = random_inputs(model.config(), 3, 4, 6, 7);
    const Tensor together = model.forward(in).value();
    for (int64_t b = 0; b < 3; ++b) {
      INFO("sample ", b);
      CHECK(same_bits(model.forward(sample_of(in, b)).value(), together.slice(0, b, b + 1)));
    }
    for (int threads : {1, 3}) {
      set_num_threads(threads);
      CHECK(same_bits(model.forward(in).value(), together));
    }
    set_num_threads(2);
  };
  check(*FluxTransformer::load(golden("flux_a")));
  FluxTransformer tiny(flux_tiny());
  tiny.params().initialise(RandomKey(1));
  check(tiny);
}

TEST_CASE("checkpointed blocks give the same bits") {
  const GoldenCase c("flux_a");
  const auto model = FluxTransformer::load(c.folder);
  model->params().set_requires_grad(true);
  const auto gradients = [&](bool checkpointed) {
    model->checkpoint_blocks = checkpointed;
    for (const NamedVar& p : model->params().vars()) Var(p.var).zero_grad();
    const FluxInputs in = leaves(c);
    const Var sample = model->forward(in);
    backward(sample, c.inputs.get("grad_output"));
    std::vector<Tensor> out{sample.value()};
    for (const Var& v : with_gradients(in)) out.push_back(v.grad());
    for (const NamedVar& p : model->params().vars()) out.push_back(p.var.grad());
    return out;
  };
  const std::vector<Tensor> plain = gradients(false), again = gradients(true);
  for (size_t i = 0; i < plain.size(); ++i) {
    INFO("tensor ", i);
    CHECK(same_bits(plain[i], again[i]));
  }
}

TEST_CASE("positions have gradients too: finite differences") {
  const auto model = FluxTransformer::load(golden("flux_b"));
  FluxInputs in = random_inputs(model->config(), 2, 2, 3, 4);
  const auto loss = [&] { return mean(square(model->forward(in))).value().item(); };
  const Tensor weights = random_tensor(in.img_ids.shape(), 9);
  for (Var* ids : {&in.img_ids, &in.txt_ids}) {
    const Tensor at = ids->value();
    *ids = Var(at, true);
    backward(mean(square(model->forward(in))));
    const Tensor grad = ids->grad();
    // Along the gradient itself, which f32 resolves best.
    double norm = 0;
    for (double g : grad.to_vector()) norm += g * g;
    const double step = 1e-2 / std::sqrt(norm);
    const auto moved = [&](double by) { return Var(affine(Var(grad), by).value()); };
    *ids = add(Var(at), moved(step));
    const double up = loss();
    *ids = add(Var(at), moved(-step));
    const double down = loss();
    *ids = Var(at);
    CHECK((up - down) / (2 * step) == doctest::Approx(norm).epsilon(2e-3));
  }
}

TEST_CASE("linears are all the matrices, by the names adapters use") {
  for (const char* name : {"flux_a", "flux_b"}) {
    const auto model = FluxTransformer::load(golden(name));
    size_t matrices = 0;
    for (const auto& [key, t] : model->params().tensors()) matrices += t.rank() == 2 ? 1 : 0;
    const Linears linears = model->linears();
    CHECK(linears.size() == matrices);
    for (const Linear* l : linears)
      CHECK(model->params().at(l->name + ".weight").state() == l->weight.state());
  }
}

TEST_CASE("a saved model is read back to the bit") {
  for (const char* name : {"flux_a", "flux_b"}) {
    const GoldenCase c(name);
    const TemporaryFolder folder;
    const auto model = FluxTransformer::load(c.folder);
    model->save(folder.path());
    const auto again = FluxTransformer::load(folder.path());
    CHECK(again->config().to_json() == model->config().to_json());
    const NoGrad guard;
    CHECK(same_bits(again->forward(leaves(c)).value(), model->forward(leaves(c)).value()));
  }
}

TEST_CASE("the presets are the published model and one that starts at zero") {
  const TemporaryFolder folder;
  write_file(folder / "config.json", flux_dev().to_json());
  CHECK(FluxConfig::from_json(folder / "config.json").to_json() == flux_dev().to_json());
  CHECK(flux_dev().width() == 3072);
  FluxTransformer tiny(flux_tiny());
  tiny.params().initialise(RandomKey(1));
  tiny.zero_output_layers();
  const NoGrad guard;
  const Tensor first = tiny.forward(random_inputs(tiny.config(), 1, 2, 2, 3)).value();
  CHECK(same_values(first, Tensor::zeros(first.shape())));
}

TEST_CASE("inputs that do not fit are named") {
  const auto model = FluxTransformer::load(golden("flux_a"));
  const FluxInputs good = random_inputs(model->config(), 2, 3, 2, 5);
  const auto message = [&](Var FluxInputs::*field, const Var& value) {
    FluxInputs wrong = good;
    wrong.*field = value;
    return message_of([&] { model->forward(wrong); });
  };
  const auto zeros = [](const Shape& shape) { return Var(Tensor::zeros(shape)); };
  CHECK(contains(message(&FluxInputs::hidden_states, zeros({2, 5, 16})), "hidden_states"));
  CHECK(contains(message(&FluxInputs::encoder_hidden_states, zeros({2, 5, 23})), "encoder_hidden"));
  CHECK(contains(message(&FluxInputs::pooled_projections, zeros({1, 20})), "pooled_projections"));
  CHECK(contains(message(&FluxInputs::timestep, zeros({3})), "timestep"));
  CHECK(contains(message(&FluxInputs::guidance, zeros({1})), "guidance"));
  CHECK(contains(message(&FluxInputs::guidance, Var()), "guidance is missing"));
  CHECK(contains(message(&FluxInputs::img_ids, zeros({6, 2})), "ids have shape"));
}

TEST_CASE("a configuration that this transformer is not is refused") {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string json = flux_tiny().to_json();
    json.replace(json.find(from), from.size(), to);
    write_file(folder / "config.json", json);
    return message_of([&] { FluxConfig::from_json(folder / "config.json"); });
  };
  CHECK(contains(refused("\"patch_size\": 1", "\"patch_size\": 2"), "patch_size is 2"));
  CHECK(contains(refused("\"attention_head_dim\": 32", "\"attention_head_dim\": 64"), "sum of 32"));
  CHECK(contains(refused("\"guidance_embeds\": false", "\"guidance_embeds\": 1"), "true or false"));
}

}  // namespace
}  // namespace parlo
