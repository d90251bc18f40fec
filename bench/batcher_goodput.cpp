// Goodput of batching policies in simulated time: the highest rate of Poisson arrivals at which 99 % of the answers come
// within a bound, from one engine that takes a + b x rows for a batch. Ours is the real `BatchQueue`, which learns a and b
// from what it sees; its rivals are modelled on what their documentation says.
//
// "clairvoyant" knows all arrivals beforehand and is no policy but a bound: the best that any could do with these very
// arrivals. With one bound for all and one engine, what is served on time can be served in order of arrival, and what is
// given up for a batch can be given up before it (exchange two, and nobody who was on time is late). So the earliest time
// at which the engine is free, after the first i arrivals with k of them given up, decides all that follows, and a table
// over i and k is the optimum.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "rounds.hpp"
#include "trtlab/core/batch_queue.hpp"

namespace {

using trtlab::core::BatchItem;
using trtlab::core::BatchQueue;

constexpr std::size_t kArrivals = 20'000;
constexpr double kOnTime = 0.99;
constexpr double kNever = std::numeric_limits<double>::infinity();

/// Times are in units of b.
struct Case {
    std::string name;
    double a;          // of a batch
    std::size_t most;  // rows of a batch
    double bound;      // in service times of the largest batch

    double service(std::size_t rows) const { return a + static_cast<double>(rows); }
    double limit() const { return bound * service(most); }
};

using Arrivals = std::vector<double>;
/// The share of the arrivals that was answered within the limit.
using Policy = std::function<double(const Case&, const Arrivals&)>;

Arrivals poisson(double rate, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::exponential_distribution<double> gap(rate);
    Arrivals arrivals(kArrivals);
    double now = 0;
    for (double& arrival : arrivals) arrival = now += gap(random);
    return arrivals;
}

// --- ours ---------------------------------------------------------------------------------------------------------

struct Item final : BatchItem {
    Item() = default;
};

double ours(const Case& one, const Arrivals& arrivals) {
    constexpr double kUnit = 1e6;  // b is 1 ms
    const auto at = [](double time) {
        return BatchItem::Clock::time_point(std::chrono::nanoseconds(std::llround(time * kUnit)));
    };
    BatchQueue queue({.max_rows = one.most});
    const auto items = std::make_unique<Item[]>(arrivals.size());
    std::size_t arrived = 0, on_time = 0;
    double free_at = kNever, began = 0;  // of the batch in flight
    BatchQueue::Items flying;
    double now = 0;
    for (;;) {
        const double arrival = arrived < arrivals.size() ? arrivals[arrived] : kNever;
        const double wake = queue.wake_at() == BatchQueue::kNever
                                ? kNever
                                : static_cast<double>(queue.wake_at().time_since_epoch().count()) / kUnit;
        now = std::max(now, std::min({arrival, free_at, wake}));
        if (now == kNever) break;
        if (now == arrival) {
            Item& item = items[arrived++];
            item.deadline = at(now + one.limit());
            queue.add(item, at(now));
        }
        if (now == free_at) {
            queue.completed(flying.size(), at(now) - at(began));
            while (BatchItem* item = flying.pop()) on_time += at(now) <= item->deadline ? 1 : 0;
            free_at = kNever;
        }
        const BatchQueue::Turn turn = queue.next(at(now), free_at == kNever ? 0 : 1);
        if (turn.rows == 0) continue;
        flying = turn.batch;
        began = now;
        free_at = now + one.service(turn.rows);
    }
    return static_cast<double>(on_time) / static_cast<double>(arrivals.size());
}

// --- rivals -------------------------------------------------------------------------------------------------------

/// Triton's dynamic batcher, as its user guide describes it: when an instance is free, a batch of the largest preferred
/// size that the pending requests make up; else, once the oldest has waited for the delay, all that fit. A timeout rejects
/// what has been queued for longer.
struct Triton {
    double delay;  // share of the limit
    std::vector<double> preferred;
    double timeout;

