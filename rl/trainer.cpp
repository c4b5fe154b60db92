#include "rl/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "rl/rewards/pixels.h"

namespace parlo {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Adds the time since it was made.
class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total), start_(now()) {}
  ~Stopwatch() { total_ += now() - start_; }

 private:
  double& total_;
  double start_;
};

}  // namespace

void validate(const GrpoConfig& c) {
  validate(c.rollout);
  const auto need = [](bool ok, const char* field, double got, const char* expected) {
    if (!ok) throw UsageError(concat("GRPO: ", field, " is ", got, ", expected ", expected));
  };
  need(c.prompts_per_step >= 1, "prompts per step", double(c.prompts_per_step), "at least 1");
  need(c.group_size >= 2, "group size", double(c.group_size),
       "at least 2 (advantages compare samples of one prompt)");
  need(c.updates_per_rollout >= 1 && c.updates_per_rollout <= c.prompts_per_step * c.group_size,
       "updates per rollout", double(c.updates_per_rollout), "1 .. samples a step");
  need(c.lr > 0 && std::isfinite(c.lr), "learning rate", c.lr, "a positive number");
  need(c.loss.clip_low > 0 && c.loss.clip_high > 0, "clip range", c.loss.clip_low, "> 0");
  need(c.loss.kl_beta >= 0, "KL weight", c.loss.kl_beta, ">= 0");
  need(c.ema_decay >= 0 && c.ema_decay < 1, "EMA decay", c.ema_decay, "0 .. 1");
}

struct GrpoTrainer::Batch {
  std::vector<Prompt> prompts;  // one a sample
  Condition condition;
  std::optional<Condition> uncond;
  Rollout rollout;
  Advantages advantages;
  std::vector<int64_t> order;  // shuffled samples; those without an advantage are left out
};

GrpoTrainer::GrpoTrainer(FlowModel& model, LoraAdapter& adapter,
                         std::vector<WeightedReward> rewards, std::vector<Prompt> prompts,
                         const GrpoConfig& config, const ExpertKey& key, const FlowModel* reference)
    : model_(model),
      reference_(reference),
      adapter_(adapter),
      linears_(model.linears()),
      rewards_(std::move(rewards)),
      prompts_(std::move(prompts)),
      config_(config),
      key_(RandomKey(key.seed).fold("grpo").fold(key.iteration).fold(key.expert)),
      params_(adapter.params()),
      optimizer_(params_, config.adam) {
  validate(config_);
  CHECK(!rewards_.empty(), "GrpoTrainer: no reward");
  for (const WeightedReward& r : rewards_) validate_prompts(r.reward, prompts_);
  if (config_.ema_decay > 0) ema_.emplace(params_, config_.ema_decay);
  model_.params().set_requires_grad(false);
  adapter_.set_requires_grad(true);
  adapter_.enable(linears_);
}

GrpoTrainer::~GrpoTrainer() {
  adapter_.set_requires_grad(false);
  disable_adapters(linears_);
}

// The prompt list is walked in passes, each in its own keyed order, so that every prompt is used
// equally often whatever the step a run resumes from.
std::vector<int64_t> GrpoTrainer::draw_prompts() const {
  const auto count = static_cast<int64_t>(prompts_.size());
  std::vector<int64_t> out, order;
  int64_t loaded = -1;
  for (int64_t i = 0; i < config_.prompts_per_step; ++i) {
    const int64_t position = step_ * config_.prompts_per_step + i;
    const int64_t pass = position / count;
    if (pass != loaded) {
      order.resize(static_cast<size_t>(count));
      std::iota(order.begin(), order.end(), 0);
      Random random(key_.fold("prompts").fold(static_cast<uint64_t>(pass)));
      for (size_t n = order.size(); n > 1; --n) {
        std::swap(order[n - 1], order[random.below(static_cast<uint32_t>(n))]);
      }
      loaded = pass;
    }
    out.push_back(order[static_cast<size_t>(position % count)]);
  }
  return out;
}

GrpoTrainer::Batch GrpoTrainer::collect(StepStats& stats) {
  const Stopwatch watch(stats.rollout_seconds);
  Batch batch;
  const RandomKey epoch = key_.fold("epoch").fold(static_cast<uint64_t>(step_));
  std::vector<SampleKey> keys;
  std::vector<std::string> texts;
  const std::vector<int64_t> drawn = draw_prompts();
  for (size_t slot = 0; slot < drawn.size(); ++slot) {
    const Prompt& prompt = prompts_[static_cast<size_t>(drawn[slot])];
    // The slot tells apart two draws of one prompt in a step (fewer prompts than slots).
    const RandomKey group = epoch.fold(static_cast<uint64_t>(prompt.id)).fold(slot);
    for (int64_t g = 0; g < config_.group_size; ++g) {
      const RandomKey sample = group.fold(static_cast<uint64_t>(g));
      keys.push_back({(config_.same_noise ? group : sample).fold("init"), sample.fold("step")});
      batch.prompts.push_back(prompt);
      texts.push_back(prompt.text);
    }
  }
  batch.condition = model_.encode(texts);
  if (config_.rollout.guidance != 1.0) {
    batch.uncond = model_.encode(std::vector<std::string>(texts.size(), ""));
  }
  // One window for the whole step: windows that differ inside a group multiply the noise.
  const int64_t start = window_start(config_.rollout, epoch.fold("window"));
  batch.rollout = rollout(model_, batch.condition, batch.uncond ? &*batch.uncond : nullptr, keys,
                          config_.rollout, start);
  return batch;
}

