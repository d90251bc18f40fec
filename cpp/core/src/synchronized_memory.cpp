#include "trtlab/core/synchronized_memory.hpp"

#include "upstream.hpp"

namespace trtlab::core {

SynchronizedMemory::SynchronizedMemory(std::shared_ptr<MemoryResource> upstream)
    : upstream_(required_upstream(std::move(upstream), "synchronized memory")) {}

SynchronizedMemory::~SynchronizedMemory() = default;

void* SynchronizedMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    if (fork_.forked()) throw Closed(name() + " stayed in the parent process: make one after the fork");
    return on_behalf_of(*this, size_bytes, alignment, [&] {
        const std::lock_guard lock(mutex_);
        return upstream_->allocate(size_bytes, alignment);
    });
}

void SynchronizedMemory::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    if (fork_.forked()) return;
    const std::lock_guard lock(mutex_);
    upstream_->deallocate(block, size_bytes, alignment);
}

}  // namespace trtlab::core
