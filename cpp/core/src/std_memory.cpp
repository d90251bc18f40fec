#include "trtlab/core/std_memory.hpp"

namespace trtlab::core {

std::shared_ptr<MemoryResource> require_host(std::shared_ptr<MemoryResource> resource) {
    if (resource == nullptr) throw InvalidArgument("memory for objects: expected a resource, got none");
    if (!resource->device().host_accessible()) {
        throw InvalidArgument(resource->name() + ": objects cannot live where the CPU cannot read; take a Buffer");
    }
    return resource;
}

PmrResource::PmrResource(std::shared_ptr<MemoryResource> resource) : resource_(require_host(std::move(resource))) {}

PmrResource::~PmrResource() = default;

void* PmrResource::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    return resource_->allocate(size_bytes, alignment);
}

void PmrResource::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) {
    resource_->deallocate(block, size_bytes, alignment);
}

bool PmrResource::do_is_equal(const std::pmr::memory_resource& other) const noexcept {
    const auto* const same = dynamic_cast<const PmrResource*>(&other);
    return same != nullptr && same->resource_ == resource_;
}

PmrMemory::PmrMemory(std::pmr::memory_resource* resource, std::string name)
    : resource_(resource), name_(std::move(name)) {
    if (resource_ == nullptr) throw InvalidArgument(name_ + ": expected a std::pmr::memory_resource, got none");
}

PmrMemory::~PmrMemory() = default;

void* PmrMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    try {
        return resource_->allocate(size_bytes, alignment);
    } catch (const std::bad_alloc&) {
        throw OutOfMemory(name_ + ": cannot allocate " + std::to_string(size_bytes) + " bytes");
    }
}

void PmrMemory::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    try {
        resource_->deallocate(block, size_bytes, alignment);
    } catch (...) {
        log_current_exception(name_ + ", giving back");
    }
}

}  // namespace trtlab::core
