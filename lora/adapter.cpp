#include "lora/adapter.h"

#include <sstream>
#include <utility>

#include "autograd/functions.h"

namespace parlo {
namespace {

std::map<std::string, Shape> weight_shapes(const Linears& linears) {
  std::map<std::string, Shape> out;
  for (const Linear* l : linears) out.emplace(l->name, l->weight.shape());
  return out;
}

std::shared_ptr<LowRankVar> live(const AdapterPair& pair, Device device) {
  return std::make_shared<LowRankVar>(
      LowRankVar{Var(pair.a.to(device)), Var(pair.b.to(device)), pair.scale});
}

Device device_of(const Linears& linears) {
  return linears.empty() ? Device{} : linears.front()->weight.value().device();
}

}  // namespace

LoraAdapter LoraAdapter::create(const Linears& linears, const AdapterConfig& config,
                                RandomKey key) {
  LoraAdapter adapter;
  adapter.config_ = config;
  for (const Linear* l : linears) {
    if (!config.targets(l->name)) continue;
    const int64_t rank = config.rank_of(l->name);
    if (rank < 1) throw UsageError(concat("LoRA: rank ", rank, " of ", l->name, ", expected >= 1"));
    const Tensor a =
        random_normal(key.fold(l->name), {rank, l->weight.dim(1)}, 1.0 / static_cast<double>(rank));
    adapter.modules_[l->name] = live(
        {a, Tensor::zeros({l->weight.dim(0), rank}), config.scale_of(l->name)}, device_of(linears));
  }
  if (adapter.modules_.empty()) {
    throw UsageError(
        "LoRA: no linear of the model matches the target modules; see `parlo inspect`");
  }
  return adapter;
}

LoraAdapter LoraAdapter::from_file(const Linears& linears, AdapterFile file) {
  check_adapter_fits(file, weight_shapes(linears));
  LoraAdapter adapter;
  adapter.config_ = std::move(file.config);
  const Device device = device_of(linears);
  for (const auto& [name, pair] : file.modules) adapter.modules_[name] = live(pair, device);
  return adapter;
}

LoraAdapter LoraAdapter::load(const Linears& linears, const std::filesystem::path& folder) {
  return from_file(linears, read_adapter(folder));
}

AdapterFile LoraAdapter::to_file() const {
  AdapterFile file{config_, {}};
  for (const auto& [name, m] : modules_) {
    file.modules[name] = {m->a.value().to(Device{}), m->b.value().to(Device{}), m->scale};
  }
  return file;
}

void LoraAdapter::save(const std::filesystem::path& folder) const {
  make_folders(folder);
  write_adapter(folder, to_file());
}

void LoraAdapter::enable(const Linears& linears) const {
  for (Linear* l : linears) {
    const auto it = modules_.find(l->name);
    l->adapter = it == modules_.end() ? nullptr : it->second;
  }
}

std::vector<NamedVar> LoraAdapter::params() const {
  std::vector<NamedVar> out;
  for (const auto& [name, m] : modules_) {
    out.push_back({name + ".lora_A.weight", m->a});
    out.push_back({name + ".lora_B.weight", m->b});
  }
  return out;
}

void LoraAdapter::set_requires_grad(bool on) {
  for (const auto& [name, m] : modules_) {
    m->a.set_requires_grad(on);
    m->b.set_requires_grad(on);
  }
}

void disable_adapters(const Linears& linears) {
  for (Linear* l : linears) l->adapter = nullptr;
}

AdapterDisabled::AdapterDisabled(const Linears& linears) : linears_(linears) {
  for (Linear* l : linears_) before_.push_back(std::exchange(l->adapter, nullptr));
}

AdapterDisabled::~AdapterDisabled() {
  for (size_t i = 0; i < linears_.size(); ++i) linears_[i]->adapter = before_[i];
}

void fold_adapters(const Linears& linears, std::span<const WeightedAdapter> adapters) {
  for (Linear* l : linears) {
    bool named = false;
    for (const WeightedAdapter& w : adapters) named = named || w.modules->count(l->name) > 0;
    if (named) l->weight.state()->value = fold_delta(l->weight.value(), adapters, l->name);
  }
}

TargetModules parse_targets(const std::string& text) {
  TargetModules t;
  if (text == "all-linear" || text.starts_with("re:")) {
    t.pattern = text == "all-linear" ? text : text.substr(3);
    return t;
  }
  if (text != "attention" && text != "attention+mlp") {
    std::istringstream in(text);
    for (std::string name; std::getline(in, name, ',');) {
      if (!name.empty()) t.names.push_back(name);
    }
    if (t.names.empty()) throw UsageError("LoRA targets: the list is empty");
    return t;
  }
  t.names = {"attn.to_q",       "attn.to_k",       "attn.to_v",       "attn.to_out.0",
             "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"};
  if (text == "attention+mlp") {
    for (const char* mlp :
         {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}) {
      t.names.push_back(mlp);
    }
  }
  return t;
}

}  // namespace parlo
