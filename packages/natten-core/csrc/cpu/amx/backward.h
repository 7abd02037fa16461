// The fused backward pass of bf16 with all its products on tiles.
#pragma once

#include "../fused/backward.h"
#include "scores.h"
#include "spread.h"
#include "sums.h"

namespace natten_core::cpu::NATTEN_ISA {

struct TileBackward {
  Dots key_dots, value_dots;
  Sums key_sums;
  Spreads key_spreads, value_spreads;
  float *grad_key, *grad_value;         // rings of gradients
  float *columns, *weights, *grad_scores, *bias, *grad_bias, *zeros;
  Additional<float> keys, values;  // their gradients alone
  RowGroup group{};
  Tiles* tiles = nullptr;

  TileBackward(const Sizes<float>& s, Arena<float>& arena)
      : key_dots(s, s.p.head_dim, arena),
        value_dots(s, s.p.head_dim_v, arena),
        key_sums(s, s.p.head_dim, arena),
        key_spreads(s, s.p.head_dim, arena),
        value_spreads(s, s.p.head_dim_v, arena) {
    const int64_t ring = s.plan.ring_rows, table = s.plan.heads_per_chunk * s.bias_head;
    grad_key = arena.take(ring * s.key.row + Spreads::margin(s.key));
    grad_value = arena.take(ring * s.value.row + Spreads::margin(s.value));
    columns = arena.take(Dots::columns(s));
    weights = arena.take(s.block_scores()), grad_scores = arena.take(s.block_scores());
    bias = arena.take(table), grad_bias = arena.take(table);
    zeros = arena.take(s.zeros());
    keys.take_gradients(s, s.key, arena), arena.take(Spreads::margin(s.key));
    values.take_gradients(s, s.value, arena), arena.take(Spreads::margin(s.value));
    group.keys = arena.take_as<KeyRow>(RowGroup::most_keys(s.p));
    group.windows = arena.take_as<int64_t>(static_cast<int64_t>(kScoreRows) * s.key_rows);
  }

  template <class S>
  NATTEN_MEMBER void pack(const ForwardArgs& args, const Sizes<float>& s, const RingRow& row) const {
    key_dots.pack(s, row, args.key);
    value_dots.pack(s, row, args.value);
    key_sums.pack(s, row, args.key);
  }
  template <class S>
  NATTEN_MEMBER void pack_additional(const ForwardArgs& args, const Sizes<float>& s, const Item& item) const {
    key_dots.pack_additional(s, item, args.additional_key);
    value_dots.pack_additional(s, item, args.additional_value);
    key_sums.pack_additional(s, item, args.additional_key);
    keys.clear(s, s.key), values.clear(s, s.value);
  }
};

template <class E, class S>
static void backward_block(const BackwardArgs& args, const Sizes<float>& s, const Map& map, const TileBackward& scratch,
                           const Work& w, Ahead& ahead) {
  const RowGroup& group = w.group;
  const int64_t block_window = static_cast<int64_t>(s.window) * kTileLanes;
  Tiles& tiles = *scratch.tiles;
  scratch.key_dots.pack_queries(s, map, w, args.forward.query);
  scratch.value_dots.pack_queries(s, map, w, args.grad_output);
  const uint32_t unfit_query = scratch.key_spreads.pack(s, map, w, args.forward.query);
  const uint32_t unfit_grad = scratch.value_spreads.pack(s, map, w, args.grad_output);

  ahead.cut(2 * group.key_rows);
  const int64_t table = w.head * s.bias_head + w.lane_class * s.bias_class;
  const float* bias = args.forward.rpb ? scratch.bias + table : nullptr;
  float* grad_bias = args.grad_rpb ? scratch.grad_bias + table : nullptr;
  scratch.key_dots.scores(tiles, s, w, s.unit(), bias, scratch.zeros, kNoScore<float>, scratch.columns, scratch.weights,
                          ahead);
  scratch.value_dots.scores(tiles, s, w, 1, nullptr, scratch.zeros, 0, scratch.columns, scratch.grad_scores, ahead);

  scratch.key_sums.clear_weights();
  const Vec<float> scale = broadcast<float>(static_cast<float>(s.p.scale));
  for (int r0 = 0; r0 < group.rows; r0 += kSumRows) {
    const int end = min_of(r0 + kSumRows, group.rows);
    for (int r = r0; r < end; ++r) {
      float* grad_scores = scratch.grad_scores + r * block_window;
      const Vec<float> grad_lse = load_grad_lse<float>(args, s.plan, map, w, r);
      differentiate(s, w, r, grad_lse, scratch.weights + r * block_window, grad_scores, grad_bias);
      scratch.key_sums.take(s, w, r, grad_scores);
    }
    scratch.key_sums.multiply(tiles, s, w, r0, end - r0);
    for (int r = r0; r < end; ++r)
      scratch.key_sums.write(s, w, r, scratch.grad_scores + r * block_window, args.forward.key, scale,
                             map.row<BFloat16>(args.grad_query, group.z, group.y + r), args.grad_query.axis[kX]);
  }
  const auto spread = [&](const Spreads& spreads, const TokenSizes<float>& sizes, const float* weights, float* grads,
                          float* gathered, uint32_t unfit, const Tensor& tokens) {
    spreads.spread(tiles, s, w, weights, scratch.zeros, sizes.row, grads, gathered);
    if (unfit) spreads.add_unfit(unfit, s, map, w, tokens, weights, sizes.row, grads, gathered);
  };
  spread(scratch.value_spreads, s.value, scratch.weights, scratch.grad_value, scratch.values.gathered, unfit_grad,
         args.grad_output);
  spread(scratch.key_spreads, s.key, scratch.grad_scores, scratch.grad_key, scratch.keys.gathered, unfit_query,
         args.forward.query);
}

int64_t tile_backward_scratch_bytes(const Problem& problem, const Plan& plan) {
  Arena<float> arena{nullptr};
  TileBackward(Sizes<float>(problem, plan), arena);
  return arena.used * static_cast<int64_t>(sizeof(float));
}

void tile_backward(const BackwardArgs& args, const Plan& plan, const Chunk& chunk, void* memory,
                   const ChunkSums& sums) {
  const Sizes<float> s(args.forward.problem, plan);
  Arena<float> arena{static_cast<float*>(memory)};
  TileBackward scratch(s, arena);
  Tiles tiles(tile_shapes(tail_rows(args.forward.problem)));
  scratch.tiles = &tiles;
  backward_chunk<float, BFloat16>(args, s, chunk, scratch, sums);
}

}  // namespace natten_core::cpu::NATTEN_ISA
