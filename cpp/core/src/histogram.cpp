#include "trtlab/core/histogram.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

constexpr unsigned kBits = Histogram::kSubBucketBits;

/// Bucket 0 .. 2^(kBits+1)-1 hold one value each; above, a bucket is 2^shift wide. Consecutive shifts continue each
/// other, because the leading bit of `value >> shift` is always set.
std::size_t bucket_of(std::uint64_t value) noexcept {
    const unsigned width = static_cast<unsigned>(std::bit_width(value));
    const unsigned shift = width > kBits + 1 ? width - (kBits + 1) : 0;
    return (static_cast<std::size_t>(shift) << kBits) + static_cast<std::size_t>(value >> shift);
}

std::uint64_t middle_of(std::size_t bucket) noexcept {
    if (bucket < (std::size_t{1} << (kBits + 1))) return bucket;
    const std::size_t shift = (bucket >> kBits) - 1;
    const std::uint64_t lowest = static_cast<std::uint64_t>(bucket - (shift << kBits)) << shift;
    return lowest + ((std::uint64_t{1} << shift) >> 1);
}

}  // namespace

Histogram::Histogram() : counts_(bucket_of(std::numeric_limits<std::uint64_t>::max()) + 1) {}

void Histogram::record(std::uint64_t value) noexcept {
    ++counts_[bucket_of(value)];
    ++count_;
    min_ = std::min(min_, value);
    max_ = std::max(max_, value);
    sum_ += static_cast<double>(value);
}

void Histogram::merge(const Histogram& other) noexcept {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    count_ += other.count_;
    min_ = std::min(min_, other.min_);
    max_ = std::max(max_, other.max_);
    sum_ += other.sum_;
}

double Histogram::mean() const noexcept { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }

std::uint64_t Histogram::percentile(double percent) const {
    if (!(percent >= 0.0 && percent <= 100.0)) {
        throw InvalidArgument("percentile: expected a number from 0 to 100, got " + std::to_string(percent));
    }
    if (count_ == 0) return 0;
    const double exact_rank =
        std::ceil(percent * static_cast<double>(count_) / 100.0);  // 99.9 % of 1000 is 999 in this order
    const std::uint64_t rank = exact_rank >= static_cast<double>(count_)
                                   ? count_
                                   : std::max<std::uint64_t>(1, static_cast<std::uint64_t>(exact_rank));
    // The two ends are known exactly, so that p100 is the maximum.
    if (rank == 1) return min_;
    if (rank == count_) return max_;
    std::uint64_t seen = 0;
    for (std::size_t i = bucket_of(min_);; ++i) {
        seen += counts_[i];
        if (seen >= rank) return std::clamp(middle_of(i), min_, max_);
    }
}

}  // namespace trtlab::core
