// A rollout through the cache against one forward over the whole sequences.
#include "autograd/functions.h"
#include "autograd/ops.h"
#include "tests/support.h"

namespace parlo::test {

// Two prompts of 5 and 3 tokens, three completions each, one attention layer.
TEST_CASE("decode: prefill of shared prompts, then token by token, is the whole forward") {
  const int64_t prompts = 2, group = 3, batch = 6, prefix = 5, tokens = 4, h = 4, kv = 2, d = 8;
  const double scale = 0.35;
  const std::vector<int64_t> prefix_lengths = {5, 3};
  const Tensor w = random_tensor({(h + 2 * kv) * d, 12}, 1);
  LinearArgs args;
  args.bias = random_tensor({(h + 2 * kv) * d}, 2);
  const Tensor prompt = random_tensor({prompts, prefix, 12}, 3);
  const Tensor completion = random_tensor({batch, tokens, 12}, 4);
  const auto heads = [&](const Tensor& y, int64_t begin, int64_t end) {
    return y.view({y.dim(0), y.dim(1), h + 2 * kv, d}).slice(2, begin, end);
  };

  const Tensor shared = skinny_linear(prompt, w, args);
  const KvCache cache{
      Tensor::zeros({batch, tokens, kv, d}), Tensor::zeros({batch, tokens, kv, d}),
      Tensor::zeros({batch}, DType::i64),    heads(shared, h, h + kv),
      heads(shared, h + kv, h + 2 * kv),     Tensor::from(prefix_lengths, {prompts})};
  const Tensor got = Tensor::empty({batch, tokens, h, d});
  for (int64_t t = 0; t < tokens; ++t) {
    cache.lengths.fill(static_cast<double>(t));
    const Tensor y = skinny_linear(completion.slice(1, t, t + 1), w, args);
    cache_append(heads(y, h, h + kv), heads(y, h + kv, h + 2 * kv), cache);
    got.slice(1, t, t + 1).copy_from(decode_attention(heads(y, 0, h), cache, scale));
  }

  AttentionArgs whole;
  whole.scale = scale, whole.causal = true;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t p = b / group, n = prefix_lengths[static_cast<size_t>(p)];
    const Var parts[] = {Var(prompt.slice(0, p, p + 1).slice(1, 0, n)),
                         Var(completion.slice(0, b, b + 1))};
    const Tensor y = linear(cat(parts, 1), Var(w), Var(args.bias)).value();
    const Var out = attention(Var(heads(y, 0, h)), Var(heads(y, h, h + kv)),
                              Var(heads(y, h + kv, h + 2 * kv)), whole);
    check_close(got.slice(0, b, b + 1), out.value().slice(1, n, n + tokens));
  }
}

}  // namespace parlo::test
