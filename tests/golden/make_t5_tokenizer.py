"""Small SentencePiece Unigram models with T5's settings and what their tokenizers make of hard_texts.py.

t5_tokenizer/        nmt_nfkc, 2000 pieces: spiece.model and the tokenizer.json of transformers 5 (Precompiled; WhitespaceSplit,
                     Metaspace), which is also the form of the old published files
t5_tokenizer/small/  four rules, 400 pieces: spiece.model and tokenizer.json in the form of transformers 4.40 and later (Precompiled,
                     Strip right, Replace of two or more spaces; Metaspace; extra ids take the spaces at their sides)

python tests/golden/make_t5_tokenizer.py"""
import io
import json
import tempfile
import unicodedata

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import T5TokenizerFast
from transformers.convert_slow_tokenizer import import_protobuf

from common import fresh
from hard_texts import assigned, hard_texts, training_lines

protobuf = import_protobuf()
EXTRA = [f"<extra_id_{i}>" for i in range(99, -1, -1)]  # the ids behind the pieces, downwards


def train(vocab_size, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_lines()), model_writer=out, model_type="unigram", vocab_size=vocab_size,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, byte_fallback=False, num_threads=1, minloglevel=2, **options)
    model = protobuf.ModelProto.FromString(out.getvalue())
    model.normalizer_spec.normalization_rule_tsv = ""  # a path of the machine that trained it
    return model.SerializeToString()


def required_chars():
    """Characters that many others normalise to: with them in the vocabulary a wrong normalisation shows in the ids."""
    ranges = ((0x21, 0x17F), (0x300, 0x30C), (0x370, 0x3FF), (0x400, 0x45F), (0x2100, 0x2131), (0x2190, 0x2199), (0x2200, 0x2212),
              (0x3041, 0x3096), (0x30A1, 0x30FA), (0x3200, 0x33FF), (0xFF61, 0xFF9F))
    folded = {c for first, last in ranges for code in range(first, last + 1) for c in unicodedata.normalize("NFKC", chr(code))}
    return "".join(sorted(c for c in folded if assigned(c) and not c.isspace()))


def charsmap(model):
    return protobuf.ModelProto.FromString(model).normalizer_spec.precompiled_charsmap


def converted(model):
    """As SpmConverter and T5Converter of transformers 4.40 to 4.57 build it."""
    proto = protobuf.ModelProto.FromString(model)
    vocab = [(p.piece, p.score) for p in proto.pieces] + [(token, 0.0) for token in EXTRA]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(charsmap(model)), normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<pad>", "</s>", "<unk>")])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, lstrip=True, rstrip=True) for t in EXTRA])
    return tokenizer


def write_cases(folder, model, fast, texts):
    """One string a line: `fast` ids by tokenizer.json, `slow` by SentencePiece alone (which knows no added tokens) where they
    differ, both with </s>."""
    slow = sentencepiece.SentencePieceProcessor(model_proto=model)
    lines, differ = [], 0
    for text in texts:
        case = {"text": text, "fast": fast.encode(text).ids}
        ids = slow.encode(text) + [1]
        if ids != case["fast"]:
            case["slow"] = ids
            differ += 1
        lines.append(json.dumps(case, ensure_ascii=False, separators=(",", ":")))
    (folder / "cases.json").write_text('{"cases":[\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
    print(f"{folder.name}: {len(lines)} strings, {differ} with other slow ids, {slow.vocab_size()} pieces, charsmap {len(charsmap(model))} bytes")


def save_tokenizer_config(folder):
    config = dict(tokenizer_class="T5Tokenizer", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_ids=100,
                  model_max_length=512, additional_special_tokens=EXTRA[::-1])
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def make(folder, model, fast, texts):
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(model)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(fast.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
    save_tokenizer_config(folder)
    write_cases(folder, model, Tokenizer.from_file(str(folder / "tokenizer.json")), texts)


def small_rules():
    """A normalisation of four rules (source and target code points), so that the file stays small."""
    rules = tempfile.NamedTemporaryFile("w", suffix=".tsv")
    rules.write("3000\t20\n9\t20\nFB01\t66 69\nFF21\t41\n")
    rules.flush()
    return rules


def main():
    folder = fresh("t5_tokenizer")
    model = train(2000, normalization_rule_name="nmt_nfkc", character_coverage=0.9995, required_chars=required_chars())
    (folder / "spiece.model").write_bytes(model)
    make(folder, model, T5TokenizerFast.from_pretrained(folder)._tokenizer, hard_texts())
    with small_rules() as rules:
        model = train(400, normalization_rule_tsv=rules.name, character_coverage=0.998)
    make(folder / "small", model, converted(model), hard_texts()[::4])


if __name__ == "__main__":
    main()
