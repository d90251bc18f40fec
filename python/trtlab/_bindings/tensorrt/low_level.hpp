#pragma once

#include <nanobind/nanobind.h>

namespace trtlab::tensorrt {

/// Library, Runtime, Engine and ExecutionContext.
void bind_low_level(nanobind::module_& module);

}  // namespace trtlab::tensorrt
