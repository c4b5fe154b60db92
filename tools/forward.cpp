// parlo forward: runs one component on given tensors, so that anyone can compare it with the
// library that defines it.
#include <memory>
#include <optional>

#include "autograd/var.h"
#include "tools/commands.h"
#include "tools/forward/components.h"
#include "tools/options.h"
#include "tools/paths.h"

namespace parlo {
namespace {

struct ForwardOptions {
  CommonOptions common;
  std::string component, checkpoint, inputs, outputs, adapter;
  std::string dtype = "f32";
  bool grads = false;
};

void add_gradients(const ForwardResult& result, NamedTensors& out) {
  backward(result.outputs.front().second, result.grad_output);
  for (const NamedVar& l : result.leaves) {
    // What does not reach the output has gradient zero.
    const Tensor& grad = l.var.grad();
    out.emplace_back("grad." + l.name,
                     grad ? grad.contiguous() : Tensor::zeros(l.var.shape(), l.var.dtype()));
  }
}

void run(const ForwardOptions& o, Device device) {
  const Component& component = find_component(o.component);
  require_place(o.checkpoint, "--checkpoint",
                "a component's folder with config.json, or a transformer's .safetensors file");
  require_file(o.inputs, "--inputs");
  if (!o.adapter.empty()) require_place(o.adapter, "--adapter", "an adapter's folder or file");
  require_writable_parent(o.outputs, "--outputs");
  std::optional<NoGrad> no_grad;
  if (!o.grads) no_grad.emplace();
  const ForwardResult result =
      component.run({o.checkpoint, o.inputs, o.adapter, o.grads, o.dtype == "bf16", device});
  NamedTensors out;
  for (const auto& [name, value] : result.outputs) {
    out.emplace_back(name, value.value().contiguous());
  }
  if (o.grads) add_gradients(result, out);
  save_safetensors(o.outputs, out, {{"component", o.component}});
}

}  // namespace

void add_forward(CLI::App& parent) {
  auto o = std::make_shared<ForwardOptions>();
  CLI::App* app = parent.add_subcommand(
      "forward", "Run one component on given tensors, with gradients on demand");
  std::string names;
  for (const std::string& n : component_names()) names += (names.empty() ? "" : ", ") + n;
  app->add_option("--component", o->component, names)->required();
  app->add_option("--checkpoint", o->checkpoint,
                  "The component's folder: config.json, safetensors; of sd3 and flux "
                  "also a .safetensors file with the original names")
      ->required();
  app->add_option("--inputs", o->inputs, "safetensors file, named as the reference's arguments")
      ->required();
  app->add_option("--outputs", o->outputs, "safetensors file to write")->required();
  app->add_flag("--grads", o->grads,
                "The inputs hold grad_output; add grad.NAME of sum(first output * grad_output)");
  app->add_option("--adapter", o->adapter, "Adapter of any format put on the component");
  app->add_option("--dtype", o->dtype, "Weights of linears: f32 or bf16")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}));
  add_common(*app, o->common);
  app->callback([o] { run(*o, apply(o->common)); });
}

}  // namespace parlo
