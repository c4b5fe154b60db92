// The FLUX transformer on a GPU against diffusers' outputs and gradients, and as a recorded pass.
#include "autograd/replayed.h"
#include "models/flux_transformer.h"
#include "tests/gpu_support.h"
#include "tests/models/golden.h"

namespace parlo::test {

FluxInputs gpu_leaves(const GoldenCase& c) {
  const auto leaf = [&c](const char* name, bool grad = true) {
    return c.inputs.contains(name) ? Var(on_gpu(c.inputs.get(name)), grad) : Var();
  };
  return {leaf("hidden_states"), leaf("encoder_hidden_states"), leaf("pooled_projections"),
          leaf("timestep"),      leaf("img_ids", false),        leaf("txt_ids", false),
          leaf("guidance")};
}

TEST_CASE("gpu: FLUX's sample and gradients are the reference's") {
  for (const char* name : {"flux_a", "flux_b"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = FluxTransformer::load(c.folder);
    model->params().to(kGpu);
    model->params().set_requires_grad(true);
    const FluxInputs in = gpu_leaves(c);
    const Var sample = model->forward(in);
    CHECK(sample.value().device() == kGpu);
    check_parity("sample", sample.value(), c.outputs.get("sample"));
    backward(sample, on_gpu(c.inputs.get("grad_output")));
    const auto check = [&](const char* input, const Var& leaf) {
      check_parity(input, leaf.grad(), c.outputs.get(std::string("grad.") + input));
    };
    check("hidden_states", in.hidden_states);
    check("encoder_hidden_states", in.encoder_hidden_states);
    check("pooled_projections", in.pooled_projections);
    check("timestep", in.timestep);
    if (in.guidance) check("guidance", in.guidance);
    const SafeTensors grads = SafeTensors::open(c.folder + "/parameter_grads.safetensors");
    for (const std::string& weight : grads.names()) {
      check_parity(weight, model->params().at(weight).grad(), grads.get(weight));
    }
  }
}

TEST_CASE("gpu: FLUX in bf16 is the reference within its rounding") {
  for (const char* name : {"flux_a", "flux_b"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = FluxTransformer::load(c.folder);
    model->params().to(kGpu);
    model->narrow();
    const FluxInputs in = gpu_leaves(c);
    const Var sample = model->forward(in);
    CHECK(sample.dtype() == DType::f32);
    check_parity("sample", sample.value(), c.outputs.get("sample"), 0, kBf16Parity);
    backward(sample, on_gpu(c.inputs.get("grad_output")));
    check_parity("hidden_states", in.hidden_states.grad(), c.outputs.get("grad.hidden_states"), 0,
                 1.5 * kBf16Parity);
  }
}

TEST_CASE("gpu: a recorded pass of FLUX has the bits of one that runs, for a sample alone too") {
  const GoldenCase c("flux_a");
  const auto model = FluxTransformer::load(c.folder);
  model->params().to(kGpu);
  const auto get = [&c](const char* name) { return c.inputs.get(name); };
  const JointRotation at = model->rotation(Var(get("txt_ids")), Var(get("img_ids")));
  std::vector<Var> features;
  for (const char* name : {"timestep", "guidance"}) {
    features.push_back(timestep_features(affine(Var(get(name)), 1000.0)));
  }
  const auto pass = [&](const std::vector<Tensor>& in) {
    return model->forward_features(Var(in[0]), Var(in[1]), Var(in[2]), Var(in[3]), at);
  };
  const std::vector<Tensor> inputs{on_gpu(get("hidden_states")), on_gpu(cat(features, 1).value()),
                                   on_gpu(get("encoder_hidden_states")),
                                   on_gpu(get("pooled_projections"))};
  const NoGrad guard;
  const Tensor plain = pass(inputs).value().to(Device{});
  Replayed replayed;
  for (int run = 0; run < 3; ++run) {
    CHECK(same_bits(replayed.value(pass, {}, inputs).to(Device{}), plain));
  }
  CHECK(replayed.replays() == 2);
  std::vector<Tensor> one;
  for (const Tensor& t : inputs) one.push_back(t.slice(0, 1, 2).contiguous());
  CHECK(same_bits(pass(one).value().to(Device{}), plain.slice(0, 1, 2)));
}

}  // namespace parlo::test
