#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "device_resources.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {

/// Device memory for an output whose size only the computation tells; kept from request to request.
class DynamicOutput final : public OutputMemory {
public:
    /// `held` counts the bytes of all that exist, for reports.
    DynamicOutput(std::shared_ptr<core::MemoryResource> memory, std::atomic<std::size_t>& held)
        : memory_(std::move(memory)), held_(held) {}

    void* reserve(std::string_view, std::size_t size_bytes, std::size_t, cuda::StreamHandle) noexcept override {
        try {
            grow(block_, size_bytes, memory_, held_);
            return block_.data();
        } catch (...) {
            core::log_current_exception("memory for an output whose size the computation decides");
            return nullptr;  // TensorRT fails the enqueue, which then throws
        }
    }
    void shape_known(std::string_view, const core::Shape& shape) noexcept override {
        shape_ = shape;
        known_ = true;
    }

    /// Before a request: what the last one left is not an answer.
    void forget() noexcept { known_ = false; }
    bool known() const noexcept { return known_; }
    const core::Shape& shape() const noexcept { return shape_; }
    void* data() const noexcept { return block_.data(); }

private:
    const std::shared_ptr<core::MemoryResource> memory_;
    std::atomic<std::size_t>& held_;
    core::Buffer block_;
    core::Shape shape_;
    bool known_ = false;
};

/// Those of one model that belong to one IO buffer: for the request that holds it.
struct DynamicOutputs {
    std::vector<std::unique_ptr<DynamicOutput>> outputs;  ///< of all outputs, in their order
    std::vector<OutputMemory*> memory;                    ///< of all tensors; null where the address is known before
};

}  // namespace trtlab::tensorrt
