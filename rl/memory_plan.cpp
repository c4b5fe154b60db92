#include "rl/memory_plan.h"

#include <algorithm>

#include "tensor/meta.h"

namespace parlo {
namespace {

// The peak since the last call.
int64_t take_peak() {
  const int64_t peak = meta_memory::stats().peak_bytes;
  meta_memory::reset_peak();
  return peak;
}

// The pipeline with conditions of the right size in the place of its text encoders'. Notes what
// drawing and decoding need; a picture is one pixel.
class MeasuredModel : public FlowModel {
 public:
  explicit MeasuredModel(MetaModel& of) : of_(of), inner_(*of.pipeline) {}

  Shape latent_shape() const override { return inner_.latent_shape(); }
  Condition encode(std::span<const std::string> prompts) override {
    const auto rows = [&](const Tensor& one) {
      Shape shape = one.shape();
      shape[0] = static_cast<int64_t>(prompts.size());
      return Tensor::empty(shape, one.dtype(), kMeta);
    };
    return {rows(of_.condition.context), rows(of_.condition.pooled)};
  }
  using FlowModel::velocity;
  Var velocity(const Var& x, const Tensor& noise, const Condition& condition) const override {
    return inner_.velocity(x, noise, condition);
  }
  Tensor noise_features(std::span<const double> sigmas) const override {
    return inner_.noise_features(sigmas);
  }
  Tensor decode(const Tensor& latents) const override {
    drawing = std::max(drawing, take_peak());
    inner_.decode(latents);
    decoding = std::max(decoding, take_peak());
    return Tensor::zeros({latents.dim(0), 3, 1, 1});
  }
  std::vector<double> sigmas(int64_t steps) const override { return inner_.sigmas(steps); }
  Linears linears() override { return inner_.linears(); }
  Params& params() override { return inner_.params(); }
  MmditBase& transformer() override { return inner_.transformer(); }
  Device device() const override { return kMeta; }

  // Peaks so far of what comes before a decode, and of decodes.
  mutable int64_t drawing = 0, decoding = 0;

 private:
  MetaModel& of_;
  FlowModel& inner_;
};

std::vector<Prompt> some_prompts(int64_t count) {
  std::vector<Prompt> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) out[i].id = static_cast<int64_t>(i);
  return out;
}

// Scores that differ within every group, so that every sample is trained on.
Reward alternating_reward() {
  Reward r;
  r.name = "plan";
  r.score = [](std::span<const Image> images, std::span<const Prompt>) {
    std::vector<double> out;
    for (size_t i = 0; i < images.size(); ++i) out.push_back(static_cast<double>(i % 2));
    return out;
  };
  return r;
}

int64_t bytes_of(const std::vector<NamedVar>& params) {
  int64_t bytes = 0;
  for (const NamedVar& p : params) bytes += static_cast<int64_t>(p.var.value().nbytes());
  return bytes;
}

int64_t bytes_of(const Condition& c) {
  return static_cast<int64_t>(c.context.nbytes() + c.pooled.nbytes());
}

void plan_evaluation(MeasuredModel& model, const PlannedRun& run, MemoryPlan& plan) {
  EvalConfig eval = run.eval;
  eval.steps = 2;  // more are no more memory, nor are more batches
  take_peak();
  sample_images(model, some_prompts(std::min(run.held_out_prompts, eval.micro_batch)), eval);
  plan.evaluation = std::max(model.drawing, model.decoding);
}

void plan_step(MeasuredModel& model, const PlannedRun& run, MemoryPlan& plan) {
  const int64_t before = meta_memory::stats().current_bytes;
  LoraAdapter adapter = LoraAdapter::create(model.linears(), run.lora, RandomKey(1));
  plan.adapter = bytes_of(adapter.params());
  GrpoTrainer trainer(model, adapter, {{alternating_reward(), 1.0}},
                      some_prompts(run.grpo.prompts_per_step), run.grpo, {1, 1, "plan"});
  plan.optimizer = meta_memory::stats().current_bytes - before - plan.adapter;
  model.drawing = model.decoding = 0;
  take_peak();
  trainer.step();
  plan.rollout = model.drawing;
  plan.decoding = model.decoding;
  plan.update = take_peak();
}

}  // namespace

MemoryPlan plan_memory(MetaModel& of, const PlannedRun& run, Device like) {
  MemoryPlan plan;
  plan.transformer = of.transformer_bytes;
  plan.autoencoder = of.autoencoder_bytes;
  plan.text = of.text_bytes;
  // What else this process counts is none of the run's.
  const int64_t weights = plan.transformer + plan.autoencoder + plan.text;
  const int64_t foreign = meta_memory::stats().current_bytes - weights;
  MeasuredModel model(of);
  plan_evaluation(model, run, plan);
  plan_step(model, run, plan);
  for (int64_t* p : {&plan.evaluation, &plan.rollout, &plan.decoding, &plan.update}) *p -= foreign;

  // The empty prompt of guidance is encoded as well.
  const int64_t one = run.conditions_on_disk ? 0 : bytes_of(of.condition);
  const int64_t kept = (run.train_prompts + 1) * one, scored = (run.held_out_prompts + 1) * one;
  plan.conditions = std::max(kept, scored);
  const bool here = like.is_cpu() || of.text_bytes > 0;
  if (of.text_bytes == 0) {
    const int64_t most = std::max(run.train_prompts, run.held_out_prompts) + 1;
    plan.encoding = weights + plan.adapter + plan.optimizer + of.encoding.peak(most);
    if (here) plan.encoding += plan.conditions;
  }
  if (here) plan.evaluation += scored;
  for (int64_t* p : {&plan.rollout, &plan.decoding, &plan.update}) {
    if (here) *p += kept;
    *p *= run.side_by_side;
    if (run.second_model) *p += weights * run.side_by_side;
  }
  return plan;
}

}  // namespace parlo
