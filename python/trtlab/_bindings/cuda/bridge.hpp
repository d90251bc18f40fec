#pragma once

#include "python.hpp"

namespace trtlab::cuda {

/// Binds the `DeviceBridge` over CUDA as the class `Bridge`, made from a `Library`. For the module's initialisation.
void bind_bridge(nanobind::module_& module);

}  // namespace trtlab::cuda
