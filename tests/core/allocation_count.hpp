#pragma once

#include <cstdint>

namespace trtlab::core::testing {

/// The sanitizers bring an `operator new` of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kAllocationsCounted = false;
#else
inline constexpr bool kAllocationsCounted = true;
#endif

/// Calls of `operator new`, whichever its form, in this process so far.
std::uint64_t allocations() noexcept;

}  // namespace trtlab::core::testing
