#include "models/text_conditioning.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/file.h"

namespace parlo {
namespace fs = std::filesystem;

namespace {

constexpr int64_t kSd3T5Tokens = 256, kFluxT5Tokens = 512;
constexpr int64_t kClipTokens = 77;  // of encoders that are not there

// Names, sizes and times of a folder's files: changes whenever its numbers may.
std::string describe_files(const fs::path& folder) {
  std::vector<std::string> lines;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    lines.push_back(concat(fs::relative(entry.path(), folder).string(), " ", entry.file_size(), " ",
                           entry.last_write_time().time_since_epoch().count(), "\n"));
  }
  std::sort(lines.begin(), lines.end());
  std::string out;
  for (const std::string& line : lines) out += line;
  return out;
}

// What an encoder does not read of a prompt, and the first added token in it; both may be empty.
struct Lost {
  std::string line, token;
};

template <class Tokenizer>
Lost lost_text(const std::string& encoder, const Tokenizer& tokenizer, const std::string& prompt,
               int64_t room) {
  const std::vector<int64_t> ids = tokenizer.tokenize(prompt);
  const auto count = static_cast<int64_t>(ids.size());
  if (count <= room) return {};
  const std::span<const int64_t> rest = std::span(ids).subspan(static_cast<size_t>(room));
  Lost out;
  for (int64_t id : rest) {
    const AddedToken* token = tokenizer.added(id);
    const bool ends = id == tokenizer.eos_id() || id == tokenizer.pad_id();
    if (token && !ends && out.token.empty()) out.token = token->text;
  }
  out.line = concat(encoder, " reads ", room, " of a prompt's ", count,
                    " tokens; it does not see \"", tokenizer.decode(rest), "\"",
                    out.token.empty() ? "" : concat(" and the added token ", out.token));
  return out;
}

}  // namespace

int64_t TextConditioning::Clip::tokens() const {
  return tokenizer ? std::min(tokenizer->max_length(), config.max_position_embeddings)
                   : kClipTokens;
}

TextConditioning::TextConditioning(std::shared_ptr<ClipTextModel> encoder,
                                   std::shared_ptr<ClipTokenizer> tokenizer, TextSettings settings)
    : rule_(TextRule::clip) {
  settings_.warn = std::move(settings.warn);
  clip_[0] = {"text_encoder", {}, encoder->tower().config(), std::move(tokenizer), encoder};
}

TextConditioning::TextConditioning(TextRule rule, const fs::path& folder, int64_t context_width,
                                   int64_t pooled_width, TextSettings settings)
    : rule_(rule),
      folder_(folder),
      context_width_(context_width),
      pooled_width_(pooled_width),
      settings_(std::move(settings)) {
  clip_[0] = read_clip("text_encoder", "tokenizer");
  if (rule == TextRule::sd3) {
    clip_[1] = read_clip("text_encoder_2", "tokenizer_2");
    t5_ = read_t5("text_encoder_3", "tokenizer_3");
  } else if (rule == TextRule::flux) {
    t5_ = read_t5("text_encoder_2", "tokenizer_2");
  }
  check_parts();
  if (!settings_.cache.empty()) disk_.emplace(settings_.cache, fingerprint());
}

std::unique_ptr<TextConditioning> TextConditioning::load(TextRule rule, const fs::path& folder,
                                                         int64_t context_width,
                                                         int64_t pooled_width,
                                                         TextSettings settings) {
  if (is_one_tower(folder, context_width)) {
    return std::make_unique<TextConditioning>(
        std::shared_ptr<ClipTextModel>(ClipTextModel::load(folder / "text_encoder")),
        std::make_shared<ClipTokenizer>(ClipTokenizer::load(folder / "tokenizer")),
        std::move(settings));
  }
  return std::make_unique<TextConditioning>(rule, folder, context_width, pooled_width,
                                            std::move(settings));
}

bool TextConditioning::is_one_tower(const fs::path& folder, int64_t context_width) {
  if (is_there(folder / "text_encoder_2") || is_there(folder / "text_encoder_3")) return false;
  const JsonConfig config(folder / "text_encoder" / "config.json");
  return ClipTowerConfig::from_json(config).hidden_size == context_width;
}

int64_t TextConditioning::tokens() const {
  if (rule_ == TextRule::flux) return t5_tokens();
  const int64_t clip = (clip_[0] ? clip_[0] : clip_[1]).tokens();
  return rule_ == TextRule::sd3 ? clip + t5_tokens() : clip;
}

