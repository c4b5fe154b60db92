"""The CLIP tokenizer of tokenizer/ with three added tokens on hard_texts.py (run make_tokenizer.py first).

python tests/golden/make_tokenizer_added.py"""
from tokenizers import AddedToken
from transformers import CLIPTokenizerFast

from common import ROOT, fresh, write_json
from hard_texts import hard_texts
from make_tokenizer import LENGTH, write_cases


def main():
    folder = fresh("tokenizer_added")
    tokenizer = CLIPTokenizerFast.from_pretrained(ROOT / "tokenizer")
    first = len(tokenizer)
    tokenizer.add_tokens(["<concept>", "sks-style"])  # plain: sought in the normalised text
    tokenizer.add_tokens([AddedToken("<|marker|>", normalized=False, special=True)], special_tokens=True)
    added = {token: i for token, i in tokenizer.get_added_vocab().items() if i >= first}
    assert sorted(added.values()) == [first, first + 1, first + 2]
    write_json(folder / "added_tokens.json", added)
    decoder = {str(i): {n: getattr(t, n) for n in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
               for i, t in sorted(tokenizer.added_tokens_decoder.items())}
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder, "tokenizer_class": "CLIPTokenizer"}, indent=2)
    cases = [{"text": t, "ids": tokenizer(t, truncation=True, max_length=LENGTH).input_ids} for t in hard_texts()]
    header = f'"bos_id":{tokenizer.bos_token_id},"eos_id":{tokenizer.eos_token_id}'
    write_cases(folder / "cases.json", header, cases, ascii=False)
    print("tokenizer_added:", len(cases), "strings,", added)


if __name__ == "__main__":
    main()
