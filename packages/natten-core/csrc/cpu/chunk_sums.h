// What the chunks of a backward pass share: gradients of the bias and of additional keys and values. Each chunk has
// sums of its own; they are added up over the chunks in order, in double precision.
#pragma once

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "plan.h"

namespace natten_core::cpu {

// What is null is no part of the pass.
struct SharedGradients {
  void* bias;  // [heads, bias rows, bias columns]
  const Tensor* key;
  const Tensor* value;
};

class SumsOfChunks {
 public:
  SumsOfChunks(const Problem& problem, const Plan& plan, const SharedGradients& shared)
      : p_(problem), plan_(plan), shared_(shared), bias_(shared.bias ? 1 : 0) {
    for (int axis = 0; axis < kRank; ++axis) bias_ *= 2 * problem.kernel[axis] - 1;
    place_ = problem.additional * ((shared.key ? problem.head_dim : 0) + (shared.value ? problem.head_dim_v : 0));
    bias_bytes_ = ceil_div(plan.heads_per_chunk * bias_ * (problem.is_double() ? 8 : 4), 64) * 64;
    bytes_ = bias_bytes_ + plan.places_per_chunk * place_ * 8;
    memory_ = allocate(bytes_ * static_cast<int64_t>(plan.chunks.size()));
    for (size_t i = 0; place_ > 0 && i < plan.chunks.size(); ++i)
      std::fill_n(of(static_cast<int64_t>(i)).additional, plan.places_per_chunk * place_, 0.0);
  }

  ChunkSums of(int64_t chunk) const {
    char* const mine = memory_.get() + chunk * bytes_;
    return {shared_.bias ? mine : nullptr, place_ > 0 ? reinterpret_cast<double*>(mine + bias_bytes_) : nullptr};
  }

  void add_up() const {
    if (p_.is_double())
      add_up_as<double>();
    else
      add_up_as<float>();
  }

 private:
  template <class T>
  void add_up_as() const {
    if (shared_.bias) add_up_bias<T>();
    if (place_ > 0) add_up_additional<T>();
  }

  template <class T>
  void add_up_bias() const {
    std::vector<double> total(static_cast<size_t>(bias_ * p_.heads), 0.0);
    for (size_t i = 0; i < plan_.chunks.size(); ++i) {
      const Chunk& chunk = plan_.chunks[i];
      const T* sums = static_cast<const T*>(of(static_cast<int64_t>(i)).bias);
      double* head = total.data() + chunk.head0 * bias_;
      for (int64_t j = 0; j < chunk.heads * bias_; ++j) head[j] += sums[j];
    }
    std::transform(total.begin(), total.end(), static_cast<T*>(shared_.bias),
                   [](double x) { return static_cast<T>(x); });
  }

  template <class T>
  void add_up_additional() const {
    std::vector<double> total(static_cast<size_t>(p_.batch * p_.heads_kv * place_), 0.0);
    const int64_t group = p_.heads / p_.heads_kv;
    for (size_t i = 0; i < plan_.chunks.size(); ++i) {
      const Chunk& chunk = plan_.chunks[i];
      const int64_t heads = chunk.heads / group, batch0 = plan_.items[static_cast<size_t>(chunk.item0)].batch;
      const int64_t batches = plan_.items[static_cast<size_t>(chunk.item1 - 1)].batch - batch0 + 1;
      const double* sums = of(static_cast<int64_t>(i)).additional;
      for (int64_t batch = batch0; batch < batch0 + batches; ++batch, sums += heads * place_) {
        double* to = total.data() + (batch * p_.heads_kv + chunk.head0 / group) * place_;
        for (int64_t j = 0; j < heads * place_; ++j) to[j] += sums[j];
      }
    }
    const double* from = total.data();
    for (int64_t batch = 0; batch < p_.batch; ++batch)
      for (int64_t head = 0; head < p_.heads_kv; ++head) {
        from = write<T>(shared_.key, batch, head, p_.head_dim, from);
        from = write<T>(shared_.value, batch, head, p_.head_dim_v, from);
      }
  }

  // Writes the gradient of one batch entry and head; returns what follows it.
  template <class T>
  const double* write(const Tensor* t, int64_t batch, int64_t head, int64_t dim, const double* from) const {
    for (int64_t i = 0; t && i < p_.additional; ++i, from += dim) {
      T* const token = static_cast<T*>(t->data) + batch * t->batch + head * t->head + i * t->axis[kX];
      for (int64_t d = 0; d < dim; ++d) token[d] = static_cast<T>(from[d]);
    }
    return from;
  }

  const Problem& p_;
  const Plan& plan_;
  const SharedGradients shared_;
  int64_t bias_;   // elements of one head's
  int64_t place_;  // of one batch entry's and head's additional keys and values
  int64_t bias_bytes_, bytes_;  // of a chunk
  Memory memory_;
};

}  // namespace natten_core::cpu