TextConditioning::Clip TextConditioning::read_clip(const char* encoder,
                                                   const char* tokenizer) const {
  const fs::path at = folder_ / encoder;
  if (!is_there(at)) return {};
  return {encoder, at, ClipTowerConfig::from_json(JsonConfig(at / "config.json")),
          std::make_shared<ClipTokenizer>(ClipTokenizer::load(folder_ / tokenizer)), nullptr};
}

TextConditioning::T5 TextConditioning::read_t5(const char* encoder, const char* tokenizer) const {
  const fs::path at = folder_ / encoder;
  if (!is_there(at)) return {};
  return {encoder, at, T5Config::from_json(JsonConfig(at / "config.json")),
          std::make_shared<T5Tokenizer>(T5Tokenizer::load(folder_ / tokenizer))};
}

void TextConditioning::check_parts() const {
  CHECK(settings_.t5_tokens >= 0 && settings_.t5_tokens <= 4096, "TextConditioning: t5_tokens is ",
        settings_.t5_tokens, ", expected 0..4096");
  const bool complete = rule_ == TextRule::sd3 ? clip_[0] || clip_[1] || t5_
                                               : clip_[0] && (rule_ == TextRule::clip || t5_);
  CHECK(complete, folder_.string(), ": a text encoder is missing; expected text_encoder/",
        rule_ == TextRule::flux ? " and text_encoder_2/" : "");
  CHECK(!t5_ || t5_.config.d_model == context_width_, t5_.folder.string(), ": T5 is ",
        t5_.config.d_model,
        " wide, expected the transformer's joint_attention_dim = ", context_width_);
  if (rule_ != TextRule::sd3) return;
  int64_t width = 0;
  for (const Clip& clip : clip_) width += clip ? clip.config.hidden_size : 0;
  CHECK(width <= context_width_, folder_.string(), ": the CLIP text encoders are ", width,
        " wide together, expected at most joint_attention_dim = ", context_width_);
  CHECK(!clip_[0] || !clip_[1] || clip_[0].tokens() == clip_[1].tokens(), folder_.string(),
        ": text_encoder reads ", clip_[0].tokens(), " tokens and text_encoder_2 ",
        clip_[1].tokens(), "; their states stand side by side");
}

std::string TextConditioning::fingerprint() const {
  std::string out =
      concat("rule ", static_cast<int>(rule_), " widths ", context_width_, " ", pooled_width_,
             " t5_tokens ", t5_tokens(), " bf16 ", settings_.bf16, "\n");
  for (const char* part : {"text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer",
                           "tokenizer_2", "tokenizer_3"}) {
    if (is_there(folder_ / part)) out += concat(part, "\n", describe_files(folder_ / part));
  }
  return out;
}

void TextConditioning::check_length(const std::string& prompt) {
  if (checked_.contains(prompt)) return;
  std::vector<Lost> all;
  for (const Clip& clip : clip_) {
    if (clip) all.push_back(lost_text(clip.name, *clip.tokenizer, prompt, clip.tokens() - 2));
  }
  if (t5_) all.push_back(lost_text(t5_.name, *t5_.tokenizer, prompt, t5_tokens() - 1));
  for (const Lost& lost : all) {
    CHECK(lost.token.empty() || settings_.warn, lost.line, "; shorten the prompt");
  }
  for (const Lost& lost : all) {
    if (lost.line.empty()) continue;
    warnings_.push_back(lost.line);
    if (settings_.warn) settings_.warn(lost.line);
  }
  checked_.insert(prompt);
}

int64_t TextConditioning::t5_tokens() const {
  if (settings_.t5_tokens > 0) return settings_.t5_tokens;
  return rule_ == TextRule::flux ? kFluxT5Tokens : kSd3T5Tokens;
}

void TextConditioning::run_clip(size_t which, const std::vector<std::string>& prompts,
                                std::vector<Encoded>& out) const {
  const Clip& clip = clip_[which];
  if (!clip) return;
  std::shared_ptr<ClipTextModel> model = clip.resident;
  if (!model) model = ClipTextModel::load(clip.folder, {device_});
  const ClipText& tower = model->tower();
  for (size_t p = 0; p < prompts.size(); ++p) {
    const Tensor ids = clip.tokenizer->encode_batch({prompts[p]}, clip.tokens());
    const ClipTextOutput o = tower.forward(tower.embed(ids), ids);
    const bool project = o.text_embeds.defined() && rule_ != TextRule::flux;
    // Before the last layer, without the final norm.
    out[p].states[which] = o.hidden_states[o.hidden_states.size() - 2].value();
    out[p].pooled[which] = (project ? o.text_embeds : o.pooler_output).value();
  }
}

