#pragma once

#include <memory>

namespace trtlab::cuda {

/// A range on a profiler's timeline (NVTX, domain "trtlab"), for the length of a scope. Without a profiler attached it
/// costs a load and a branch.
class [[gnu::visibility("default")]] NvtxRange {
public:
    /// `name` must stay for the process's life, such as a literal.
    explicit NvtxRange(const char* name) noexcept;
    ~NvtxRange();
    NvtxRange(const NvtxRange&) = delete;
    NvtxRange& operator=(const NvtxRange&) = delete;

private:
    bool open_;
};

}  // namespace trtlab::cuda
