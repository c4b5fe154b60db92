#include "rl/rewards/geneval.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "rl/rewards/scene.h"
#include "tensor/error.h"

namespace parlo {
namespace {

using Group = std::vector<Detection>;

bool in_relation(const Detection& a, const Detection& b, std::string_view relation) {
  constexpr float kShorten = 0.1f;
  const float dx = (a.x0 + a.x1 - b.x0 - b.x1) / 2, dy = (a.y0 + a.y1 - b.y0 - b.y1) / 2;
  const float length = std::hypot(dx, dy);
  if (length < 1e-3f) return false;
  const float sizes_x = (a.x1 - a.x0) + (b.x1 - b.x0), sizes_y = (a.y1 - a.y0) + (b.y1 - b.y0);
  const float rx = std::max(std::fabs(dx) - kShorten * sizes_x, 0.0f) / length;
  const float ry = std::max(std::fabs(dy) - kShorten * sizes_y, 0.0f) / length;
  if (relation == kRelations[0]) return dx < 0 && rx > 0.5f;
  if (relation == kRelations[1]) return dx > 0 && rx > 0.5f;
  if (relation == kRelations[2]) return dy < 0 && ry > 0.5f;
  if (relation == kRelations[3]) return dy > 0 && ry > 0.5f;
  return false;
}

// Appends the position terms; true when the position is right.
bool add_position_terms(const Group& objects, const std::optional<Group>& targets,
                        const std::string& relation, bool quirk, std::vector<double>& terms) {
  if (!targets) {
    terms.push_back(0.0);
    return false;
  }
  bool right = true;
  for (const Detection& object : objects)
    for (const Detection& target : *targets) right = right && in_relation(object, target, relation);
  if (!right) terms.push_back(0.0);
  if (right || quirk) terms.push_back(1.0);
  return right;
}

double closeness(int required, int found, bool floor) {
  const double term = 1.0 - std::abs(required - found) / static_cast<double>(required);
  return floor ? std::max(0.0, term) : term;
}

std::string why_geneval_cannot(const Prompt& prompt) {
  if (prompt.objects.empty()) return "lists no objects (\"include\")";
  for (const Object& object : prompt.objects) {
    if (std::find(kShapes.begin(), kShapes.end(), object.name) == kShapes.end())
      return concat("asks for '", object.name, "', which the detector does not know");
    const auto same_color = [&](const NamedHue& c) { return c.name == object.color; };
    if (!object.color.empty() && std::none_of(kColors.begin(), kColors.end(), same_color))
      return concat("asks for the colour '", object.color, "', which the detector does not know");
    if (!object.relation.empty() &&
        std::find(kRelations.begin(), kRelations.end(), object.relation) == kRelations.end())
      return concat("asks for the position '", object.relation, "', which is unknown");
  }
  return "";
}

}  // namespace

GenevalScore geneval_score(std::span<const Detection> found, const Prompt& prompt,
                           const GenevalOptions& options) {
  std::vector<double> terms;
  std::vector<std::optional<Group>> matched;
  bool strict = true;
  for (const Object& required : prompt.objects) {
    Group objects;
    for (const Detection& each : found)
      if (kShapes[each.shape] == required.name) objects.push_back(each);
    const int n = static_cast<int>(objects.size());
    terms.push_back(closeness(required.count, n, options.floor_terms_at_zero));
    bool right = n == required.count;
    if (!right && (!required.color.empty() || !required.relation.empty())) {
      terms.push_back(0.0);
    } else if (right && !required.color.empty()) {
      const auto colored = std::count_if(objects.begin(), objects.end(), [&](const Detection& d) {
        return kColors[d.color].name == required.color;
      });
      terms.push_back(closeness(required.count, static_cast<int>(colored), false));
      right = colored == required.count;
    }
    if (right && !required.relation.empty())
      right = add_position_terms(objects, matched.at(required.target), required.relation,
                                 options.published_position_quirk, terms);
    strict = strict && right;
    matched.push_back(right ? std::optional(std::move(objects)) : std::nullopt);
  }
  if (terms.empty()) return {};
  return {std::accumulate(terms.begin(), terms.end(), 0.0) / static_cast<double>(terms.size()),
          strict};
}

Reward make_geneval_reward(const GenevalOptions& options) {
  return reward_of_judge(
      "geneval",
      [options](const Image& image, const Prompt& prompt) {
        return geneval_score(detect_shapes(image), prompt, options).dense;
      },
      why_geneval_cannot);
}

Reward make_geneval_strict_reward() {
  return reward_of_judge(
      "geneval_strict",
      [](const Image& image, const Prompt& prompt) {
        return geneval_score(detect_shapes(image), prompt).strict ? 1.0 : 0.0;
      },
      why_geneval_cannot);
}

}  // namespace parlo
