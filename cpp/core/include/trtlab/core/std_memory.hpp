#pragma once

#include <cstddef>
#include <memory>
#include <memory_resource>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// `resource`, if objects can live in its memory. Throws InvalidArgument: none, or memory that the CPU can't read.
std::shared_ptr<MemoryResource> require_host(std::shared_ptr<MemoryResource> resource);

/// A `MemoryResource` of the host for whatever takes std::pmr's. Throws our OutOfMemory, where std::pmr's own throw
/// std::bad_alloc.
/// Owns: a share in the resource. It must outlive what uses it, as any std::pmr::memory_resource.
class [[gnu::visibility("default")]] PmrResource final : public std::pmr::memory_resource {
public:
    /// Throws as `require_host`.
    explicit PmrResource(std::shared_ptr<MemoryResource> resource);
    ~PmrResource() override;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) override;
    bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override;

private:
    const std::shared_ptr<MemoryResource> resource_;
};

/// A std::pmr::memory_resource as one of ours.
/// Threads: as the other's.
class [[gnu::visibility("default")]] PmrMemory final : public MemoryResource {
public:
    /// `resource` must outlive this. Throws InvalidArgument if it is null.
    explicit PmrMemory(std::pmr::memory_resource* resource, std::string name = "std::pmr memory");
    ~PmrMemory() override;
    Device device() const noexcept override { return {}; }
    std::string name() const override { return name_; }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    std::pmr::memory_resource* const resource_;
    const std::string name_;
};

/// For containers of the standard library: `std::vector<float, Allocator<float>> v(Allocator<float>(resource))`.
///
/// A container that is moved or swapped takes its resource along, so that both cost no copies; one that is assigned to
/// keeps the resource that it has.
/// Owns: a share in the resource.
template <class T>
class Allocator {
public:
    using value_type = T;
    using propagate_on_container_move_assignment = std::true_type;
    using propagate_on_container_swap = std::true_type;
    using propagate_on_container_copy_assignment = std::false_type;
    using is_always_equal = std::false_type;

    /// Throws as `require_host`.
    explicit Allocator(std::shared_ptr<MemoryResource> resource) : resource_(require_host(std::move(resource))) {}
    // No move: what is moved from has to go on allocating, too.
    Allocator(const Allocator&) noexcept = default;
    Allocator& operator=(const Allocator&) noexcept = default;
    template <class U>
    Allocator(const Allocator<U>& other) noexcept : resource_(other.resource()) {}

    /// Throws as `MemoryResource::allocate`, and std::bad_array_new_length if there is no such number of bytes.
    [[nodiscard]] T* allocate(std::size_t count) {
        if (count > static_cast<std::size_t>(-1) / sizeof(T)) throw std::bad_array_new_length();
        return static_cast<T*>(resource_->allocate(count * sizeof(T), alignof(T)));
    }
    void deallocate(T* objects, std::size_t count) noexcept {
        resource_->deallocate(objects, count * sizeof(T), alignof(T));
    }

    const std::shared_ptr<MemoryResource>& resource() const noexcept { return resource_; }
    template <class U>
    friend bool operator==(const Allocator& a, const Allocator<U>& b) noexcept {
        return a.resource() == b.resource();
    }

private:
    std::shared_ptr<MemoryResource> resource_;
};

/// Destroys an object and gives its block back to where `allocate_unique` took it.
template <class T>
struct ResourceDelete {
    std::shared_ptr<MemoryResource> resource;
    void operator()(T* object) const noexcept {
        object->~T();
        resource->deallocate(object, sizeof(T), alignof(T));
    }
};

template <class T>
using ResourcePtr = std::unique_ptr<T, ResourceDelete<T>>;

/// A T in a block of `resource`, aligned as T wants it. If the constructor throws, the block goes back. Throws as
/// `require_host`, `MemoryResource::allocate`, and T's constructor.
template <class T, class... Args>
ResourcePtr<T> allocate_unique(std::shared_ptr<MemoryResource> resource, Args&&... args) {
    static_assert(!std::is_array_v<T>, "for an array take a Buffer, or a vector with an Allocator");
    resource = require_host(std::move(resource));
    void* const block = resource->allocate(sizeof(T), alignof(T));
    try {
        T* const object = ::new (block) T(std::forward<Args>(args)...);
        return ResourcePtr<T>(object, ResourceDelete<T>{std::move(resource)});
    } catch (...) {
        resource->deallocate(block, sizeof(T), alignof(T));
        throw;
    }
}

}  // namespace trtlab::core
