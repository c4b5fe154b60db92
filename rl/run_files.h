// What the coordinator keeps on disk and passes around: scores, trainer states, weighted lists.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "rl/mapreduce.h"

namespace parlo {

// Deep copies, so that a trained adapter and its file never share memory.
AdapterFile copy_of(const AdapterFile& file);

// Adapters of weight 0 are left out, unless keep_zeros.
std::vector<WeightedAdapter> weighted(const std::vector<AdapterFile>& adapters,
                                      const std::vector<double>& weights, bool keep_zeros = false);
// "0.5,0.25,0.25"
std::string join_weights(const std::vector<double>& weights);

std::string score_file_name(int64_t iteration, const std::string& label);
void save_scores(const std::filesystem::path& file, const ScoreTable& scores);
ScoreTable load_scores(const std::filesystem::path& file);

// Steps in the last checkpoint of an expert (its label: "iteration_1_ocr"); 0 without one.
int64_t completed_steps(const std::filesystem::path& run, const std::string& label);

NamedTensors load_tensors(const std::filesystem::path& file);

// Prompts of all tasks, one of each in turn, with the number of their task as source.
std::vector<Prompt> mixed_prompts(const std::vector<RewardTask>& tasks);
// Scores a prompt of a mixture with the reward of the task it came from (MORL-D).
Reward reward_by_source(const std::vector<RewardTask>& tasks);
std::vector<std::string> names_of(const std::vector<RewardTask>& tasks);

// Starts an optimiser from the moments experts ended the last iteration with: its own, or the mean
// over all experts.
void carry_optimizer(const std::filesystem::path& checkpoints, const std::string& expert,
                     int64_t iteration, const std::vector<std::string>& experts, bool average,
                     AdamW& optimizer);

}  // namespace parlo
