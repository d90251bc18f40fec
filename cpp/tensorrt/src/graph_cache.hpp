#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "shape_plan.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::tensorrt {

/// The graphs of one context. A graph is good for the shapes and addresses that it was captured with, and for nothing else:
/// those are its key. The least recently used goes first.
/// Threads: not synchronised; whoever holds the context's token.
class GraphCache {
public:
    /// `dropped` counts the graphs that had to go.
    GraphCache(std::size_t most, std::atomic<std::uint64_t>& dropped) : most_(most), dropped_(dropped) {}

    struct Entry {
        std::uint64_t hash = 0;
        std::shared_ptr<const ShapePlan> plan;  ///< kept, so that its address stays its own
        std::vector<void*> addresses;           ///< of all tensors, then of the scratch memory
        std::optional<cuda::Graph> graph;
        bool seen = false;     ///< was asked for before
        bool refused = false;  ///< capturing failed: not tried again
        bool callers = false;  ///< with addresses that are a caller's
    };

    /// The entry of the key, or null. Stays valid until the next call.
    Entry* find(const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses) {
        const std::uint64_t hash = hash_of(plan, addresses);
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            if (entry->hash != hash || entry->plan != plan ||
                !std::equal(addresses.begin(), addresses.end(), entry->addresses.begin(), entry->addresses.end())) {
                continue;
            }
            entries_.splice(entries_.begin(), entries_, entry);
            return &entries_.front();
        }
        return nullptr;
    }

    /// The entry of the key, made if there is none: then another may have been dropped. Stays valid until the next call.
    Entry& find_or_add(const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses) {
        if (Entry* known = find(plan, addresses)) return *known;
        if (entries_.size() < most_) {
            entries_.emplace_front();
        } else {
            reuse(std::prev(entries_.end()));
        }
        fill(plan, addresses, false);
        return entries_.front();
    }

    /// Remembers a key with a caller's addresses, of which there may be ever new ones: they take half of the room at the most,
    /// and take the place of each other only, and of none that has a graph.
    void note(const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses) {
        if (callers_ < most_ / 2 && entries_.size() < most_) {
            entries_.emplace_front();
        } else {
            const auto oldest = std::find_if(entries_.rbegin(), entries_.rend(),
                                             [](const Entry& entry) { return entry.callers && !entry.graph; });
            if (oldest == entries_.rend()) return;
            reuse(std::prev(oldest.base()));
        }
        fill(plan, addresses, true);
        entries_.front().seen = true;
        ++callers_;
    }

private:
    static std::uint64_t hash_of(const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses) {
        std::uint64_t hash = 14695981039346656037ull;  // FNV-1a, over words
        const auto mix = [&](const void* word) {
            hash = (hash ^ reinterpret_cast<std::uintptr_t>(word)) * 1099511628211ull;
        };
        mix(plan.get());
        for (const void* address : addresses) mix(address);
        return hash;
    }

    /// Its memory, for another key.
    void reuse(std::list<Entry>::iterator entry) {
        if (entry->graph) dropped_.fetch_add(1, std::memory_order_relaxed);  // for reports
        if (entry->callers) --callers_;
        entries_.splice(entries_.begin(), entries_, entry);
    }

    void fill(const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses, bool callers) {
        Entry& entry = entries_.front();
        entry.hash = hash_of(plan, addresses);
        entry.plan = plan;
        entry.addresses.assign(addresses.begin(), addresses.end());
        entry.graph.reset();
        entry.seen = entry.refused = false;
        entry.callers = callers;
    }

    const std::size_t most_;
    std::atomic<std::uint64_t>& dropped_;
    std::list<Entry> entries_;  // the last used first
    std::size_t callers_ = 0;   // entries with a caller's addresses
};

}  // namespace trtlab::tensorrt
