#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"

namespace trtlab::core::testing {

/// An upstream of addresses that the CPU may neither read nor write, as a GPU's are: whoever keeps book inside of blocks
/// ends the test. Counts what is out, checks what comes back, and runs out of memory when a test wants it to.
/// Threads: all members may be called from any thread.
class UntouchableMemory final : public MemoryResource {
    template <class F>
    auto locked(F f) const {
        const std::lock_guard lock(mutex_);
        return f();
    }

public:
    explicit UntouchableMemory(std::size_t limit_bytes = SIZE_MAX) : limit_(limit_bytes) {}
    ~UntouchableMemory() override { EXPECT_EQ(blocks_.size(), 0u) << "blocks were not given back"; }

    Device device() const noexcept override { return {DeviceType::cuda, 7}; }
    std::string name() const override { return "untouchable memory"; }

    std::size_t live_blocks() const {
        return locked([this] { return blocks_.size(); });
    }
    std::size_t live_bytes() const {
        return locked([this] { return bytes_; });
    }
    std::size_t peak_bytes() const {
        return locked([this] { return peak_; });
    }
    std::size_t allocations() const {
        return locked([this] { return allocations_; });
    }
    void set_limit(std::size_t bytes) {
        locked([&] { return limit_ = bytes; });
    }
    /// The `nth` allocation from now (1: the next) throws OutOfMemory; 0: none does.
    void fail(std::size_t nth) {
        locked([&] { return fail_ = nth; });
    }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override {
        return locked([&] {
            if ((fail_ != 0 && --fail_ == 0) || size_bytes > limit_ - std::min(limit_, bytes_) || size_bytes >> 46 != 0)
                throw OutOfMemory(name() + ": cannot allocate " + std::to_string(size_bytes) + " bytes");
            Mapping made{size_bytes, alignment, nullptr, size_bytes + alignment};
            made.begin = mmap(nullptr, made.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (made.begin == MAP_FAILED) throw OutOfMemory(name() + ": mmap failed");
            // Beside a multiple of twice the alignment, so that nobody gets more of it than was asked for.
            auto at = (reinterpret_cast<std::uintptr_t>(made.begin) + alignment - 1) & ~(alignment - 1);
            if (at % (2 * alignment) == 0 && at + alignment + size_bytes <= end_of(made)) at += alignment;
            blocks_.emplace(at, made);
            bytes_ += size_bytes;
            peak_ = std::max(peak_, bytes_);
            ++allocations_;
            return reinterpret_cast<void*>(at);
        });
    }
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override {
        locked([&] {
            const auto place = blocks_.find(reinterpret_cast<std::uintptr_t>(block));
            if (place == blocks_.end()) {
                ADD_FAILURE() << "what was given back is no block";
                return false;
            }
            EXPECT_EQ(place->second.size, size_bytes);
            EXPECT_EQ(place->second.alignment, alignment);
            bytes_ -= place->second.size;
            munmap(place->second.begin, place->second.mapped);
            blocks_.erase(place);
            return true;
        });
    }

private:
    struct Mapping {
        std::size_t size, alignment;
        void* begin;
        std::size_t mapped;
    };
    static std::uintptr_t end_of(const Mapping& mapping) {
        return reinterpret_cast<std::uintptr_t>(mapping.begin) + mapping.mapped;
    }
    mutable std::mutex mutex_;
    std::map<std::uintptr_t, Mapping> blocks_;
    std::size_t limit_;
    std::size_t bytes_ = 0, peak_ = 0, allocations_ = 0, fail_ = 0;
};

}  // namespace trtlab::core::testing
