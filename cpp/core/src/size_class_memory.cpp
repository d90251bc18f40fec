#include "trtlab/core/size_class_memory.hpp"

#include <atomic>
#include <bit>
#include <unordered_map>

#include "size_class_depot.hpp"
#include "upstream.hpp"

namespace trtlab::core {
namespace {

std::atomic<std::uint64_t> last_id{0};

}  // namespace

/// What the calling thread keeps, of all resources that it used.
struct ThreadCaches {
    using Depot = SizeClassMemory::Depot;
    using Cache = SizeClassMemory::ThreadCache;

    /// Which resources live. A thread that ends asks, as it may outlive them; a resource that goes leaves threads behind.
    /// A forked child has one of its own, since the parent's lock may be held by a thread that the child has not.
    struct Registry {
        const ForkGuard fork;
        std::mutex mutex;  // before the locks of a depot
        std::unordered_map<std::uint64_t, Depot*> depots;
    };
    static Registry& registry() {
        static std::atomic<Registry*> current{nullptr};  // never destroyed: threads may end after static objects
        Registry* now = current.load(std::memory_order_acquire);  // pairs with the exchange
        while (now == nullptr || now->fork.forked()) {
            auto* made = new Registry;
            // Pairs with the load; one of those who race wins.
            if (current.compare_exchange_strong(now, made, std::memory_order_acq_rel, std::memory_order_acquire))
                return *made;
            delete made;
        }
        return *now;
    }

    struct Known {
        std::uint64_t id = 0;
        Cache* cache = nullptr;
    };
    /// Null for a thread that is ending.
    static Cache* find_or_make(std::uint64_t id, Depot& depot);
    static Cache* find(std::uint64_t id) noexcept;

    ThreadCaches() = default;
    ThreadCaches(const ThreadCaches&) = delete;
    ThreadCaches& operator=(const ThreadCaches&) = delete;
    ~ThreadCaches();

    std::vector<Known> known;
};

namespace {

/// The thread's caches that were used last, by the lower bits of the resource's number. Numbers are never used again, so an
/// entry that is left behind by a resource that is gone is never taken for another's.
/// Initial-exec: found with one instruction, and small enough for what every process keeps free for such libraries.
constexpr std::size_t kSlots = 8;
[[gnu::tls_model("initial-exec")]] constinit thread_local ThreadCaches::Known slots[kSlots] = {};
[[gnu::tls_model("initial-exec")]] constinit thread_local bool thread_ends = false;
thread_local ThreadCaches caches_of_thread;

}  // namespace

ThreadCaches::Cache* ThreadCaches::find(std::uint64_t id) noexcept {
    if (thread_ends) return nullptr;
    for (const Known& known : caches_of_thread.known) {
        if (known.id == id) {
            slots[id % kSlots] = known;
            return known.cache;
        }
    }
    return nullptr;
}

ThreadCaches::Cache* ThreadCaches::find_or_make(std::uint64_t id, Depot& depot) {
    if (thread_ends) return nullptr;
    if (Cache* known = find(id)) return known;
    auto made = std::make_unique<Cache>();
    Registry& registry = ThreadCaches::registry();
    const std::lock_guard lock(registry.mutex);
    std::erase_if(caches_of_thread.known, [&](const Known& known) { return !registry.depots.contains(known.id); });
    caches_of_thread.known.reserve(caches_of_thread.known.size() + 1);
    depot.caches.push_back(std::move(made));
    caches_of_thread.known.push_back({id, depot.caches.back().get()});
    slots[id % kSlots] = caches_of_thread.known.back();
    return depot.caches.back().get();
}

ThreadCaches::~ThreadCaches() {
    thread_ends = true;
    for (Known& slot : slots) slot = {};
    if (known.empty()) return;
    try {
        Registry& registry = ThreadCaches::registry();
        const std::lock_guard lock(registry.mutex);
        for (const Known& ending : known) {
            const auto depot = registry.depots.find(ending.id);
            if (depot == registry.depots.end()) continue;
            depot->second->retire(*ending.cache);
            std::erase_if(depot->second->caches, [&](const auto& cache) { return cache.get() == ending.cache; });
        }
    } catch (...) {
        log_current_exception("the end of a thread that kept free blocks");
    }
}

SizeClassMemory::SizeClassMemory(std::shared_ptr<MemoryResource> upstream, const Options& options)
    : max_size_(options.max_size_bytes),
      id_(last_id.fetch_add(1, std::memory_order_relaxed) + 1),  // a number of one's own, and nothing to order
      depot_(std::make_unique<Depot>(std::move(upstream), options, *this)) {
    if (!std::has_single_bit(max_size_) || max_size_ < kAlignment || max_size_ > kMaxClassBytes) {
        throw InvalidArgument(name() + ": max_size_bytes is " + std::to_string(max_size_) +
                              "; expected a power of two from " + std::to_string(kAlignment) + " to " +
                              std::to_string(kMaxClassBytes));
    }
    ThreadCaches::Registry& registry = ThreadCaches::registry();
    const std::lock_guard lock(registry.mutex);
    registry.depots.emplace(id_, depot_.get());
}

SizeClassMemory::~SizeClassMemory() {
    if (depot_->fork.forked()) {
        // Its locks may be held for ever, and its memory is the parent's.
        (void)depot_.release();
        return;
    }
    ThreadCaches::Registry& registry = ThreadCaches::registry();
    const std::lock_guard lock(registry.mutex);
    registry.depots.erase(id_);
}

Device SizeClassMemory::device() const noexcept { return depot_->upstream->device(); }
std::string SizeClassMemory::name() const { return "size-class memory over " + depot_->upstream->name(); }

/// What is free in one class may be what another, or a large request, is short of.
template <class Take>
void* SizeClassMemory::trimmed_if_short(Take take) {
    try {
        return take();
    } catch (const OutOfMemory&) {
        if (trim() == 0) throw;
        return take();
    }
}

void* SizeClassMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    if (size_bytes > max_size_ || alignment > kAlignment) [[unlikely]]
        return trimmed_if_short([&] { return depot_->allocate_large(size_bytes, alignment); });
    const unsigned index = class_of((size_bytes + alignment - 1) & ~(alignment - 1));
    const ThreadCaches::Known& slot = slots[id_ % kSlots];
    if (slot.id == id_) [[likely]] {
        Bin& bin = slot.cache->bins[index];
        if (bin.top != bin.begin) [[likely]]
            return *--bin.top;
    }
    return allocate_slowly(index);
}

