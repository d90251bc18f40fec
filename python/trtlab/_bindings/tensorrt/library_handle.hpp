#pragma once

#include <memory>

#include "trtlab/tensorrt/library.hpp"

namespace trtlab::tensorrt {

/// Python's Library. C++ gets the pointer inside: one that nanobind made would ask for the GIL on whichever thread drops it,
/// and the last to drop it may be a thread that waits for the GPU. In a namespace, since modules know each other's types.
struct LibraryHandle {
    std::shared_ptr<const Library> library;
};

}  // namespace trtlab::tensorrt
