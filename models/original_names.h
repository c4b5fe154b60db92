// Names of linears and norms in the two spellings that checkpoints and adapter files use: those of
// diffusers, which are parlo's own, and those of the model's first publication ("original"), where
// queries, keys and values are one matrix. One table per family; flat names (kohya: every dot an
// underscore) are looked up in it too, because underscores cannot be told from dots afterwards.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace parlo {

// No published model has more than 40 blocks of a kind.
inline constexpr int kMaxBlocks = 64;

enum class ModelFamily { sd3, flux, hunyuan_video };
inline constexpr ModelFamily kModelFamilies[] = {ModelFamily::sd3, ModelFamily::flux,
                                                 ModelFamily::hunyuan_video};

std::string_view family_name(ModelFamily family);

// A linear as the original model has it.
struct OriginalLinear {
  std::string name;
  // Which of parlo's linears its rows are, from the first row on.
  std::vector<std::string> modules;
  // The original keeps (shift, scale) where diffusers has (scale, shift): the halves of the rows
  // change places, as far as the linear has two times its input's width.
  bool swaps_halves = false;
};

enum class Spelling { dotted, flat };

// `name` without a prefix, e.g. "joint_blocks.3.x_block.attn.qkv"; any family.
std::optional<OriginalLinear> find_original(std::string_view name, Spelling spelling);

// The diffusers name that is spelt so in some family.
std::optional<std::string> find_diffusers(std::string_view name, Spelling spelling);

// The original linear of a family that holds a diffusers name's rows.
std::optional<OriginalLinear> original_of(ModelFamily family, const std::string& module);

}  // namespace parlo
