#include "trtlab/core/pages.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

void require_host(const BufferView& range) {
    if (!range.device.host_accessible()) {
        throw InvalidArgument("pages of " + std::to_string(range.size_bytes) + " bytes on " + range.device.to_string() +
                              ": expected memory of the host");
    }
}

/// "7f12a000-7f12b000 rw-p ..." -> the two addresses; false for a line of another kind.
bool parse_mapping(std::string_view line, std::uintptr_t& begin, std::uintptr_t& end) {
    const char* const last = line.data() + line.size();
    const auto first = std::from_chars(line.data(), last, begin, 16);
    if (first.ec != std::errc() || first.ptr == last || *first.ptr != '-') return false;
    const auto second = std::from_chars(first.ptr + 1, last, end, 16);
    return second.ec == std::errc() && second.ptr != last && *second.ptr == ' ';
}

/// "AnonHugePages:      2048 kB" -> 2 MiB; 0 for a line of another kind.
std::size_t parse_huge(std::string_view line) {
    for (const std::string_view key :
         {"AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"}) {
        if (!line.starts_with(key)) continue;
        line.remove_prefix(std::min(line.find_first_not_of(' ', key.size()), line.size()));
        std::size_t kib = 0;
        std::from_chars(line.data(), line.data() + line.size(), kib);
        return kib * 1024;
    }
    return 0;
}

}  // namespace

PagePlacement page_placement(const BufferView& range) {
    require_host(range);
    PagePlacement placement;
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(range.data);
    const std::uintptr_t end = begin + range.size_bytes;
    // So many at a time that neither this stack nor the kernel is asked for much.
    std::array<void*, 512> pages;
    std::array<int, 512> nodes;
    for (std::uintptr_t at = begin & ~(page - 1); at < end;) {
        const std::uintptr_t first = at;
        std::size_t count = 0;
        for (; count < pages.size() && at < end; at += page) pages[count++] = reinterpret_cast<void*>(at);
        if (syscall(SYS_move_pages, 0, count, pages.data(), nullptr, nodes.data(), 0) < 0) {
            throw Error("move_pages cannot tell where the pages of " + std::to_string(range.size_bytes) +
                        " bytes are: " + std::system_category().message(errno));
        }
        for (std::size_t i = 0; i < count; ++i) {
            const std::uintptr_t start = first + i * page;
            const std::size_t bytes = std::min(start + page, end) - std::max(start, begin);
            // A page that was only read is the one page of zeros that all share, and has an error, too.
            (nodes[i] >= 0 ? placement.bytes_of_node[nodes[i]] : placement.absent_bytes) += bytes;
        }
    }
    return placement;
}

std::size_t huge_page_bytes(const BufferView& range) {
    require_host(range);
    std::ifstream smaps("/proc/self/smaps");
    if (!smaps) throw Error("/proc/self/smaps cannot be read: which pages are huge is not known");
    const auto first = reinterpret_cast<std::uintptr_t>(range.data);
    const std::uintptr_t last = first + range.size_bytes;
    std::size_t total = 0, overlap = 0, huge = 0;
    std::uintptr_t begin = 0, end = 0;
    for (std::string line; std::getline(smaps, line);) {
        if (parse_mapping(line, begin, end)) {
            total += std::min(overlap, huge);
            overlap = std::max(begin, first) < std::min(end, last) ? std::min(end, last) - std::max(begin, first) : 0;
            huge = 0;
        } else {
            huge += parse_huge(line);
        }
    }
    return total + std::min(overlap, huge);
}

}  // namespace trtlab::core
