// The models on a GPU against the reference libraries' outputs and gradients, in f32.
#include "models/clip.h"
#include "models/sd3_transformer.h"
#include "tests/gpu_support.h"
#include "tests/models/golden.h"

namespace parlo::test {

TEST_CASE("gpu: SD3's sample and input gradients are the reference's") {
  for (const char* name : {"sd3_a", "sd3_b", "sd3_c"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = Sd3Transformer::load(c.folder);
    model->params().to(kGpu);
    const char* names[] = {"hidden_states", "timestep", "encoder_hidden_states",
                           "pooled_projections"};
    std::vector<Var> in;
    for (const char* n : names) in.emplace_back(on_gpu(c.inputs.get(n)), true);
    const Var sample = model->forward(in[0], in[1], in[2], in[3]);
    CHECK(sample.value().device() == kGpu);
    check_parity("sample", sample.value(), c.outputs.get("sample"));
    backward(sample, on_gpu(c.inputs.get("grad_output")));
    for (size_t i = 0; i < in.size(); ++i) {
      check_parity(names[i], in[i].grad(), c.outputs.get(std::string("grad.") + names[i]));
    }
  }
}

TEST_CASE("gpu: SD3 in bf16 is the reference within its rounding") {
  for (const char* name : {"sd3_a", "sd3_b", "sd3_c"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = Sd3Transformer::load(c.folder);
    model->params().to(kGpu);
    model->narrow();
    const char* names[] = {"hidden_states", "timestep", "encoder_hidden_states",
                           "pooled_projections"};
    std::vector<Var> in;
    for (const char* n : names) in.emplace_back(on_gpu(c.inputs.get(n)), true);
    const Var sample = model->forward(in[0], in[1], in[2], in[3]);
    CHECK(sample.dtype() == DType::f32);
    check_parity("sample", sample.value(), c.outputs.get("sample"), 0, kBf16Parity);
    backward(sample, on_gpu(c.inputs.get("grad_output")));
    check_parity(names[0], in[0].grad(), c.outputs.get("grad.hidden_states"), 0, kBf16Parity);
    // What reaches the text has gone through every block twice, rounded each time.
    check_parity(names[2], in[2].grad(), c.outputs.get("grad.encoder_hidden_states"), 0,
                 1.5 * kBf16Parity);
  }
}

TEST_CASE("gpu: a sample has the same bits alone and in a batch") {
  Sd3Transformer model(sd3_tiny());
  model.params().initialise(RandomKey(1));
  model.params().to(kGpu);
  const Sd3Config& c = model.config();
  const NoGrad guard;
  const std::vector<Var> in = {Var(on_gpu(random_tensor({3, c.in_channels, 16, 16}, 1))),
                               Var(on_gpu(Tensor::from<float>({900, 500, 20}, {3}))),
                               Var(on_gpu(random_tensor({3, 7, c.joint_attention_dim}, 2))),
                               Var(on_gpu(random_tensor({3, c.pooled_projection_dim}, 3)))};
  const Tensor together = model.forward(in[0], in[1], in[2], in[3]).value().to(Device{});
  std::vector<Var> one;
  for (const Var& v : in) one.push_back(slice(v, 0, 1, 2));
  const Tensor alone = model.forward(one[0], one[1], one[2], one[3]).value().to(Device{});
  CHECK(same_bits(alone, together.slice(0, 1, 2)));
}

TEST_CASE("gpu: CLIP's text tower is the reference's") {
  for (const char* name : {"clip_text_a", "clip_text_b", "clip_text_c"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = ClipTextModel::load(c.folder);
    model->params().to(kGpu);
    const Tensor ids = c.inputs.get("input_ids").to(DType::i64);
    const ClipText& tower = model->tower();
    const Tensor mask =
        c.inputs.contains("attention_mask") ? c.inputs.get("attention_mask") : Tensor();
    const ClipTextOutput out = tower.forward(tower.embed(ids), ids, mask);
    check_parity("last_hidden_state", out.last_hidden_state.value(),
                 c.outputs.get("last_hidden_state"));
  }
}

}  // namespace parlo::test
