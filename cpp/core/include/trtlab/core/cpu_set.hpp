#pragma once

#include <bit>
#include <climits>
#include <compare>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trtlab::core {

/// A set of CPUs, by the kernel's numbers. As large as any machine's; iterates in ascending order.
///
/// Threads: a value: one thread at a time, or any number that only read.
/// Errors: a number below 0 or from `kMost` on is InvalidArgument where it would be added, and in no set.
class [[gnu::visibility("default")]] CpuSet {
public:
    /// More than any kernel is built for: a larger number is a mistake, and must not cost memory.
    static constexpr int kMost = 1 << 16;

    CpuSet() = default;
    CpuSet(std::initializer_list<int> cpus);
    /// From `first` to `last`, both included. Throws InvalidArgument, also if `last` is before `first`.
    static CpuSet range(int first, int last);
    /// "0-3,8,10-11", as the kernel and taskset write it, in any order; blanks and a newline may follow. Empty for "".
    /// Throws InvalidArgument for anything else.
    static CpuSet parse(std::string_view text);
    /// The numbers of the bits that are set: a mask as the kernel, hwloc and NVML give it. Bits from `kMost` on are left
    /// out.
    static CpuSet of_mask(std::span<const unsigned long> words);

    /// As `parse` reads it, in ascending order: "0-3,8".
    std::string to_string() const;
    /// As `of_mask` reads it: as many words as the highest number needs.
    std::span<const unsigned long> mask() const noexcept { return words_; }

    bool empty() const noexcept { return words_.empty(); }
    std::size_t count() const noexcept;
    bool contains(int cpu) const noexcept;
    /// Whether all of `other` are in this set.
    bool contains(const CpuSet& other) const noexcept;
    /// How many are in both.
    std::size_t count_common(const CpuSet& other) const noexcept;
    /// The lowest, the highest; -1 if there is none.
    int first() const noexcept { return next(0); }
    int last() const noexcept;

    void add(int cpu);
    void remove(int cpu) noexcept;

    CpuSet& operator|=(const CpuSet& other);
    CpuSet& operator&=(const CpuSet& other) noexcept;
    CpuSet& operator-=(const CpuSet& other) noexcept;
    friend CpuSet operator|(CpuSet a, const CpuSet& b) { return a |= b; }
    friend CpuSet operator&(CpuSet a, const CpuSet& b) { return a &= b; }
    friend CpuSet operator-(CpuSet a, const CpuSet& b) { return a -= b; }
    friend bool operator==(const CpuSet&, const CpuSet&) = default;

    class Iterator {
    public:
        using iterator_concept = std::forward_iterator_tag;
        using iterator_category = std::input_iterator_tag;  // of before C++20: it gives no reference
        using value_type = int;
        using difference_type = std::ptrdiff_t;
        using pointer = void;
        using reference = int;

        Iterator() = default;
        int operator*() const noexcept { return cpu_; }
        Iterator& operator++() noexcept {
            cpu_ = set_->next(cpu_ + 1);
            return *this;
        }
        Iterator operator++(int) noexcept {
            Iterator before = *this;
            ++*this;
            return before;
        }
        friend bool operator==(const Iterator&, const Iterator&) = default;

    private:
        friend class CpuSet;
        Iterator(const CpuSet& set, int cpu) noexcept : set_(&set), cpu_(cpu) {}
        const CpuSet* set_ = nullptr;
        int cpu_ = -1;
    };
    Iterator begin() const noexcept { return {*this, first()}; }
    Iterator end() const noexcept { return {*this, -1}; }

private:
    static constexpr int kBits = sizeof(unsigned long) * CHAR_BIT;

    /// The lowest from `from` on; -1 if there is none.
    int next(int from) const noexcept;
    void trim() noexcept;

    std::vector<unsigned long> words_;  // the last one is not 0, so that equal sets have equal words
};

}  // namespace trtlab::core
