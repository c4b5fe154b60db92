// T5's encoder on a GPU against the reference's states and gradients.
#include "models/t5.h"
#include "tests/gpu_support.h"
#include "tests/models/golden.h"

namespace parlo::test {

TEST_CASE("gpu: T5's encoder is the reference's") {
  for (const char* name : {"t5_a", "t5_b"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = T5EncoderModel::load(c.folder);
    model->params().to(kGpu);
    const Tensor ids = c.inputs.get("input_ids");
    const Tensor mask =
        c.inputs.contains("attention_mask") ? c.inputs.get("attention_mask") : Tensor();
    const Var embeds(model->embed(ids).value(), true);
    const Var out = model->forward(embeds, mask).last_hidden_state;
    CHECK(out.value().device() == kGpu);
    check_parity("last_hidden_state", out.value(), c.outputs.get("last_hidden_state"));
    backward(out, on_gpu(c.inputs.get("grad_output")));
    check_parity("inputs_embeds", embeds.grad(), c.outputs.get("grad.inputs_embeds"));
  }
}

}  // namespace parlo::test
