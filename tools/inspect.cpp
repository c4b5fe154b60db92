// parlo inspect: what a safetensors file, a component, a pipeline or an adapter holds.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "lora/formats.h"
#include "models/transformer_file.h"
#include "rl/rewards/png.h"
#include "rl/rewards/png_text.h"
#include "tensor/file.h"
#include "tensor/json_text.h"
#include "tensor/safetensors.h"
#include "tools/commands.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct InspectOptions {
  std::string path;
  bool json = false;
};

// One set of tensors, in one file or in shards.
struct Part {
  fs::path place;
  std::string kind;  // class of its config.json, or what the keys tell
  SafeTensors tensors;
};

std::string class_in(const fs::path& config) {
  if (!fs::exists(config)) return "";
  const auto j = parse_json<ordered_json>(read_file(config), config.string());
  if (!j.is_object()) throw Error(config.string() + ": not a JSON object");
  if (j.contains("_class_name") && j["_class_name"].is_string()) return j["_class_name"];
  const auto names = j.find("architectures");
  if (names != j.end() && names->is_array() && !names->empty() && names->front().is_string()) {
    return names->front();
  }
  return "";
}

// Sets of tensors in a folder: single files, and shards through their index.
void add_parts(const fs::path& folder, std::vector<Part>& parts) {
  std::set<fs::path> shards, files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors.index.json")) {
      parts.push_back({entry.path(), class_in(folder / "config.json"),
                       SafeTensors::open_sharded(entry.path())});
      for (const fs::path& f : parts.back().tensors.files()) shards.insert(f.filename());
    } else if (name.ends_with(".safetensors")) {
      files.insert(entry.path());
    }
  }
  for (const fs::path& f : files) {
    if (shards.count(f.filename()) > 0) continue;
    parts.push_back({f, class_in(folder / "config.json"), SafeTensors::open(f)});
  }
}

std::vector<Part> find_parts(const fs::path& path) {
  std::vector<Part> parts;
  if (fs::is_directory(path)) {
    add_parts(path, parts);
    std::set<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.is_directory()) folders.insert(entry.path());
    }
    for (const fs::path& f : folders) add_parts(f, parts);
    if (parts.empty()) {
      throw UsageError(path.string() + ": holds no safetensors file, nor does a folder in it");
    }
  } else if (fs::exists(path)) {
    const bool index = path.string().ends_with(".safetensors.index.json");
    parts.push_back({path, "", index ? SafeTensors::open_sharded(path) : SafeTensors::open(path)});
  } else {
    throw UsageError(path.string() + ": no such file or folder");
  }
  return parts;
}

// One module's rank, scale and the shape of the weight it changes.
ordered_json describe_module(const std::string& name, const AdapterPair& pair) {
  return {{"name", name},
          {"rank", pair.a.dim(0)},
          {"scale", pair.scale},
          {"weight", {pair.b.dim(0), pair.a.dim(1)}}};
}

ordered_json describe_adapter_at(const fs::path& place) {
  const OpenedAdapter opened = open_adapter(place);
  const AdapterFile& a = opened.file;
  ordered_json j{{"format", std::string(format_name(opened.format))},
                 {"rank", a.config.r},
                 {"alpha", a.config.lora_alpha}};
  std::set<std::pair<int64_t, double>> kinds;
  ordered_json modules = ordered_json::array(), details = ordered_json::array();
  for (const auto& [name, pair] : a.modules) {
    kinds.insert({pair.a.dim(0), pair.scale});
    modules.push_back(name);
    details.push_back(describe_module(name, pair));
  }
  j["scale"] = a.modules.begin()->second.scale;
  if (kinds.size() > 1) {
    j["exceptions"] = ordered_json::array();
    for (const auto& [rank, scale] : kinds) {
      j["exceptions"].push_back({{"rank", rank}, {"scale", scale}});
    }
  }
  if (a.config.use_rslora) j["use_rslora"] = true;
  const TargetModules& t = a.config.target_modules;
  j["targets"] = t.pattern.empty() ? ordered_json(t.names) : ordered_json(t.pattern);
  if (!a.config.base_model_name_or_path.empty()) j["base"] = a.config.base_model_name_or_path;
  j["modules"] = std::move(modules);
  j["details"] = std::move(details);
  return j;
}

ordered_json describe(const Part& part) {
  ordered_json j{{"path", part.place.string()}};
  if (!part.kind.empty()) j["class"] = part.kind;
  TransformerFile transformer{part.place, part.tensors, {}, "", ""};
  transformer.find_original_layout();
  if (transformer.original) {
    j["class"] = transformer.class_name();
    j["layout"] = "original";
    j["prefix"] = transformer.prefix;
  }
  if (looks_like_adapter(part.tensors.names())) {
    try {
      j["adapter"] = describe_adapter_at(part.place);
    } catch (const Error& error) {  // its tensors can be shown all the same
      j["adapter"] = {{"error", error.what()}};
    }
  }
  int64_t elements = 0;
  size_t bytes = 0;
  ordered_json list = ordered_json::array();
  std::map<std::string, int64_t> dtypes;
  for (const std::string& name : part.tensors.names()) {
    const SafeTensors::Info& info = part.tensors.info(name);
    elements += info.shape.numel();
    bytes += info.bytes;
    const std::string dtype(dtype_name(info.dtype));
    dtypes[dtype] += info.shape.numel();
    list.push_back(
        {{"name", name}, {"dtype", dtype}, {"shape", info.shape.vec()}, {"bytes", info.bytes}});
  }
  j["count"] = list.size();
  j["elements"] = elements;
  j["bytes"] = bytes;
  j["dtypes"] = dtypes;
  if (!part.tensors.metadata().empty()) j["metadata"] = part.tensors.metadata();
  j["tensors"] = std::move(list);
  return j;
}

