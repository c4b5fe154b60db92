// JSON from files that anybody may have written: a value, or an Error with `where` and the reason.
// Values are nested at most kJsonDepth deep, so that whoever walks one may recurse.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tensor/error.h"

namespace parlo {

// Nothing published is nested deeper than 8.
inline constexpr int kJsonDepth = 64;

// Throws Error when brackets are nested deeper; says nothing of other faults.
void check_json_depth(std::string_view text, const std::string& where);

// Json: nlohmann::json, or ordered_json where the order of keys counts. `watch`: a callback of the
// parser, which may throw Error.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, const std::string& where,
                const typename Json::parser_callback_t& watch = nullptr) {
  check_json_depth(text, where);
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const typename Json::exception& error) {
    throw Error(concat(where, ": bad JSON: ", printable(error.what())));
  }
}

// A value in a message.
template <class Json>
std::string shown(const Json& value) {
  return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

}  // namespace parlo
