#include "size_class_depot.hpp"

#include <algorithm>
#include <utility>

#include "upstream.hpp"

namespace trtlab::core {
namespace {

void destroy_list(Magazine* magazine) noexcept {
    while (magazine != nullptr) Magazine::destroy(std::exchange(magazine, magazine->next));
}

Magazine* pop(Magazine*& list) noexcept {
    Magazine* const magazine = list;
    if (magazine != nullptr) list = magazine->next;
    return magazine;
}

void push(Magazine*& list, Magazine* magazine) noexcept {
    magazine->next = list;
    list = magazine;
}

/// The loaded magazine, taken out, with its count brought up to date. Null if there is none.
Magazine* unload(Bin& bin) noexcept {
    if (bin.begin == nullptr) return nullptr;
    Magazine* const magazine = Magazine::of(bin.begin);
    magazine->count = static_cast<std::size_t>(bin.top - bin.begin);
    bin.top = bin.begin = bin.end = nullptr;
    return magazine;
}

void load(Bin& bin, Magazine* magazine, std::size_t capacity) noexcept {
    bin.begin = magazine->blocks();
    bin.top = bin.begin + magazine->count;
    bin.end = bin.begin + capacity;
}

void log_lost_block() noexcept {
    log("size-class memory: the heap has no room for the address of a free block, which is lost until the end");
}

}  // namespace

SizeClassMemory::Depot::Depot(std::shared_ptr<MemoryResource> upstream_, const Options& options_,
                              const SizeClassMemory& owner_)
    : upstream(required_upstream(std::move(upstream_), "size-class memory")), options(options_), owner(owner_) {}

SizeClassMemory::Depot::~Depot() {
    for (const auto& cache : caches) {
        for (Bin& bin : cache->bins) {
            if (Magazine* loaded = unload(bin)) Magazine::destroy(loaded);
            if (bin.spare != nullptr) Magazine::destroy(bin.spare);
        }
    }
    for (Class& of : classes) {
        for (Magazine* list : {of.full, of.empty}) destroy_list(list);
        if (of.partial != nullptr) Magazine::destroy(of.partial);
        for (const Chunk& chunk : of.chunks) upstream->deallocate(reinterpret_cast<void*>(chunk.begin), chunk.size);
    }
}

void SizeClassMemory::Depot::require_own_process() const {
    if (fork.forked()) throw Closed(owner.name() + " stayed in the parent process: make one after the fork");
}

std::size_t SizeClassMemory::Depot::capacity(unsigned index) const noexcept {
    return std::clamp<std::size_t>(options.magazine_bytes / class_bytes(index), 2, 128);
}

void* SizeClassMemory::Depot::allocate_large(std::size_t size_bytes, std::size_t alignment) {
    require_own_process();
    return on_behalf_of(owner, size_bytes, alignment, [&] {
        const std::lock_guard lock(upstream_mutex);
        void* const block = upstream->allocate(size_bytes, alignment);
        large_bytes += size_bytes;
        return block;
    });
}

void SizeClassMemory::Depot::deallocate_large(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    if (fork.forked()) return;
    const std::lock_guard lock(upstream_mutex);
    upstream->deallocate(block, size_bytes, alignment);
    large_bytes -= std::min(large_bytes, size_bytes);
}

void* SizeClassMemory::Depot::refill(Bin& bin, unsigned index) {
    require_own_process();
    if (bin.top != bin.begin) return *--bin.top;  // the cache was not found at first glance
    Magazine* next = bin.spare;
    if (next != nullptr && next->count > 0) {
        bin.spare = unload(bin);
    } else {
        Class& of = classes[index];
        for (next = nullptr; next == nullptr;) {
            {
                const std::lock_guard lock(of.mutex);
                next = pop_blocks(of, index);
                if (next != nullptr) {
                    ++of.visits;
                    if (bin.spare != nullptr) push_empty(of, bin.spare);
                    bin.spare = unload(bin);
                }
            }
            if (next == nullptr) grow(index);
        }
    }
    load(bin, next, capacity(index));
    return *--bin.top;
}

void SizeClassMemory::Depot::spill(Bin& bin, unsigned index, void* block) noexcept {
    if (fork.forked()) return;
    if (bin.top != bin.end) {  // the cache was not found at first glance
        *bin.top++ = block;
        return;
    }
    Magazine* next = bin.spare;
    if (next != nullptr && next->count == 0) {
        bin.spare = unload(bin);
    } else {
        Class& of = classes[index];
        std::unique_lock lock(of.mutex);
        ++of.visits;
        next = pop_empty(of, index);
        if (next == nullptr) {
            lock.unlock();
            log_lost_block();
            return;
        }
        if (bin.spare != nullptr) push_blocks(of, index, bin.spare);
        bin.spare = unload(bin);
    }
    load(bin, next, capacity(index));
    *bin.top++ = block;
}

void* SizeClassMemory::Depot::take_one(unsigned index) {
    require_own_process();
    Class& of = classes[index];
    for (;;) {
        {
            const std::lock_guard lock(of.mutex);
            if (Magazine* magazine = pop_blocks(of, index)) {
                ++of.visits;
                void* const block = magazine->blocks()[--magazine->count];
                magazine->count > 0 ? push_blocks(of, index, magazine) : push_empty(of, magazine);
                return block;
            }
        }
        grow(index);
    }
}

void SizeClassMemory::Depot::put_one(unsigned index, void* block) noexcept {
    if (fork.forked()) return;
    Class& of = classes[index];
    std::unique_lock lock(of.mutex);
    ++of.visits;
    Magazine* const magazine = pop_empty(of, index);
    if (magazine == nullptr) {
        lock.unlock();
        log_lost_block();
        return;
    }
    magazine->blocks()[magazine->count++] = block;
    push_blocks(of, index, magazine);
}

void SizeClassMemory::Depot::retire(ThreadCache& cache) noexcept {
    for (unsigned index = 0; index < kClasses; ++index) {
        Bin& bin = cache.bins[index];
        Magazine* const kept[] = {unload(bin), std::exchange(bin.spare, nullptr)};
        if (kept[0] == nullptr && kept[1] == nullptr) continue;
        Class& of = classes[index];
        const std::lock_guard lock(of.mutex);
        for (Magazine* magazine : kept) {
            if (magazine != nullptr) push_blocks(of, index, magazine);
        }
    }
}

Magazine* SizeClassMemory::Depot::pop_blocks(Class& of, unsigned index) {
    Magazine* magazine = pop(of.full);
    if (magazine == nullptr) magazine = std::exchange(of.partial, nullptr);
    if (magazine != nullptr) {
        of.free_blocks -= magazine->count;
        return magazine;
    }
    if (of.cursor == of.end) return nullptr;
    magazine = pop_empty(of, index);
    if (magazine == nullptr) throw std::bad_alloc();
    const std::size_t bytes = class_bytes(index);
    for (std::size_t room = capacity(index); room > 0 && of.cursor != of.end; --room, of.cursor += bytes)
        magazine->blocks()[magazine->count++] = reinterpret_cast<void*>(of.cursor);
    // The lowest address is given out first.
    std::reverse(magazine->blocks(), magazine->blocks() + magazine->count);
    return magazine;
}

Magazine* SizeClassMemory::Depot::pop_empty(Class& of, unsigned index) noexcept {
    Magazine* const magazine = pop(of.empty);
    return magazine != nullptr ? magazine : Magazine::make(capacity(index));
}

void SizeClassMemory::Depot::push_empty(Class& of, Magazine* magazine) noexcept {
    magazine->count = 0;
    push(of.empty, magazine);
}

/// Keeps one magazine that is not full at most, so that however few blocks each thread leaves behind, there are no more
/// magazines than the blocks need.
void SizeClassMemory::Depot::push_blocks(Class& of, unsigned index, Magazine* magazine) noexcept {
    const std::size_t most = capacity(index);
    of.free_blocks += magazine->count;
    if (magazine->count < most && of.partial != nullptr) {
        Magazine* const partial = of.partial;
        while (magazine->count > 0 && partial->count < most)
            partial->blocks()[partial->count++] = magazine->blocks()[--magazine->count];
        if (partial->count == most) {
            push(of.full, partial);
            of.partial = nullptr;
        }
    }
    if (magazine->count == most) {
        push(of.full, magazine);
    } else if (magazine->count > 0) {
        of.partial = magazine;
    } else {
        push_empty(of, magazine);
    }
}

void SizeClassMemory::Depot::grow(unsigned index) {
    constexpr std::size_t kFirstChunk = std::size_t{16} << 10;
    const std::size_t bytes = class_bytes(index);
    Class& of = classes[index];
    on_behalf_of(owner, bytes, kAlignment, [&] {
        const std::lock_guard upstream_lock(upstream_mutex);
        std::size_t chunk_bytes = 0;
        {
            const std::lock_guard lock(of.mutex);
            if (of.full != nullptr || of.partial != nullptr || of.cursor != of.end)
                return;  // another thread was faster
            of.chunks.reserve(of.chunks.size() + 1);
            for (const Chunk& chunk : of.chunks) chunk_bytes += chunk.size;  // as much again
        }
        chunk_bytes = std::clamp(chunk_bytes, kFirstChunk, std::max(kFirstChunk, options.max_chunk_bytes));
        chunk_bytes = std::max<std::size_t>(chunk_bytes / bytes, 1) * bytes;
        void* chunk = nullptr;
        try {
            chunk = upstream->allocate(chunk_bytes);
        } catch (const OutOfMemory&) {
            if (chunk_bytes == bytes) throw;
            chunk_bytes = bytes;
            chunk = upstream->allocate(chunk_bytes);
        }
        const std::lock_guard lock(of.mutex);
        // Only who holds the upstream's lock adds or removes chunks: the room is still there.
        of.cursor = reinterpret_cast<std::uintptr_t>(chunk);
        of.end = of.cursor + chunk_bytes;
        of.chunks.push_back({of.cursor, chunk_bytes});
    });
}

std::size_t SizeClassMemory::Depot::trim() {
    const std::lock_guard upstream_lock(upstream_mutex);
    std::size_t bytes = 0;
    for (unsigned index = 0; index < kClasses; ++index) {
        std::vector<Chunk> gone;
        {
            const std::lock_guard lock(classes[index].mutex);
            if (!classes[index].chunks.empty()) collect_free_chunks(classes[index], index, gone);
        }
        for (const Chunk& chunk : gone) {
            upstream->deallocate(reinterpret_cast<void*>(chunk.begin), chunk.size);
            bytes += chunk.size;
        }
    }
    return bytes;
}

void SizeClassMemory::Depot::collect_free_chunks(Class& of, unsigned index, std::vector<Chunk>& gone) {
    const std::size_t bytes = class_bytes(index);
    std::vector<std::uintptr_t> free;
    free.reserve(of.free_blocks);
    gone.reserve(of.chunks.size());
    // From here on nothing throws.
    const auto empty_out = [&](Magazine* magazine) {
        while (magazine->count > 0)
            free.push_back(reinterpret_cast<std::uintptr_t>(magazine->blocks()[--magazine->count]));
        push_empty(of, magazine);
    };
    while (Magazine* magazine = pop(of.full)) empty_out(magazine);
    if (of.partial != nullptr) empty_out(std::exchange(of.partial, nullptr));
    of.free_blocks = 0;
    std::sort(free.begin(), free.end());
    std::erase_if(of.chunks, [&](const Chunk& chunk) {
        const auto first = std::lower_bound(free.begin(), free.end(), chunk.begin);
        const auto last = std::lower_bound(first, free.end(), chunk.begin + chunk.size);
        const bool newest = of.end == chunk.begin + chunk.size;
        const std::size_t given_out = ((newest ? of.cursor : chunk.begin + chunk.size) - chunk.begin) / bytes;
        if (static_cast<std::size_t>(last - first) != given_out) return false;
        free.erase(first, last);
        if (newest) of.cursor = of.end = 0;
        gone.push_back(chunk);
        return true;
    });
    while (!free.empty()) {
        Magazine* const magazine = pop(of.empty);  // one of those that were emptied here
        while (!free.empty() && magazine->count < capacity(index)) {
            magazine->blocks()[magazine->count++] = reinterpret_cast<void*>(free.back());
            free.pop_back();
        }
        push_blocks(of, index, magazine);
    }
}

void SizeClassMemory::Depot::add_to(Stats& stats) const {
    require_own_process();
    for (unsigned index = 0; index < kClasses; ++index) {
        const Class& of = classes[index];
        const std::lock_guard lock(of.mutex);
        for (const Chunk& chunk : of.chunks) stats.reserved_bytes += chunk.size;
        stats.depot_bytes += of.free_blocks * class_bytes(index) + (of.end - of.cursor);
        stats.depot_visits += of.visits;
    }
    const std::lock_guard lock(upstream_mutex);
    stats.large_bytes = large_bytes;
}

}  // namespace trtlab::core
