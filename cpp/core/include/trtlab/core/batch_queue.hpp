#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "trtlab/core/intrusive_list.hpp"
#include "trtlab/core/service_time.hpp"

namespace trtlab::core {

/// What a `BatchQueue` knows of an item: an intrusive node, which must outlive its stay in the queue.
class [[gnu::visibility("default")]] BatchItem : public ListNode<BatchItem> {
public:
    using Clock = std::chrono::steady_clock;
    static constexpr Clock::time_point kNever = Clock::time_point::max();

    // Set before the item is added, and left alone until it has left.
    std::size_t rows = 1;        ///< what it takes of a batch
    std::uint64_t key = 0;       ///< items whose keys differ are not joined: the hash of a shape, for example
    bool solo = false;           ///< is not joined with any other
    std::uint32_t priority = 0;  ///< 0 comes first
    Clock::time_point deadline = kNever;

    BatchItem(const BatchItem&) = delete;
    BatchItem& operator=(const BatchItem&) = delete;

protected:
    BatchItem() = default;
    virtual ~BatchItem();

    /// Whether it can be in one batch with `other`, whose key is the same. An equivalence.
    virtual bool joins(const BatchItem& other) const noexcept;
    /// False if it was cancelled: it then leaves without being in a batch.
    virtual bool wanted() const noexcept { return true; }

private:
    friend class BatchQueue;
    Clock::time_point arrived_ = {};
};

/// Which items make up the next batch, and when: pure logic, on a clock that is passed in.
///
/// Order. Items are first-in-first-out within their kind (`joins`) and priority. An item of priority p stands behind more
/// urgent ones that come up to p x `priority_step` after it, and before those that come later: nobody starves. The kind
/// whose first item stands first makes the next batch, its other priorities filling what room there is.
///
/// When. With nothing in flight a batch goes at once, whatever there is. With a batch in flight and a slot free, items are
/// held for company: until the batch is full, `max_delay` after the first came, or until the earliest deadline would be
/// missed, whichever comes first. With no slot free they wait, and gather.
///
/// Deadlines. An item whose deadline is over leaves as expired. From what batches took (`completed`) it is known how large
/// a batch may be for an item to be on time, and of the first item's kind and priority the largest batch that is on time
/// for all its members is made. Those who would be late in it are passed over, so that one item that can't be saved does
/// not make many late; they go when nobody is left who can be on time, one by one, or expire. (Dropping early rather than
/// late is from Shen et al., "Nexus: a GPU cluster engine for accelerating DNN-based video analysis", SOSP 2019.) Items
/// without a deadline are never passed over.
///
/// Owns: nothing; items that it still has when it goes are forgotten.
/// Threads: not synchronised.
/// Cost: `next` looks at the items of one kind and priority when it makes a batch of items that have deadlines, otherwise
/// at those of the batch; it allocates only for more kinds than there have been at a time.
class [[gnu::visibility("default")]] BatchQueue {
public:
    using Clock = BatchItem::Clock;
    using Items = IntrusiveList<BatchItem>;
    static constexpr Clock::time_point kNever = BatchItem::kNever;
    static constexpr std::size_t kMaxRows = std::size_t{1} << 20;
    static constexpr std::size_t kMaxPriorities = 64;

    struct Options {
        std::size_t max_rows = 8;                 ///< of a batch; an item of more is a batch of its own
        std::size_t max_in_flight = 1;            ///< batches that execute at the same time
        std::chrono::nanoseconds max_delay = {};  ///< how long an item is held for company while a slot is free
        bool hold_when_idle = false;              ///< hold even when nothing is in flight
        std::size_t priorities = 1;               ///< 0 to priorities - 1, 0 first
        std::chrono::nanoseconds priority_step = std::chrono::milliseconds(100);
        std::chrono::nanoseconds deadline_slack = {};  ///< by how much batches should be earlier than deadlines
    };

    struct Turn {
        Items batch;           ///< empty: nothing to do now
        std::size_t rows = 0;  ///< of the batch
        Items expired;         ///< their deadline is over
        Items unwanted;        ///< they were cancelled
    };

