#include "spin_time.hpp"

#include "trtlab/core/affinity.hpp"

namespace trtlab::core {

std::chrono::nanoseconds SpinTime::longest() noexcept {
    static const std::chrono::nanoseconds value = usable_cpus() > 1 ? kCost : kShortest;
    return value;
}

}  // namespace trtlab::core
