#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "tensor/error.h"
#include "tensor/safetensors.h"
#include "tensor/safetensors_format.h"

namespace parlo {
namespace fs = std::filesystem;
using json = nlohmann::json;
using namespace safetensors_format;

namespace {

std::string build_header(const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata, const fs::path& file) {
  // Built by hand around json strings: the order of keys is part of the format here.
  const auto quoted = [&](const std::string& text) {
    try {
      return json(text).dump();
    } catch (const json::exception&) {
      throw Error(concat("cannot write ", file.string(), ": name or metadata '", printable(text),
                         "' is not UTF-8"));
    }
  };
  std::string header = "{";
  const auto separate = [&] { header += header.size() > 1 ? "," : ""; };
  if (!metadata.empty()) {
    header += concat('"', kMetadata, "\":{");
    bool first = true;
    for (const auto& [key, value] : metadata) {
      header += concat(first ? "" : ",", quoted(key), ":", quoted(value));
      first = false;
    }
    header += "}";
  }
  size_t at = 0;
  for (const auto& [name, t] : tensors) {
    separate();
    std::string shape;
    for (int64_t d : t.shape()) shape += concat(shape.empty() ? "" : ",", d);
    header +=
        concat(quoted(name), ":{\"dtype\":\"", kDTypes[write_rank(t.dtype())].name,
               "\",\"shape\":[", shape, "],\"data_offsets\":[", at, ",", at + t.nbytes(), "]}");
    at += t.nbytes();
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

}  // namespace

void save_safetensors(const fs::path& file, NamedTensors tensors,
                      const std::map<std::string, std::string>& metadata) {
  for (auto& [name, t] : tensors) {
    CHECK(t.defined(), "cannot write ", file.string(), ": tensor '", name, "' is undefined");
    CHECK(name != kMetadata, "cannot write ", file.string(), ": no tensor can be named ", name);
    t = t.to(Device{}).contiguous();
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    const size_t ra = write_rank(a.second.dtype()), rb = write_rank(b.second.dtype());
    return std::tie(ra, a.first) < std::tie(rb, b.first);
  });
  std::set<std::string> names;
  for (const auto& [name, t] : tensors) {
    CHECK(names.insert(name).second, "cannot write ", file.string(), ": two tensors named '", name,
          "'");
  }
  const std::string header = build_header(tensors, metadata, file);
  CHECK(header.size() <= kMaxHeaderBytes, "cannot write ", file.string(), ": the header exceeds ",
        kMaxHeaderBytes, " bytes");
  AtomicFile out(file);
  const uint64_t length = header.size();
  out.write(&length, sizeof length);
  out.write(header);
  for (const auto& [name, t] : tensors) {
    if (t.nbytes() > 0) out.write(t.raw(), t.nbytes());
  }
  out.commit();
}

}  // namespace parlo
