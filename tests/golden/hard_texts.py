"""Strings that are hard for a tokenizer: every script, compatibility forms, emoji, marks, controls, spaces, odd lengths.

Only characters assigned before Unicode 13, so that the tables of all libraries agree on them.
"""
import random
import unicodedata

from pydoc_data.topics import topics

from make_tokenizer import HAND, long_cases, random_cases

# One line per kind; a sample of its characters is drawn. (first, last, count of characters)
BLOCKS = [
    (0x00A0, 0x00FF, 96), (0x0100, 0x017F, 64), (0x0180, 0x024F, 64), (0x0250, 0x02AF, 32), (0x02B0, 0x02FF, 24),
    (0x0300, 0x036F, 48), (0x0370, 0x03FF, 64), (0x0400, 0x04FF, 64), (0x0531, 0x058A, 24), (0x0590, 0x05F4, 32),
    (0x0600, 0x06FF, 64), (0x0700, 0x074A, 16), (0x0780, 0x07B1, 16), (0x0901, 0x0970, 48), (0x0981, 0x09FA, 32),
    (0x0A02, 0x0A74, 24), (0x0A81, 0x0AEF, 24), (0x0B01, 0x0B70, 24), (0x0B82, 0x0BF2, 24), (0x0C01, 0x0C6F, 24),
    (0x0C82, 0x0CEF, 24), (0x0D02, 0x0D6F, 24), (0x0D82, 0x0DF4, 24), (0x0E01, 0x0E5B, 48), (0x0E81, 0x0EDD, 24),
    (0x0F00, 0x0FCF, 48), (0x1000, 0x1059, 24), (0x10A0, 0x10FB, 32), (0x1100, 0x11FF, 48), (0x1200, 0x137C, 32),
    (0x13A0, 0x13F4, 24), (0x1401, 0x1676, 24), (0x1680, 0x169C, 8), (0x16A0, 0x16F0, 16), (0x1780, 0x17F9, 32),
    (0x1800, 0x18A9, 24), (0x1E00, 0x1EFF, 64), (0x1F00, 0x1FFF, 64), (0x2000, 0x206F, 96), (0x2070, 0x209C, 24),
    (0x20A0, 0x20B1, 12), (0x20D0, 0x20EA, 16), (0x2100, 0x214F, 64), (0x2150, 0x218F, 48), (0x2190, 0x22FF, 64),
    (0x2300, 0x23FF, 32), (0x2440, 0x24FF, 96), (0x2500, 0x25FF, 32), (0x2600, 0x27BF, 64), (0x2800, 0x28FF, 16),
    (0x2E80, 0x2FDF, 48), (0x3000, 0x303F, 48), (0x3040, 0x30FF, 96), (0x3105, 0x318E, 48), (0x3190, 0x31B7, 16),
    (0x3200, 0x32FF, 96), (0x3300, 0x33FF, 96), (0x3400, 0x4DB5, 16), (0x4E00, 0x9FA5, 96), (0xA000, 0xA48C, 24),
    (0xAC00, 0xD7A3, 96), (0xE000, 0xF8FF, 8), (0xF900, 0xFAD9, 48), (0xFB00, 0xFB4F, 64), (0xFB50, 0xFDFF, 64),
    (0xFE00, 0xFE0F, 8), (0xFE20, 0xFE4F, 24), (0xFE50, 0xFE6B, 24), (0xFE70, 0xFEFC, 48), (0xFF00, 0xFFEF, 192),
    (0x10300, 0x1034A, 16), (0x10400, 0x1044F, 24), (0x1D100, 0x1D1DD, 16), (0x1D400, 0x1D7FF, 128),
    (0x20000, 0x2A6D6, 16), (0x2F800, 0x2FA1D, 32), (0xE0001, 0xE007F, 8),
]
SPACES = [chr(c) for c in (0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x85, 0xA0, 0x1680, 0x180E, *range(0x2000, 0x200E),
                           0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x2581, 0x2800, 0x3000, 0x3164, 0xFEFF, 0xFFA0)]
