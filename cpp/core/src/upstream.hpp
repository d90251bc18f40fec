#pragma once

#include <memory>
#include <string>

#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// `upstream`, which there must be.
inline std::shared_ptr<MemoryResource> require_upstream(std::shared_ptr<MemoryResource> upstream, const char* what) {
    if (upstream == nullptr) throw InvalidArgument(std::string(what) + ": expected an upstream resource, got none");
    return upstream;
}

}  // namespace trtlab::core