std::string size_text(double bytes) {
  char text[32];
  const char* unit = "B";
  for (const char* next : {"KB", "MB", "GB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = next;
  }
  std::snprintf(text, sizeof text, *unit == 'B' ? "%.0f %s" : "%.1f %s", bytes, unit);
  return text;
}

std::string join(const ordered_json& list) {
  if (list.is_string()) return list.get<std::string>();
  std::string out;
  for (const auto& e : list) {
    out += (out.empty() ? "" : ", ") + (e.is_string() ? e.get<std::string>() : e.dump());
  }
  return out;
}

void print_adapter(const ordered_json& a) {
  if (a.contains("error")) {
    std::printf("  adapter that cannot be read: %s\n", a["error"].get<std::string>().c_str());
    return;
  }
  std::printf("  adapter: %s, rank %lld, alpha %g, scale %g, %zu modules\n  targets: %s\n",
              a["format"].get<std::string>().c_str(), a["rank"].get<long long>(),
              a["alpha"].get<double>(), a["scale"].get<double>(), a["modules"].size(),
              join(a["targets"]).c_str());
  if (a.contains("exceptions")) {
    std::printf("  ranks and scales: %s\n", join(a["exceptions"]).c_str());
  }
  for (const auto& m : a["details"]) {
    std::printf("  module %s: rank %lld, scale %g, weight (%s)\n",
                m["name"].get<std::string>().c_str(), m["rank"].get<long long>(),
                m["scale"].get<double>(), join(m["weight"]).c_str());
  }
}

void print(const ordered_json& j) {
  std::string dtypes;
  for (const auto& [name, n] : j["dtypes"].items()) dtypes += " " + name;
  std::printf("%s: %s%zu tensors, %lld values, %s,%s\n", j["path"].get<std::string>().c_str(),
              j.contains("class") ? (j["class"].get<std::string>() +
                                     (j.contains("layout") ? " (original names), " : ", "))
                                        .c_str()
                                  : "",
              j["count"].get<size_t>(), j["elements"].get<long long>(),
              size_text(j["bytes"].get<double>()).c_str(), dtypes.c_str());
  if (j.contains("adapter")) print_adapter(j["adapter"]);
  size_t width = 0;
  for (const auto& t : j["tensors"]) width = std::max(width, t["name"].get<std::string>().size());
  for (const auto& t : j["tensors"]) {
    std::printf("  %-*s  %-4s  (%s)  %s\n", static_cast<int>(width),
                t["name"].get<std::string>().c_str(), t["dtype"].get<std::string>().c_str(),
                join(t["shape"]).c_str(), size_text(t["bytes"].get<double>()).c_str());
  }
}

bool is_png(const fs::path& path) {
  return fs::is_regular_file(path) && path.extension() == ".png";
}

ordered_json describe_png(const fs::path& path) {
  const Image image = read_png(path);
  const std::string bytes = read_file(path);
  ordered_json j{{"path", path.string()}, {"width", image.width}, {"height", image.height}};
  ordered_json texts = ordered_json::object();
  for (const auto& [keyword, value] :
       png_texts({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()})) {
    texts[keyword] = value;
  }
  j["texts"] = std::move(texts);
  return j;
}

void inspect_png(const InspectOptions& o) {
  const ordered_json j = describe_png(o.path);
  const auto replace = ordered_json::error_handler_t::replace;  // of another writer's bytes
  if (o.json) {
    std::printf("%s\n", ordered_json::array({j}).dump(2, ' ', false, replace).c_str());
    return;
  }
  std::printf("%s: PNG, %dx%d\n", o.path.c_str(), j["width"].get<int>(), j["height"].get<int>());
  for (const auto& [keyword, value] : j["texts"].items()) {
    std::printf("  %s: %s\n", keyword.c_str(), value.get<std::string>().c_str());
  }
}

void run(const InspectOptions& o) {
  if (is_png(o.path)) return inspect_png(o);
  ordered_json all = ordered_json::array();
  for (const Part& part : find_parts(o.path)) all.push_back(describe(part));
  if (o.json) {
    std::printf("%s\n", all.dump(2).c_str());
    return;
  }
  for (const ordered_json& j : all) print(j);
}

}  // namespace

void add_inspect(CLI::App& parent) {
  auto o = std::make_shared<InspectOptions>();
  CLI::App* app = parent.add_subcommand(
      "inspect",
      "Tensors, dtypes and sizes of a file or folder; format and rank of adapters; what a "
      "picture was drawn with");
  app->add_option("path", o->path,
                  "A .safetensors file, a component, a pipeline, an adapter or a .png")
      ->required();
  app->add_flag("--json", o->json, "A JSON list, one object a set of tensors");
  app->callback([o] { run(*o); });
}

}  // namespace parlo
