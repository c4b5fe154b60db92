#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "tensor/error.h"
#include "tensor/safetensors.h"
#include "tensor/safetensors_format.h"
#include "tensor/safetensors_stream.h"

namespace parlo {
namespace fs = std::filesystem;
using json = nlohmann::json;
using namespace safetensors_format;

namespace {

std::string build_header(const std::vector<PlannedTensor>& tensors,
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
  for (const PlannedTensor& t : tensors) {
    separate();
    std::string shape;
    for (int64_t d : t.shape) shape += concat(shape.empty() ? "" : ",", d);
    header +=
        concat(quoted(t.name), ":{\"dtype\":\"", kDTypes[write_rank(t.dtype)].name,
               "\",\"shape\":[", shape, "],\"data_offsets\":[", at, ",", at + t.bytes(), "]}");
    at += t.bytes();
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

}  // namespace

void stream_safetensors(const fs::path& file, std::vector<PlannedTensor> plan,
                        const std::function<Tensor(const std::string&)>& make,
                        const std::map<std::string, std::string>& metadata) {
  std::sort(plan.begin(), plan.end(), [](const PlannedTensor& a, const PlannedTensor& b) {
    const size_t ra = write_rank(a.dtype), rb = write_rank(b.dtype);
    return std::tie(ra, a.name) < std::tie(rb, b.name);
  });
  std::set<std::string> names;
  for (const PlannedTensor& t : plan) {
    CHECK(t.name != kMetadata, "cannot write ", file.string(), ": no tensor can be named ", t.name);
    CHECK(names.insert(t.name).second, "cannot write ", file.string(), ": two tensors named '",
          t.name, "'");
  }
  const std::string header = build_header(plan, metadata, file);
  CHECK(header.size() <= kMaxHeaderBytes, "cannot write ", file.string(), ": the header exceeds ",
        kMaxHeaderBytes, " bytes");
  AtomicFile out(file);
  const uint64_t length = header.size();
  out.write(&length, sizeof length);
  out.write(header);
  for (const PlannedTensor& planned : plan) {
    const Tensor t = make(planned.name).to(Device{}).contiguous();
    CHECK(t.dtype() == planned.dtype && t.shape() == planned.shape, "cannot write ", file.string(),
          ": tensor '", planned.name, "' was planned as ", dtype_name(planned.dtype), " ",
          planned.shape, ", got ", dtype_name(t.dtype()), " ", t.shape());
    if (t.nbytes() > 0) out.write(t.raw(), t.nbytes());
  }
  out.commit();
}

void save_safetensors(const fs::path& file, NamedTensors tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<PlannedTensor> plan;
  std::map<std::string, const Tensor*> by_name;
  for (const auto& [name, t] : tensors) {
    CHECK(t.defined(), "cannot write ", file.string(), ": tensor '", name, "' is undefined");
    plan.push_back({name, t.dtype(), t.shape()});
    by_name[name] = &t;
  }
  const auto make = [&](const std::string& name) { return *by_name.at(name); };
  stream_safetensors(file, std::move(plan), make, metadata);
}

}  // namespace parlo
