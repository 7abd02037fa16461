// The fused forward pass of bf16 with scores and weighted sums on tiles. Everything else is that of floats.
#pragma once

#include "../fused/forward.h"
#include "scores.h"
#include "sums.h"

namespace natten_core::cpu::NATTEN_ISA {

struct TileForward {
  Dots keys;
  Sums values;
  float *columns, *scores, *bias, *zeros;
  RowGroup group{};
  Tiles* tiles = nullptr;

  TileForward(const Sizes<float>& s, Arena<float>& arena)
      : keys(s, s.p.head_dim, arena), values(s, s.p.head_dim_v, arena) {
    columns = arena.take(Dots::columns(s));
    scores = arena.take(s.block_scores());
    bias = arena.take(s.plan.heads_per_chunk * s.bias_head);
    zeros = arena.take(s.zeros());
    group.keys = arena.take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }

  template <class S>
  NATTEN_MEMBER void pack(const ForwardArgs& args, const Sizes<float>& s, const RingRow& row) const {
    keys.pack(s, row, args.key);
    values.pack(s, row, args.value);
  }
  template <class S>
  NATTEN_MEMBER void pack_additional(const ForwardArgs& args, const Sizes<float>& s, const Item& item) const {
    keys.pack_additional(s, item, args.additional_key);
    values.pack_additional(s, item, args.additional_value);
  }
};

template <class E, class S>
static void forward_block(const ForwardArgs& args, const Sizes<float>& s, const Map& map, const TileForward& scratch,
                          const Work& w, Ahead& ahead) {
  const RowGroup& group = w.group;
  scratch.keys.pack_queries(s, map, w, args.query);
  ahead.cut(group.key_rows);
  const float* bias = args.rpb ? scratch.bias + w.head * s.bias_head + w.lane_class * s.bias_class : nullptr;
  scratch.keys.scores(*scratch.tiles, s, w, s.unit(), bias, scratch.zeros, kNoScore<float>, scratch.columns,
                      scratch.scores, ahead);
  scratch.values.clear_weights();
  for (int r0 = 0; r0 < group.rows; r0 += kSumRows) {
    const int end = min_of(r0 + kSumRows, group.rows);
    const auto row_scores = [&](int r) { return scratch.scores + static_cast<int64_t>(r) * s.window * kTileLanes; };
    Vec<float> factor[kSumRows];
    for (int r = r0; r < end; ++r) {
      Vec<float> lse;
      softmax(s, w.window(r) + s.additional, row_scores(r), factor[r - r0], lse);
      store_lse<float>(args, s.plan, map, w, r, lse);
      scratch.values.take(s, w, r, row_scores(r));
    }
    scratch.values.multiply(*scratch.tiles, s, w, r0, end - r0);
    for (int r = r0; r < end; ++r)
      scratch.values.write(s, w, r, row_scores(r), args.value, factor[r - r0],
                           map.row<BFloat16>(args.output, group.z, group.y + r), args.output.axis[kX]);
  }
}

int64_t tile_forward_scratch_bytes(const Problem& problem, const Plan& plan) {
  Arena<float> arena{nullptr};
  TileForward(Sizes<float>(problem, plan), arena);
  return arena.used * static_cast<int64_t>(sizeof(float));
}

void tile_forward(const ForwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory) {
  const Sizes<float> s(args.problem, plan);
  Arena<float> arena{static_cast<float*>(memory)};
  TileForward scratch(s, arena);
  Tiles tiles(tile_shapes(tail_rows(args.problem)));
  scratch.tiles = &tiles;
  forward_chunk<float, BFloat16>(args, s, chunk, scratch);
}

}  // namespace natten_core::cpu::NATTEN_ISA
