#include "trtlab/core/window_memory.hpp"

#include <cstring>

#include "trtlab/core/error.hpp"

namespace trtlab::core {

WindowMemory::~WindowMemory() = default;

HostWindowMemory::HostWindowMemory(Buffer ring) : WindowMemory(std::move(ring)) {
    if (!ring_.device().host_accessible()) {
        throw InvalidArgument("a ring of windows in memory of " + ring_.device().to_string() +
                              ": the host cannot write it; make the stream with trtlab::cuda, which copies there");
    }
}

HostWindowMemory::~HostWindowMemory() = default;

void HostWindowMemory::write(void* to, const void* from, std::size_t size_bytes) { std::memcpy(to, from, size_bytes); }

void HostWindowMemory::replicate(void* to, const void* from, std::size_t size_bytes) {
    std::memcpy(to, from, size_bytes);
}

}  // namespace trtlab::core
