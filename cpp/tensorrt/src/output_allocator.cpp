#include "output_allocator.hpp"

#include <algorithm>

#include "engine_state.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {

OutputMemory::~OutputMemory() = default;

void* OutputAllocator::reserve(std::uint64_t size, std::uint64_t alignment, cuda::StreamHandle stream) noexcept {
    if (memory_ == nullptr) return nullptr;
    const std::size_t wanted = std::max<std::size_t>(alignment, core::MemoryResource::kAlignment);
    void* const address = memory_->reserve(tensor_, std::max<std::size_t>(size, 1), wanted, stream);
    if (address == nullptr) {
        try {
            Call::could_not_allocate(
                log_, "output '" + tensor_ + "' needs " + std::to_string(size) + " bytes, and there were none for it",
                true);
        } catch (...) {
            core::log_current_exception("memory for output '...' of an engine");
        }
    }
    return address;
}

void OutputAllocator::shape_known(const abi::Dims& dims) noexcept {
    if (memory_ == nullptr) return;
    if (dims.nbDims < 0 || dims.nbDims > abi::Dims::kMax) {
        log_.tell(Severity::error, "an output has a rank that there is not");
        return;
    }
    memory_->shape_known(tensor_, to_shape(dims));
}

void Profiler::add(const char* layer, float milliseconds) noexcept {
    try {
        layers_.push_back({layer != nullptr ? layer : "", milliseconds});
    } catch (...) {
        core::log_current_exception("TensorRT's profiler");
    }
}

}  // namespace trtlab::tensorrt
