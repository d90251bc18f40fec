#pragma once

#include "python.hpp"
#include "trtlab/core/cpu_set.hpp"

namespace trtlab::bindings {

/// CPUs as Python gives them: a CpuSet, text ("0-3,8"), numbers, or None for none. InvalidArgument for anything else.
core::CpuSet to_cpu_set(nanobind::handle cpus);

}  // namespace trtlab::bindings
