#include "trtlab/core/memory.hpp"

#include "trtlab/core/error.hpp"
#include "upstream.hpp"

namespace trtlab::core {

MemoryResource::~MemoryResource() = default;

void MemoryResource::throw_no_power_of_two(std::size_t alignment) const {
    throw InvalidArgument(name() + ": an alignment of " + std::to_string(alignment) +
                          " bytes was asked for; expected a power of two");
}

void log_foreign_block(const MemoryResource& who) noexcept {
    try {
        log(who.name() + ": what was given back is no block of it, or was given back before; it is left alone");
    } catch (...) {
        log_current_exception("a block that was given back to the wrong resource");
    }
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
