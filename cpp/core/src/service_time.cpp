#include "trtlab/core/service_time.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace trtlab::core {
namespace {

/// Where all batches were of one size, their times don't tell a from b. Half of the time is then taken to be the rows',
/// with the weight of a spread of 3 % of the size.
constexpr double kPriorShare = 0.5;
constexpr double kPriorWeight = 1e-3;

constexpr double kLongest = 9.2e18;  // ns, within int64

}  // namespace

double ServiceTime::per_row() const noexcept {
    const double mean = ns_ / rows_;
    const double prior = kPriorWeight * rows_ * rows_;
    const double spread = std::max(0.0, rows_squared_ - rows_ * rows_);
    const double slope = (rows_ns_ - rows_ * ns_ + prior * kPriorShare * mean) / (spread + prior);
    return std::clamp(slope, 0.0, mean);
}

void ServiceTime::learn(std::size_t rows, std::chrono::nanoseconds took) noexcept {
    const auto x = static_cast<double>(std::max<std::size_t>(rows, 1));
    auto y = static_cast<double>(std::max<std::chrono::nanoseconds::rep>(took.count(), 1));
    if (weight_ != 0) {
        const double expected = std::max(1.0, ns_ + per_row() * (x - rows_));
        y = std::min(y, kOutlier * expected);
        error_ += (std::abs(y - expected) - error_) / (kKeep * weight_ + 1);
    }
    weight_ = kKeep * weight_ + 1;
    const double share = 1 / weight_;
    rows_ += share * (x - rows_);
    ns_ += share * (y - ns_);
    rows_squared_ += share * (x * x - rows_squared_);
    rows_ns_ += share * (x * y - rows_ns_);
}

std::chrono::nanoseconds ServiceTime::estimate(std::size_t rows) const noexcept {
    if (weight_ == 0) return std::chrono::nanoseconds::zero();
    const double ns = ns_ + per_row() * (static_cast<double>(rows) - rows_) + 2 * error_;
    return std::chrono::nanoseconds(static_cast<std::int64_t>(std::clamp(ns, 0.0, kLongest)));
}

std::size_t ServiceTime::rows_within(std::chrono::nanoseconds time, std::size_t most) const noexcept {
    if (weight_ == 0) return most;
    const double slope = per_row();
    // One more, for the fraction that `estimate` cuts off: what it says for some rows is time enough for them.
    const double left = static_cast<double>(time.count()) + 1 - (ns_ - slope * rows_ + 2 * error_);
    if (left < 0) return 0;
    if (left >= slope * static_cast<double>(most)) return most;
    return static_cast<std::size_t>(left / slope);
}

}  // namespace trtlab::core
