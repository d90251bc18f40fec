#include "trtlab/core/debug_memory.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <sstream>
#include <vector>

#include "upstream.hpp"

namespace trtlab::core {
namespace {

constexpr std::size_t kFenceBytes = 32;
/// Of leaked blocks: a report does not grow with their number.
constexpr std::size_t kMostNamed = 20;

/// Before the block, so that it keeps its alignment.
constexpr std::size_t fence_before(std::size_t alignment) noexcept { return std::max(alignment, kFenceBytes); }

/// The first byte of `size_bytes` that is no longer a fence's; `size_bytes` if all are.
std::size_t first_damage(const unsigned char* fence, std::size_t size_bytes) noexcept {
    return static_cast<std::size_t>(
        std::find_if(fence, fence + size_bytes, [](unsigned char byte) { return byte != DebugMemory::kFence; }) -
        fence);
}

std::string in_words(const void* block) {
    std::ostringstream text;
    text << block;
    return text.str();
}

}  // namespace

DebugMemory::DebugMemory(std::shared_ptr<MemoryResource> upstream, Handler handler)
    : upstream_(required_upstream(std::move(upstream), "a debug memory")),
      fenced_(upstream_->device().host_accessible()),
      handler_(std::move(handler)) {}

DebugMemory::~DebugMemory() {
    // Nobody else is here, so there is nothing to lock; in a forked child, the lock may be one that nobody will open.
    if (live_.empty() || fork_.forked()) return;
    try {
        std::vector<std::pair<const void*, Record>> blocks(live_.begin(), live_.end());
        std::sort(blocks.begin(), blocks.end(),
                  [](const auto& a, const auto& b) { return a.second.number < b.second.number; });
        std::size_t bytes = 0;
        std::string list;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            const auto& [block, record] = blocks[i];
            bytes += record.size_bytes;
            if (i < kMostNamed) {
                list += (i == 0 ? ": " : ", ") + std::to_string(record.size_bytes) + " bytes at " + in_words(block) +
                        " (allocation " + std::to_string(record.number) + ")";
            }
        }
        if (blocks.size() > kMostNamed) list += ", and " + std::to_string(blocks.size() - kMostNamed) + " more";
        report(Misuse::leak, std::to_string(blocks.size()) + " blocks of " + std::to_string(bytes) +
                                 " bytes were not given back" + list);
    } catch (...) {
        log_current_exception(name() + ": the report of what was not given back");
    }
}

std::size_t DebugMemory::live_blocks() const {
    const std::lock_guard lock(mutex_);
    return live_.size();
}

std::size_t DebugMemory::check() const {
    if (!fenced_) return 0;
    std::vector<std::string> found;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [block, record] : live_) {
            if (std::string problem = damage(block, record); !problem.empty()) found.push_back(std::move(problem));
        }
    }
    for (const std::string& problem : found) report(Misuse::damaged_fence, problem);
    return found.size();
}

void* DebugMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    if (fork_.forked()) throw Closed(name() + ": it stayed in the parent process; make one after the fork");
    std::size_t before = 0, total = size_bytes;
    if (fenced_) {
        before = fence_before(alignment);
        if (size_bytes > std::numeric_limits<std::size_t>::max() - before - kFenceBytes)
            throw OutOfMemory(name() + ": cannot allocate " + std::to_string(size_bytes) + " bytes and two fences");
        total = before + size_bytes + kFenceBytes;
    }
    char* whole = nullptr;
    try {
        whole = static_cast<char*>(upstream_->allocate(total, alignment));
    } catch (const OutOfMemory& error) {
        throw OutOfMemory(name() + ": cannot allocate " + std::to_string(size_bytes) + " bytes and their fences (" +
                          error.what() + ")");
    }
    char* const block = whole + before;
    if (fenced_) {
        std::memset(whole, kFence, before);
        std::memset(block, kFresh, size_bytes);
        std::memset(block + size_bytes, kFence, kFenceBytes);
    }
    try {
        // Last: what is in the book is there to be checked.
        const std::lock_guard lock(mutex_);
        live_[block] = {size_bytes, alignment, allocations_ + 1};
        ++allocations_;
    } catch (const std::bad_alloc&) {
        upstream_->deallocate(whole, total, alignment);
        throw OutOfMemory(name() + ": the system has no memory left for the book-keeping");
    }
    return block;
}

