#pragma once

#include <chrono>
#include <cstddef>

namespace trtlab::core {

/// How long a batch takes, learnt from those that were seen: a straight line over the rows, a + b x rows, fitted to the
/// recent ones (each weighs `kKeep` of the next), and twice their mean distance from it, as TCP adds to its round-trip time.
///
/// A batch counts for at most `kOutlier` times what was expected, so that one that was held up does not count for many;
/// an engine that became slower for good is believed within a few batches all the same.
/// Threads: not synchronised.
class [[gnu::visibility("default")]] ServiceTime {
public:
    static constexpr double kKeep = 0.95;
    static constexpr double kOutlier = 4;

    void learn(std::size_t rows, std::chrono::nanoseconds took) noexcept;

    /// What so many rows are expected to take; 0 before anything was seen.
    std::chrono::nanoseconds estimate(std::size_t rows) const noexcept;
    /// The most rows, up to `most`, that are expected to take no longer than `time`; 0 if not even one.
    std::size_t rows_within(std::chrono::nanoseconds time, std::size_t most) const noexcept;

private:
    double per_row() const noexcept;

    double weight_ = 0;  // of all that was seen; what follows are means
    double rows_ = 0, ns_ = 0, rows_squared_ = 0, rows_ns_ = 0;
    double error_ = 0;  // mean distance from the line
};

}  // namespace trtlab::core
