#include "models/json_config.h"

#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_text.h"

namespace parlo {

using nlohmann::json;

JsonConfig::JsonConfig(const std::filesystem::path& path) : where_(path.string()) {
  auto parsed = std::make_shared<json>(parse_json(read_file(path), where_));
  CHECK(parsed->is_object(), where_, ": not a JSON object");
  json_ = std::move(parsed);
}

namespace {

const json* find(const json& j, const std::string& key) {
  const auto it = j.find(key);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

// Sizes and ids. No field of a published configuration comes near the limit, and the product of
// two that keep to it is far from overflow.
int64_t in_range(const json& v, const std::string& where, const std::string& key) {
  constexpr int64_t kMost = int64_t{1} << 24;
  const int64_t value = v.get<int64_t>();  // of a number above int64's: negative
  CHECK(value >= 0 && value <= kMost, where, ": ", key, " is ", shown(v), ", expected 0..2^24");
  return value;
}

}  // namespace

int64_t JsonConfig::integer(const std::string& key, int64_t fallback) const {
  const json* v = find(*json_, key);
  if (!v) return fallback;
  CHECK(v->is_number_integer(), where_, ": ", key, " is ", shown(*v), ", expected an integer");
  return in_range(*v, where_, key);
}

double JsonConfig::number(const std::string& key, double fallback) const {
  const json* v = find(*json_, key);
  if (!v) return fallback;
  CHECK(v->is_number(), where_, ": ", key, " is ", shown(*v), ", expected a number");
  return v->get<double>();
}

std::string JsonConfig::text(const std::string& key, const std::string& fallback) const {
  const json* v = find(*json_, key);
  if (!v) return fallback;
  CHECK(v->is_string(), where_, ": ", key, " is ", shown(*v), ", expected a string");
  return v->get<std::string>();
}

bool JsonConfig::boolean(const std::string& key, bool fallback) const {
  const json* v = find(*json_, key);
  if (!v) return fallback;
  CHECK(v->is_boolean(), where_, ": ", key, " is ", shown(*v), ", expected true or false");
  return v->get<bool>();
}

std::vector<int64_t> JsonConfig::integers(const std::string& key) const {
  const json* v = find(*json_, key);
  if (!v) return {};
  CHECK(v->is_array(), where_, ": ", key, " is ", shown(*v), ", expected a list of integers");
  std::vector<int64_t> out;
  for (const json& e : *v) {
    CHECK(e.is_number_integer(), where_, ": ", key, " holds ", shown(e), ", expected integers");
    out.push_back(in_range(e, where_, key));
  }
  return out;
}

std::vector<std::string> JsonConfig::texts(const std::string& key) const {
  const json* v = find(*json_, key);
  if (!v) return {};
  CHECK(v->is_array(), where_, ": ", key, " is ", shown(*v), ", expected a list of strings");
  std::vector<std::string> out;
  for (const json& e : *v) {
    CHECK(e.is_string(), where_, ": ", key, " holds ", shown(e), ", expected strings");
    out.push_back(e.get<std::string>());
  }
  return out;
}

JsonConfig JsonConfig::object(const std::string& key) const {
  const json* v = find(*json_, key);
  CHECK(v && v->is_object(), where_, ": ", key, " is missing or not an object");
  JsonConfig out;
  out.where_ = where_ + ": " + key;
  out.json_ = std::make_shared<const json>(*v);
  return out;
}

bool JsonConfig::contains(const std::string& key) const {
  return find(*json_, key) != nullptr;
}

}  // namespace parlo
