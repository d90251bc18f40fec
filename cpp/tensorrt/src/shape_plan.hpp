#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "trtlab/core/tensor.hpp"
#include "trtlab/tensorrt/engine.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {

/// Where the tensors of a request lie in one block of memory: each aligned for the GPU.
struct Layout {
    std::vector<std::size_t> offsets;
    std::size_t size_bytes = 0;
    void add(std::size_t tensor_bytes);
    /// Empty again, with its memory.
    void clear() noexcept {
        offsets.clear();
        size_bytes = 0;
    }
};

/// Everything that follows from the shapes of a request's inputs (and from the values of those that decide about shapes): worked
/// out once, used by every request of these shapes.
struct ShapePlan {
    std::vector<core::Shape> inputs;
    std::vector<std::int64_t> values;  ///< of the shape inputs, one after another
    int profile = 0;
    bool computed_shapes = false;           ///< there are outputs whose shape only the computation tells
    std::vector<core::Shape> outputs;       ///< -1 where only the computation tells
    std::vector<std::size_t> output_bytes;  ///< at the most; 0 where only the computation tells
    Layout output_layout;                   ///< of those on the device whose size is known
    std::size_t activation_bytes = 0;

    /// How long an execution takes from its launch to its end, as the host sees it: a moving average; 0: not known.
    mutable std::atomic<std::int64_t> usual_ns{0};
};

/// The profile that takes the inputs and whose optimum is nearest, or -1.
int choose_profile(const Engine& engine, std::span<const core::Tensor> inputs) noexcept;
/// Throws InvalidArgument naming the tensor, the dimension, got and min/opt/max.
void check_profile(const std::string& model, const Engine& engine, std::span<const core::Tensor> inputs);

/// The values of the inputs that decide about shapes. Host memory; int32 or int64.
void read_shape_values(const Engine& engine, std::span<const core::Tensor> inputs, std::vector<std::int64_t>& values);

/// The plans of one engine. Bounded: beyond `kMost` shapes the oldest is forgotten.
/// Threads: all members may be called from any thread. A plan stays valid for who holds it.
class ShapePlans {
public:
    std::shared_ptr<const ShapePlan> find(std::span<const core::Tensor> inputs,
                                          std::span<const std::int64_t> values) const;
    std::shared_ptr<const ShapePlan> add(std::shared_ptr<const ShapePlan> plan);

private:
    static constexpr std::size_t kMost = 256;
    mutable std::mutex mutex_;
    std::deque<std::shared_ptr<const ShapePlan>> plans_;  // the last used first
};

}  // namespace trtlab::tensorrt
