// Input: adapter_config.json (or nothing: a single file), the header's lora_adapter_metadata (or
// nothing), and a line "KEY ROWS COLUMNS [i|h|n]" for every tensor: of integers, bf16, or with a
// NaN; f32 otherwise. The file itself is valid, as hostile ones are another target's.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <stdexcept>

#include "lora/formats.h"
#include "lora/peft_config.h"
#include "tensor/safetensors.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/targets.h"

namespace parlo::fuzz {
namespace {

constexpr int64_t kMostRows = 64;

std::string_view word(std::string_view& rest) {
  const size_t end = std::min(rest.find(' '), rest.size());
  const std::string_view out = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return out;
}

int64_t size_of(std::string_view text) {
  int64_t n = 0;
  std::from_chars(text.data(), text.data() + text.size(), n);
  return std::clamp<int64_t>(n, 0, kMostRows);
}

NamedTensors tensors_of(std::string_view lines) {
  std::map<std::string, Tensor> out;
  while (!lines.empty() && out.size() < 64) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    const std::string key(word(line));
    const std::string_view rows = word(line), columns = word(line);
    if (key.empty() || key == "__metadata__") continue;
    const Shape shape = columns.empty() ? Shape{} : Shape{size_of(rows), size_of(columns)};
    const DType dtype = line == "i" ? DType::i32 : line == "h" ? DType::bf16 : DType::f32;
    const double value = line == "n" ? std::nan("") : double(size_of(rows));
    out[key] = Tensor::full(shape, value, dtype);
  }
  return {out.begin(), out.end()};
}

void check_read(const AdapterFile& adapter) {
  for (const auto& [module, pair] : adapter.modules) {
    const bool sound = pair.a && pair.b && pair.a.rank() == 2 && pair.b.rank() == 2 &&
                       pair.a.dim(0) >= 1 && pair.a.dim(0) == pair.b.dim(1) &&
                       std::isfinite(pair.scale) && pair.a.dtype() == DType::f32;
    if (!sound) throw std::logic_error("an adapter that is no adapter was read: " + module);
  }
  if (adapter.modules.empty()) throw std::logic_error("an adapter without modules was read");
}

}  // namespace

void adapter(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 3);
  std::map<std::string, std::string> metadata;
  if (!parts[1].empty()) metadata["lora_adapter_metadata"] = parts[1];
  folder.write_or_remove("adapter_config.json", parts[0]);
  std::vector<std::string> offenders;
  if (!parts[0].empty()) {
    const AdapterConfig c = parse_adapter_config(std::string(parts[0]), "c", offenders);
    parse_adapter_config(adapter_config_json(c), "again", offenders);
  }
  save_safetensors(folder.path() / "adapter_model.safetensors", tensors_of(parts[2]), metadata);
  const AdapterFile read = read_adapter(folder.path() / "adapter_model.safetensors");
  check_read(read);
  guess_family(read.modules);
}

}  // namespace parlo::fuzz
