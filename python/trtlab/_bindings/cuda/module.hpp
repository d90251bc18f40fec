#pragma once

#include "python.hpp"

namespace trtlab::cuda {

// For the module's initialisation, in this order.
void bind_device(nanobind::module_& module);
void bind_buffer(nanobind::module_& module);
void bind_stream(nanobind::module_& module);

}  // namespace trtlab::cuda
