// Whole GRPO steps of the SD3.5-Medium transformer with random weights, as Flow-GRPO's fast recipe
// runs them: no guidance, a window of three stochastic steps, no KL, without the text encoders, the
// VAE and a real reward; bf16 activations and frozen weights, f32 factors. Time per stage, peak
// memory, and the rate of the model's operations against the product's ceiling.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "lora/adapter.h"
#include "models/flow_schedule.h"
#include "models/sd3_transformer.h"
#include "rl/trainer.h"
#include "tensor/cuda/runtime.h"

namespace parlo::bench {
namespace {

class BareSd3 : public FlowModel {
 public:
  BareSd3(int64_t side, int64_t text_tokens) : side_(side), text_tokens_(text_tokens) {
    transformer_.params().initialise(RandomKey(1));
    transformer_.params().to(kGpu);
    transformer_.params().narrow_weights();
    transformer_.compute = DType::bf16;
  }

  Shape latent_shape() const override { return {transformer_.config().in_channels, side_, side_}; }
  Condition encode(std::span<const std::string> prompts) override {
    const auto batch = static_cast<int64_t>(prompts.size());
    const Sd3Config& c = transformer_.config();
    return {normal(RandomKey(2), {batch, text_tokens_, c.joint_attention_dim}, DType::f32),
            normal(RandomKey(3), {batch, c.pooled_projection_dim}, DType::f32)};
  }
  using FlowModel::velocity;
  Tensor noise_features(std::span<const double> sigmas) const override {
    return sigma_features(sigmas, kGpu);
  }
  Var velocity(const Var& x, const Tensor& noise, const Condition& c) const override {
    return transformer_.forward_features(x, Var(noise), Var(c.context), Var(c.pooled));
  }
  // The first channels in place of a picture.
  Tensor decode(const Tensor& latents) const override {
    return latents.slice(1, 0, 3).contiguous();
  }
  std::vector<double> sigmas(int64_t steps) const override { return shifted_sigmas(steps, 3.0); }
  Linears linears() override { return transformer_.linears(); }
  Params& params() override { return transformer_.params(); }
  MmditBase& transformer() override { return transformer_; }
  Device device() const override { return kGpu; }

  // Operations of one sample's forward: products of 24 D^2 a token and block, of which the last
  // block's text has a sixth, and attention of 4 S^2 D.
  double forward_flops() const {
    const Sd3Config& c = transformer_.config();
    const auto d = static_cast<double>(c.width());
    const auto image = static_cast<double>((side_ / c.patch_size) * (side_ / c.patch_size));
    const auto text = static_cast<double>(text_tokens_), all = image + text;
    const auto layers = static_cast<double>(c.num_layers);
    const auto duals = static_cast<double>(c.dual_attention_layers.size());
    return layers * (24 * d * d * all + 4 * all * all * d) - 18 * d * d * text +
           duals * (8 * d * d * image + 4 * image * image * d);
  }

 private:
  Sd3Transformer transformer_{sd3_medium()};
  int64_t side_, text_tokens_;
};

// Brightness: every sample of a group gets another.
Reward brightness() {
  return {"brightness",
          [](std::span<const Image> images, std::span<const Prompt>) {
            std::vector<double> out;
            for (const Image& image : images) {
              double sum = 0;
              for (const auto v : image.rgb) sum += v;
              out.push_back(sum);
            }
            return out;
          },
          {}};
}

void grpo_step(benchmark::State& state, int64_t side, int64_t text_tokens, int64_t group,
               int64_t micro_batch) {
  BareSd3 model(side, text_tokens);
  AdapterConfig lora;
  lora.r = 32, lora.lora_alpha = 64;
  lora.target_modules = parse_targets("attention");
  LoraAdapter adapter = LoraAdapter::create(model.linears(), lora, RandomKey(4));
  GrpoConfig config;
  config.prompts_per_step = 1, config.group_size = group, config.updates_per_rollout = 1;
  config.rollout.steps = 10, config.rollout.window = 3, config.rollout.window_high = 5;
  config.rollout.micro_batch = micro_batch;
  Prompt prompt;
  prompt.text = "a prompt";
  GrpoTrainer trainer(model, adapter, {{brightness(), 1.0}}, {prompt}, config, {1, 1, "bench"});
  for (int i = 0; i < 2; ++i) trainer.step();  // runs, then records
  cuda::reset_peak(kGpu);
  StepStats last;
  for (auto turn : state) {
    static_cast<void>(turn);
    last = trainer.step();
    state.SetIterationTime(last.rollout_seconds + last.update_seconds);
  }
  const double forward = model.forward_flops() * static_cast<double>(group);
  const auto steps = static_cast<double>(config.rollout.steps);
  const auto trained = static_cast<double>(config.rollout.window);
  // A gradient of the inputs alone costs as much as a forward: frozen weights have none.
  const double flops = forward * (steps + 2 * trained);
  const double seconds = last.rollout_seconds + last.update_seconds;
  state.counters["rollout_s"] = last.rollout_seconds;
  state.counters["update_s"] = last.update_seconds;
  state.counters["TFLOP/s"] = 1e-12 * flops / seconds;
  state.counters["share_%"] = 100 * flops / seconds / ceilings().gemm_rate;
  state.counters["peak_GB"] = 1e-9 * static_cast<double>(memory_stats(kGpu).peak_bytes);
}

}  // namespace

void add_gpu_grpo() {
  for (const GpuShape& s : gpu_shapes("grpo_step")) {
    const int64_t side = s["side"], text = s["text_tokens"], group = s["group"],
                  micro = s["micro_batch"];
    add_gpu_benchmark("grpo_step/" + s.name(),
                      [=](benchmark::State& st) { grpo_step(st, side, text, group, micro); });
  }
}

}  // namespace parlo::bench
