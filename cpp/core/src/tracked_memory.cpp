#include "trtlab/core/tracked_memory.hpp"

#include <algorithm>
#include <bit>

#include "upstream.hpp"

namespace trtlab::core {

// Every access is relaxed. Nobody reads other memory on the strength of a count, so a count has to be right by itself only,
// and atomic read-modify-writes of one variable are, in whatever order others are seen. What depends on more than that:
// `size_bytes_` never goes below zero, since a block's allocation, which adds, happens before its return, which
// subtracts: whoever handed the block from one thread to another saw to that.
namespace {
constexpr auto kRelaxed = std::memory_order_relaxed;
}

TrackedMemory::TrackedMemory(std::shared_ptr<MemoryResource> upstream, std::string owner, std::string what)
    : upstream_(required_upstream(std::move(upstream), "a tracked memory")),
      owner_(std::move(owner)),
      what_(std::move(what)) {}

TrackedMemory::~TrackedMemory() = default;

TrackedMemory::Snapshot TrackedMemory::snapshot() const noexcept {
    Snapshot now;
    now.size_bytes = size_bytes_.load(kRelaxed);
    // Who has just added may not have raised the peak yet.
    now.peak_bytes = std::max(peak_bytes_.load(kRelaxed), now.size_bytes);
    // In this order, so that what is given back in between is not seen without having been taken: a thread's own
    // reads of two variables may be reordered, which is why the difference is bounded as well.
    now.deallocations = deallocations_.load(kRelaxed);
    now.allocations = std::max(allocations_.load(kRelaxed), now.deallocations);
    now.failures = failures_.load(kRelaxed);
    std::transform(by_size_.begin(), by_size_.end(), now.by_size.begin(),
                   [](const std::atomic<std::uint64_t>& count) { return count.load(kRelaxed); });
    return now;
}

MemoryUse TrackedMemory::memory_use() const { return {owner_, what_, device(), size_bytes_.load(kRelaxed)}; }

void* TrackedMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    void* block = nullptr;
    try {
        block = upstream_->allocate(size_bytes, alignment);
    } catch (...) {
        failures_.fetch_add(1, kRelaxed);
        throw;
    }
    allocations_.fetch_add(1, kRelaxed);
    by_size_[static_cast<std::size_t>(std::bit_width(size_bytes)) - 1].fetch_add(1, kRelaxed);
    // Each value that the sum rises to is somebody's result here, so the highest is not missed.
    const std::size_t now = size_bytes_.fetch_add(size_bytes, kRelaxed) + size_bytes;
    std::size_t peak = peak_bytes_.load(kRelaxed);
    while (peak < now && !peak_bytes_.compare_exchange_weak(peak, now, kRelaxed)) {
    }
    return block;
}

void TrackedMemory::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    // Before the upstream has it back: who takes the same memory next is not counted beside who had it.
    size_bytes_.fetch_sub(size_bytes, kRelaxed);
    deallocations_.fetch_add(1, kRelaxed);
    upstream_->deallocate(block, size_bytes, alignment);
}

}  // namespace trtlab::core
