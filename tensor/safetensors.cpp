#include "tensor/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "tensor/error.h"
#include "tensor/json_text.h"
#include "tensor/safetensors_format.h"

namespace parlo {
namespace fs = std::filesystem;
using json = nlohmann::json;
using namespace safetensors_format;

namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

[[noreturn]] void refuse(const fs::path& file, const std::string& why) {
  throw Error(concat(file.string(), ": not a valid safetensors file: ", why));
}

[[noreturn]] void refuse(const fs::path& file, std::string_view tensor, const std::string& why) {
  throw Error(concat(file.string(), ": tensor '", printable(tensor), "': ", why));
}

// nlohmann keeps the last of two equal keys silently; the callback sees them all.
json parse_unique(std::string_view text, const fs::path& file) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        refuse(file, concat("duplicate name '", printable(key), "' in the JSON"));
      }
    }
    return true;
  };
  return parse_json(text, file.string(), watch);
}

// What the header says of one tensor; offsets are still relative to the data.
struct Entry {
  std::string name;
  SafeTensors::Info info;
  uint64_t begin = 0, end = 0;
};

uint64_t unsigned_number(const json& value, const fs::path& file, std::string_view tensor,
                         std::string_view what) {
  if (!value.is_number_unsigned()) {
    refuse(file, tensor,
           concat(what, " holds ", shown(value), ", expected a non-negative integer"));
  }
  return value.get<uint64_t>();
}

Shape parse_shape(const json& value, const fs::path& file, std::string_view tensor) {
  if (!value.is_array()) refuse(file, tensor, "shape is not a list");
  if (value.size() > Shape::kMaxRank) {
    refuse(
        file, tensor,
        concat("has ", value.size(), " dimensions, at most ", Shape::kMaxRank, " are supported"));
  }
  Shape shape;
  // Zeros count as one here, so that no stride can overflow either. 8 bytes is the widest element.
  int64_t product = 8;
  for (const json& item : value) {
    const uint64_t dim = unsigned_number(item, file, tensor, "shape");
    if (dim > INT64_MAX ||
        __builtin_mul_overflow(product, std::max<int64_t>(int64_t(dim), 1), &product)) {
      refuse(file, tensor, "the shape's number of bytes overflows 64 bits");
    }
    shape.push_back(static_cast<int64_t>(dim));
  }
  return shape;
}

Entry parse_entry(const std::string& name, const json& value, const fs::path& file) {
  if (!value.is_object()) refuse(file, name, "its entry is not a JSON object");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) refuse(file, name, concat("its entry has no '", key, "'"));
  }
  Entry entry;
  entry.name = name;
  const json& dtype = value["dtype"];
  if (!dtype.is_string()) refuse(file, name, "dtype is not a string");
  const auto known = parse_dtype(dtype.get_ref<const std::string&>());
  if (!known) {
    refuse(file, name,
           concat("dtype ", printable(dtype.get<std::string>()),
                  " is not supported (F64 F32 F16 BF16 I64 I32 U8 BOOL are)"));
  }
  entry.info.dtype = *known;
  entry.info.shape = parse_shape(value["shape"], file, name);
  entry.info.bytes = static_cast<size_t>(entry.info.shape.numel()) * dtype_size(*known);
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    refuse(file, name, "data_offsets is not a pair of numbers");
  }
  entry.begin = unsigned_number(offsets[0], file, name, "data_offsets");
  entry.end = unsigned_number(offsets[1], file, name, "data_offsets");
  return entry;
}

// Every byte of the data belongs to exactly one tensor.
void check_layout(std::vector<Entry>& entries, uint64_t data_bytes, const fs::path& file) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t at = 0;
  for (const Entry& e : entries) {
    if (e.end < e.begin || e.end > data_bytes) {
      refuse(file, e.name,
             concat("data_offsets [", e.begin, ", ", e.end, "] lie outside the ", data_bytes,
                    " bytes of data; the file may be truncated"));
    }
    if (e.end - e.begin != e.info.bytes) {
      refuse(file, e.name,
             concat("has ", e.end - e.begin, " bytes, ", dtype_name(e.info.dtype), " of shape ",
                    e.info.shape, " needs ", e.info.bytes));
    }
    if (e.begin < at)
      refuse(file, e.name, concat("overlaps the tensor before it at byte ", e.begin));
    if (e.begin > at) refuse(file, e.name, concat("leaves a hole of ", e.begin - at, " bytes"));
    at = e.end;
  }
  if (at != data_bytes) {
    refuse(file, concat("the tensors cover ", at, " of ", data_bytes, " bytes of data"));
  }
}