    /// Throws InvalidArgument unless max_rows, max_in_flight and priorities are at least 1 (and at most `kMaxRows` and
    /// `kMaxPriorities`) and no time is negative.
    explicit BatchQueue(const Options& options);
    BatchQueue(const BatchQueue&) = delete;
    BatchQueue& operator=(const BatchQueue&) = delete;

    /// Throws InvalidArgument if there is no such priority or the item has no rows, std::bad_alloc where there is no memory
    /// for one more kind; the item is then not in the queue.
    void add(BatchItem& item, Clock::time_point now);
    /// Of a batch that failed: goes before all others, as a batch of its own, and does not expire.
    void add_alone(BatchItem& item) noexcept;

    /// Takes one that is not `wanted` out; null if there is none.
    BatchItem* remove_unwanted() noexcept;
    /// Takes any out; null if there is none.
    BatchItem* pop() noexcept;

    /// What leaves now, with so many batches in flight. Ask again until there is no batch; then at `wake_at`, or when an
    /// item was added or a batch has completed.
    Turn next(Clock::time_point now, std::size_t in_flight) noexcept;
    /// When `next` is to be asked again if nothing happens, as of the last time it was; may be too early.
    Clock::time_point wake_at() const noexcept;

    /// From now on nothing is held for company.
    void flush() noexcept { flushing_ = true; }

    /// A batch of so many rows took so long.
    void completed(std::size_t rows, std::chrono::nanoseconds took) noexcept { service_.learn(rows, took); }

    std::size_t size() const noexcept { return size_; }
    std::size_t rows() const noexcept { return rows_; }
    /// Kinds that have items now.
    std::size_t kinds() const noexcept { return used_; }
    const ServiceTime& service_time() const noexcept { return service_; }
    const Options& options() const noexcept { return options_; }

private:
    struct Kind {
        std::vector<Items> levels;  // by priority
        std::uint64_t key = 0;
        std::size_t items = 0;
        std::size_t rows = 0;
        std::size_t deadlines = 0;  // items that have one
        bool solo = false;
        const BatchItem& any() const noexcept;
    };
    /// The item of a kind, or of all, that stands first of those that can be on time, or of all if none can.
    struct Head {
        Kind* kind = nullptr;
        BatchItem* item = nullptr;
        bool hopeful = false;
        Clock::time_point arrived = kNever;  // when the first of those came who can be on time
    };

    Kind& kind_of(const BatchItem& item);
    Clock::time_point rank(const BatchItem& item) const noexcept;
    std::size_t on_time_rows(const BatchItem& item, Clock::time_point now) const noexcept;
    bool full(const Kind& kind) const noexcept { return kind.solo || kind.rows >= options_.max_rows; }
    Head head(Kind& kind, Clock::time_point now) const noexcept;
    Head first(Clock::time_point now, bool full_only, Clock::time_point& arrived) noexcept;
    Clock::time_point held_until(Clock::time_point arrived) const noexcept;
    void expire(Clock::time_point now, Items& expired) noexcept;
    std::size_t largest_on_time(const Kind& kind, std::uint32_t priority, Clock::time_point now) noexcept;
    void take(const Head& head, Clock::time_point now, Turn& turn) noexcept;
    void unlink(Kind& kind, BatchItem& item) noexcept;
    void drop_if_empty(Kind& kind) noexcept;

    const Options options_;
    ServiceTime service_;
    std::vector<Kind> kinds_;  // those with items first
    std::size_t used_ = 0;
    Items alone_;
    std::size_t size_ = 0;
    std::size_t rows_ = 0;
    Clock::time_point soonest_ = kNever;  // no deadline is before this
    Clock::time_point again_ = kNever;    // the end of what `next` holds
    bool flushing_ = false;
    std::vector<std::size_t> rows_by_limit_;  // for largest_on_time
    std::vector<BatchItem*> cursors_;         // for take
};

}  // namespace trtlab::core