CONTROLS = [chr(c) for c in (*range(0x00, 0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x202A, 0x2066, 0xFFF9, 0xFFFD)]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🇫🇷", "🏳️‍🌈", "❤️", "1️⃣", "#️⃣", "👨🏿‍🚀", "🧑‍🤝‍🧑", "🐈‍⬛", "☃", "✨", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "♂️", "©️", "🤷🏼‍♀️", "🚀", "🌈", "👁️‍🗨️"]
MARKS = "\u0300\u0301\u0302\u0303\u0308\u030A\u0323\u0327\u0328\u0345\u093C\u0E31\u0E48\u3099\u309A\u20DD\uFE0F"
ADDED = ["<extra_id_0>", "<extra_id_99>", "<extra_id_7>", "<pad>", "</s>", "<unk>", "<s>", "<|endoftext|>", "<|startoftext|>", "<concept>", "<Concept>",
         "<|marker|>", "sks-style", "<extra_id_100>", "<extra_id_ 0>", "< pad>", "</S>"]


def assigned(c):
    return unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs")


def pick(rng, first, last, count):
    """The whole block when it is not larger than `count`, else a sample, in order."""
    characters = [chr(c) for c in range(first, last + 1) if assigned(chr(c))]
    return characters if len(characters) <= count else sorted(rng.sample(characters, count))


def block_texts(rng):
    """Each block's characters run together by six, and then between Latin words."""
    for first, last, count in BLOCKS:
        characters = pick(rng, first, last, count)
        for i in range(0, len(characters), 6):
            chunk = characters[i:i + 6]
            yield "".join(chunk)
            if i % 24 == 0:
                yield " ".join(chunk)
                yield "a " + "x".join(chunk[:3]) + " cat" + chunk[-1]


def space_texts(rng):
    for space in SPACES:
        yield from (space, f"a{space}b", f"{space}red{space}{space}cat{space}")
    for _ in range(40):
        yield "".join(rng.choice(SPACES + ["a", "cat", "the", "."]) for _ in range(rng.randint(2, 9)))


def control_texts(rng):
    for control in CONTROLS:
        yield f"cat{control}dog {control} x"
    for _ in range(20):
        yield "".join(rng.choice(CONTROLS + ["a", "dog", " "]) for _ in range(rng.randint(2, 8)))


def repeat_texts():
    for piece in "!?.,-=*#~_/\\'\"():;<>|0179aeoxzéß中あ😀%&@$^+[]{}`":
        for count in (2, 3, 6, 11):
            yield piece * count
    yield from ("ha" * 30, "!?" * 20, "ab" * 25 + "c", "a b " * 20, "--" * 7 + ">", "the" * 9, "....... .......", "!" * 64, " !" * 9)


def emoji_texts(rng):
    yield from EMOJI
    for _ in range(60):
        yield "".join(rng.choice(EMOJI + [" ", "a", "cat ", "!"]) for _ in range(rng.randint(2, 6)))


def mark_texts(rng):
    for _ in range(80):
        yield "".join(rng.choice("aeioucnsyAEIOUがはक") + rng.choice(MARKS) * rng.randint(0, 2) for _ in range(rng.randint(1, 7)))


def added_texts(rng):
    for token in ADDED:
        yield from (token, f"a {token} b", f"a{token}b", f"  {token}  ", f"{token}{token}", f"{token.upper()} x", f"cat {token}", f"{token},")
    for _ in range(60):
        yield "".join(rng.choice(ADDED + [" ", "cat", " a ", "!", "é"]) for _ in range(rng.randint(2, 6)))


def prose_texts(rng, count):
    """Lines of the interpreter's own manual: words, code and punctuation."""
    lines = [line for topic in sorted(topics) for line in topics[topic].splitlines() if 20 < len(line) < 72]
    yield from rng.sample(lines, count)


def hard_texts():
    rng = random.Random(91)
    texts = [*HAND, *(t for t in long_cases()), *block_texts(rng), *space_texts(rng), *control_texts(rng), *repeat_texts(),
             *emoji_texts(rng), *mark_texts(rng), *added_texts(rng), *prose_texts(rng, 120), *random_cases(300, 92)]
    return list(dict.fromkeys(texts))


def training_lines():
    """What the small vocabularies are trained on: the manual, and a few sentences of other scripts."""
    for topic in sorted(topics):
        yield from (line.strip() for line in topics[topic].splitlines() if line.strip())
    other = ["A red circle on a blue table, photographed at night.", "Ein rotes Haus über der Straße.", "Une café fermé à l'été, où êtes-vous?",
             "El niño comió una piña mañana.", "Красный круг на синем столе.", "一只红色的猫在桌子上", "赤い猫がテーブルの上にいます。カタカナ", "빨간 고양이가 있습니다",
             "ένας κόκκινος κύκλος", "قطة حمراء على الطاولة", "חתול אדום", "लाल बिल्ली", "แมวสีแดง", "½ × 3 ≤ 2 → ∞ © € £", "!!! ??? ... --- !!! ???", "0 1 2 3 4 5 6 7 8 9 2024 1999"]
    for line in other:
        yield from [line] * 40


if __name__ == "__main__":
    print(len(hard_texts()), sum(len(t.encode()) for t in hard_texts()))