std::map<std::string, std::string> parse_metadata(const json& value, const fs::path& file) {
  if (!value.is_object()) refuse(file, "__metadata__ is not a JSON object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      refuse(file, concat("__metadata__ entry '", printable(key), "' is not a string"));
    }
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

std::string_view header_text(const MappedFile& map, const fs::path& file) {
  if (map.size() < 8) refuse(file, concat("it has ", map.size(), " bytes, the header needs 8"));
  uint64_t length = 0;
  std::memcpy(&length, map.data(), 8);
  if (length > kMaxHeaderBytes) {
    refuse(file, concat("header length ", length, " exceeds the limit of ", kMaxHeaderBytes));
  }
  if (length > map.size() - 8) {
    refuse(file, concat("header length ", length, " exceeds the file's ", map.size(), " bytes"));
  }
  const std::string_view text(reinterpret_cast<const char*>(map.data()) + 8, length);
  if (!text.starts_with('{')) refuse(file, "the header does not start with '{'");
  return text;
}

}  // namespace

SafeTensors SafeTensors::open(const fs::path& file) {
  SafeTensors out;
  auto map = std::make_shared<MappedFile>(file);
  const std::string_view text = header_text(*map, file);
  const json header = parse_unique(text, file);
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadata) {
      out.metadata_ = parse_metadata(value, file);
    } else {
      entries.push_back(parse_entry(name, value, file));
    }
  }
  const size_t data_start = 8 + text.size();
  check_layout(entries, map->size() - data_start, file);
  for (Entry& e : entries) {
    e.info.offset = data_start + e.begin;
    out.tensors_.emplace(e.name, e.info);
  }
  out.maps_.push_back(std::move(map));
  out.paths_.push_back(file);
  return out;
}

std::vector<std::string> SafeTensors::names() const {
  std::vector<std::string> out;
  for (const auto& [name, info] : tensors_) out.push_back(name);
  return out;
}

const SafeTensors::Info& SafeTensors::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  CHECK(found != tensors_.end(), paths_.empty() ? "no file" : paths_.front().string(),
        paths_.size() > 1 ? concat(" and ", paths_.size() - 1, " more files") : "",
        ": no tensor named '", name, "'");
  return found->second;
}

Tensor SafeTensors::get(const std::string& name) const {
  const Info& i = info(name);
  if (i.bytes == 0) return Tensor::empty(i.shape, i.dtype);
  const auto& map = maps_[static_cast<size_t>(i.file)];
  const std::byte* source = map->data() + i.offset;
  if (reinterpret_cast<uintptr_t>(source) % dtype_size(i.dtype) == 0) {
    return Tensor::wrap(const_cast<std::byte*>(source), i.shape, i.dtype, map, /*read_only=*/true);
  }
  Tensor copy = Tensor::empty(i.shape, i.dtype);
  std::memcpy(copy.raw(), source, i.bytes);
  return copy;
}

void SafeTensors::release(const std::string& name) const {
  const Info& i = info(name);
  maps_[static_cast<size_t>(i.file)]->release(i.offset, i.bytes);
}

std::map<std::string, std::string> safetensors_format::read_weight_map(const fs::path& index) {
  const json content = parse_unique(read_file(index), index);
  CHECK(content.is_object() && content.contains("weight_map") && content["weight_map"].is_object(),
        index.string(), ": expected a JSON object with an object 'weight_map'");
  std::map<std::string, std::string> out;
  for (const auto& [name, shard] : content["weight_map"].items()) {
    CHECK(shard.is_string(), index.string(), ": weight_map entry '", printable(name),
          "' is not a string");
    const fs::path path = shard.get<std::string>();
    // A shard elsewhere would let a downloaded index read any file.
    CHECK(path.has_filename() && path == path.filename() && path != "." && path != "..",
          index.string(), ": shard '", printable(path.string()), "' is not a plain file name");
    out[name] = path.string();
  }
  CHECK(!out.empty(), index.string(), ": weight_map is empty");
  return out;
}

}  // namespace parlo
