#pragma once

#include <cstddef>

#include "python.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/ref_counted.hpp"
#include "trtlab/cuda/device.hpp"

namespace trtlab::cuda {

/// A block of memory that Python's buffers and tensors share.
struct Block final : core::RefCounted {
    Block(core::Buffer buffer_, Device device_) : buffer(std::move(buffer_)), device(std::move(device_)) {}
    core::Buffer buffer;
    const Device device;

protected:
    ~Block() override = default;
};

/// Python's Buffer: part of a block.
struct PartOfBlock {
    PartOfBlock(core::Ref<Block> block_, core::BufferView view_) : block(std::move(block_)), view(view_) {}
    PartOfBlock(const PartOfBlock&) = delete;
    PartOfBlock(PartOfBlock&&) = default;
    ~PartOfBlock() {
        // To give back a GPU's memory is to wait for the GPU.
        if (block) {
            const bindings::ReleasedGil unlocked;
            block = nullptr;
        }
    }
    core::Ref<Block> block;
    core::BufferView view;
};

}  // namespace trtlab::cuda
