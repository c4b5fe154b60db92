// Input: a letter for the component, and its config.json. What the configuration allows is built:
// parameters are declared, not allocated; a small model also gets its tables and values.
#include <stdexcept>

#include "models/autoencoder_kl.h"
#include "models/clip.h"
#include "models/flow_schedule.h"
#include "models/flux_transformer.h"
#include "models/sd3_transformer.h"
#include "models/t5.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/targets.h"

namespace parlo::fuzz {
namespace {

void use(Params& params) {
  constexpr int64_t kSmall = 20'000;
  if (params.count() <= kSmall) params.initialise(RandomKey(1));
}

void schedule(const std::filesystem::path& path) {
  const FluxSchedule s = FluxSchedule::from_json(path);
  if (s.sigmas(4, 1024).size() != 5) throw std::logic_error("sigmas of 4 steps");
}

}  // namespace

void config(std::string_view input) {
  static const Folder folder;
  if (input.empty()) return;
  folder.write("config.json", input.substr(1));
  const std::filesystem::path path = folder.path() / "config.json";
  switch (input[0]) {
    case 's':
      return use(Sd3Transformer(Sd3Config::from_json(path)).params());
    case 'f':
      return use(FluxTransformer(FluxConfig::from_json(path)).params());
    case 'a':
      return use(AutoencoderKl(AutoencoderKlConfig::from_json(path)).params());
    case 'c':
      return use(ClipModel(ClipConfig::from_json(path)).params());
    case 'w':
      return use(ClipTextModel(ClipTowerConfig::from_json(JsonConfig(path)), true).params());
    case 't':
      return use(T5EncoderModel(T5Config::from_json(JsonConfig(path))).params());
    case 'd':
      return schedule(path);
    default:
      return;
  }
}

}  // namespace parlo::fuzz
