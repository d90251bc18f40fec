#include "allocation_count.hpp"

#include <link.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string_view>

// A file of its own: where the compiler sees both new and this delete, it warns of a mismatch that is none.

namespace {

std::atomic<bool> counting{false};
std::atomic<long> ours_count{0};
std::atomic<long> all_count{0};

struct Range {
    std::uintptr_t begin, end;
};
std::array<Range, 256> our_code;  // of the program and of every library that is not one of the others
std::size_t our_ranges = 0;

/// Noted beforehand, because to ask dladdr about each allocation takes far longer than the request.
int note_code(dl_phdr_info* module, std::size_t, void*) {
    const std::string_view file(module->dlpi_name);
    for (const std::string_view other : {"libopenvino", "libtbb", "libfake_", "libstdc++"}) {
        if (file.find(other) != std::string_view::npos) return 0;
    }
    for (int i = 0; i < module->dlpi_phnum && our_ranges < our_code.size(); ++i) {
        const auto& segment = module->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
        const std::uintptr_t begin = module->dlpi_addr + segment.p_vaddr;
        our_code[our_ranges++] = {begin, begin + segment.p_memsz};
    }
    return 0;
}

void count(const void* caller) noexcept {
    all_count.fetch_add(1, std::memory_order_relaxed);
    const auto address = reinterpret_cast<std::uintptr_t>(caller);
    for (std::size_t i = 0; i < our_ranges; ++i) {
        if (our_code[i].begin <= address && address < our_code[i].end) {
            ours_count.fetch_add(1, std::memory_order_relaxed);
            return;
        }
    }
}

void* take(std::size_t size, std::size_t alignment, const void* caller) noexcept {
    if (counting.load(std::memory_order_relaxed)) count(caller);
    void* block = nullptr;
    return posix_memalign(&block, alignment, size == 0 ? 1 : size) == 0 ? block : nullptr;
}

void* checked(void* block) {
    if (block == nullptr) throw std::bad_alloc();
    return block;
}

}  // namespace

// All of the replaceable forms that allocate: a form left out would neither be counted nor match these deletes.
#define CALLER __builtin_return_address(0)
constexpr std::size_t kDefault = alignof(std::max_align_t);
void* operator new(std::size_t size) { return checked(take(size, kDefault, CALLER)); }
void* operator new[](std::size_t size) { return checked(take(size, kDefault, CALLER)); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return take(size, kDefault, CALLER); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return take(size, kDefault, CALLER); }
void* operator new(std::size_t size, std::align_val_t to) {
    return checked(take(size, static_cast<std::size_t>(to), CALLER));
}
void* operator new[](std::size_t size, std::align_val_t to) {
    return checked(take(size, static_cast<std::size_t>(to), CALLER));
}
void* operator new(std::size_t size, std::align_val_t to, const std::nothrow_t&) noexcept {
    return take(size, static_cast<std::size_t>(to), CALLER);
}
void* operator new[](std::size_t size, std::align_val_t to, const std::nothrow_t&) noexcept {
    return take(size, static_cast<std::size_t>(to), CALLER);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

namespace trtlab::test {

AllocationCount::AllocationCount() {
    our_ranges = 0;
    dl_iterate_phdr(note_code, nullptr);
    ours_count = 0;
    all_count = 0;
    counting = true;
}
AllocationCount::~AllocationCount() { counting = false; }
long AllocationCount::ours() const { return ours_count; }
long AllocationCount::all() const { return all_count; }

}  // namespace trtlab::test
