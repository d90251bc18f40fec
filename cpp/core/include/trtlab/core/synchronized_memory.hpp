#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// A lock around any resource, so that threads may share it.
/// Owns: a share in the upstream.
/// Threads: all members may be called from any thread; the upstream is called by one at a time. In a forked child it is
/// dead, as the lock may be: `allocate` throws Closed, what is given back leaks.
class [[gnu::visibility("default")]] SynchronizedMemory final : public MemoryResource {
public:
    /// Throws InvalidArgument (no upstream).
    explicit SynchronizedMemory(std::shared_ptr<MemoryResource> upstream);
    ~SynchronizedMemory() override;

    Device device() const noexcept override { return upstream_->device(); }
    std::string name() const override { return "synchronized " + upstream_->name(); }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    const std::shared_ptr<MemoryResource> upstream_;
    const ForkGuard fork_;
    std::mutex mutex_;
};

}  // namespace trtlab::core