void SizeClassMemory::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    if (size_bytes > max_size_ || alignment > kAlignment) [[unlikely]]
        return depot_->deallocate_large(block, size_bytes, alignment);
    const unsigned index = class_of((size_bytes + alignment - 1) & ~(alignment - 1));
    const ThreadCaches::Known& slot = slots[id_ % kSlots];
    if (slot.id == id_) [[likely]] {
        Bin& bin = slot.cache->bins[index];
        if (bin.top != bin.end) [[likely]] {
            *bin.top++ = block;
            return;
        }
    }
    deallocate_slowly(index, block);
}

void* SizeClassMemory::allocate_slowly(unsigned index) {
    depot_->require_own_process();
    return trimmed_if_short([&] {
        return on_behalf_of(*this, class_bytes(index), kAlignment, [&] {
            ThreadCache* const cache = ThreadCaches::find_or_make(id_, *depot_);
            return cache != nullptr ? depot_->refill(cache->bins[index], index) : depot_->take_one(index);
        });
    });
}

void SizeClassMemory::deallocate_slowly(unsigned index, void* block) noexcept {
    if (depot_->fork.forked()) return;
    ThreadCache* cache = nullptr;
    try {
        cache = ThreadCaches::find_or_make(id_, *depot_);
    } catch (...) {
        cache = nullptr;  // the heap has no room for another
    }
    cache != nullptr ? depot_->spill(cache->bins[index], index, block) : depot_->put_one(index, block);
}

std::size_t SizeClassMemory::trim() {
    depot_->require_own_process();
    if (ThreadCache* cache = ThreadCaches::find(id_)) depot_->retire(*cache);
    return on_behalf_of(*this, 0, kAlignment, [this] { return depot_->trim(); });
}

SizeClassMemory::Stats SizeClassMemory::stats() const {
    Stats stats;
    depot_->add_to(stats);
    ThreadCaches::Registry& registry = ThreadCaches::registry();
    const std::lock_guard lock(registry.mutex);
    stats.thread_caches = depot_->caches.size();
    return stats;
}

std::size_t SizeClassMemory::block_bytes(std::size_t size_bytes, std::size_t alignment) const noexcept {
    if (size_bytes > max_size_ || alignment > kAlignment) return 0;
    const std::size_t wanted = size_bytes == 0 ? 1 : size_bytes;
    return class_bytes(class_of((wanted + alignment - 1) & ~(alignment - 1)));
}

}  // namespace trtlab::core
