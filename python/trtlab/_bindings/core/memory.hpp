#pragma once

#include <cstddef>

#include "memory_handle.hpp"

namespace trtlab::bindings {

/// An int as a number of bytes or blocks, or None for `otherwise`. Throws InvalidArgument, naming it `what`.
std::size_t to_size(nanobind::handle value, const char* what, std::size_t least, std::size_t otherwise);

/// Memory of other processes, too: it may be that it must not be written.
struct SharedBlock : core::RefCounted {
    explicit SharedBlock(bool read_only_) : read_only(read_only_) {}
    const bool read_only;
};

// For the module's initialisation, in this order.
void bind_buffer(nanobind::module_& module);
void bind_memory(nanobind::module_& module);
void bind_shared_memory(nanobind::module_& module);

}  // namespace trtlab::bindings