    double operator()(const Case& one, const Arrivals& arrivals) const {
        std::deque<double> queue;
        std::size_t arrived = 0, on_time = 0;
        double now = 0;
        while (arrived < arrivals.size() || !queue.empty()) {
            if (queue.empty()) now = std::max(now, arrivals[arrived]);
            while (arrived < arrivals.size() && arrivals[arrived] <= now) queue.push_back(arrivals[arrived++]);
            while (!queue.empty() && now - queue.front() > timeout * one.limit()) queue.pop_front();
            if (queue.empty()) continue;
            std::size_t rows = 0;
            for (const double share : preferred) {
                const auto size =
                    std::max<std::size_t>(1, static_cast<std::size_t>(share * static_cast<double>(one.most)));
                if (size <= queue.size()) rows = std::max(rows, size);
            }
            const double due = queue.front() + delay * one.limit();
            if (rows == 0 && due > now) {
                now = std::min(due, arrived < arrivals.size() ? arrivals[arrived] : due);
                continue;
            }
            if (rows == 0) rows = std::min(queue.size(), one.most);
            now += one.service(rows);
            for (; rows > 0; --rows) {
                on_time += now <= queue.front() + one.limit() ? 1 : 0;
                queue.pop_front();
            }
        }
        return static_cast<double>(on_time) / static_cast<double>(arrivals.size());
    }
};

/// A batch is closed when it is full or its window is over, and waits for the engine.
struct FixedWindow {
    double window;  // share of the limit

    double operator()(const Case& one, const Arrivals& arrivals) const {
        std::size_t on_time = 0;
        double free_at = 0;
        for (std::size_t first = 0; first < arrivals.size();) {
            const double over = arrivals[first] + window * one.limit();
            std::size_t end = first;
            while (end < arrivals.size() && end - first < one.most && arrivals[end] <= over) ++end;
            const double closed = end - first == one.most ? arrivals[end - 1] : over;
            free_at = std::max(free_at, closed) + one.service(end - first);
            for (; first < end; ++first) on_time += free_at <= arrivals[first] + one.limit() ? 1 : 0;
        }
        return static_cast<double>(on_time) / static_cast<double>(arrivals.size());
    }
};

double clairvoyant(const Case& one, const Arrivals& arrivals) {
    const std::size_t count = arrivals.size();
    const auto given_up = static_cast<std::size_t>(std::floor((1 - kOnTime) * static_cast<double>(count)));
    std::vector<std::vector<double>> table(one.most + 1, std::vector<double>(given_up + 1, kNever));
    const auto row = [&](std::size_t i) -> std::vector<double>& { return table[i % table.size()]; };
    row(0)[0] = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::vector<double>& free_at = row(i);
        double best = kNever;
        for (std::size_t k = 0; k <= given_up; ++k) {
            if (free_at[k] >= best) continue;  // fewer were given up for no later an end
            best = free_at[k];
            if (k < given_up) row(i + 1)[k + 1] = std::min(row(i + 1)[k + 1], best);
            for (std::size_t rows = 1; rows <= one.most && i + rows <= count; ++rows) {
                const double end = std::max(best, arrivals[i + rows - 1]) + one.service(rows);
                if (end > arrivals[i] + one.limit()) break;
                row(i + rows)[k] = std::min(row(i + rows)[k], end);
            }
        }
        std::fill(free_at.begin(), free_at.end(), kNever);
    }
    const std::vector<double>& end = row(count);
    return std::any_of(end.begin(), end.end(), [](double time) { return time != kNever; }) ? kOnTime : 0;
}

// --- the search ---------------------------------------------------------------------------------------------------

double highest_rate(const Case& one, const Policy& policy, std::uint64_t seed) {
    double low = 0, high = 1.3 * static_cast<double>(one.most) / one.service(one.most);
    for (int step = 0; step < 12; ++step) {
        const double middle = (low + high) / 2;
        (policy(one, poisson(middle, seed)) >= kOnTime ? low : high) = middle;
    }
    return low;
}

/// The settings are chosen for each case and each round's arrivals, in hindsight.
double best_rate(const Case& one, const std::vector<Policy>& policies, std::uint64_t seed) {
    double best = 0;
    for (const Policy& policy : policies) best = std::max(best, highest_rate(one, policy, seed));
    return best;
}

