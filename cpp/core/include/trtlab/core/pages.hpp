#pragma once

#include <cstddef>
#include <map>

#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// Where the pages of a range of host memory are.
struct PagePlacement {
    std::map<int, std::size_t> bytes_of_node;
    /// Of pages that there are not: nobody has written them yet, or they are swapped out.
    std::size_t absent_bytes = 0;
};

/// Asks the kernel for every page of the range (move_pages(2), which needs no privileges here). The bytes add up to the
/// range's. Throws InvalidArgument (the CPU can't read the memory), Error (a kernel without NUMA).
/// Cost: about 0.1 us a page.
PagePlacement page_placement(const BufferView& range);

/// Bytes of the range that lie in huge pages, of either kind, as /proc/self/smaps has them. The kernel counts by mapping, so
/// for a range that shares its mapping with other memory this is what they have together, and at most the range.
/// Throws InvalidArgument (the CPU can't read the memory), Error (no /proc).
std::size_t huge_page_bytes(const BufferView& range);

}  // namespace trtlab::core
