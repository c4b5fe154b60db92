"""A small CLIP byte-level BPE in the published file form and what the reference tokenizer makes of odd strings.

vocab.json, merges.txt      trained here: 256 byte symbols, the same with </w>, merges, the two specials
cases.json                  padded with <|endoftext|>, as CLIP-L's tokenizer
cases_pad_bang.json         padded with "!", as SD3's second tokenizer, which makes "!" a special token

python tests/golden/make_tokenizer.py"""
import json
import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizerFast

from common import fresh, write_json

BOS, EOS, LENGTH = "<|startoftext|>", "<|endoftext|>", 77
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

WORDS = dict(
    colour="red orange yellow green blue purple black white pink brown golden silver".split(),
    thing="circle square triangle star cat dog horse house river mountain bicycle lantern teapot violin".split(),
    place="table beach forest kitchen window street garden station café piñata jardin übergang façade".split(),
    style="photograph painting watercolour sketch drawing poster illustration close-up portrait".split(),
    verb="standing sitting running sleeping glowing floating dancing hanging waiting shining".split())
TEMPLATES = [
    "a {style} of a {colour} {thing} on the {place}", "two {colour} {thing}s and one {colour} {thing}",
    "a {colour} {thing} to the left of a {colour} {thing}", "it's {verb} near the {place}, isn't it?",
    "the {thing}'s {colour} {place} at night, {verb} slowly", "we'll see {colour} {thing}s {verb} in the {place}!",
    "a sign that says \"{thing} {place}\" above a {colour} {thing}", "{style}: {thing} and {thing}, highly detailed",
    "I'm {verb} where you've seen the {colour} {place}; they're {verb} 1 2 3", "le {thing} {verb} à côté du {place} où été"]


def corpus(count=400):
    rng = random.Random(51)
    fill = lambda template: template.format(**{k: rng.choice(v) for k, v in WORDS.items()})
    return [fill(rng.choice(TEMPLATES)) for _ in range(count)]


def byte_symbols():
    """The published order of the 256 symbols: printable bytes first, then the rest as U+0100 onwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def train():
    """Merges from the tokenizers library; the vocabulary in the published order."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    symbols = byte_symbols()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=symbols, end_of_word_suffix="</w>", show_progress=False))
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = symbols + [s + "</w>" for s in symbols] + [a + b for a, b in merges] + [BOS, EOS]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


HAND = [
    "", " ", "\t\n\r ", "a", "A", "!", "!!!", "?!", "hello", "Hello World", "  leading and trailing  ", "a\tb\nc\r\nd",
    "double  space   triple", "a photo of a cat", "A Photo Of A CAT.", "close-up", "e-mail@example.org",
    "it's", "IT'S", "It’s", "isn't", "we'll we've they're I'm he'd", "WE'LL WE'VE THEY'RE I'M HE'D", "'s", "' s", "''s", "'S'T",
    "it'sister", "rock'n'roll", "o'clock", "don't've", "'", "''", "'''", "'re're", "x'", "'tis", "dogs' 'll",
    "0", "7", "42", "1234567890", "3.14159", "1,000,000", "2nd", "x2y3", "v1.2.3-rc4", "½ ⅓ ¾", "Ⅷ ⅻ", "①②③", "٣٤٥", "१२३", "10⁶", "H₂O",
    "<|startoftext|>", "<|endoftext|>", "a <|endoftext|> b", "a<|startoftext|>b", "<|ENDOFTEXT|>", "<|StartOfText|> x",
    "<|endoftext|><|endoftext|>", "<|endoftext", "|endoftext|>", "<|endoftext|>!", " <|endoftext|> ", "<|start oftext|>", "<|", "|>",
    "café", "cafe\u0301", "CAFÉ", "CAFE\u0301", "naïve façade", "piñata", "PIÑATA", "über Straße", "STRASSE ẞ", "œuvre Œ æ Æ", "ﬁ ﬂ ﬃ", "ǅ ǆ Ǆ",
    "İstanbul", "ISTANBUL ıI", "ΣΊΣΥΦΟΣ", "Σ", "ὈΔΥΣΣΕΎΣ", "ЖУРАВЛЬ", "Україна", "שלום", "مرحبا", "السَّلام", "नमस्ते", "สวัสดี", "தமிழ்", "ქართული",
    "日本語", "中文字符", "한국어", "\u1112\u1161\u11ab", "カタカナ", "ｶﾞ", "ＡＢＣ１２３", "𝒜𝓫𝕔", "𐐀𐐨", "Å", "A\u030a", "\u212b", "\u2126", "K\u0323\u0307", "K\u0307\u0323",
    "😀", "😀😃", "a😀b", "👍🏽", "👩‍👩‍👧‍👦", "🇫🇷🇩🇪", "❤️", "☃", "1️⃣", "🏳️‍🌈", "cat🐈dog🐕", "✨ sparkle ✨", "™ © ®", "€100 £5 ¥7", "→ ← ⇒", "∑∫√∞ ≠ ≤",
    "\x00", "a\x00b", "\x01\x02", "\x1b[31m", "a\x7fb", "\x0b\x0c", "a\x0bb", "a\x1cb\x1db\x1eb\x1fb", "a\x85b", "a\xa0b", "\xa0\xa0", "a\u2003b", "a\u2028b\u2029c", "a\u3000b",
    "a\u1680b", "a\u202fb", "a\u205fb", "a\u200bb", "a\u200cb\u200dc", "\ufeffbom", "a\u2060b", "soft\xadhyphen", "\u180e", "\ufffd", "\ue000", "\U0010ffff", "\U000e0001",
    "“quoted” ‘single’", "«guillemets»", "ellipsis… dots...", "em—dash en–dash", "a_b_c", "snake_case_name", "__init__", "#hashtag @user", "50% off", "a/b\\c", "{json: [1, 2]}",
    "<b>bold</b>", "&amp; &lt;", "(a (b (c)))", "a+b=c", "*", "***", "~`^", "$$$", "C++ C# F#", "http://a.b/c?d=e&f=g", "a.b.c", "....", "-----", "a-b--c", ";:,",
    "red circle, blue square; green star: \"OPEN 24\"", "a sign that says 'STOP'", "THE QUICK BROWN FOX", "supercalifragilisticexpialidocious", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ábçdéfgñö", "a\u0301\u0302\u0303", "\u0301", " \u0301", "x\u20dd", "ﷺ", "ß", "ŉ", "ǰ", "ΐ", "և", "ᾳ", "Ώ", "\u0345", "\u01c5ungla", "\u10a0", "\u13a0\uab70", "\u2c00", "\ua640", "\U0001e900",
]