Condition TextConditioning::assemble_sd3(const Encoded& e) const {
  const int64_t clip_tokens = tokens() - t5_tokens();
  const Shape shape{1, tokens(), context_width_};
  Condition out{Tensor::zeros(shape, DType::f32, device_),
                Tensor::zeros({1, pooled_width_}, DType::f32, device_)};
  int64_t channel = 0, entry = 0;
  for (size_t i = 0; i < 2; ++i) {
    if (!clip_[i]) continue;
    const int64_t channels = e.states[i].dim(2), entries = e.pooled[i].dim(1);
    // Without the first tower the second keeps its place: published ones project to their width.
    if (i == 1 && !clip_[0]) channel = entry = pooled_width_ - entries;
    CHECK(entry >= 0 && entry + entries <= pooled_width_, clip_[i].folder.string(),
          ": the pooled vector has ", entries, " entries, which do not fit into the ",
          "transformer's pooled_projection_dim = ", pooled_width_);
    const Tensor rows = out.context.slice(1, 0, clip_tokens);
    rows.slice(2, channel, channel + channels).copy_from(e.states[i]);
    out.pooled.slice(1, entry, entry + entries).copy_from(e.pooled[i]);
    channel += channels;
    entry += entries;
  }
  if (t5_) out.context.slice(1, clip_tokens, shape[1]).copy_from(e.t5);
  return out;
}

Condition TextConditioning::assemble(const Encoded& e) const {
  switch (rule_) {
    case TextRule::sd3:
      return assemble_sd3(e);
    case TextRule::flux:
      return {e.t5, e.pooled[0]};
    case TextRule::clip:
      break;
  }
  return {e.states[0], e.pooled[0]};
}

Condition TextConditioning::known(const std::string& prompt) const {
  if (disk_) return disk_->find(prompt);
  const auto found = memory_.find(prompt);
  return found == memory_.end() ? Condition{} : found->second;
}

void TextConditioning::keep(const std::string& prompt, const Condition& condition) {
  if (disk_) return disk_->store(prompt, condition);
  // Those of large encoders would fill a GPU.
  const Device home = clip_[0].resident ? device_ : Device{};
  memory_[prompt] = {condition.context.to(home), condition.pooled.to(home)};
}

void TextConditioning::prepare(std::span<const std::string> prompts) {
  if (!clip_[0].resident) encode_missing(prompts);
}

void TextConditioning::encode_missing(std::span<const std::string> prompts) {
  std::set<std::string> unknown;
  for (const std::string& prompt : prompts) {
    check_length(prompt);
    if (!unknown.contains(prompt) && !known(prompt).context) unknown.insert(prompt);
  }
  if (unknown.empty()) return;
  const NoGrad guard;
  const std::vector<std::string> missing(unknown.begin(), unknown.end());
  std::vector<Encoded> encoded(missing.size());
  // One encoder at a time; each is freed at the end of its turn.
  for (size_t i = 0; i < 2; ++i) run_clip(i, missing, encoded);
  std::unique_ptr<T5EncoderModel> t5;
  if (t5_) {
    t5 = T5EncoderModel::load(t5_.folder, {device_, settings_.bf16 ? DType::bf16 : DType::f32});
  }
  // T5's states are the large part: each prompt's leave at once.
  for (size_t p = 0; p < missing.size(); ++p) {
    Encoded one = std::move(encoded[p]);
    if (t5) {
      // Without a mask: the states of padding are part of the context.
      const Tensor ids = t5_.tokenizer->encode_batch({missing[p]}, t5_tokens());
      one.t5 = t5->forward(t5->embed(ids)).last_hidden_state.value();
    }
    keep(missing[p], assemble(one));
  }
}

Condition TextConditioning::encode(std::span<const std::string> prompts) {
  CHECK(!prompts.empty(), "TextConditioning::encode: no prompts");
  encode_missing(prompts);
  Condition out;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Condition one = known(prompts[i]);
    CHECK(one.context, "TextConditioning: a condition has vanished from ",
          settings_.cache.string());
    if (i == 0) {
      const auto room = [&](const Tensor& t) {
        Shape shape = t.shape();
        shape[0] = static_cast<int64_t>(prompts.size());
        return Tensor::empty(shape, t.dtype(), device_);
      };
      out = {room(one.context), room(one.pooled)};
    }
    const auto row = static_cast<int64_t>(i);
    out.context.slice(0, row, row + 1).copy_from(one.context);
    out.pooled.slice(0, row, row + 1).copy_from(one.pooled);
  }
  return out;
}

void TextConditioning::to(Device device) {
  device_ = device;
  memory_.clear();
  if (clip_[0].resident) clip_[0].resident->params().to(device);
}

}  // namespace parlo
