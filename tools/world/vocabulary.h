// The closed vocabulary of the world's captions, for its tokenizer.
#pragma once

#include <string>
#include <vector>

namespace parlo {

// Every word outside quotes, sorted. Quoted words are left out: they are spelled in letters, which
// is what a model must learn to draw.
std::vector<std::string> world_vocabulary();

}  // namespace parlo
