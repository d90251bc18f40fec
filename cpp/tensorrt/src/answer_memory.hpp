#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

#include "device_resources.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/recycler.hpp"
#include "trtlab/core/ref_counted.hpp"

namespace trtlab::tensorrt {

/// One block with the outputs of one request. Its tensors own it; it is used again when the last of them is gone.
class AnswerMemory final : public core::Recycled<AnswerMemory> {
public:
    /// `held` counts the bytes of all blocks that exist.
    AnswerMemory(std::shared_ptr<core::MemoryResource> memory, std::shared_ptr<std::atomic<std::size_t>> held)
        : memory_(std::move(memory)), held_(std::move(held)) {}
    ~AnswerMemory() override { held_->fetch_sub(block_.size_bytes(), std::memory_order_relaxed); }  // for reports

    /// At least so many bytes; the content is lost if it grows. Throws OutOfMemory.
    std::byte* reserve(std::size_t size_bytes) {
        grow(block_, size_bytes, memory_, *held_);
        return static_cast<std::byte*>(block_.data());
    }

    std::size_t held_bytes() const noexcept { return block_.size_bytes(); }
    void recycle() noexcept {}

private:
    const std::shared_ptr<core::MemoryResource> memory_;
    const std::shared_ptr<std::atomic<std::size_t>> held_;
    core::Buffer block_;
};

}  // namespace trtlab::tensorrt
