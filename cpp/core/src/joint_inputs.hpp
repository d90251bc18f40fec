#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "trtlab/core/batcher.hpp"
#include "trtlab/core/recycler.hpp"
#include "trtlab/core/spec.hpp"
#include "trtlab/core/tensor.hpp"

namespace trtlab::core {

/// One element, of any type.
using Element = std::array<std::byte, 16>;
static_assert(sizeof(std::string_view) <= sizeof(Element));

/// The `PaddedAxis`es of a batcher, looked up in its model's spec.
class Padding {
public:
    struct Axis {
        std::size_t input, axis;
        std::vector<std::int64_t> buckets;
        std::vector<std::pair<std::size_t, std::size_t>> trimmed;  // output, axis
    };

    /// Throws InvalidArgument if they do not fit `spec`.
    Padding(const ModelSpec& spec, const std::vector<PaddedAxis>& padded);

    /// `shape` of the input, filled up, with 0 for the batch axis: what requests that are joined have in common.
    Shape common(std::size_t input, const Shape& shape) const;
    const Element& filling(std::size_t input) const { return fillings_[input]; }

    /// The part of `output` that is the request's own: `rows` from `first_row`, and cut back to the extents of its
    /// `inputs`. A view of the same memory.
    Tensor part(const Tensor& output, std::size_t index, std::size_t first_row, std::size_t rows,
                std::span<const Tensor> inputs) const;

private:
    std::vector<Axis> axes_;
    std::vector<Element> fillings_;  // by input
};

/// Memory in which the inputs of several requests stand one behind the other. Recycled; owned by the batch's tensors.
class JointInputs final : public Recycled<JointInputs> {
public:
    /// `held_bytes`: adds up what all of them hold.
    explicit JointInputs(std::shared_ptr<std::atomic<std::size_t>> held_bytes) : total_(std::move(held_bytes)) {}
    ~JointInputs() override { total_->fetch_sub(held_bytes(), std::memory_order_relaxed); }  // a statistic

    /// The tensor of an input: `common` with `rows` rows, uninitialised. Inputs in order.
    void begin(DType dtype, const Shape& common, std::size_t rows);
    /// Copies a request's rows into the last one, behind those before, filled up with `filling`.
    void append(const Tensor& part, const Element& filling);

    void recycle() noexcept { strings_.clear(); }
    std::size_t held_bytes() const noexcept;

private:
    friend class JointTensors;
    const std::shared_ptr<std::atomic<std::size_t>> total_;
    std::vector<HostBuffer> buffers_;             // by input
    std::vector<Tensor> tensors_;                 // they own this, as long as there are JointTensors
    std::vector<Ref<const RefCounted>> strings_;  // what byte strings lie in, which are not copied
    char* end_ = nullptr;
};

/// The tensors of `JointInputs`, on their way to the model, which takes shares of its own. May be empty.
class JointTensors {
public:
    JointTensors() = default;
    explicit JointTensors(Ref<JointInputs> inputs) noexcept : inputs_(std::move(inputs)) {}
    JointTensors(JointTensors&&) noexcept = default;
    JointTensors& operator=(JointTensors&&) = delete;
    ~JointTensors() {
        if (inputs_) inputs_->tensors_.clear();
    }
    JointInputs& operator*() const noexcept { return *inputs_; }
    explicit operator bool() const noexcept { return static_cast<bool>(inputs_); }
    std::span<const Tensor> view() const noexcept { return inputs_->tensors_; }

private:
    Ref<JointInputs> inputs_;
};

}  // namespace trtlab::core
