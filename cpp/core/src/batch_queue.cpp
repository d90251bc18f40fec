#include "trtlab/core/batch_queue.hpp"

#include <algorithm>
#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using Clock = BatchItem::Clock;

/// The sum, or the end of time where it does not fit.
Clock::time_point later(Clock::time_point when, std::chrono::nanoseconds by) noexcept {
    return by > Clock::time_point::max() - when ? Clock::time_point::max() : when + by;
}

/// The difference, or the beginning of time.
Clock::time_point earlier(Clock::time_point when, std::chrono::nanoseconds by) noexcept {
    return by > when - Clock::time_point() ? Clock::time_point() : when - by;
}

std::chrono::nanoseconds times(std::chrono::nanoseconds one, std::uint32_t count) noexcept {
    std::chrono::nanoseconds::rep product = 0;
    return std::chrono::nanoseconds(
        __builtin_mul_overflow(one.count(), count, &product) ? std::chrono::nanoseconds::max().count() : product);
}

BatchQueue::Options checked(const BatchQueue::Options& options) {
    const auto between = [](const char* name, std::size_t value, std::size_t most) {
        if (value < 1 || value > most) {
            throw InvalidArgument(std::string(name) + " is " + std::to_string(value) + ", expected 1 to " +
                                  std::to_string(most));
        }
    };
    between("max_rows", options.max_rows, BatchQueue::kMaxRows);
    between("max_in_flight", options.max_in_flight, SIZE_MAX);
    between("priorities", options.priorities, BatchQueue::kMaxPriorities);
    for (const auto& [name, time] :
         {std::pair("max_delay", options.max_delay), std::pair("priority_step", options.priority_step),
          std::pair("deadline_slack", options.deadline_slack)}) {
        if (time.count() < 0) throw InvalidArgument(std::string(name) + " is negative: expected a time from 0 up");
    }
    return options;
}

}  // namespace

BatchItem::~BatchItem() = default;
bool BatchItem::joins(const BatchItem&) const noexcept { return true; }

BatchQueue::BatchQueue(const Options& options)
    : options_(checked(options)), rows_by_limit_(options.max_rows + 1), cursors_(options.priorities) {}

// --- in -----------------------------------------------------------------------------------------------------------

void BatchQueue::add(BatchItem& item, Clock::time_point now) {
    if (item.priority >= options_.priorities) {
        throw InvalidArgument("priority " + std::to_string(item.priority) + " was asked for, there are 0 to " +
                              std::to_string(options_.priorities - 1) + ", of which 0 comes first");
    }
    if (item.rows == 0) throw InvalidArgument("an item of 0 rows can't be in a batch");
    Kind& kind = kind_of(item);
    item.arrived_ = now;
    kind.levels[item.priority].push(item);
    ++kind.items;
    kind.rows += item.rows;
    ++size_;
    rows_ += item.rows;
    if (item.deadline != kNever) {
        ++kind.deadlines;
        soonest_ = std::min(soonest_, item.deadline);
    }
}

/// That of the item, made if there is none.
BatchQueue::Kind& BatchQueue::kind_of(const BatchItem& item) {
    const bool solo = item.solo || item.rows > options_.max_rows;
    for (std::size_t i = 0; i < used_; ++i) {
        Kind& kind = kinds_[i];
        if (kind.solo != solo) continue;
        if (solo || (kind.key == item.key && kind.any().joins(item))) return kind;
    }
    if (used_ == kinds_.size()) {
        Kind fresh;
        fresh.levels.resize(options_.priorities);
        kinds_.push_back(std::move(fresh));
    }
    Kind& kind = kinds_[used_++];
    kind.solo = solo;
    kind.key = item.key;
    return kind;
}

const BatchItem& BatchQueue::Kind::any() const noexcept {
    return *std::find_if(levels.begin(), levels.end(), [](const Items& level) { return !level.empty(); })->front();
}

void BatchQueue::add_alone(BatchItem& item) noexcept {
    alone_.push(item);
    ++size_;
    rows_ += item.rows;
}

// --- out, one by one ----------------------------------------------------------------------------------------------

