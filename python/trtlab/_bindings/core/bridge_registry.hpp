#pragma once

#include "device_bridge.hpp"

namespace trtlab::bindings {

/// The way to CUDA, made when it is first needed: who holds GPU memory has CUDA. Throws EngineError (this build has no cuda
/// layer, or its library cannot be opened), Closed in a forked child of the process that made it. Needs the GIL.
DeviceBridge& device_bridge();

/// Gives back what the bridge keeps for use again, if there is one. Needs the GIL.
void free_idle_bridge() noexcept;

void bind_device_bridge(nanobind::module_& module);

}  // namespace trtlab::bindings
