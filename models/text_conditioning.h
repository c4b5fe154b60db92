// Prompts as a diffusion transformer takes them, by the rules of the published pipelines: which
// state of which text encoder, cut and padded to fixed lengths, and what stands in for an encoder
// that is not there. Text encoders outweigh the transformer, so those of a folder are loaded one
// after the other, only when a prompt needs them, and freed again.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "models/clip.h"
#include "models/clip_tokenizer.h"
#include "models/condition_cache.h"
#include "models/flow_model.h"
#include "models/t5.h"
#include "models/t5_tokenizer.h"

namespace parlo {

enum class TextRule {
  // A CLIP tower (text_encoder/): its states before the last layer, its projected vector.
  clip,
  // Two CLIP towers (text_encoder/, text_encoder_2/): their states before the last layer side by
  // side, padded with zeros to the transformer's width; behind them on the axis of tokens T5's
  // (text_encoder_3/). Pooled: both projected vectors. A missing encoder counts as zeros of
  // the same shape.
  sd3,
  // T5's states (text_encoder_2/); pooled: CLIP's unprojected vector (text_encoder/).
  flux,
};

struct TextSettings {
  int64_t t5_tokens = 0;  // every prompt is cut or padded to this; 0: 256 (sd3), 512 (flux)
  bool bf16 = false;      // T5's matrices are rounded to bf16: half the memory
  // Folder of a ConditionCache; empty: conditions stay in the host's memory (SD3: 5.5 MB each).
  std::filesystem::path cache;
  // Told once of every prompt that an encoder does not read to its end. Without it a prompt whose
  // end has an added token is an Error: the token would have no effect, and nobody would know.
  std::function<void(const std::string& line)> warn;
};

class TextConditioning {
 public:
  // The clip rule with an encoder that stays; of the settings `warn` alone matters.
  TextConditioning(std::shared_ptr<ClipTextModel> encoder, std::shared_ptr<ClipTokenizer> tokenizer,
                   TextSettings settings = {});
  // The encoders of a pipeline's folder for a transformer of these widths. Their configurations
  // and tokenizers are read at once. Error for parts that do not fit.
  TextConditioning(TextRule rule, const std::filesystem::path& folder, int64_t context_width,
                   int64_t pooled_width, TextSettings settings = {});

  // The encoders of a folder by the rule or, where text_encoder/ stands alone and is as wide as
  // the context, that tower by the clip rule (the built-in world).
  static std::unique_ptr<TextConditioning> load(TextRule rule, const std::filesystem::path& folder,
                                                int64_t context_width, int64_t pooled_width,
                                                TextSettings settings = {});

  // Whether load() takes the folder's tower by the clip rule.
  static bool is_one_tower(const std::filesystem::path& folder, int64_t context_width);

  // Tokens of every context.
  int64_t tokens() const;
  int64_t t5_tokens() const;  // of T5's part, where there is one
  // One row a prompt; equal prompts have equal bits in any batch.
  Condition encode(std::span<const std::string> prompts);
  // Encodes what is not known yet, so that every encoder of a folder is loaded once; without any
  // effect where the encoder stays.
  void prepare(std::span<const std::string> prompts);
  // Where encoders run and conditions lie; what was encoded in memory is forgotten.
  void to(Device device);
  // Frees what was encoded in memory.
  void forget() { memory_.clear(); }
  // Lines as settings.warn gets them.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  struct Clip {
    std::string name;  // of its folder
    std::filesystem::path folder;
    ClipTowerConfig config;
    std::shared_ptr<ClipTokenizer> tokenizer;
    std::shared_ptr<ClipTextModel> resident;

    int64_t tokens() const;
    explicit operator bool() const { return tokenizer != nullptr; }
  };
  struct T5 {
    std::string name;
    std::filesystem::path folder;
    T5Config config;
    std::shared_ptr<T5Tokenizer> tokenizer;

    explicit operator bool() const { return tokenizer != nullptr; }
  };
  // What the encoders say to one prompt: [1, T, C] and [1, P].
  struct Encoded {
    Tensor states[2], pooled[2];
    Tensor t5;
  };

  Clip read_clip(const char* encoder, const char* tokenizer) const;
  T5 read_t5(const char* encoder, const char* tokenizer) const;
  void check_parts() const;
  std::string fingerprint() const;
  void check_length(const std::string& prompt);
  void run_clip(size_t which, const std::vector<std::string>& prompts,
                std::vector<Encoded>& out) const;
  Condition assemble(const Encoded& encoded) const;
  Condition assemble_sd3(const Encoded& encoded) const;
  Condition known(const std::string& prompt) const;
  void encode_missing(std::span<const std::string> prompts);
  void keep(const std::string& prompt, const Condition& condition);

  TextRule rule_;
  std::filesystem::path folder_;
  int64_t context_width_ = 0, pooled_width_ = 0;
  TextSettings settings_;
  Clip clip_[2];
  T5 t5_;
  Device device_;
  std::optional<ConditionCache> disk_;
  std::map<std::string, Condition> memory_;
  std::set<std::string> checked_;
  std::vector<std::string> warnings_;
};

}  // namespace parlo