void BatchQueue::unlink(Kind& kind, BatchItem& item) noexcept {
    kind.levels[item.priority].remove(item);
    --kind.items;
    kind.rows -= item.rows;
    if (item.deadline != kNever) --kind.deadlines;
    --size_;
    rows_ -= item.rows;
}

void BatchQueue::drop_if_empty(Kind& kind) noexcept {
    if (kind.items == 0) std::swap(kind, kinds_[--used_]);
}

BatchItem* BatchQueue::remove_unwanted() noexcept {
    for (std::size_t i = 0; i < used_; ++i) {
        for (Items& level : kinds_[i].levels) {
            for (BatchItem* item = level.front(); item != nullptr; item = Items::next(*item)) {
                if (item->wanted()) continue;
                unlink(kinds_[i], *item);
                drop_if_empty(kinds_[i]);
                return item;
            }
        }
    }
    return nullptr;
}

BatchItem* BatchQueue::pop() noexcept {
    if (BatchItem* item = alone_.pop()) {
        --size_;
        rows_ -= item->rows;
        return item;
    }
    if (used_ == 0) return nullptr;
    Kind& kind = kinds_[used_ - 1];
    BatchItem* item = const_cast<BatchItem*>(&kind.any());
    unlink(kind, *item);
    drop_if_empty(kind);
    return item;
}

void BatchQueue::expire(Clock::time_point now, Items& expired) noexcept {
    if (now < soonest_) return;
    soonest_ = kNever;
    for (std::size_t i = used_; i-- > 0;) {  // from behind, where what takes an emptied one's place was seen already
        Kind& kind = kinds_[i];
        if (kind.deadlines == 0) continue;
        for (Items& level : kind.levels) {
            for (BatchItem* item = level.front(); item != nullptr;) {
                BatchItem* const next = Items::next(*item);
                if (item->deadline <= now) {
                    unlink(kind, *item);
                    expired.push(*item);
                } else {
                    soonest_ = std::min(soonest_, item->deadline);
                }
                item = next;
            }
        }
        drop_if_empty(kind);
    }
}

// --- who is next --------------------------------------------------------------------------------------------------

Clock::time_point BatchQueue::rank(const BatchItem& item) const noexcept {
    return later(item.arrived_, times(options_.priority_step, item.priority));
}

/// In a batch of at most so many rows the item would be on time; 0 if it can't be any more.
std::size_t BatchQueue::on_time_rows(const BatchItem& item, Clock::time_point now) const noexcept {
    const std::size_t most = std::max(options_.max_rows, item.rows);
    if (item.deadline == kNever) return most;
    const std::size_t rows = service_.rows_within(item.deadline - now - options_.deadline_slack, most);
    return rows < item.rows ? 0 : rows;
}

BatchQueue::Head BatchQueue::head(Kind& kind, Clock::time_point now) const noexcept {
    Head best{.kind = &kind};
    for (const Items& level : kind.levels) {
        BatchItem* item = level.front();
        if (item == nullptr) continue;
        while (item != nullptr && on_time_rows(*item, now) == 0) item = Items::next(*item);
        const bool hopeful = item != nullptr;
        if (hopeful) best.arrived = std::min(best.arrived, item->arrived_);
        if (!hopeful) item = level.front();
        if (best.item == nullptr || (hopeful && !best.hopeful) ||
            (hopeful == best.hopeful && rank(*item) < rank(*best.item))) {
            best.item = item;
            best.hopeful = hopeful;
        }
    }
    return best;
}

/// `arrived`: when the first of all came who can be on time.
BatchQueue::Head BatchQueue::first(Clock::time_point now, bool full_only, Clock::time_point& arrived) noexcept {
    Head best;
    arrived = kNever;
    for (std::size_t i = 0; i < used_; ++i) {
        const Head its = head(kinds_[i], now);
        arrived = std::min(arrived, its.arrived);
        if (full_only && !full(kinds_[i])) continue;
        if (best.item == nullptr || (its.hopeful && !best.hopeful) ||
            (its.hopeful == best.hopeful && rank(*its.item) < rank(*best.item))) {
            best = its;
        }
    }
    return best;
}

