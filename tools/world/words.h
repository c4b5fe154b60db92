// Common three-letter words whose clean rendering Tesseract reads: each at least 11 times in 12
// draws (the words that failed this are not listed).
#pragma once

#include <string_view>

namespace parlo {

inline constexpr std::string_view kWords[] = {
    "ace", "act", "add", "age", "aid", "aim", "air", "all", "and", "ant", "any", "ape", "arm",
    "art", "ash", "ask", "ate", "bad", "bag", "bar", "bat", "bed", "beg", "bet", "big", "bit",
    "box", "boy", "bug", "bun", "bus", "but", "buy", "bye", "cab", "can", "cap", "car", "cat",
    "cow", "cry", "cub", "cup", "cut", "dad", "day", "den", "dig", "dim", "dip", "dog", "dot",
    "dry", "due", "ear", "eat", "egg", "end", "eye", "fan", "far", "fat", "fee", "few", "fig",
    "fin", "fit", "fix", "fly", "fog", "for", "fox", "fun", "fur", "gap", "gas", "get", "gum",
    "gun", "gut", "guy", "gym", "had", "ham", "has", "hat", "hen", "her", "hid", "him", "hip",
    "his", "hit", "hop", "hot", "how", "hub", "hug", "hut", "ice", "ink", "jam", "jar", "jaw",
    "jet", "job", "joy", "key", "kid", "kit", "lab", "law", "lay", "leg", "let", "lid", "lip",
    "log", "lot", "low", "mad", "man", "map", "mat", "may", "men", "met", "mix", "mom", "mud",
    "mug", "nap", "net", "new", "nod", "not", "now", "nut", "oak", "off", "old", "one", "our",
    "out", "own", "pan", "pat", "paw", "pay", "pea", "pen", "pet", "pie", "pig", "pin", "pit",
    "pop", "pot", "put", "rag", "ram", "ran", "rat", "raw", "ray", "red", "rib", "rid", "rim",
    "rob", "rod", "row", "rug", "run", "sad", "sat", "saw", "sea", "see", "set", "she", "shy",
    "sit", "six", "sky", "son", "spy", "sun", "tag", "tan", "tap", "tax", "tea", "ten", "the",
    "tie", "tin", "tip", "toe", "ton", "top", "toy", "try", "tub", "two", "use", "van", "vet",
    "war", "was", "wax", "way", "web", "wet", "who", "why", "win", "yes", "yet", "you", "zip",
    "zoo",
};

}  // namespace parlo