def long_cases():
    yield "a " * 74 + "a"       # exactly 75 tokens
    yield "a " * 75 + "a"       # one too many
    yield "red circle " * 60
    yield "x" * 500
    yield "日本語" * 80
    yield "😀" * 40
    yield "word " * 73 + "<|endoftext|> tail tail"
    yield "1" * 200
    yield " ".join(corpus(8))


def random_cases(count, seed):
    """Strings drawn from mixed pools; the pools keep to characters assigned before Unicode 13."""
    rng = random.Random(seed)
    pools = ["abcdefghijklmnopqrstuvwxyz", "ABCXYZ", "0123456789", " \t\n\xa0\u2009\u3000", "'\"!?.,;:-_()[]{}<>|@#$%^&*+=/\\~`",
             "àâäçéèêëîïôöùûüÿñÀÂÄÇÉÈ", "αβγδΑΒΓΔЖжЙйЩщ", "漢字仮名한글", "😀🐈🚀🌈❤", "\u0300\u0301\u0308\u0323", "\x00\x01\x1f\x7f\x85\u200b\u200d\ufeff"]
    weights = [8, 2, 2, 4, 3, 2, 1, 1, 1, 1, 1]
    words = [w for group in WORDS.values() for w in group] + ["'s", "'LL", "n't", "it's", EOS, BOS, "<|EndOfText|>"]
    for _ in range(count):
        parts = [rng.choice(words) if rng.random() < 0.3 else rng.choice(rng.choices(pools, weights)[0])
                 for _ in range(rng.randint(1, 40))]
        yield "".join(parts)


def encode(tokenizer, texts):
    return [{"text": t, "ids": tokenizer(t, padding="max_length", truncation=True, max_length=LENGTH).input_ids}
            for t in texts]


def write_cases(path, header, cases, ascii=True):
    lines = ",\n".join(json.dumps(c, separators=(",", ":"), ensure_ascii=ascii) for c in cases)
    path.write_text(f'{{{header},\n"cases":[\n{lines}\n]}}\n', encoding="utf-8")


def main():
    folder = fresh("tokenizer")
    vocab, merges = train()
    write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    specials = dict(bos_token=BOS, eos_token=EOS, unk_token=EOS, model_max_length=LENGTH)
    write_json(folder / "tokenizer_config.json",
               specials | dict(pad_token=EOS, tokenizer_class="CLIPTokenizer", do_lower_case=True), indent=2)
    texts = [*HAND, *long_cases(), *random_cases(200, 52)]
    for name, pad, chosen in (("cases.json", EOS, texts), ("cases_pad_bang.json", "!", [*HAND[:70], *random_cases(40, 53)])):
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, **(specials | dict(pad_token=pad)))
        assert len(tokenizer) == len(vocab) and tokenizer.is_fast
        header = f'"pad_id":{tokenizer.pad_token_id},"bos_id":{tokenizer.bos_token_id},"eos_id":{tokenizer.eos_token_id}'
        write_cases(folder / name, header, encode(tokenizer, chosen))
        print(f"tokenizer/{name}: {len(chosen)} strings,", header)


if __name__ == "__main__":
    main()
