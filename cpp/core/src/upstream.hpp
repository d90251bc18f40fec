#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"

namespace trtlab::core {

[[noreturn]] inline void throw_out_of_memory(const MemoryResource& who, std::size_t size_bytes,
                                             const std::string& why) {
    throw OutOfMemory(who.name() + ": cannot allocate " + std::to_string(size_bytes) + " bytes: " + why);
}

/// Runs `call`, in which `who` turns to its upstream or to the heap for `size_bytes` at `alignment`: what is refused there
/// is told as a refusal of `who`, with the reason behind it.
template <class Call>
auto on_behalf_of(const MemoryResource& who, std::size_t size_bytes, std::size_t alignment, Call call) {
    try {
        return call();
    } catch (const OutOfMemory& error) {
        throw_out_of_memory(who, size_bytes, error.what());
    } catch (const InvalidArgument& error) {
        throw InvalidArgument(who.name() + ": an alignment of " + std::to_string(alignment) +
                              " bytes was asked for: " + error.what());
    } catch (const std::bad_alloc&) {
        throw_out_of_memory(who, size_bytes, "the heap has no room for the book-keeping");
    }
}

/// Throws InvalidArgument if there is none.
inline std::shared_ptr<MemoryResource> required_upstream(std::shared_ptr<MemoryResource> upstream, const char* who) {
    if (upstream == nullptr) throw InvalidArgument(std::string(who) + ": expected an upstream resource, got none");
    return upstream;
}

/// For what is given back and is not there to be given back: a block of somebody else's, or one that went before.
void log_foreign_block(const MemoryResource& who) noexcept;

/// How many bytes `alignment` may cost where blocks lie at multiples of MemoryResource::kAlignment.
inline std::size_t alignment_room(std::size_t alignment) noexcept {
    return alignment > MemoryResource::kAlignment ? alignment - MemoryResource::kAlignment : 0;
}

/// The first multiple of `alignment` from `address` on. Wraps around at the end of the address space.
inline std::uintptr_t aligned_up(std::uintptr_t address, std::size_t alignment) noexcept {
    return (address + alignment - 1) & ~(std::uintptr_t{alignment} - 1);
}

}  // namespace trtlab::core
