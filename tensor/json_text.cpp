#include "tensor/json_text.h"

namespace parlo {

void check_json_depth(std::string_view text, const std::string& where) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') quoted = !quoted;
    if (quoted) {
      if (c == '\\') ++i;  // and what it escapes
      continue;
    }
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    CHECK(depth <= kJsonDepth, where, ": bad JSON: nested deeper than ", kJsonDepth);
  }
}

}  // namespace parlo
