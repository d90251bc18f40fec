#pragma once

#include <thread>

namespace trtlab::core::testing {

/// Returns once `condition()` holds. For what only an object's `stats()` can tell, such as that a thread is blocked.
/// There is no deadline: the test runner has one.
template <class Condition>
void yield_until(Condition condition) {
    while (!condition()) std::this_thread::yield();
}

}  // namespace trtlab::core::testing
