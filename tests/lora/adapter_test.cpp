// Live adapters on the SD3 transformer against diffusers with PEFT: samples, gradients of both
// factors, folding; switching off and on; a frozen base.
#include "lora/adapter.h"

#include "models/sd3_transformer.h"
#include "tests/models/golden.h"

namespace parlo {
namespace {

using namespace test;

const char* const kCases[] = {"sd3_a_lora", "sd3_a_lora_pattern", "sd3_a_lora_rslora"};

Var forward(const Sd3Transformer& model, const GoldenCase& c) {
  return model.forward(Var(c.inputs.get("hidden_states")), Var(c.inputs.get("timestep")),
                       Var(c.inputs.get("encoder_hidden_states")),
                       Var(c.inputs.get("pooled_projections")));
}

TEST_CASE("sample and the gradients of A and B are the reference's") {
  for (const char* name : kCases)
    for (bool checkpointed : {false, true}) {
      INFO(name);
      const GoldenCase c(name);
      const auto model = Sd3Transformer::load(golden("sd3_a"));
      model->checkpoint_blocks = checkpointed;
      LoraAdapter adapter = LoraAdapter::load(model->linears(), c.folder);
      adapter.set_requires_grad(true);
      adapter.enable(model->linears());
      const Var sample = forward(*model, c);
      check_parity("sample", sample.value(), c.outputs.get("sample"));
      backward(sample, c.inputs.get("grad_output"));
      size_t compared = 0;
      for (const NamedVar& p : adapter.params()) {
        const Tensor expected = c.outputs.get("grad.base_model.model." + p.name);
        ++compared;
        if (p.var.grad().defined()) {
          check_parity(p.name, p.var.grad(), expected, 1e-3);
        } else {  // the last block throws its text queries away
          CHECK(contains(p.name, "add_q_proj"));
          for (double x : expected.to_vector()) CHECK(x == 0);
        }
      }
      size_t wanted = 0;
      for (const std::string& n : c.outputs.names()) wanted += n.starts_with("grad.base_model");
      CHECK(compared == wanted);
      for (const NamedVar& p : model->params().vars()) CHECK(!p.var.grad().defined());
    }
}

TEST_CASE("input gradients go through the adapter") {
  for (const char* name : kCases) {
    const GoldenCase c(name);
    const auto model = Sd3Transformer::load(golden("sd3_a"));
    LoraAdapter::load(model->linears(), c.folder).enable(model->linears());
    const Var x = c.input("hidden_states"), text = c.input("encoder_hidden_states");
    backward(model->forward(x, Var(c.inputs.get("timestep")), text,
                            Var(c.inputs.get("pooled_projections"))),
             c.inputs.get("grad_output"));
    check_parity("hidden_states", x.grad(), c.outputs.get("grad.hidden_states"));
    check_parity("encoder_hidden_states", text.grad(), c.outputs.get("grad.encoder_hidden_states"));
  }
}

TEST_CASE("a folded adapter gives the reference's weights and the attached sample") {
  for (const char* name : kCases) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = Sd3Transformer::load(golden("sd3_a")),
               other = Sd3Transformer::load(golden("sd3_a"));
    const LoraAdapter adapter = LoraAdapter::load(model->linears(), c.folder);
    const AdapterFile file = adapter.to_file();
    const WeightedAdapter one[] = {{&file.modules, 1.0}};
    fold_adapters(model->linears(), one);
    const SafeTensors merged = SafeTensors::open(c.folder + "/merged.safetensors");
    for (const std::string& n : merged.names())
      check_parity(n, model->params().at(n).value(), merged.get(n));
    check_parity("sample", forward(*model, c).value(), c.outputs.get("sample"));
    // The unfolded model keeps its weights.
    const std::string n = merged.names().front();
    CHECK(!same_bits(model->params().at(n).value(), other->params().at(n).value()));
  }
}

TEST_CASE("off is the base to the bit, on again is the same adapter") {
  const GoldenCase c("sd3_a_lora");
  const auto model = Sd3Transformer::load(golden("sd3_a"));
  const NoGrad guard;
  const Tensor base = forward(*model, c).value();
  LoraAdapter::load(model->linears(), c.folder).enable(model->linears());
  const Tensor adapted = forward(*model, c).value();
  CHECK(!same_bits(base, adapted));
  {
    const AdapterDisabled off(model->linears());
    CHECK(same_bits(forward(*model, c).value(), base));
  }
  CHECK(same_bits(forward(*model, c).value(), adapted));
  disable_adapters(model->linears());
  CHECK(same_bits(forward(*model, c).value(), base));
}

AdapterConfig attention_config(int64_t rank) {
  AdapterConfig config;
  config.r = rank;
  config.lora_alpha = 2.0 * static_cast<double>(rank);
  config.target_modules = parse_targets("attention");
  return config;
}

TEST_CASE("a fresh adapter changes nothing, depends on its key alone and trains B first") {
  const GoldenCase c("sd3_a_lora");
  const auto model = Sd3Transformer::load(golden("sd3_a"));
  const Tensor base = forward(*model, c).value();
  const AdapterConfig config = attention_config(4);
  LoraAdapter adapter = LoraAdapter::create(model->linears(), config, RandomKey(7));
  const LoraAdapter twin = LoraAdapter::create(model->linears(), config, RandomKey(7)),
                    other = LoraAdapter::create(model->linears(), config, RandomKey(8));
  for (size_t i = 0; i < adapter.params().size(); ++i) {
    const NamedVar p = adapter.params()[i];
    CHECK(same_bits(p.var.value(), twin.params()[i].var.value()));
    if (p.name.ends_with("lora_A.weight"))
      CHECK(!same_bits(p.var.value(), other.params()[i].var.value()));
  }
  adapter.set_requires_grad(true);
  adapter.enable(model->linears());
  const Var sample = forward(*model, c);
  CHECK(max_relative_error(sample.value(), base) <= 1e-6);
  backward(sample, c.inputs.get("grad_output"));
  for (const NamedVar& p : adapter.params()) {
    if (!p.var.grad().defined()) continue;
    double largest = 0;
    for (double x : p.var.grad().to_vector()) largest = std::max(largest, std::abs(x));
    INFO(p.name);
    CHECK((largest > 0) == p.name.ends_with("lora_B.weight"));
  }
  AdamW optimiser(adapter.params(), {});
  optimiser.step(1e-3);
  CHECK(!same_bits(forward(*model, c).value(), sample.value()));
}

TEST_CASE("a saved adapter is read back to the bit") {
  const TemporaryFolder folder;
  const GoldenCase c("sd3_a_lora_pattern");
  const auto model = Sd3Transformer::load(golden("sd3_a"));
  const LoraAdapter adapter = LoraAdapter::load(model->linears(), c.folder);
  adapter.save(folder / "adapter");
  const LoraAdapter again = LoraAdapter::load(model->linears(), folder / "adapter");
  const auto a = adapter.params(), b = again.params();
  DOCTEST_REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].name == b[i].name);
    CHECK(same_bits(a[i].var.value(), b[i].var.value()));
  }
}