std::vector<Policy> tritons() {
    std::vector<Policy> all;
    for (const double delay : {0.0, 0.02, 0.05, 0.1, 0.25}) {
        for (const auto& preferred : {std::vector<double>{1.0}, std::vector<double>{0.25, 0.5, 1.0}}) {
            for (const double timeout : {kNever, 0.5, 0.75}) all.emplace_back(Triton{delay, preferred, timeout});
        }
    }
    return all;
}

std::vector<Policy> windows() {
    std::vector<Policy> all;
    for (const double window : {0.02, 0.05, 0.1, 0.2, 0.3, 0.4}) all.emplace_back(FixedWindow{window});
    return all;
}

/// Each round has other arrivals, the same for all policies.
template <class Measure>
void add(const std::string& name, const char* metric, Measure measure) {
    benchmark::RegisterBenchmark(name.c_str(), [=, round = std::uint64_t{0}](benchmark::State& state) mutable {
        ++round;
        for (auto _ : state) state.counters[metric] = measure(round);
    })->Iterations(1);
}

}  // namespace

int main(int argc, char** argv) {
    trtlab::bench::Rounds rounds(argc, argv, 5);
    const std::vector<Case> cases{
        {"a = b, 8 rows, 1.2 x", 1, 8, 1.2},   {"a = b, 8 rows, 2 x", 1, 8, 2},
        {"a = 4 b, 8 rows, 2 x", 4, 8, 2},     {"a = 4 b, 32 rows, 2 x", 4, 32, 2},
        {"a = 16 b, 8 rows, 2 x", 16, 8, 2},   {"a = 16 b, 32 rows, 1.5 x", 16, 32, 1.5},
        {"a = 16 b, 32 rows, 3 x", 16, 32, 3},
    };
    std::vector<trtlab::bench::Comparison> comparisons;
    for (const Case& one : cases) {
        const char* const rate = "rows_per_b";
        const auto name = [&](const char* policy) { return one.name + ": " + policy; };
        add(name("ours"), rate, [=](auto seed) { return highest_rate(one, ours, seed); });
        add(name("Triton, tuned"), rate, [=](auto seed) { return best_rate(one, tritons(), seed); });
        add(name("Triton, no delay"), rate,
            [=](auto seed) { return highest_rate(one, Triton{0, {1.0}, kNever}, seed); });
        add(name("window, tuned"), rate, [=](auto seed) { return best_rate(one, windows(), seed); });
        add(name("clairvoyant"), rate, [=](auto seed) { return highest_rate(one, clairvoyant, seed); });
        comparisons.push_back({.ours = name("ours"), .rival = name("Triton, tuned"), .metric = rate, .aim = ">= 1.3"});
        comparisons.push_back({.ours = name("ours"), .rival = name("Triton, no delay"), .metric = rate});
        comparisons.push_back({.ours = name("ours"), .rival = name("window, tuned"), .metric = rate});
        comparisons.push_back({.ours = name("ours"), .rival = name("clairvoyant"), .metric = rate, .aim = ">= 0.9"});
        comparisons.push_back({.ours = name("clairvoyant"), .rival = name("Triton, tuned"), .metric = rate});

        // Offered 1.2 x what the engine can do: what is answered on time.
        const char* const share = "on_time_share";
        const double flood = 1.2 * static_cast<double>(one.most) / one.service(one.most);
        add(name("flooded, ours"), share, [=](auto seed) { return ours(one, poisson(flood, seed)); });
        add(name("flooded, Triton, tuned"), share, [=](auto seed) {
            double best = 0;
            for (const Policy& policy : tritons()) best = std::max(best, policy(one, poisson(flood, seed)));
            return best;
        });
        add(name("flooded, Triton, no delay"), share,
            [=](auto seed) { return Triton{0, {1.0}, kNever}(one, poisson(flood, seed)); });
        comparisons.push_back(
            {.ours = name("flooded, ours"), .rival = name("flooded, Triton, tuned"), .metric = share});
    }
    return rounds.run(comparisons);
}
