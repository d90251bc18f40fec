#include "trtlab/core/cpu_set.hpp"

#include <algorithm>
#include <charconv>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

[[noreturn]] void refuse(const std::string& cpu) {
    throw InvalidArgument("a CPU's number: expected 0 to " + std::to_string(CpuSet::kMost - 1) + ", got " + cpu);
}

void check(int cpu) {
    if (cpu < 0 || cpu >= CpuSet::kMost) refuse(std::to_string(cpu));
}

/// Reads "0-3,8".
class Parser {
public:
    explicit Parser(std::string_view text) : whole_(text), rest_(text) {
        while (!rest_.empty() && (rest_.back() == '\n' || rest_.back() == ' ')) rest_.remove_suffix(1);
    }

    CpuSet parse() {
        CpuSet set;
        if (rest_.empty()) return set;
        for (;;) {
            const int first = number();
            const int last = take('-') ? number() : first;
            if (last < first) fail("a range runs backwards");
            set |= CpuSet::range(first, last);
            if (rest_.empty()) return set;
            if (!take(',')) fail("expected ',' or '-'");
        }
    }

private:
    int number() {
        int number = 0;
        const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), number);
        if (error == std::errc::result_out_of_range || (error == std::errc() && number >= CpuSet::kMost))
            fail("a number is above " + std::to_string(CpuSet::kMost - 1));
        if (error != std::errc() || number < 0) fail("expected a number");
        rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
        return number;
    }

    bool take(char c) noexcept {
        if (!rest_.starts_with(c)) return false;
        rest_.remove_prefix(1);
        return true;
    }

    [[noreturn]] void fail(const std::string& why) const {
        constexpr std::size_t kShown = 64;
        const std::string shown(whole_.substr(0, kShown));
        throw InvalidArgument("CPUs '" + shown + (whole_.size() > kShown ? "...'" : "'") + ": " + why +
                              " at character " + std::to_string(rest_.data() - whole_.data() + 1) +
                              "; write numbers and ranges, such as \"0-3,8\"");
    }

    const std::string_view whole_;
    std::string_view rest_;
};

}  // namespace

CpuSet::CpuSet(std::initializer_list<int> cpus) {
    for (const int cpu : cpus) add(cpu);
}

CpuSet CpuSet::range(int first, int last) {
    check(first);
    check(last);
    if (last < first) {
        throw InvalidArgument("a range of CPUs: expected the last not to be before the first, got " +
                              std::to_string(first) + " to " + std::to_string(last));
    }
    CpuSet set;
    set.words_.resize(static_cast<std::size_t>(last / kBits) + 1);
    for (int cpu = first; cpu <= last; ++cpu) set.words_[static_cast<std::size_t>(cpu / kBits)] |= 1UL << cpu % kBits;
    return set;
}

CpuSet CpuSet::parse(std::string_view text) { return Parser(text).parse(); }

CpuSet CpuSet::of_mask(std::span<const unsigned long> words) {
    CpuSet set;
    const auto kept = words.first(std::min<std::size_t>(words.size(), kMost / kBits));
    set.words_.assign(kept.begin(), kept.end());
    set.trim();
    return set;
}

std::string CpuSet::to_string() const {
    std::string text;
    for (int first = next(0); first >= 0;) {
        int last = first;
        while (contains(last + 1)) ++last;
        if (!text.empty()) text += ',';
        text += std::to_string(first);
        if (last > first) text += '-' + std::to_string(last);
        first = next(last + 1);
    }
    return text;
}

std::size_t CpuSet::count() const noexcept {
    std::size_t count = 0;
    for (const unsigned long word : words_) count += static_cast<std::size_t>(std::popcount(word));
    return count;
}

bool CpuSet::contains(int cpu) const noexcept {
    if (cpu < 0 || static_cast<std::size_t>(cpu / kBits) >= words_.size()) return false;
    return (words_[static_cast<std::size_t>(cpu / kBits)] >> cpu % kBits & 1) != 0;
}

bool CpuSet::contains(const CpuSet& other) const noexcept {
    if (other.words_.size() > words_.size()) return false;
    for (std::size_t i = 0; i < other.words_.size(); ++i) {
        if ((other.words_[i] & ~words_[i]) != 0) return false;
    }
    return true;
}

std::size_t CpuSet::count_common(const CpuSet& other) const noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < std::min(words_.size(), other.words_.size()); ++i)
        count += static_cast<std::size_t>(std::popcount(words_[i] & other.words_[i]));
    return count;
}

int CpuSet::last() const noexcept {
    if (words_.empty()) return -1;
    return static_cast<int>(words_.size()) * kBits - 1 - std::countl_zero(words_.back());
}

void CpuSet::add(int cpu) {
    check(cpu);
    const auto word = static_cast<std::size_t>(cpu / kBits);
    if (word >= words_.size()) words_.resize(word + 1);
    words_[word] |= 1UL << cpu % kBits;
}

void CpuSet::remove(int cpu) noexcept {
    if (!contains(cpu)) return;
    words_[static_cast<std::size_t>(cpu / kBits)] &= ~(1UL << cpu % kBits);
    trim();
}

CpuSet& CpuSet::operator|=(const CpuSet& other) {
    if (other.words_.size() > words_.size()) words_.resize(other.words_.size());
    for (std::size_t i = 0; i < other.words_.size(); ++i) words_[i] |= other.words_[i];
    return *this;
}

CpuSet& CpuSet::operator&=(const CpuSet& other) noexcept {
    if (words_.size() > other.words_.size()) words_.resize(other.words_.size());
    for (std::size_t i = 0; i < words_.size(); ++i) words_[i] &= other.words_[i];
    trim();
    return *this;
}

CpuSet& CpuSet::operator-=(const CpuSet& other) noexcept {
    for (std::size_t i = 0; i < std::min(words_.size(), other.words_.size()); ++i) words_[i] &= ~other.words_[i];
    trim();
    return *this;
}

int CpuSet::next(int from) const noexcept {
    for (auto word = static_cast<std::size_t>(from / kBits); word < words_.size(); ++word) {
        const int skipped = word == static_cast<std::size_t>(from / kBits) ? from % kBits : 0;
        const unsigned long left = words_[word] & ~0UL << skipped;
        if (left != 0) return static_cast<int>(word) * kBits + std::countr_zero(left);
    }
    return -1;
}

void CpuSet::trim() noexcept {
    while (!words_.empty() && words_.back() == 0) words_.pop_back();
}

}  // namespace trtlab::core