TEST_CASE("adapters that do not fit the model are refused, every offender named") {
  const auto model = Sd3Transformer::load(golden("sd3_b"));
  const std::string message =
      message_of([&] { LoraAdapter::load(model->linears(), golden("sd3_a_lora")); });
  CHECK(contains(message, "transformer_blocks.0.attn.to_q"));
  CHECK(contains(message, "transformer_blocks.1.attn.add_k_proj"));
  AdapterConfig config;
  config.target_modules.names = {"no_such_linear"};
  CHECK_THROWS_AS(LoraAdapter::create(model->linears(), config, RandomKey(1)), UsageError);
}

TEST_CASE("targets as text") {
  CHECK(parse_targets("attention").matches("transformer_blocks.0.attn.to_out.0"));
  CHECK(!parse_targets("attention").matches("transformer_blocks.0.attn2.to_out.0"));
  CHECK(!parse_targets("attention").matches("transformer_blocks.0.ff.net.2"));
  CHECK(parse_targets("attention+mlp").matches("transformer_blocks.0.ff_context.net.0.proj"));
  CHECK(parse_targets("all-linear").matches("proj_out"));
  CHECK(parse_targets("re:.*to_[qk]").matches("a.attn2.to_k"));
  CHECK((parse_targets("to_q,,ff.net.2").names == std::vector<std::string>{"to_q", "ff.net.2"}));
  CHECK_THROWS_AS(parse_targets(""), UsageError);
  CHECK_THROWS_AS(parse_targets(",,"), UsageError);
}

}  // namespace
}  // namespace parlo
