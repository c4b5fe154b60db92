// What plan_memory() predicts from configurations, against the allocator's peak in a real step.
#include "rl/memory_plan.h"

#include "models/load_flow_model.h"
#include "tensor/device_memory.h"
#include "tests/models/tiny_flux.h"
#include "tests/rl/tiny_pipeline.h"

namespace parlo::test {
namespace {

namespace fs = std::filesystem;

struct Case {
  std::string name;
  fs::path base;
  DType dtype = DType::f32;
  int64_t micro_batch = 8, rank = 8;
  double guidance = 1.0;
  bool again = false;  // blocks are computed again in the backward
  double kl = 0.0;
};

PlannedRun run_of(const Case& c) {
  PlannedRun run;
  run.lora.r = c.rank;
  run.lora.lora_alpha = 16;
  run.lora.target_modules = parse_targets("attention+mlp");
  run.grpo.rollout.steps = 4;
  run.grpo.rollout.window = 2;
  run.grpo.rollout.window_high = 3;
  run.grpo.rollout.micro_batch = c.micro_batch;
  run.grpo.rollout.guidance = c.guidance;
  run.grpo.loss.kl_beta = c.kl;
  run.grpo.prompts_per_step = 4;
  run.grpo.group_size = 4;
  run.train_prompts = run.held_out_prompts = 4;
  return run;
}

Reward by_index() {
  Reward r;
  r.name = "index";
  r.score = [](std::span<const Image> images, std::span<const Prompt>) {
    std::vector<double> out;
    for (size_t i = 0; i < images.size(); ++i) out.push_back(static_cast<double>(i % 2));
    return out;
  };
  return r;
}

// Bytes in tensors at most, in one step of the real thing; weights that lie in mapped files count.
int64_t real_peak(const Case& c, const MemoryPlan& plan) {
  const PlannedRun run = run_of(c);
  const int64_t before = memory_stats({}).current_bytes;
  const auto model = load_flow_model(c.base, {}, c.dtype);
  model->transformer().checkpoint_blocks = c.again;
  const int64_t loaded = memory_stats({}).current_bytes - before;
  const int64_t mapped = plan.transformer + plan.autoencoder + plan.text - loaded;
  CHECK(mapped >= 0);
  LoraAdapter adapter = LoraAdapter::create(model->linears(), run.lora, RandomKey(1));
  GrpoTrainer trainer(*model, adapter, {{by_index(), 1.0}}, tiny_prompts(4), run.grpo,
                      {1, 1, "index"});
  cpu_memory::reset_peak();
  const StepStats stats = trainer.step();
  CHECK(stats.bad_updates == 0);
  CHECK(stats.grad_norm > 0);
  return memory_stats({}).peak_bytes - before + mapped;
}

const fs::path kSource = PARLO_SOURCE_DIR;

}  // namespace

TEST_CASE("the predicted peak of a step is within 3 % of the allocator's") {
  const TemporaryFolder folder;
  const fs::path flux = folder / "flux", signs = kSource / "assets/signs/base";
  {
    FluxTransformer transformer(flux_tiny());
    transformer.params().initialise(RandomKey(3));
    transformer.save(flux / "transformer");
    write_flux_clip(flux, 64, {"red", "green", "blue", "circle", "square"});
    make_folders(flux / "scheduler");
    write_file(flux / "scheduler/scheduler_config.json", FluxSchedule().to_json());
  }
  const std::vector<Case> cases{
      {"signs", signs},
      {"signs, one sample a pass", signs, DType::f32, 1},
      {"signs, rank 64", signs, DType::f32, 4, 64},
      {"signs, guidance", signs, DType::f32, 8, 8, 2.0},
      {"signs, KL", signs, DType::f32, 8, 8, 1.0, false, 0.01},
      {"signs, bf16", signs, DType::bf16},
      {"signs, blocks again", signs, DType::f32, 16, 8, 1.0, true},
      {"signs, blocks again, guidance, bf16", signs, DType::bf16, 16, 8, 2.0, true},
      {"flux", flux},
      {"flux, blocks again", flux, DType::f32, 16, 16, 1.0, true},
      {"flux, guidance, bf16", flux, DType::bf16, 4, 16, 2.0},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    MetaModel model = make_meta_model(c.base, {}, c.dtype);
    model.pipeline->transformer().checkpoint_blocks = c.again;
    const MemoryPlan plan = plan_memory(model, run_of(c), {});
    const int64_t step = std::max({plan.rollout, plan.decoding, plan.update});
    const int64_t real = real_peak(c, plan);
    MESSAGE(c.name, ": predicted ", step, ", real ", real, ", ratio ",
            static_cast<double>(step) / static_cast<double>(real));
    CHECK(std::abs(static_cast<double>(step) / static_cast<double>(real) - 1.0) < 0.03);
  }
}

TEST_CASE("a latent pipeline with three encoders: weights, decoding, an evaluation") {
  Case c{"pipe_sd3", kSource / "tests/golden/pipe_sd3"};
  MetaModel meta = make_meta_model(c.base, {}, c.dtype);
  const PlannedRun run = run_of(c);
  const MemoryPlan plan = plan_memory(meta, run, {});
  const auto file_bytes = [&](const char* part) {
    return static_cast<int64_t>(
        fs::file_size(c.base / part / "diffusion_pytorch_model.safetensors"));
  };
  // All but the files' headers.
  CHECK(plan.transformer <= file_bytes("transformer"));
  CHECK(plan.transformer > file_bytes("transformer") * 6 / 10);
  CHECK(plan.autoencoder <= file_bytes("vae"));
  CHECK(plan.text == 0);
  CHECK(meta.encoding.t5 > 0);
  CHECK(meta.encoding.states > 0);
  const int64_t before = memory_stats({}).current_bytes;
  const auto model = load_flow_model(c.base);
  const int64_t mapped =
      plan.transformer + plan.autoencoder - (memory_stats({}).current_bytes - before);
  const auto measured = [&](const std::string& what, int64_t predicted, int64_t files,
                            const auto& work) {
    cpu_memory::reset_peak();
    work();
    const int64_t real = memory_stats({}).peak_bytes - before + mapped + files;
    MESSAGE(what, ": predicted ", predicted, ", real ", real);
    CHECK(std::abs(static_cast<double>(predicted) / static_cast<double>(real) - 1.0) < 0.1);
  };
  std::vector<std::string> texts{""};
  for (const Prompt& p : tiny_prompts(4)) texts.push_back(p.text);
  // Without a trainer; T5 lies in its mapped file.
  measured("encoding", plan.encoding - plan.adapter - plan.optimizer,
           static_cast<int64_t>(fs::file_size(c.base / "text_encoder_3/model.safetensors")),
           [&] { model->prepare(texts); });
  measured("evaluation", plan.evaluation, 0,
           [&] { sample_images(*model, tiny_prompts(4), run.eval); });
}

TEST_CASE("settings move the plan the way they move the run") {
  const fs::path signs = kSource / "assets/signs/base";
  const auto plan = [&](const PlannedRun& run, Device like = {}) {
    MetaModel model = make_meta_model(signs, like, DType::bf16);
    return plan_memory(model, run, like);
  };
  const PlannedRun run = run_of({"", signs});
  const MemoryPlan one = plan(run);
  PlannedRun three = run;
  three.side_by_side = 3;
  CHECK(plan(three).update == 3 * one.update);
  PlannedRun other = run;
  other.second_model = true;
  CHECK(plan(other).update == one.update + one.transformer + one.text);
  // Encoded prompts are kept.
  PlannedRun more = run;
  more.train_prompts += 1000;
  const Condition condition = make_meta_model(signs, {}, DType::bf16).condition;
  const auto kept =
      1000 * static_cast<int64_t>(condition.context.nbytes() + condition.pooled.nbytes());
  CHECK(plan(more).update == one.update + kept);
  // Activations are bf16 on a GPU alone.
  CHECK(plan(run, {Device::Kind::cuda, 0}).update < one.update);
}

}  // namespace parlo::test
