#include "rl/rewards/pickscore.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "models/clip.h"
#include "models/clip_tokenizer.h"
#include "rl/rewards/pixels.h"

namespace parlo {
namespace {

// Pictures a forward pass; the kernels give the same bits for any number.
constexpr size_t kBatch = 64;

struct ClipJudge {
  std::unique_ptr<ClipModel> model;
  ClipTokenizer tokenizer;
  double divisor;

  std::vector<double> score(std::span<const Image> images, std::span<const Prompt> prompts) const {
    const NoGrad guard;
    const int64_t side = model->config().vision.image_size;
    const double scale = std::exp(model->logit_scale().value().item()) / divisor;
    std::vector<double> out;
    for (size_t at = 0; at < images.size(); at += kBatch) {
      const size_t n = std::min(kBatch, images.size() - at);
      const auto part = images.subspan(at, n);
      std::vector<std::string> texts;
      for (size_t i = 0; i < n; ++i) {
        CHECK(part[i].width == side && part[i].height == side, "pickscore: the picture is ",
              part[i].width, "x", part[i].height, ", this CLIP judges ", side, "x", side);
        texts.push_back(prompts[at + i].text);
      }
      const Tensor ids =
          tokenizer.encode_batch(texts, model->config().text.max_position_embeddings);
      const Tensor text = model->text_features(ids).value();
      const Tensor image = model->image_features(Var(clip_pixels(part))).value();
      const Tensor cosine = sum(mul(Var(text), Var(image)), {1}).value();
      for (double c : cosine.to_vector()) out.push_back(scale * c);
    }
    return out;
  }
};

}  // namespace

Reward pickscore_reward(const std::filesystem::path& clip_folder, double divisor) {
  auto judge = std::make_shared<ClipJudge>(
      ClipJudge{ClipModel::load(clip_folder), ClipTokenizer::load(clip_folder), divisor});
  Reward r;
  r.name = "pickscore";
  r.score = [judge](std::span<const Image> images, std::span<const Prompt> prompts) {
    return judge->score(images, prompts);
  };
  return r;
}

}  // namespace parlo
