#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// Finds misuse of another resource's blocks. For tests and for the hunt: it writes every byte, and takes a lock.
///
/// Fresh memory is filled with 0xCD, memory that is given back with 0xDD, and each block lies between two fences of 0xFB
/// that are looked at when it is given back. What is given back twice, was never given out, or has another size or alignment
/// than it had is found by book-keeping out of band; such a block does not reach the upstream in a way that harms it. Over
/// memory that the CPU can't read there are no fills and no fences, and all the rest.
///
/// Owns: a share in the upstream, and a record for every live block.
/// Threads: as the upstream's.
class [[gnu::visibility("default")]] DebugMemory final : public MemoryResource {
public:
    static constexpr unsigned char kFresh = 0xCD, kFreed = 0xDD, kFence = 0xFB;

    enum class Misuse {
        double_free,
        foreign_block,    ///< it is not this resource's
        wrong_size,       ///< it was given back as it was taken
        wrong_alignment,  ///< as well
        damaged_fence,    ///< somebody wrote before its beginning or after its end
        leak,  ///< live blocks as the resource was destroyed: they are left alone, somebody may still use them
    };
    struct Report {
        Misuse misuse;
        std::string message;
    };
    /// Called on the thread that gives back, never under a lock. What it throws is logged.
    using Handler = std::function<void(const Report&)>;

    /// Without a handler, reports are logged. Throws InvalidArgument without an upstream.
    explicit DebugMemory(std::shared_ptr<MemoryResource> upstream, Handler handler = nullptr);
    /// Reports what was not given back.
    ~DebugMemory() override;

    Device device() const noexcept override { return upstream_->device(); }
    std::string name() const override { return upstream_->name(); }

    std::size_t live_blocks() const;
    /// Looks at the fences of all live blocks now, and reports damaged ones. Returns how many those are.
    std::size_t check() const;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    struct Record {
        std::size_t size_bytes = 0;
        std::size_t alignment = 0;
        std::size_t number = 0;  ///< the how-manieth allocation it was
    };
    std::string damage(const void* block, const Record& record) const;
    void report(Misuse misuse, const std::string& message) const noexcept;
    void report_unknown(const void* block, std::size_t size_bytes) const noexcept;

    const std::shared_ptr<MemoryResource> upstream_;
    const bool fenced_;
    const Handler handler_;
    const ForkGuard fork_;
    mutable std::mutex mutex_;
    std::unordered_map<const void*, Record> live_;
    std::size_t allocations_ = 0;
    /// The last blocks that were given back, to tell a double free from a foreign block.
    std::array<const void*, 256> freed_{};
    std::size_t frees_ = 0;
};

}  // namespace trtlab::core
