// parlo convert: adapters from any format into a chosen one.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "lora/formats.h"
#include "tools/commands.h"
#include "tools/paths.h"

namespace parlo {
namespace {

using nlohmann::ordered_json;

struct ConvertOptions {
  std::string in, out, to, family;
  bool json = false;
};

template <size_t N, class T, class Name>
T by_name(const T (&all)[N], Name&& name, const std::string& wanted) {
  for (T value : all) {
    if (name(value) == wanted) return value;
  }
  throw UsageError("unknown name " + wanted);
}

template <size_t N, class T, class Name>
std::set<std::string> names_of(const T (&all)[N], Name&& name) {
  std::set<std::string> out;
  for (T value : all) out.insert(std::string(name(value)));
  return out;
}

// Where the result goes is known to be free and writable before anything is read.
void check_out(const ConvertOptions& o, AdapterFormat to) {
  const bool file = o.out.ends_with(".safetensors");
  if (to == AdapterFormat::peft && file) {
    throw UsageError(concat("--out ", o.out, ": format peft is a folder; give a folder name"));
  }
  if ((to == AdapterFormat::kohya || to == AdapterFormat::original) && !file) {
    throw UsageError(concat("--out ", o.out, ": format ", o.to,
                            " is one file; give a name that ends in .safetensors"));
  }
  file ? require_writable_parent(o.out, "--out") : require_new_folder(o.out, "--out");
}

void run_convert(const ConvertOptions& o) {
  const AdapterFormat to = by_name(kAdapterFormats, format_name, o.to);
  require_place(o.in, "adapter", "a folder or a file");
  check_out(o, to);
  const OpenedAdapter opened = open_adapter(o.in);
  ordered_json j{{"from", std::string(format_name(opened.format))}, {"to", o.to}};
  std::optional<ModelFamily> family;
  if (to == AdapterFormat::kohya || to == AdapterFormat::original) {
    family = o.family.empty() ? guess_family(opened.file.modules)
                              : by_name(kModelFamilies, family_name, o.family);
    j["family"] = family_name(*family);
  }
  write_adapter_as(to, o.out, opened.file, family);
  j["modules"] = opened.file.modules.size();
  j["out"] = o.out;
  if (o.json) {
    std::printf("%s\n", j.dump(2).c_str());
    return;
  }
  std::printf("%s: %s, %zu modules\nwritten as %s%s%s: %s\n", o.in.c_str(),
              j["from"].get<std::string>().c_str(), opened.file.modules.size(), o.to.c_str(),
              family ? " with the names of " : "",
              family ? std::string(family_name(*family)).c_str() : "", o.out.c_str());
}

}  // namespace

void add_convert(CLI::App& parent) {
  auto o = std::make_shared<ConvertOptions>();
  CLI::App* app = parent.add_subcommand(
      "convert", "Write an adapter of any format (PEFT, diffusers, kohya, ComfyUI) in another one");
  app->add_option("adapter", o->in, "The adapter: a folder or a .safetensors file")->required();
  app->add_option("--to", o->to,
                  "peft: a folder; diffusers: pytorch_lora_weights.safetensors with the scales in "
                  "its header; kohya: lora_unet_... names, as sd-scripts; original: "
                  "diffusion_model. names, as ComfyUI. Factors keep their dtype")
      ->required()
      ->check(CLI::IsMember(names_of(kAdapterFormats, format_name)));
  app->add_option("--family", o->family,
                  "Whose original names kohya and original files get; default: the model that the "
                  "modules fit")
      ->check(CLI::IsMember(names_of(kModelFamilies, family_name)));
  app->add_option("--out", o->out, "The new file or folder")->required();
  app->add_flag("--json", o->json, "Print the report as JSON");
  app->callback([o] { run_convert(*o); });
}

}  // namespace parlo
