#include "plan.h"

#include <cstddef>

#include "natten_core/neighborhood.h"

namespace natten_core::cpu {
namespace {

// Enough independent work for many cores, from the problem alone.
constexpr int64_t kWantedItems = 64;
constexpr int64_t kWantedChunks = 128;
constexpr int64_t kMinBandRows = 8;
constexpr int64_t kMinBandColumns = 64;
constexpr int64_t kTileColumns = 64;

struct Band {
  int64_t begin, end, add_below, add_from;
};

// Bands of whole steps, so long that the keys of every other one are disjoint.
std::vector<Band> cut_bands(const Problem& p, Axis axis, int64_t members, int64_t wanted, bool exclusive) {
  const int64_t kernel = p.kernel[axis], stride = p.stride[axis];
  const int64_t least = max_of(axis == kX ? kMinBandColumns : kMinBandRows, 2 * (kernel + stride));
  const int64_t count = max_of(1, min_of(wanted, members / least));
  std::vector<Band> bands;
  for (int64_t i = 0; i < count; ++i)
    bands.push_back({members * i / count / stride * stride,
                     i + 1 == count ? members : members * (i + 1) / count / stride * stride, INT32_MIN, INT32_MAX});
  for (int64_t i = 1; exclusive && i < count; i += 2) {
    bands[i].add_below = window_end(bands[i - 1].end - 1, members, kernel, stride, p.causal[axis]);
    if (i + 1 < count) bands[i].add_from = window_begin(bands[i + 1].begin, members, kernel, stride, p.causal[axis]);
  }
  return bands;
}

// The bands of one map; of one phase only unless it is negative.
void add_items(const Problem& p, GeneralPlan& plan, GeneralItem item, int64_t wanted, int phase) {
  for (int axis = 0; axis < kRank; ++axis) {
    item.begin[axis] = 0;
    item.end[axis] = static_cast<int32_t>(group_length(p.extent[axis], p.dilation[axis], item.group[axis]));
  }
  const auto bands = cut_bands(p, plan.band_axis, item.end[plan.band_axis], wanted, phase >= 0);
  for (size_t i = 0; i < bands.size(); ++i) {
    if (phase >= 0 && i % 2 != static_cast<size_t>(phase)) continue;
    item.begin[plan.band_axis] = static_cast<int32_t>(bands[i].begin);
    item.end[plan.band_axis] = static_cast<int32_t>(bands[i].end);
    item.add_below = static_cast<int32_t>(bands[i].add_below);
    item.add_from = static_cast<int32_t>(bands[i].add_from);
    plan.items.push_back(item);
  }
}

void cut_phase(const Problem& p, GeneralPlan& plan, int phase) {
  int64_t groups = 1;
  for (int axis = 0; axis < kRank; ++axis) groups *= min_of(p.dilation[axis], p.extent[axis]);
  const int64_t maps = max_of(1, p.batch * p.heads_kv);
  for (int64_t map = 0; map < p.batch * p.heads_kv; ++map) {
    GeneralItem item{};
    item.batch = static_cast<int32_t>(map / p.heads_kv), item.head = static_cast<int32_t>(map % p.heads_kv);
    const int64_t first = static_cast<int64_t>(plan.items.size());
    for (int64_t group = 0; group < groups; ++group) {
      int64_t rest = group;
      for (int axis = kX; axis >= kZ; --axis) {
        const int64_t count = min_of(p.dilation[axis], p.extent[axis]);
        item.group[axis] = static_cast<int32_t>(rest % count);
        rest /= count;
      }
      add_items(p, plan, item, ceil_div(kWantedItems, maps * groups), phase);
    }
    const int64_t items = static_cast<int64_t>(plan.items.size()) - first;
    const int64_t chunks = min_of(items, ceil_div(kWantedChunks, maps));
    for (int64_t i = 0; i < chunks; ++i)
      plan.chunks.push_back(
          {static_cast<int32_t>(first + items * i / chunks), static_cast<int32_t>(first + items * (i + 1) / chunks)});
  }
}

}  // namespace

GeneralPlan make_general_plan(const Problem& p, bool exclusive) {
  GeneralPlan plan;
  plan.band_axis = p.extent[kZ] > 1 ? kZ : p.extent[kY] > 1 ? kY : kX;
  // A short tile packs most keys twice; several rows share what is packed, so that there it matters less.
  const int64_t tile = max_of(kTileColumns, plan.band_axis == kX ? 2 * p.kernel[kX] : p.kernel[kX]);
  plan.tile = ceil_div(tile, p.stride[kX]) * p.stride[kX];
  plan.max_columns = min_of(group_length(p.extent[kX], p.dilation[kX], 0), plan.tile + p.kernel[kX] + p.stride[kX]);
  const int64_t ys = group_length(p.extent[kY], p.dilation[kY], 0);
  plan.ring_rows = p.extent[kZ] > 1 ? p.kernel[kZ] * ys : p.kernel[kY];
  cut_phase(p, plan, exclusive ? 0 : -1);
  plan.phase1 = static_cast<int64_t>(plan.chunks.size());
  if (exclusive) cut_phase(p, plan, 1);
  return plan;
}

}  // namespace natten_core::cpu
