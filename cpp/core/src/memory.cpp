#include "trtlab/core/memory.hpp"

#include <bit>

#include "trtlab/core/error.hpp"

namespace trtlab::core {

MemoryResource::~MemoryResource() = default;

void* MemoryResource::allocate(std::size_t size_bytes, std::size_t alignment) {
    if (!std::has_single_bit(alignment)) {
        throw InvalidArgument(name() + ": an alignment of " + std::to_string(alignment) +
                              " bytes was asked for; expected a power of two");
    }
    return do_allocate(size_bytes == 0 ? 1 : size_bytes, alignment);
}

void MemoryResource::deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    if (block != nullptr) do_deallocate(block, size_bytes == 0 ? 1 : size_bytes, alignment);
}

BufferView BufferView::slice(std::size_t offset_bytes, std::size_t size_bytes_) const {
    if (offset_bytes > size_bytes || size_bytes_ > size_bytes - offset_bytes) {
        throw InvalidArgument("bytes " + std::to_string(offset_bytes) + " and on, " + std::to_string(size_bytes_) +
                              " of them, are not in a buffer of " + std::to_string(size_bytes) + " bytes on " +
                              device.to_string());
    }
    return {static_cast<char*>(data) + offset_bytes, size_bytes_, device};
}

}  // namespace trtlab::core
