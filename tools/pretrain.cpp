// parlo pretrain: makes the built-in world's base model and CLIP from pictures with captions.
#include "distill/pretrain.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "autograd/functions.h"
#include "models/sd3_pipeline.h"
#include "rl/rewards/pixels.h"
#include "tensor/safetensors.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/progress.h"
#include "tools/world/sampler.h"
#include "tools/world/vocabulary.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;

struct PretrainOptions {
  CommonOptions common;
  std::string component;
  std::string out;
  std::string clip, init;
  int64_t checkpoint_every = 500;
  bool resume = false;
  SamplerOptions world;
  PretrainConfig train;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What both components share: one supervised step a batch, EMA at the end, resumable.
struct Task {
  std::vector<NamedVar> params;
  bool (*hidden)(const NamedVar&) = nullptr;
  std::function<Var(const std::vector<CaptionedImage>&, int64_t step)> loss;
  std::function<void()> after_step = [] {};
  std::function<void()> save;
};

void save_state(const fs::path& file, const Task& task, const PretrainOptimizer& optimizer,
                int64_t step) {
  NamedTensors all = optimizer.state();
  for (const NamedVar& p : task.params) all.emplace_back("param." + p.name, p.var.value());
  save_safetensors(file, all, {{"step", std::to_string(step)}});
}

int64_t load_state(const fs::path& file, const Task& task, PretrainOptimizer& optimizer) {
  const SafeTensors saved = SafeTensors::open(file);
  NamedTensors all;
  for (const std::string& name : saved.names()) all.emplace_back(name, saved.get(name));
  optimizer.load_state(all);
  for (const NamedVar& p : task.params) {
    p.var.value().copy_from(saved.get("param." + p.name));
  }
  return std::stoll(saved.metadata().at("step"));
}

void run(const Task& task, const PretrainOptions& o) {
  const fs::path state_file = fs::path(o.out) / "pretrain_state.safetensors";
  make_folders(o.out);
  for (const NamedVar& p : task.params) Var(p.var).set_requires_grad(true);
  PretrainOptimizer optimizer(task.params, o.train, task.hidden);
  int64_t step = o.resume && fs::exists(state_file) ? load_state(state_file, task, optimizer) : 0;
  const auto start = std::chrono::steady_clock::now();
  const int64_t first = step;
  double smooth = 0, weight = 0;
  for (; step < o.train.steps; ++step) {
    const auto batch = world_batch(o.world, step * o.train.batch, o.train.batch);
    const Var loss = task.loss(batch, step);
    backward(loss);
    const double norm = optimizer.step(step);
    task.after_step();
    smooth = 0.98 * smooth + 0.02 * loss.value().item();
    weight = 0.98 * weight + 0.02;
    if ((step + 1) % 50 == 0 || step + 1 == o.train.steps) {
      const double seconds = seconds_since(start);
      const double each = seconds / static_cast<double>(step + 1 - first);
      std::printf("step %lld/%lld  loss %.4f  grad %.3f  lr x%.2f  %.3f s/step  left %.0f s\n",
                  static_cast<long long>(step + 1), static_cast<long long>(o.train.steps),
                  smooth / weight, norm, optimizer.factor(step), each,
                  each * static_cast<double>(o.train.steps - step - 1));
      std::fflush(stdout);
    }
    if ((step + 1) % o.checkpoint_every == 0 || step + 1 == o.train.steps) {
      save_state(state_file, task, optimizer, step + 1);
      optimizer.ema().swap();
      task.save();
      optimizer.ema().swap();
    }
  }
  std::printf("done: %s, peak memory %.0f MB\n", o.out.c_str(),
              static_cast<double>(process_peak_bytes()) * 1e-6);
}

// Attention and MLP matrices of the blocks: where Muon helps.
bool is_block_matrix(const NamedVar& p) {
  const bool matrix = p.name.ends_with(".weight") && p.var.rank() == 2;
  const bool block = p.name.find("transformer_blocks.") != std::string::npos ||
                     p.name.find("encoder.layers.") != std::string::npos;
  return matrix && block && p.name.find("norm") == std::string::npos;
}

void pretrain_clip(const PretrainOptions& o) {
  const ClipVocab vocab = build_clip_vocab(world_vocabulary());
  const ClipTokenizer tokenizer(vocab);
  ClipConfig config = clip_tiny();
  config.text.vocab_size = tokenizer.size();
  config.text.eos_token_id = tokenizer.eos_id();
  ClipModel model(config);
  model.params().initialise(RandomKey(o.common.seed).fold("clip"));
  Task task;
  task.params = model.params().vars();
  task.hidden = is_block_matrix;
  task.loss = [&](const std::vector<CaptionedImage>& batch, int64_t) {
    std::vector<std::string> texts;
    std::vector<Image> images;
    for (const CaptionedImage& c : batch) {
      texts.push_back(c.prompt.text);
      images.push_back(c.image);
    }
    const Tensor ids = tokenizer.encode_batch(texts, config.text.max_position_embeddings);
    return contrastive_loss(model, ids, clip_pixels(images));
  };
  task.after_step = [&] {
    // OpenAI's CLIP keeps the temperature at or below 100.
    const Tensor& scale = model.logit_scale().value();
    scale.fill(std::min(scale.item(), std::log(100.0)));
  };
  task.save = [&] {
    model.save(o.out);
    write_file(fs::path(o.out) / "vocab.json", vocab.vocab_json);
    write_file(fs::path(o.out) / "merges.txt", vocab.merges_txt);
  };
  run(task, o);
}

void pretrain_base(const PretrainOptions& o) {
  if (o.clip.empty()) {
    throw UsageError("pretrain base: needs --clip DIR, the folder `parlo pretrain clip` wrote");
  }
  const auto clip = ClipModel::load(o.clip);
  const auto tokenizer = std::make_shared<ClipTokenizer>(ClipTokenizer::load(o.clip));
  const std::shared_ptr<ClipTextModel> encoder = ClipTextModel::of(*clip);
  auto transformer = std::make_unique<Sd3Transformer>(sd3_tiny());
  if (o.init.empty()) {
    transformer->params().initialise(RandomKey(o.common.seed).fold("base"));
    transformer->zero_output_layers();
  } else {
    // A copy: what is loaded may be a read-only map of the file.
    const auto source = Sd3Transformer::load(fs::path(o.init) / "transformer");
    transformer = std::make_unique<Sd3Transformer>(source->config());
    transformer->params().initialise(RandomKey(o.common.seed));
    const std::vector<NamedVar> from = source->params().vars(), to = transformer->params().vars();
    for (size_t i = 0; i < to.size(); ++i) to[i].var.value().copy_from(from[i].var.value());
  }
  Sd3Pipeline pipeline(std::move(transformer), encoder, tokenizer, 1.0);

  Task task;
  for (const NamedVar& p : pipeline.params().vars()) {
    // The position table is a buffer of the published model, not a parameter.
    if (p.name != "pos_embed.pos_embed") task.params.push_back(p);
  }
  task.hidden = is_block_matrix;
  const RandomKey key = RandomKey(o.common.seed).fold("flow");
  task.loss = [&](const std::vector<CaptionedImage>& batch, int64_t step) {
    std::vector<std::string> texts;
    std::vector<Image> images;
    Random drop(key.fold(static_cast<uint64_t>(step)).fold("drop"));
    for (const CaptionedImage& c : batch) {
      texts.push_back(drop.uniform() < o.train.caption_drop ? "" : c.prompt.text);
      images.push_back(c.image);
    }
    return flow_matching_loss(pipeline, affine(Var(to_pixels(images)), 2.0, -1.0).value(),
                              pipeline.encode(texts), o.train,
                              key.fold(static_cast<uint64_t>(step)));
  };
  task.save = [&] {
    const fs::path out(o.out);
    pipeline.transformer().save(out / "transformer");
    encoder->save(out / "text_encoder");
    make_folders(out / "tokenizer");
    make_folders(out / "scheduler");
    for (const char* name : {"vocab.json", "merges.txt"}) {
      write_file(out / "tokenizer" / name, read_file(fs::path(o.clip) / name));
    }
    write_file(out / "scheduler" / "scheduler_config.json", flow_scheduler_json(1.0));
  };
  run(task, o);
}

}  // namespace

