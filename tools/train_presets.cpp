#include "tools/train_presets.h"

#include <algorithm>

namespace parlo {
namespace {

// What all of them share. The frozen weights are bf16 throughout: SD3.5's were run in fp16
// autocast, which this version does not have. steps: rollouts of the single experts that were
// published (RaTE's teachers).
TrainOptions published(const char* reward, const char* kl, int64_t steps) {
  TrainOptions o;
  o.rewards = {reward};
  o.kl = {kl};
  o.steps = steps;
  o.common.seed = 42;
  o.method = "single";
  o.dtype = "bf16";
  o.pictures.height = o.pictures.width = 512;
  o.text.t5_tokens = 128;
  o.lr = {"0.0003"};
  o.run.eval.seed = 42;
  GrpoConfig& g = o.run.grpo;
  g.prompts_per_step = 48;
  g.group_size = 24;
  g.updates_per_rollout = 2;
  g.advantage.global_std = true;
  g.loss.clip_low = g.loss.clip_high = 1e-4;
  g.adam = {0.9, 0.999, 1e-8, 1e-4};
  g.ema_decay = 0.9;
  g.ema_every = 8;
  o.noise = "sde";
  g.rollout.window = 0;
  g.rollout.timestep_fraction = 0.99;
  return o;
}

TrainOptions sd35m(const char* reward, const char* kl, int64_t steps) {
  TrainOptions o = published(reward, kl, steps);
  o.guidance.guidance = 4.5;
  o.targets = "attention";
  o.run.lora.r = 32;
  o.run.lora.lora_alpha = 64;
  o.run.eval_every = 60;
  o.run.eval.steps = 40;
  RolloutConfig& r = o.run.grpo.rollout;
  r.steps = 10;
  r.noise_level = 0.7;
  r.micro_batch = 9;
  return o;
}

TrainOptions flux(const char* reward, const char* kl, int64_t steps) {
  TrainOptions o = published(reward, kl, steps);
  o.guidance.guidance = 3.5;
  o.targets = "attention+mlp";
  o.run.lora.r = 64;
  o.run.lora.lora_alpha = 128;
  o.run.eval_every = 30;
  o.run.eval.steps = 28;
  RolloutConfig& r = o.run.grpo.rollout;
  r.steps = 6;
  r.noise_level = 0.9;
  r.micro_batch = 3;
  return o;
}

// Smaller rollouts, as published for 4 GPUs and for one.
TrainOptions smaller(TrainOptions o, int64_t groups, int64_t samples, int64_t batch) {
  o.run.grpo.prompts_per_step = groups;
  o.run.grpo.group_size = samples;
  o.run.grpo.rollout.micro_batch = batch;
  return o;
}

// Three stochastic steps within the first half, coefficient-preserving noise, no KL.
TrainOptions windowed(TrainOptions o) {
  o.noise = "cps";
  o.kl = {"0"};
  GrpoConfig& g = o.run.grpo;
  g.loss.clip_low = g.loss.clip_high = 1e-5;
  g.rollout.noise_level = 0.8;
  g.rollout.window = 3;
  g.rollout.window_low = 0;
  g.rollout.window_high = g.rollout.steps / 2;
  return o;
}

TrainOptions without_guidance(TrainOptions o) {
  o.guidance.guidance = 1;
  return o;
}

// The first fast variant: a group shares its noise and the ODE up to one of the steps 0 .. 5, then
// two steps are stochastic and trained.
TrainOptions sd35m_pickscore_fast() {
  TrainOptions o = windowed(sd35m("pickscore", "0", 2250));
  o.noise = "sde";
  o.run.grpo.same_noise = true;
  o.run.grpo.rollout.window = 2;
  o.run.grpo.rollout.window_high = 7;
  return o;
}

TrainOptions sd35m_clipscore() {
  TrainOptions o = sd35m("clipscore", "0.02", 2250);
  o.run.grpo.same_noise = true;
  return o;
}

TrainOptions flux_pickscore_fast() {
  TrainOptions o = windowed(flux("pickscore", "0", 625));
  o.run.grpo.advantage.global_std = false;
  return o;
}

// MapReduce LoRA's automatic schedule: 80 cycles of 100 optimiser steps an expert, then the factors
// are averaged and go on as a live adapter; Adam and EMA start anew, KL towards the first base.
TrainOptions mapreduce(TrainOptions o, std::vector<std::string> kl, int64_t eval_every) {
  constexpr int64_t kCycles = 80, kRollouts = 50;
  o.method = "mapreduce";
  o.optimizer = "reset";
  o.rewards = {"geneval", "pickscore", "ocr"};
  o.kl = std::move(kl);
  o.run.iterations = kCycles;
  o.steps = kCycles * kRollouts;
  o.run.factor_mean = o.run.anchor_base = true;
  o.run.eval_every = eval_every;
  return o;
}

// Of MapReduce's geneval experts, which share their GPUs with a detector.
TrainOptions sd35m_mapreduce() {
  TrainOptions o = mapreduce(sd35m("geneval", "0", 0), {"0.04", "pickscore=0.01"}, 50);
  o.run.grpo.rollout.micro_batch = 6;
  return o;
}

std::vector<TrainPreset> make_presets() {
  const auto g = sd35m("geneval", "0.04", 2100), o = sd35m("ocr", "0.04", 800),
             p = sd35m("pickscore", "0.01", 2250);
  const auto fg = flux("geneval", "0.04", 1350), fo = flux("ocr", "0.04", 625),
             fp = flux("pickscore", "0", 625);
  return {
      {"sd35m_mapreduce", "SD3.5-Medium, MapReduce LoRA: 3 rewards, 80 cycles", sd35m_mapreduce()},
      {"sd35m_geneval", "Flow-GRPO on GenEval: 10 steps, 48 groups of 24, beta .04", g},
      {"sd35m_ocr", "on OCR, beta .04", o},
      {"sd35m_pickscore", "on PickScore, beta .01", p},
      {"sd35m_clipscore", "on CLIPScore, beta .02, one first latent a group", sd35m_clipscore()},
      {"sd35m_ocr_4gpu", "16 groups of 16", smaller(o, 16, 16, 8)},
      {"sd35m_pickscore_4gpu", "16 groups of 16", smaller(p, 16, 16, 8)},
      {"sd35m_geneval_1gpu", "8 groups of 8", smaller(g, 8, 8, 8)},
      {"sd35m_ocr_1gpu", "8 groups of 8", smaller(o, 8, 8, 8)},
      {"sd35m_pickscore_1gpu", "8 groups of 8", smaller(p, 8, 8, 8)},
      {"sd35m_pickscore_fast", "2 stochastic steps behind a shared start", sd35m_pickscore_fast()},
      {"sd35m_geneval_fast_nocfg", "window of 3 (cps), no guidance", without_guidance(windowed(g))},
      {"sd35m_ocr_fast_nocfg", "the same on OCR", without_guidance(windowed(o))},
      {"sd35m_pickscore_fast_nocfg", "the same on PickScore, 64 groups of 18",
       smaller(without_guidance(windowed(p)), 64, 18, 9)},
      {"flux_mapreduce", "FLUX.1-dev, MapReduce LoRA: 3 rewards, 80 cycles",
       mapreduce(flux("geneval", "0", 0), {"0.04", "pickscore=0"}, 25)},
      {"flux_geneval", "Flow-GRPO on GenEval: 6 steps, 48 groups of 24, beta .04", fg},
      {"flux_ocr", "on OCR, beta .04", fo},
      {"flux_pickscore", "on PickScore, no KL", fp},
      {"flux_geneval_1gpu", "36 groups of 4 (published for 4 GPUs)", smaller(fg, 36, 4, 3)},
      {"flux_pickscore_1gpu", "48 groups of 4 (published for 4 GPUs)", smaller(fp, 48, 4, 3)},
      {"flux_geneval_fast", "window of 3 (cps), no KL", windowed(fg)},
      {"flux_ocr_fast", "the same on OCR", windowed(fo)},
      {"flux_pickscore_fast", "the same on PickScore, std of the group", flux_pickscore_fast()},
  };
}

}  // namespace

const std::vector<TrainPreset>& train_presets() {
  static const std::vector<TrainPreset> presets = make_presets();
  return presets;
}

TrainOptions train_preset(const std::string& name) {
  std::string names;
  for (const TrainPreset& p : train_presets()) {
    if (p.name == name) return p.options;
    names += (names.empty() ? "" : ", ") + p.name;
  }
  throw UsageError("--preset " + name + ": there is none of this name; there are " + names);
}

std::string train_presets_help() {
  std::string out = "Presets:";
  for (const TrainPreset& p : train_presets()) {
    out += "\n  " + p.name +
           std::string(std::max<size_t>(30, p.name.size() + 1) - p.name.size(), ' ') + p.summary;
  }
  return out;
}

}  // namespace parlo
