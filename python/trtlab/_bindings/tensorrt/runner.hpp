#pragma once

#include <nanobind/nanobind.h>

namespace trtlab::tensorrt {

/// How a plan is loaded into a manager.
void bind_runner(nanobind::module_& module);

}  // namespace trtlab::tensorrt
