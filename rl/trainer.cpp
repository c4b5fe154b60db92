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
  need(c.advantage.clip > 0, "advantage clip", c.advantage.clip, "> 0");
  need(c.max_bad_steps >= 1, "skipped updates allowed", double(c.max_bad_steps), "at least 1");
  need(c.ema_decay >= 0 && c.ema_decay < 1, "EMA decay", c.ema_decay, "0 .. 1");
  need(c.ema_every >= 1, "steps between updates of the EMA", double(c.ema_every), "at least 1");
}

struct GrpoTrainer::Batch {
  std::vector<Prompt> prompts;  // one a sample
  Condition condition;
  std::optional<Condition> uncond;
  Rollout rollout;
  Advantages advantages;
  std::vector<int64_t> order;  // shuffled samples; those without an advantage are left out
};

// What an update saw, summed over samples and trained steps.
struct GrpoTrainer::Tally {
  double loss = 0, kl = 0, approx_kl = 0, ratio = 0, clipped = 0;
  double deviation = 0;  // largest distance of a ratio from 1
  int64_t count = 0;

  void add(const FlowLoss& l, std::span<const float> advantage, const FlowLossArgs& args) {
    count += static_cast<int64_t>(advantage.size());
    if (l.ratio.device().is_meta()) return;  // no values: nothing that could deviate
    const std::vector<double> ratios = l.ratio.to_vector(), losses = l.loss.to_vector(),
                              kls = l.kl.to_vector();
    for (size_t i = 0; i < advantage.size(); ++i) {
      const double r = ratios[i], a = advantage[i];
      loss += losses[i];
      kl += kls[i];
      approx_kl += 0.5 * std::log(r) * std::log(r);
      ratio += r;
      clipped += (a > 0 && r > 1.0 + args.clip_high) || (a < 0 && r < 1.0 - args.clip_low);
      deviation = std::max(deviation, std::abs(r - 1.0));
    }
  }

  void add(const Tally& t) {
    loss += t.loss;
    kl += t.kl;
    approx_kl += t.approx_kl;
    ratio += t.ratio;
    clipped += t.clipped;
    deviation = std::max(deviation, t.deviation);
    count += t.count;
  }
};

namespace {

bool judges(const Reward& reward, const Prompt& prompt) {
  return !reward.why_not || reward.why_not(prompt).empty();
}

// In a mixture a prompt needs one reward that can judge it: where the others score 0 they do so
// for the whole group, which leaves the advantages to that one.
void validate_mixture(const std::vector<WeightedReward>& rewards,
                      const std::vector<Prompt>& prompts) {
  if (rewards.size() == 1 || prompts.empty()) {
    return validate_prompts(rewards.at(0).reward, prompts);
  }
  for (const Prompt& p : prompts) {
    const bool some = std::any_of(rewards.begin(), rewards.end(),
                                  [&](const WeightedReward& r) { return judges(r.reward, p); });
    if (!some) {
      throw UsageError(
          concat("prompt ", p.id, " '", p.text, "': none of the rewards can judge it"));
    }
  }
}

}  // namespace

