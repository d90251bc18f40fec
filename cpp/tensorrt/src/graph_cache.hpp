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
        std::vector<void*> addresses;           ///< of all that it reads and writes
        std::optional<cuda::Graph> graph;
        bool seen = false;     ///< was launched before
        bool refused = false;  ///< capturing failed: not tried again
    };

    /// The entry of the key, made if there is none: then another may have been dropped. Stays valid until the next call.
    Entry& find(const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses) {
        std::uint64_t hash = 14695981039346656037ull;  // FNV-1a, over words
        const auto mix = [&](const void* word) {
            hash = (hash ^ reinterpret_cast<std::uintptr_t>(word)) * 1099511628211ull;
        };
        mix(plan.get());
        for (const void* address : addresses) mix(address);
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
            if (entry->hash != hash || entry->plan != plan ||
                !std::equal(addresses.begin(), addresses.end(), entry->addresses.begin(), entry->addresses.end())) {
                continue;
            }
            entries_.splice(entries_.begin(), entries_, entry);
            return entries_.front();
        }
        if (entries_.size() < most_) {
            entries_.emplace_front();
        } else {
            if (entries_.back().graph) dropped_.fetch_add(1, std::memory_order_relaxed);  // for reports
            entries_.splice(entries_.begin(), entries_, std::prev(entries_.end()));       // its memory is used again
        }
        Entry& entry = entries_.front();
        entry.hash = hash;
        entry.plan = plan;
        entry.addresses.assign(addresses.begin(), addresses.end());
        entry.graph.reset();
        entry.seen = entry.refused = false;
        return entry;
    }

private:
    const std::size_t most_;
    std::atomic<std::uint64_t>& dropped_;
    std::list<Entry> entries_;  // the last used first
};

}  // namespace trtlab::tensorrt
