#include "trtlab/core/limited_memory.hpp"

#include "trtlab/core/error.hpp"
#include "upstream.hpp"

namespace trtlab::core {
namespace {

/// Adds `more` to `used` unless that exceeds `limit`.
///
/// What was given back is given back to the upstream first. The release in `give_back` and the acquire here make that order
/// hold between threads: whoever takes a place finds the upstream as the one who left it did. So the upstream never
/// has more than the caps, and one block at a time is the use of one thread at a time.
bool take(std::atomic<std::size_t>& used, std::size_t more, std::size_t limit) noexcept {
    std::size_t now = used.load(std::memory_order_relaxed);  // a guess, which the exchange checks
    do {
        if (more > limit || now > limit - more) return false;
    } while (!used.compare_exchange_weak(now, now + more, std::memory_order_acquire, std::memory_order_relaxed));
    return true;
}

void give_back(std::atomic<std::size_t>& used, std::size_t less) noexcept {
    used.fetch_sub(less, std::memory_order_release);  // pairs with the exchange in `take`
}

}  // namespace

LimitedMemory::LimitedMemory(std::shared_ptr<MemoryResource> upstream, const Limits& limits)
    : upstream_(required_upstream(std::move(upstream), "a limited memory")), limits_(limits) {}

LimitedMemory::~LimitedMemory() = default;

LimitedMemory::Limits LimitedMemory::in_use() const noexcept {
    return {size_bytes_.load(std::memory_order_relaxed), blocks_.load(std::memory_order_relaxed)};  // for reading only
}

void* LimitedMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    if (!take(size_bytes_, size_bytes, limits_.size_bytes)) {
        throw OutOfMemory(name() + ": " + std::to_string(size_bytes) + " bytes were asked for, " +
                          std::to_string(in_use().size_bytes) + " are in use, and " +
                          std::to_string(limits_.size_bytes) + " is the cap; give blocks back, or raise it");
    }
    if (!take(blocks_, 1, limits_.blocks)) {
        give_back(size_bytes_, size_bytes);
        throw OutOfMemory(name() + ": a block of " + std::to_string(size_bytes) + " bytes was asked for, " +
                          std::to_string(in_use().blocks) + " blocks are in use, and " +
                          std::to_string(limits_.blocks) + " is the cap; give blocks back, or raise it");
    }
    try {
        return upstream_->allocate(size_bytes, alignment);
    } catch (...) {
        give_back(blocks_, 1);
        give_back(size_bytes_, size_bytes);
        throw;
    }
}

void LimitedMemory::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    upstream_->deallocate(block, size_bytes, alignment);
    give_back(blocks_, 1);
    give_back(size_bytes_, size_bytes);
}

}  // namespace trtlab::core
