#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <vector>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/model_stats.hpp"

namespace trtlab::bindings {

inline double seconds(std::chrono::nanoseconds time) noexcept { return static_cast<double>(time.count()) * 1e-9; }

/// Counts by name, and times as seconds with the suffix "_s".
nanobind::dict to_dict(const core::ModelStats& stats);

/// A list of `trtlab.MemoryUse`.
nanobind::list to_list(const std::vector<core::MemoryUse>& uses);

}  // namespace trtlab::bindings
