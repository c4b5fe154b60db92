// Reading a Hugging Face config.json: typed fields with defaults; a wrong type is an Error naming
// file and field.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace parlo {

class JsonConfig {
 public:
  explicit JsonConfig(const std::filesystem::path& path);

  // A missing or null field gives the fallback.
  int64_t integer(const std::string& key, int64_t fallback) const;
  double number(const std::string& key, double fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<std::string> texts(const std::string& key) const;
  // An object field, e.g. text_config; an Error when it is missing.
  JsonConfig object(const std::string& key) const;
  bool contains(const std::string& key) const;

 private:
  JsonConfig() = default;
  std::string where_;
  std::shared_ptr<const nlohmann::json> json_;
};

}  // namespace parlo