void GrpoTrainer::score(Batch& batch, StepStats& stats) {
  const Stopwatch watch(stats.reward_seconds);
  const std::vector<Image> images = to_images(model_.decode(batch.rollout.latents));
  std::vector<double> total(images.size(), 0.0);
  for (const WeightedReward& r : rewards_) {
    const std::vector<double> scores = r.reward.score(images, batch.prompts);
    double sum = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      sum += scores[i];
      total[i] += r.weight * scores[i];
    }
    stats.rewards[r.reward.name] = sum / static_cast<double>(scores.size());
  }
  for (size_t i = 0; i < batch.prompts.size(); ++i) {
    const size_t first = i - i % static_cast<size_t>(config_.group_size);
    CHECK(batch.prompts[i].id == batch.prompts[first].id,
          "GrpoTrainer: a group mixes prompts; group size must be ", config_.group_size);
  }
  batch.advantages = group_advantages(total, config_.group_size, config_.advantage);
  for (size_t i = 0; i < total.size(); ++i) {
    if (batch.advantages.values[i] != 0.0) batch.order.push_back(static_cast<int64_t>(i));
  }
  Random random(key_.fold("shuffle").fold(static_cast<uint64_t>(step_)));
  for (size_t n = batch.order.size(); n > 1; --n) {
    std::swap(batch.order[n - 1], batch.order[random.below(static_cast<uint32_t>(n))]);
  }
  stats.reward = batch.advantages.reward_mean;
  stats.reward_std = batch.advantages.reward_std;
  stats.groups = batch.advantages.groups;
  stats.zero_std_groups = batch.advantages.zero_std_groups;
  stats.group_size = config_.group_size;
}

namespace {

Tensor take_rows(const Tensor& t, std::span<const int64_t> rows) {
  Shape shape = t.shape();
  shape[0] = static_cast<int64_t>(rows.size());
  Tensor out = Tensor::empty(shape, t.dtype(), t.device());
  for (size_t i = 0; i < rows.size(); ++i) {
    out.slice(0, static_cast<int64_t>(i), static_cast<int64_t>(i) + 1)
        .copy_from(t.slice(0, rows[i], rows[i] + 1));
  }
  return out;
}

Condition take_rows(const Condition& c, std::span<const int64_t> rows) {
  return {take_rows(c.context, rows), take_rows(c.pooled, rows)};
}

}  // namespace

// One optimiser step on samples order[begin, end): the gradient of the mean over samples and
// trained steps, accumulated over micro-batches.
void GrpoTrainer::update(const Batch& batch, int64_t begin, int64_t end, bool first,
                         StepStats& stats) {
  const auto& steps = batch.rollout.steps;
  const double share =
      1.0 / static_cast<double>((end - begin) * static_cast<int64_t>(steps.size()));
  double loss = 0;
  for (const StoredStep& s : steps) {
    for (int64_t b = begin; b < end; b += config_.rollout.micro_batch) {
      const int64_t e = std::min(b + config_.rollout.micro_batch, end);
      const std::span<const int64_t> rows(&batch.order[static_cast<size_t>(b)],
                                          static_cast<size_t>(e - b));
      const Tensor x = take_rows(s.x, rows);
      Shape shape = model_.latent_shape();
      shape.insert(0, e - b);
      const Condition cond = take_rows(batch.condition, rows);
      std::optional<Condition> uncond;
      if (batch.uncond) uncond = take_rows(*batch.uncond, rows);
      const auto velocity = [&](const FlowModel& model) {
        return guided_velocity(model, Var(x.view(shape)), s.sigma, cond,
                               uncond ? &*uncond : nullptr, config_.rollout.guidance,
                               config_.rollout.detach_uncond);
      };
      Tensor v_ref;
      if (config_.loss.kl_beta > 0) {
        const NoGrad guard;
        const AdapterDisabled base(linears_);
        v_ref = velocity(reference_ ? *reference_ : model_).value().view(x.shape());
      }
      const Var v = velocity(model_);
      std::vector<float> advantage;
      for (int64_t r : rows) {
        advantage.push_back(static_cast<float>(batch.advantages.values[static_cast<size_t>(r)]));
      }
      const FlowLoss l = flow_loss(s.coefficients, x, v.value().view(x.shape()),
                                   take_rows(s.next, rows), take_rows(s.log_prob, rows),
                                   Tensor::from(advantage, {e - b}), v_ref, config_.loss);
      for (int64_t i = 0; i < e - b; ++i) {
        const double ratio = l.ratio.data<float>()[i], a = advantage[static_cast<size_t>(i)];
        const double deviation = std::abs(ratio - 1.0);
        loss += share * l.loss.data<float>()[i];
        stats.kl += l.kl.data<float>()[i];
        stats.approx_kl += 0.5 * std::log(ratio) * std::log(ratio);
        stats.ratio_mean += ratio;
        stats.ratio_max_deviation = std::max(stats.ratio_max_deviation, deviation);
        if (first) stats.first_ratio_deviation = std::max(stats.first_ratio_deviation, deviation);
        stats.clip_fraction += (a > 0 && ratio > 1.0 + config_.loss.clip_high) ||
                               (a < 0 && ratio < 1.0 - config_.loss.clip_low);
      }
      Tensor dv = l.dv.view(shape);
      backward(v, affine(Var(dv), share).value());
    }
  }
  apply_gradient(loss, stats);
}

