#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>
#include <system_error>

#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/pages.hpp"

// Newer than the headers of some systems; Linux's own numbers.
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace trtlab::core {
namespace {

/// The most nodes that a kernel can be built for.
constexpr int kMaxNodes = 1024;
constexpr std::size_t kMiB = std::size_t{1} << 20;

std::size_t system_page_bytes() noexcept { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

std::string read_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::size_t transparent_page_bytes() {
    const std::string told = read_line("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    const std::size_t bytes = std::strtoull(told.c_str(), nullptr, 10);
    return bytes != 0 ? bytes : 2 * kMiB;
}

std::size_t page_bytes_of(Pages pages) {
    switch (pages) {
        case Pages::normal:
            return system_page_bytes();
        case Pages::transparent_huge:
            return transparent_page_bytes();
        case Pages::huge_2mib:
            return 2 * kMiB;
        case Pages::huge_1gib:
            return 1024 * kMiB;
    }
    throw InvalidArgument("host memory: pages of kind " + std::to_string(static_cast<int>(pages)) + " are not known");
}

bool reserved_kind(Pages pages) noexcept { return pages == Pages::huge_2mib || pages == Pages::huge_1gib; }

std::string reserved_folder(std::size_t page_bytes) {
    return "/sys/kernel/mm/hugepages/hugepages-" + std::to_string(page_bytes / 1024) + "kB";
}

int map_flags(Pages pages) noexcept {
    constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    switch (pages) {
        case Pages::huge_2mib:
            return kAnonymous | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
        case Pages::huge_1gib:
            return kAnonymous | MAP_HUGETLB | 30 << MAP_HUGE_SHIFT;
        default:
            return kAnonymous;
    }
}

/// Maps `size_bytes`, a multiple of `page_bytes`, at a multiple of `alignment`. Null, and errno, if that fails. Too much is
/// mapped, and what is too much unmapped: to map over one's own reservation instead is to lose it when that fails.
void* map_aligned(std::size_t size_bytes, std::size_t page_bytes, std::size_t alignment, Pages pages) noexcept {
    const std::size_t more = alignment - std::min(alignment, page_bytes);
    if (size_bytes > std::numeric_limits<std::size_t>::max() - more) {
        errno = ENOMEM;
        return nullptr;
    }
    void* const start = mmap(nullptr, size_bytes + more, PROT_READ | PROT_WRITE, map_flags(pages), -1, 0);
    if (start == MAP_FAILED) return nullptr;
    auto* const first = static_cast<char*>(start);
    const std::size_t before = (alignment - reinterpret_cast<std::uintptr_t>(first) % alignment) % alignment;
    if (before > 0) munmap(first, before);
    if (more > before) munmap(first + before + size_bytes, more - before);
    return first + before;
}

std::string in_words(int error) { return std::system_category().message(error); }

/// What can be had without pushing anything out but caches; nothing is known outside of Linux's /proc.
std::optional<std::size_t> available_bytes() {
    std::ifstream meminfo("/proc/meminfo");
    for (std::string key; meminfo >> key;) {
        std::size_t kib = 0;
        if (key == "MemAvailable:" && meminfo >> kib) return kib * 1024;
        meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    return std::nullopt;
}

// Preferred, and then checked: bound to a node that is full, the kernel would look for a process to end instead.
long prefer_node(int node, void* block, std::size_t size_bytes) noexcept {
    constexpr std::size_t kBits = 8 * sizeof(unsigned long);
    std::array<unsigned long, kMaxNodes / kBits> mask{};
    mask[static_cast<std::size_t>(node) / kBits] |= 1UL << (static_cast<std::size_t>(node) % kBits);
    // The kernel takes one bit fewer than it is told.
    return syscall(SYS_mbind, block, size_bytes, MPOL_PREFERRED, mask.data(), kMaxNodes + 1, 0);
}

}  // namespace

HostMemory::HostMemory(const Options& options) : options_(options), page_bytes_(page_bytes_of(options.pages)) {
    if (options_.node) {
        if (*options_.node < 0 || *options_.node >= kMaxNodes) {
            throw InvalidArgument(name() + ": expected a node from 0 to " + std::to_string(kMaxNodes - 1));
        }
        void* const page = mmap(nullptr, system_page_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) throw OutOfMemory(name() + ": not even one page can be mapped to try the node with");
        const int error = prefer_node(*options_.node, page, system_page_bytes()) == 0 ? 0 : errno;
        munmap(page, system_page_bytes());
        if (error != 0) {
            fail<InvalidArgument>("the system does not bind memory to this node (mbind: " + in_words(error) +
                                  "); nodes with memory: " + read_line("/sys/devices/system/node/has_memory") +
                                  "; a container may need the capability SYS_NICE");
            options_.node.reset();
        }
    }
    if (options_.pages == Pages::transparent_huge) {
        const std::string mode = read_line("/sys/kernel/mm/transparent_hugepage/enabled");
        if (mode.empty() || mode.find("[never]") != std::string::npos) {
            fail<InvalidArgument>(
                mode.empty()
                    ? "this kernel has no transparent huge pages"
                    : "transparent huge pages are switched off; 'echo madvise > "
                      "/sys/kernel/mm/transparent_hugepage/enabled' as the administrator allows who asks for them");
        }
    }
    if (reserved_kind(options_.pages) && read_line(reserved_folder(page_bytes_) + "/nr_hugepages").empty()) {
        fail<InvalidArgument>("this system has no huge pages of " + std::to_string(page_bytes_) +
                              " bytes; /sys/kernel/mm/hugepages lists those that it has");
    }
}

HostMemory::~HostMemory() = default;

std::string HostMemory::name() const {
    std::string text = "host memory";
    if (options_.pages == Pages::transparent_huge) text += " in transparent huge pages";
    if (options_.pages == Pages::huge_2mib) text += " in huge pages of 2 MiB";
    if (options_.pages == Pages::huge_1gib) text += " in huge pages of 1 GiB";
    if (options_.node) text += " on node " + std::to_string(*options_.node);
    return text;
}

std::string HostMemory::left_out() const {
    const std::lock_guard lock(mutex_);
    return left_out_;
}

template <class Failure>
void HostMemory::fail(const std::string& problem) {
    const std::string message = name() + ": " + problem;
    if (options_.strict) throw Failure(message);
    const std::lock_guard lock(mutex_);
    if (left_out_.empty()) left_out_ = message;
}

bool HostMemory::mapped() const noexcept {
    return options_.pages != Pages::normal || options_.node.has_value() || options_.touch;
}

std::size_t HostMemory::mapped_bytes(std::size_t size_bytes) const noexcept {
    if (size_bytes > std::numeric_limits<std::size_t>::max() - page_bytes_) return 0;
    return (size_bytes + page_bytes_ - 1) / page_bytes_ * page_bytes_;
}

void HostMemory::touch(void* block, std::size_t size_bytes, Pages pages) {
    constexpr std::size_t kMuch = 16 * kMiB;
    const auto available = size_bytes >= kMuch && !reserved_kind(pages) ? available_bytes() : std::nullopt;
    if (available && *available < size_bytes) {
        // The kernel would find out half-way, and look for a process to end.
        throw OutOfMemory(name() + ": cannot allocate " + std::to_string(size_bytes) +
                          " bytes to be touched: the system has " + std::to_string(*available) + " available");
    }
    if (madvise(block, size_bytes, MADV_POPULATE_WRITE) == 0) return;
    if (errno != EINVAL) {
        // Not touched by hand then: what is refused here would be a signal there.
        fail<OutOfMemory>("cannot have the pages of " + std::to_string(size_bytes) +
                          " bytes made (madvise: " + in_words(errno) + ")");
        return;
    }
    // A kernel before 5.14.
    auto* const bytes = static_cast<volatile char*>(block);
    for (std::size_t at = 0; at < size_bytes; at += system_page_bytes()) bytes[at] = 0;
}

void HostMemory::place_on_node(void* block, std::size_t size_bytes, Pages pages) {
    const int node = *options_.node;
    if (prefer_node(node, block, size_bytes) != 0) {
        fail<OutOfMemory>("cannot bind " + std::to_string(size_bytes) +
                          " bytes to the node (mbind: " + in_words(errno) + ")");
    }
    touch(block, size_bytes, pages);
    std::size_t elsewhere = 0;
    for (const auto& [other, bytes] : page_placement({block, size_bytes, device()}).bytes_of_node) {
        if (other != node) elsewhere += bytes;
    }
    if (elsewhere > 0) {
        fail<OutOfMemory>("the node has no room for " + std::to_string(elsewhere) + " of " +
                          std::to_string(size_bytes) + " bytes, which came to lie on others");
    }
}

void* HostMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    const auto refuse = [&](const std::string& why) {
        throw OutOfMemory(name() + ": cannot allocate " + std::to_string(size_bytes) + " bytes" + why);
    };
    if (!mapped()) {
        // The C++ runtime rounds sizes up to the alignment, and those near the largest number to almost nothing.
        if (size_bytes > PTRDIFF_MAX) refuse("");
        void* block = ::operator new(size_bytes, std::align_val_t(alignment), std::nothrow);
        if (block == nullptr) refuse("");
        return block;
    }
    const std::size_t rounded = mapped_bytes(size_bytes);
    if (rounded == 0) refuse("");
    Pages pages = options_.pages;
    void* block = nullptr;
    // Transparent huge pages are made of a mapping of normal ones that begins at the multiple of a huge one.
    const auto map = [&] {
        const std::size_t unit = reserved_kind(pages) ? page_bytes_ : system_page_bytes();
        block = map_aligned(rounded, unit, std::max(alignment, page_bytes_), pages);
        return block != nullptr;
    };
    if (!map()) {
        if (!reserved_kind(pages)) refuse(" (mmap: " + in_words(errno) + ")");
        const std::string folder = reserved_folder(page_bytes_);
        fail<OutOfMemory>("cannot allocate " + std::to_string(size_bytes) + " bytes: they take " +
                          std::to_string(rounded / page_bytes_) + " pages, and of " +
                          read_line(folder + "/nr_hugepages") + " reserved ones " +
                          read_line(folder + "/free_hugepages") + " are free; write a larger number to " + folder +
                          "/nr_hugepages as the administrator");
        pages = Pages::normal;
        if (!map()) refuse(" (mmap: " + in_words(errno) + ")");
    }
    try {
        if (options_.pages == Pages::transparent_huge && madvise(block, rounded, MADV_HUGEPAGE) != 0) {
            fail<InvalidArgument>("the kernel takes no advice to use huge pages (madvise: " + in_words(errno) + ")");
        }
        if (options_.node) {
            place_on_node(block, rounded, pages);
        } else if (options_.touch) {
            touch(block, rounded, pages);
        }
    } catch (...) {
        munmap(block, rounded);
        throw;
    }
    return block;
}

void HostMemory::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    if (!mapped()) {
        ::operator delete(block, std::align_val_t(alignment));
    } else if (munmap(block, mapped_bytes(size_bytes)) != 0) {
        log(name() + ": a block of " + std::to_string(size_bytes) + " bytes cannot be unmapped: " + in_words(errno));
    }
}

}  // namespace trtlab::core