/// The end of the wait for company, where the first of those who can be on time came at `arrived`.
Clock::time_point BatchQueue::held_until(Clock::time_point arrived) const noexcept {
    Clock::time_point until = arrived == kNever ? kNever : later(arrived, options_.max_delay);
    if (soonest_ != kNever) {
        const auto work = service_.estimate(std::min(rows_, options_.max_rows));
        until = std::min(until, earlier(earlier(soonest_, options_.deadline_slack), work));
    }
    return until;
}

BatchQueue::Turn BatchQueue::next(Clock::time_point now, std::size_t in_flight) noexcept {
    Turn turn;
    again_ = kNever;
    expire(now, turn.expired);
    if (in_flight >= options_.max_in_flight) return turn;
    if (BatchItem* item = alone_.pop()) {
        --size_;
        rows_ -= item->rows;
        turn.batch.push(*item);
        turn.rows = item->rows;
        return turn;
    }
    const bool at_once = flushing_ || (in_flight == 0 && !options_.hold_when_idle);
    while (used_ != 0 && turn.batch.empty()) {
        Clock::time_point arrived;
        Head next = first(now, false, arrived);
        if (!at_once) {
            const Clock::time_point until = held_until(arrived);
            if (now < until) {
                next = first(now, true, arrived);
                if (next.item == nullptr || !next.hopeful) again_ = until;
            }
        }
        // Who will be late anyway gets what no one else can use.
        if (next.item == nullptr || (!next.hopeful && in_flight > 0)) break;
        take(next, now, turn);
    }
    return turn;
}

Clock::time_point BatchQueue::wake_at() const noexcept { return std::min(soonest_, again_); }

// --- how many -----------------------------------------------------------------------------------------------------

/// The most rows of items of this priority that would all be on time in one batch.
std::size_t BatchQueue::largest_on_time(const Kind& kind, std::uint32_t priority, Clock::time_point now) noexcept {
    std::fill(rows_by_limit_.begin(), rows_by_limit_.end(), 0);
    const Items& level = kind.levels[priority];
    for (const BatchItem* item = level.front(); item != nullptr; item = Items::next(*item)) {
        if (item->wanted()) rows_by_limit_[on_time_rows(*item, now)] += item->rows;
    }
    std::size_t rows = 0;  // of those who would be on time in a batch of `size`
    for (std::size_t size = options_.max_rows; size > 0; --size) {
        rows += rows_by_limit_[size];
        if (rows >= size) return size;
    }
    return 1;  // all were cancelled
}

void BatchQueue::take(const Head& head, Clock::time_point now, Turn& turn) noexcept {
    Kind& kind = *head.kind;
    const auto leave = [&](BatchItem& item) {
        const bool wanted = item.wanted();
        unlink(kind, item);
        (wanted ? turn.batch : turn.unwanted).push(item);
        if (wanted) turn.rows += item.rows;
    };
    if (kind.solo || !head.hopeful) {
        leave(*head.item);
        drop_if_empty(kind);
        return;
    }
    const std::size_t size = kind.deadlines == 0 ? 1 : largest_on_time(kind, head.item->priority, now);
    std::size_t most = options_.max_rows;  // rows, for all that were taken to be on time
    std::transform(kind.levels.begin(), kind.levels.end(), cursors_.begin(),
                   [](const Items& level) { return level.front(); });
    while (turn.rows < most) {
        BatchItem* item = nullptr;
        for (BatchItem* candidate : cursors_) {
            if (candidate != nullptr && (item == nullptr || rank(*candidate) < rank(*item))) item = candidate;
        }
        if (item == nullptr) break;
        const std::uint32_t priority = item->priority;
        cursors_[priority] = Items::next(*item);
        const std::size_t rows = turn.rows + item->rows;
        const std::size_t limit = on_time_rows(*item, now);
        if (limit < size) continue;  // passed over: it would be late
        if (rows > most) {
            cursors_[priority] = nullptr;  // no room, and those behind it do not overtake it
            continue;
        }
        if (limit < rows) continue;
        if (item->wanted()) most = std::min(most, limit);
        leave(*item);
    }
    drop_if_empty(kind);
}

}  // namespace trtlab::core
