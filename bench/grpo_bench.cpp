// Samples a second of the demo's transformer (sd3_tiny, LoRA of rank 8): rollouts of 8 steps, whole
// GRPO steps (rollout, colourfulness as reward, two updates), and how the time grows with the
// batch, the image tokens and the number of experts. us_each is the time per sample, per sample and
// token, or per expert's step: constant where growth is linear.
#include <memory>

#include "bench/measure.h"
#include "lora/adapter.h"
#include "models/sd3_pipeline.h"
#include "rl/trainer.h"
#include "tensor/parallel.h"

namespace parlo::bench {
namespace {

constexpr int64_t kTextTokens = 16;

std::unique_ptr<Sd3Pipeline> make_pipeline(int64_t image_tokens) {
  const auto tokenizer = std::make_shared<ClipTokenizer>(build_clip_vocab({"a", "red", "circle"}));
  ClipTowerConfig text;
  text.hidden_size = text.projection_dim = 64;
  text.intermediate_size = 128;
  text.num_hidden_layers = 2;
  text.num_attention_heads = 2;
  text.max_position_embeddings = kTextTokens;
  text.vocab_size = tokenizer->size();
  text.eos_token_id = tokenizer->eos_id();
  const auto encoder = std::make_shared<ClipTextModel>(text, true);
  encoder->params().initialise(RandomKey(1));
  Sd3Config config = sd3_tiny();
  int64_t side = 1;
  while (side * side < image_tokens) ++side;
  config.sample_size = side * config.patch_size;
  auto transformer = std::make_unique<Sd3Transformer>(config);
  transformer->params().initialise(RandomKey(2));
  return std::make_unique<Sd3Pipeline>(std::move(transformer), encoder, tokenizer, 1.0);
}

struct Bench {
  std::unique_ptr<Sd3Pipeline> model;
  LoraAdapter adapter;

  explicit Bench(int64_t image_tokens)
      : model(make_pipeline(image_tokens)),
        adapter(LoraAdapter::create(model->linears(), config(), RandomKey(3))) {
    adapter.enable(model->linears());
  }
  static AdapterConfig config() {
    AdapterConfig c;
    c.r = 8;
    c.target_modules = parse_targets("attention+mlp");
    return c;
  }
};

void set_counters(benchmark::State& state, const Best& best, int64_t samples, double parts) {
  state.counters["samples/s"] = static_cast<double>(samples) / best.time;
  state.counters["us_each"] = 1e6 * best.time / parts;
}

void rollouts(benchmark::State& state, int64_t samples, int64_t image_tokens) {
  set_num_threads(static_cast<int>(state.range(0)));
  const Bench bench(image_tokens);
  const Condition condition =
      bench.model->encode(std::vector<std::string>(static_cast<size_t>(samples), "a red circle"));
  std::vector<SampleKey> keys;
  for (int64_t i = 0; i < samples; ++i) {
    const RandomKey key = RandomKey(4).fold(static_cast<uint64_t>(i));
    keys.push_back({key.fold("init"), key.fold("step")});
  }
  Velocity velocity(*bench.model);
  Best best;
  for (auto turn : state) {
    static_cast<void>(turn);
    state.SetIterationTime(
        best.run([&] { rollout(velocity, condition, nullptr, keys, RolloutConfig(), 0); }));
  }
  set_counters(state, best, samples, static_cast<double>(samples * (image_tokens + kTextTokens)));
}

void grpo_steps(benchmark::State& state, int64_t groups, int64_t experts) {
  set_num_threads(static_cast<int>(state.range(0)));
  Bench bench(64);
  std::vector<Prompt> prompts(static_cast<size_t>(groups));
  for (size_t i = 0; i < prompts.size(); ++i) {
    prompts[i].id = static_cast<int64_t>(i), prompts[i].text = "a red circle";
  }
  GrpoConfig config;
  config.prompts_per_step = groups;
  Best best;
  for (auto turn : state) {
    static_cast<void>(turn);
    state.SetIterationTime(best.run([&] {
      for (int64_t e = 0; e < experts; ++e) {
        LoraAdapter adapter =
            LoraAdapter::create(bench.model->linears(), Bench::config(), RandomKey(3));
        GrpoTrainer(*bench.model, adapter, {{make_reward("colorfulness"), 1.0}}, prompts, config,
                    {1, 1, "bench"})
            .step();
      }
    }));
  }
  const int64_t samples = experts * groups * config.group_size;
  set_counters(state, best, samples, static_cast<double>(samples));
}

void on_threads(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->Arg(1)->Arg(2)->Iterations(3)->UseManualTime();
  b->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(rollouts, 32_samples_64_tokens, 32, 64)->Apply(on_threads);
BENCHMARK_CAPTURE(rollouts, 64_samples_64_tokens, 64, 64)->Apply(on_threads);
BENCHMARK_CAPTURE(rollouts, 96_samples_64_tokens, 96, 64)->Apply(on_threads);
BENCHMARK_CAPTURE(rollouts, 32_samples_16_tokens, 32, 16)->Apply(on_threads);
BENCHMARK_CAPTURE(rollouts, 32_samples_144_tokens, 32, 144)->Apply(on_threads);
BENCHMARK_CAPTURE(grpo_steps, 48_samples_1_expert, 6, 1)->Apply(on_threads);
BENCHMARK_CAPTURE(grpo_steps, 96_samples_1_expert, 12, 1)->Apply(on_threads);
BENCHMARK_CAPTURE(grpo_steps, 96_samples_2_experts, 12, 2)->Apply(on_threads);
BENCHMARK_CAPTURE(grpo_steps, 96_samples_3_experts, 12, 3)->Apply(on_threads);

}  // namespace
}  // namespace parlo::bench
