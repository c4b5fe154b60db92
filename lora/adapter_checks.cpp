#include "lora/adapter_checks.h"

#include <algorithm>

#include "tensor/error.h"

namespace parlo {
namespace {

void check_pair(const std::string& module, const AdapterPair& pair, const AdapterConfig& config,
                std::vector<std::string>& offenders) {
  if (!pair.a || !pair.b) {
    offenders.push_back(concat(module, " has no ", pair.a ? "lora_B" : "lora_A"));
    return;
  }
  const int64_t rank = config.rank_of(module);
  if (rank < 1) offenders.push_back(concat(module, " has rank ", rank, ", expected at least 1"));
  if (pair.a.rank() != 2 || pair.b.rank() != 2) {
    offenders.push_back(concat(module, " has lora_A ", pair.a.shape(), " and lora_B ",
                               pair.b.shape(), ", expected two dimensions"));
  } else if (pair.a.dim(0) != rank || pair.b.dim(1) != rank) {
    offenders.push_back(concat(module, " has lora_A ", pair.a.shape(), " and lora_B ",
                               pair.b.shape(), ", the config gives rank ", rank));
  }
  if (!config.targets(module)) {
    offenders.push_back(concat(module, " is not one of target_modules"));
  }
}

}  // namespace

void refuse_all(const std::string& what, const std::vector<std::string>& offenders) {
  if (offenders.empty()) return;
  constexpr size_t kShown = 40, kLongest = 400;
  std::string list;
  for (size_t i = 0; i < std::min(offenders.size(), kShown); ++i) {
    list += (i == 0 ? "" : "; ") + printable(offenders[i], kLongest);
  }
  if (offenders.size() > kShown) list += concat("; and ", offenders.size() - kShown, " more");
  throw Error(concat(what, ": ", list));
}

void check_pairs(const std::string& what, const AdapterFile& adapter,
                 std::vector<std::string> offenders) {
  for (const auto& [module, pair] : adapter.modules) {
    check_pair(module, pair, adapter.config, offenders);
  }
  if (adapter.modules.empty() && offenders.empty()) offenders.push_back("no adapted module");
  refuse_all(what, offenders);
}

}  // namespace parlo
