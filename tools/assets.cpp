#include "tools/assets.h"

#include <algorithm>
#include <cstdlib>

#include "rl/rewards/pickscore.h"
#include "tensor/error.h"

namespace parlo {

namespace fs = std::filesystem;

fs::path assets_folder() {
  if (const char* place = std::getenv("PARLO_ASSETS")) return place;
  if (fs::exists(PARLO_SOURCE_ASSETS)) return PARLO_SOURCE_ASSETS;
  // Installed: PREFIX/bin/parlo and PREFIX/share/parlo.
  std::error_code none;
  const fs::path self = fs::read_symlink("/proc/self/exe", none);
  return self.parent_path().parent_path() / "share" / "parlo";
}

fs::path signs_base() {
  return assets_folder() / "signs" / "base";
}
fs::path signs_clip() {
  return assets_folder() / "signs" / "clip";
}

Reward named_reward(const std::string& name, const fs::path& clip) {
  if (name == "pickscore") return pickscore_reward(clip.empty() ? signs_clip() : clip);
  const std::vector<std::string> known = all_reward_names();
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    std::string list;
    for (const std::string& k : known) list += (list.empty() ? "" : ", ") + k;
    throw UsageError("unknown reward \"" + name + "\"; this build has: " + list);
  }
  return make_reward(name);
}

std::vector<std::string> all_reward_names() {
  std::vector<std::string> names = reward_names();
  names.push_back("pickscore");
  return names;
}

}  // namespace parlo