void GrpoTrainer::apply_gradient(double loss, StepStats& stats) {
  if (config_.weight_prox > 0) {
    for (const NamedVar& p : params_) {
      if (p.var.grad().defined()) add_scaled(p.var.grad(), config_.weight_prox, p.var.value());
    }
  }
  const double norm = grad_norm(params_);
  if (std::isfinite(norm) && std::isfinite(loss)) {
    bad_in_a_row_ = 0;
    stats.loss += loss / static_cast<double>(config_.updates_per_rollout);
    stats.grad_norm = norm;
    stats.adam_eps_ratio = grad_rms(params_) / config_.adam.eps;
    optimizer_.step(config_.lr, clip_factor(norm, config_.max_grad_norm));
    if (ema_) ema_->update();
  } else {
    ++stats.bad_updates;
    ++bad_in_a_row_;
  }
  zero_grads(params_);
  CHECK(bad_in_a_row_ < config_.max_bad_steps, "GRPO: ", bad_in_a_row_,
        " updates in a row had a non-finite loss (", loss, ") or gradient norm (", norm,
        ") at step ", step_ + 1, "; the last checkpoint is intact: resume with a lower --lr");
}

StepStats GrpoTrainer::step() {
  StepStats stats;
  stats.step = step_ + 1;
  Batch batch = collect(stats);
  score(batch, stats);
  {
    const Stopwatch watch(stats.update_seconds);
    stats.ratio_mean = 0;
    const auto n = static_cast<int64_t>(batch.order.size());
    const int64_t updates = config_.updates_per_rollout;
    int64_t seen = 0;
    for (int64_t u = 0; u < updates; ++u) {
      const int64_t begin = n * u / updates, end = n * (u + 1) / updates;
      if (begin == end) continue;  // every group had equal rewards: nothing to learn from
      update(batch, begin, end, u == 0, stats);
      seen += (end - begin) * static_cast<int64_t>(batch.rollout.steps.size());
    }
    const double count = static_cast<double>(std::max<int64_t>(1, seen));
    stats.ratio_mean = seen ? stats.ratio_mean / count : 1.0;
    stats.kl /= count;
    stats.approx_kl /= count;
    stats.clip_fraction /= count;
  }
  CHECK(stats.first_ratio_deviation == 0.0 || stats.bad_updates > 0,
        "GRPO self-check: before the first update the ratio must be exactly 1, got a deviation of ",
        stats.first_ratio_deviation, "; rollout and training do not compute the same velocity");
  ++step_;
  return stats;
}

NamedTensors GrpoTrainer::state() const {
  NamedTensors out = optimizer_.state();
  if (ema_) {
    const NamedTensors more = ema_->state();
    out.insert(out.end(), more.begin(), more.end());
  }
  for (const NamedVar& p : params_) out.emplace_back("param." + p.name, p.var.value());
  out.emplace_back("trainer.step", Tensor::from<int64_t>({step_, bad_in_a_row_}, {2}));
  return out;
}

void GrpoTrainer::load_state(const NamedTensors& state) {
  optimizer_.load_state(state);
  if (ema_) ema_->load_state(state);
  const std::map<std::string, Tensor> saved(state.begin(), state.end());
  for (const NamedVar& p : params_) {
    const auto it = saved.find("param." + p.name);
    CHECK(it != saved.end(), "GrpoTrainer: the checkpoint lacks ", p.name);
    p.var.value().copy_from(it->second);
  }
  const auto counters = saved.find("trainer.step");
  CHECK(counters != saved.end(), "GrpoTrainer: the checkpoint lacks its step");
  const std::vector<double> values = counters->second.to_vector();
  step_ = static_cast<int64_t>(values.at(0));
  bad_in_a_row_ = static_cast<int64_t>(values.at(1));
}

void GrpoTrainer::swap_ema() {
  if (ema_) ema_->swap();
}

}  // namespace parlo
