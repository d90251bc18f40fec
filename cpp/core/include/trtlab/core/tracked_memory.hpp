#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// Counts what is taken of another resource.
/// Owns: a share in the upstream.
/// Threads: as the upstream's; counting never waits.
class [[gnu::visibility("default")]] TrackedMemory final : public MemoryResource {
public:
    struct Snapshot {
        std::size_t size_bytes = 0;  ///< of live blocks, as they were asked for; an empty block is one byte
        std::size_t peak_bytes = 0;  ///< the most that `size_bytes` has been
        std::uint64_t allocations = 0;
        std::uint64_t deallocations = 0;
        std::uint64_t failures = 0;  ///< allocations that the upstream refused; not among the others
        /// Allocations of 2^i to 2^(i+1) - 1 bytes.
        std::array<std::uint64_t, 64> by_size{};

        std::uint64_t blocks() const noexcept { return allocations - deallocations; }
    };

    /// `owner` and `what` are for `memory_use`. Throws InvalidArgument without an upstream.
    explicit TrackedMemory(std::shared_ptr<MemoryResource> upstream, std::string owner = "tracked memory",
                           std::string what = "blocks");
    ~TrackedMemory() override;

    Device device() const noexcept override { return upstream_->device(); }
    std::string name() const override { return upstream_->name(); }

    /// The counts now. While other threads allocate, they need not be of one moment; at rest they are exact.
    Snapshot snapshot() const noexcept;
    /// Its line in a memory report.
    MemoryUse memory_use() const;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    const std::shared_ptr<MemoryResource> upstream_;
    const std::string owner_;
    const std::string what_;
    std::atomic<std::size_t> size_bytes_{0};
    std::atomic<std::size_t> peak_bytes_{0};
    std::atomic<std::uint64_t> allocations_{0};
    std::atomic<std::uint64_t> deallocations_{0};
    std::atomic<std::uint64_t> failures_{0};
    std::array<std::atomic<std::uint64_t>, 64> by_size_{};
};

}  // namespace trtlab::core