GrpoTrainer::GrpoTrainer(FlowModel& model, LoraAdapter& adapter,
                         std::vector<WeightedReward> rewards, std::vector<Prompt> prompts,
                         const GrpoConfig& config, const ExpertKey& key, FlowModel* reference)
    : model_(model),
      velocity_(model, config.rollout.record),
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
  validate_mixture(rewards_, prompts_);
  if (reference != nullptr) reference_.emplace(*reference, config.rollout.record);
  if (config_.ema_decay > 0) ema_.emplace(params_, config_.ema_decay, true, config_.ema_every);
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
std::vector<int64_t> GrpoTrainer::draw_prompts(int64_t step) const {
  const auto count = static_cast<int64_t>(prompts_.size());
  std::vector<int64_t> out, order;
  int64_t loaded = -1;
  for (int64_t i = 0; i < config_.prompts_per_step; ++i) {
    const int64_t position = step * config_.prompts_per_step + i;
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

// Many steps ahead, so that text encoders which are loaded on demand are loaded now and then only.
void GrpoTrainer::prepare_prompts() {
  constexpr int64_t kStepsAhead = 64;
  if (step_ < prepared_) return;
  prepared_ = step_ + kStepsAhead;
  std::vector<std::string> texts{""};
  for (int64_t step = step_; step < prepared_; ++step) {
    for (int64_t i : draw_prompts(step)) texts.push_back(prompts_[static_cast<size_t>(i)].text);
  }
  model_.prepare(texts);
}

GrpoTrainer::Batch GrpoTrainer::collect(StepStats& stats) {
  const Stopwatch watch(stats.rollout_seconds);
  prepare_prompts();
  Batch batch;
  const RandomKey epoch = key_.fold("epoch").fold(static_cast<uint64_t>(step_));
  std::vector<SampleKey> keys;
  std::vector<std::string> texts;
  const std::vector<int64_t> drawn = draw_prompts(step_);
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
  batch.rollout = rollout(velocity_, batch.condition, batch.uncond ? &*batch.uncond : nullptr, keys,
                          config_.rollout, start);
  return batch;
}

// False when a reward is not finite: such a step cannot be learned from.
bool GrpoTrainer::score(Batch& batch, StepStats& stats) {
  const Stopwatch watch(stats.reward_seconds);
  const std::vector<Image> images = to_images(model_.decode(batch.rollout.latents));
  std::vector<double> total(images.size(), 0.0);
  for (const WeightedReward& r : rewards_) {
    const std::vector<double> scores = r.reward.score(images, batch.prompts);
    double sum = 0;
    int64_t judged = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      total[i] += r.weight * scores[i];
      if (!judges(r.reward, batch.prompts[i])) continue;
      sum += scores[i];
      ++judged;
    }
    if (judged > 0) stats.rewards[r.reward.name] = sum / static_cast<double>(judged);
  }
  for (size_t i = 0; i < batch.prompts.size(); ++i) {
    const size_t first = i - i % static_cast<size_t>(config_.group_size);
    CHECK(batch.prompts[i].id == batch.prompts[first].id,
          "GrpoTrainer: a group mixes prompts; group size must be ", config_.group_size);
  }
  stats.reward =
      std::accumulate(total.begin(), total.end(), 0.0) / static_cast<double>(total.size());
  stats.groups = config_.prompts_per_step;
  stats.group_size = config_.group_size;
  if (!std::all_of(total.begin(), total.end(), [](double r) { return std::isfinite(r); })) {
    return false;
  }
  batch.advantages = group_advantages(total, config_.group_size, config_.advantage);
  for (size_t i = 0; i < total.size(); ++i) {
    if (batch.advantages.values[i] != 0.0) batch.order.push_back(static_cast<int64_t>(i));
  }
  Random random(key_.fold("shuffle").fold(static_cast<uint64_t>(step_)));
  for (size_t n = batch.order.size(); n > 1; --n) {
    std::swap(batch.order[n - 1], batch.order[random.below(static_cast<uint32_t>(n))]);
  }
  stats.reward_std = batch.advantages.reward_std;
  stats.zero_std_groups = batch.advantages.zero_std_groups;
  return true;
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

// Adds the gradient of share * sum of losses of some samples at one stored step.
void GrpoTrainer::accumulate(const Batch& batch, const StoredStep& s, std::span<const int64_t> rows,
                             double share, Tally& tally) {
  const auto count = static_cast<int64_t>(rows.size());
  const Tensor x = take_rows(s.x, rows);
  std::optional<Condition> uncond;
  if (batch.uncond) uncond = take_rows(*batch.uncond, rows);
  const Velocity::At at{x,
                        s.sigma,
                        take_rows(batch.condition, rows),
                        uncond ? &*uncond : nullptr,
                        config_.rollout.guidance,
                        config_.rollout.detach_uncond};
  Tensor v_ref;
  if (config_.loss.kl_beta > 0) {
    const AdapterDisabled base(linears_);
    v_ref = (reference_ ? *reference_ : velocity_).value(at);
  }
  const Tensor v = velocity_.forward(at, params_);
  std::vector<float> advantage;
  for (int64_t r : rows) {
    advantage.push_back(static_cast<float>(batch.advantages.values[static_cast<size_t>(r)]));
  }
  const FlowLoss l =
      flow_loss(s.coefficients, x, v, take_rows(s.next, rows), take_rows(s.log_prob, rows),
                Tensor::from(advantage, {count}).to(x.device()), v_ref, config_.loss);
  tally.add(l, advantage, config_.loss);
  velocity_.backward(affine(Var(l.dv), share).value());
}

// The gradient of the mean loss over samples order[begin, end) and trained steps.
GrpoTrainer::Tally GrpoTrainer::gradient(const Batch& batch, int64_t begin, int64_t end) {
  const auto& steps = batch.rollout.steps;
  const double share =
      1.0 / static_cast<double>((end - begin) * static_cast<int64_t>(steps.size()));
  Tally tally;
  for (const StoredStep& s : steps) {
    for (int64_t b = begin; b < end; b += config_.rollout.micro_batch) {
      const int64_t e = std::min(b + config_.rollout.micro_batch, end);
      accumulate(batch, s, std::span(batch.order).subspan(size_t(b), size_t(e - b)), share, tally);
    }
  }
  if (config_.weight_prox > 0) {
    for (const NamedVar& p : params_) {
      if (p.var.grad().defined()) add_scaled(p.var.grad(), config_.weight_prox, p.var.value());
    }
  }
  return tally;
}

// One optimiser step; false when the loss or the gradient is not finite.
bool GrpoTrainer::apply_gradient(double loss, StepStats& stats) {
  const double norm = grad_norm(params_);
  const bool finite = std::isfinite(norm) && std::isfinite(loss);
  if (finite) {
    bad_in_a_row_ = 0;
    stats.grad_norm = norm;
    stats.adam_eps_ratio = grad_rms(params_) / config_.adam.eps;
    optimizer_.step(config_.lr, clip_factor(norm, config_.max_grad_norm));
    if (ema_) ema_->update();
  }
  zero_grads(params_);
  if (!finite) skip(concat("the loss is ", loss, " and the gradient norm ", norm), stats);
  return finite;
}

void GrpoTrainer::skip(const std::string& reason, StepStats& stats) {
  ++stats.bad_updates;
  ++bad_in_a_row_;
  CHECK(bad_in_a_row_ < config_.max_bad_steps, "GRPO: ", bad_in_a_row_,
        " updates in a row were skipped, the last at step ", step_ + 1, ": ", reason,
        "; the last checkpoint is intact, but only a new run with a lower --lr can go further");
}

void GrpoTrainer::update(const Batch& batch, StepStats& stats) {
  const Stopwatch watch(stats.update_seconds);
  const auto n = static_cast<int64_t>(batch.order.size());
  const int64_t updates = config_.updates_per_rollout;
  Tally total;
  bool on_policy = true;  // until the first update is applied
  for (int64_t u = 0; u < updates; ++u) {
    const int64_t begin = n * u / updates, end = n * (u + 1) / updates;
    if (begin == end) continue;  // groups with equal rewards left too few samples
    const Tally part = gradient(batch, begin, end);
    if (on_policy) {
      stats.first_ratio_deviation = part.deviation;
      if (part.deviation != 0.0) zero_grads(params_);
      CHECK(part.deviation == 0.0,
            "GRPO self-check: before the first update the ratio must be exactly 1, got a deviation "
            "of ",
            part.deviation, "; rollout and training do not compute the same velocity");
    }
    if (!apply_gradient(part.loss / static_cast<double>(part.count), stats)) continue;
    on_policy = false;
    total.add(part);
  }
  if (total.count == 0) return;
  const auto count = static_cast<double>(total.count);
  stats.loss = total.loss / count;
  stats.kl = total.kl / count;
  stats.approx_kl = total.approx_kl / count;
  stats.ratio_mean = total.ratio / count;
  stats.ratio_max_deviation = total.deviation;
  stats.clip_fraction = total.clipped / count;
}

StepStats GrpoTrainer::step() {
  StepStats stats;
  stats.step = step_ + 1;
  Batch batch = collect(stats);
  if (score(batch, stats)) {
    update(batch, stats);
  } else {
    skip("a reward is not finite", stats);
  }
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
  prepared_ = 0;
  bad_in_a_row_ = static_cast<int64_t>(values.at(1));
}

void GrpoTrainer::swap_ema() {
  if (ema_) ema_->swap();
}

}  // namespace parlo