void add_pretrain(CLI::App& parent) {
  auto o = std::make_shared<PretrainOptions>();
  CLI::App* app = parent.add_subcommand(
      "pretrain", "Train the built-in world's base model (flow matching) or CLIP (contrastive)");
  app->add_option("component", o->component, "clip or base")
      ->required()
      ->check(CLI::IsMember({"clip", "base"}));
  app->add_option("--out", o->out, "Folder for the result")->required();
  app->add_option("--clip", o->clip, "base: the CLIP folder whose text tower conditions it");
  app->add_option("--init", o->init, "base: go on from the transformer of this model folder");
  app->add_option("--steps", o->train.steps, "Optimiser steps")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--batch", o->train.batch, "Pictures a step")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--muon-lr", o->train.muon_lr, "Muon's rate; 0: AdamW for all")
      ->capture_default_str();
  app->add_option("--adam-lr", o->train.adam_lr, "AdamW's rate")->capture_default_str();
  app->add_option("--ema", o->train.ema_decay, "Decay of the averaged weights")
      ->capture_default_str();
  app->add_option("--decay-share", o->train.decay_share, "Last share of steps, rate falls to 0")
      ->capture_default_str();
  app->add_option("--caption-noise", o->world.caption_noise, "Share of wrong captions")
      ->capture_default_str();
  app->add_option("--checkpoint-every", o->checkpoint_every, "Steps between checkpoints")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_flag("--resume", o->resume, "Continue from the checkpoint in --out");
  add_common(*app, o->common);
  app->callback([o] {
    apply(o->common);
    o->world.seed = o->common.seed;
    if (o->component == "clip" && !o->init.empty()) {
      throw UsageError("pretrain clip: --init is for the base");
    }
    o->component == "clip" ? pretrain_clip(*o) : pretrain_base(*o);
  });
}

}  // namespace parlo
