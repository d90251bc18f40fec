#pragma once

#include <atomic>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>

#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// A cap on what is taken of another resource. What would exceed it throws OutOfMemory with the cap, what is in use, and
/// what was asked; nobody waits.
/// Owns: a share in the upstream.
/// Threads: as the upstream's; the caps hold whatever the threads do, at every moment.
class [[gnu::visibility("default")]] LimitedMemory final : public MemoryResource {
public:
    static constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();
    struct Limits {
        std::size_t size_bytes =
            kUnlimited;  ///< of all live blocks, as they were asked for; an empty block is one byte
        std::size_t blocks = kUnlimited;
    };

    /// Throws InvalidArgument without an upstream.
    LimitedMemory(std::shared_ptr<MemoryResource> upstream, const Limits& limits);
    ~LimitedMemory() override;

    Device device() const noexcept override { return upstream_->device(); }
    std::string name() const override { return upstream_->name(); }
    const Limits& limits() const noexcept { return limits_; }
    /// What is taken now, in the limits' terms.
    Limits in_use() const noexcept;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    const std::shared_ptr<MemoryResource> upstream_;
    const Limits limits_;
    std::atomic<std::size_t> size_bytes_{0};
    std::atomic<std::size_t> blocks_{0};
};

}  // namespace trtlab::core
