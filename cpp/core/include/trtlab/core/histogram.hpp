#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace trtlab::core {

/// Counts of values between 0 and 2^64 - 1 (nanoseconds, as a rule), from which any percentile can be read with a
/// bounded relative error, in memory that does not depend on how many there are.
///
/// Each power of two is cut into `kSubBuckets` buckets of equal width; values below twice that are exact. The idea is
/// Gil Tene's HdrHistogram (http://hdrhistogram.org).
///
/// Threads: not synchronised. Record in several, then `merge`.
/// Cost: 58 KiB; `record` takes a few ns, allocates nothing and cannot fail.
class Histogram {
public:
    static constexpr unsigned kSubBucketBits = 7;
    static constexpr std::uint64_t kSubBuckets = std::uint64_t{1} << kSubBucketBits;

    /// A percentile is at most this fraction of the true value away from it.
    static constexpr double kMaxRelativeError = 0.5 / static_cast<double>(kSubBuckets);

    Histogram();

    void record(std::uint64_t value) noexcept;
    /// Adds what `other` counted.
    void merge(const Histogram& other) noexcept;

    std::uint64_t count() const noexcept { return count_; }
    /// The smallest and largest value, exactly; 0 if there is none.
    std::uint64_t min() const noexcept { return count_ == 0 ? 0 : min_; }
    std::uint64_t max() const noexcept { return max_; }
    /// Exact but for the rounding of double; 0 if there is none.
    double mean() const noexcept;

    /// The smallest value that `percent` % of the values do not exceed (nearest rank), within `kMaxRelativeError`; 0 if
    /// there is none. Throws InvalidArgument unless 0 <= percent <= 100.
    std::uint64_t percentile(double percent) const;

private:
    std::vector<std::uint64_t> counts_;
    std::uint64_t count_ = 0;
    std::uint64_t min_ = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t max_ = 0;
    double sum_ = 0;
};

}  // namespace trtlab::core