void DebugMemory::do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept {
    if (fork_.forked()) return;
    Record record;
    {
        const std::lock_guard lock(mutex_);
        if (const auto found = live_.find(block); found != live_.end()) {
            record = found->second;
            live_.erase(found);
            freed_[frees_++ % freed_.size()] = block;
        }
    }
    if (record.number == 0) return report_unknown(block, size_bytes);
    try {
        const std::string which =
            "the block " + in_words(block) + " (allocation " + std::to_string(record.number) + ")";
        if (size_bytes != record.size_bytes) {
            report(Misuse::wrong_size, which + " was given back as one of " + std::to_string(size_bytes) +
                                           " bytes, and has " + std::to_string(record.size_bytes));
        }
        if (alignment != record.alignment) {
            report(Misuse::wrong_alignment, which + " was given back as aligned to " + std::to_string(alignment) +
                                                ", and was asked for with " + std::to_string(record.alignment));
        }
        if (const std::string problem = damage(block, record); !problem.empty()) report(Misuse::damaged_fence, problem);
    } catch (...) {
        log_current_exception("the checks of a block that was given back");
    }
    // As it was taken, whatever it was given back as.
    if (!fenced_) return upstream_->deallocate(block, record.size_bytes, record.alignment);
    const std::size_t before = fence_before(record.alignment);
    char* const whole = static_cast<char*>(block) - before;
    std::memset(whole, kFreed, before + record.size_bytes + kFenceBytes);
    upstream_->deallocate(whole, before + record.size_bytes + kFenceBytes, record.alignment);
}

std::string DebugMemory::damage(const void* block, const Record& record) const {
    if (!fenced_) return "";
    const auto* const bytes = static_cast<const unsigned char*>(block);
    const std::size_t before = fence_before(record.alignment);
    std::string where;
    // The byte nearest to the block is the likeliest, so the fence before it is read backwards.
    for (std::size_t i = 1; i <= before && where.empty(); ++i) {
        if (bytes[-static_cast<std::ptrdiff_t>(i)] != kFence) where = std::to_string(i) + " bytes before its beginning";
    }
    if (const std::size_t at = first_damage(bytes + record.size_bytes, kFenceBytes); at < kFenceBytes)
        where += (where.empty() ? "" : ", and ") + std::to_string(at) + " bytes after its end";
    if (where.empty()) return "";
    return "somebody wrote outside of the block " + in_words(block) + " of " + std::to_string(record.size_bytes) +
           " bytes (allocation " + std::to_string(record.number) + "): " + where;
}

void DebugMemory::report_unknown(const void* block, std::size_t size_bytes) const noexcept {
    try {
        bool freed = false;
        {
            const std::lock_guard lock(mutex_);
            freed = std::find(freed_.begin(), freed_.end(), block) != freed_.end();
        }
        const std::string what =
            "the block " + in_words(block) + ", given back as one of " + std::to_string(size_bytes) + " bytes, ";
        if (freed) {
            report(Misuse::double_free, what + "was given back before");
        } else {
            report(Misuse::foreign_block, what + "is none of this resource's (or was given back long before)");
        }
    } catch (...) {
        log_current_exception("a report of misused memory");
    }
}

void DebugMemory::report(Misuse misuse, const std::string& message) const noexcept {
    try {
        const std::string text = name() + ": " + message;
        if (handler_) {
            handler_({misuse, text});
        } else {
            log(text);
        }
    } catch (...) {
        log_current_exception("the handler of reports of misused memory");
    }
}

}  // namespace trtlab::core
