#include "trtlab/core/function.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "allocation_count.hpp"

namespace trtlab::core {
namespace {

int seven() { return 7; }

/// Counts its own constructions and destructions.
struct Tracked {
    explicit Tracked(int& alive_) : alive(&alive_) { ++*alive; }
    Tracked(const Tracked& other) : alive(other.alive) { ++*alive; }
    Tracked(Tracked&& other) noexcept : alive(other.alive) { ++*alive; }
    ~Tracked() { --*alive; }
    int operator()() const { return 1; }
    int* alive;
};

TEST(UniqueFunction, CallsAndReturns) {
    UniqueFunction<int(int, int)> add = [](int a, int b) { return a + b; };
    EXPECT_EQ(add(2, 3), 5);
    UniqueFunction<int()> plain = seven;
    EXPECT_EQ(plain(), 7);
    plain = &seven;
    EXPECT_EQ(plain(), 7);
}

TEST(UniqueFunction, KeepsSmallCapturesInPlace) {
    if (!testing::kAllocationsCounted) GTEST_SKIP() << "the sanitizer counts for itself";
    std::array<std::int64_t, 6> capture{1, 2, 3, 4, 5, 6};
    static_assert(sizeof capture == UniqueFunction<int()>::kInlineBytes);
    const std::uint64_t before = testing::allocations();
    UniqueFunction<std::int64_t()> sum = [capture] { return capture[0] + capture[5]; };
    UniqueFunction<std::int64_t()> moved = std::move(sum);
    EXPECT_EQ(moved(), 7);
    EXPECT_EQ(testing::allocations() - before, 0u);
}

TEST(UniqueFunction, PutsLargeCapturesOnTheHeapOnce) {
    std::array<std::int64_t, 7> capture{1, 2, 3, 4, 5, 6, 7};
    const std::uint64_t before = testing::allocations();
    UniqueFunction<std::int64_t()> sum = [capture] { return capture[0] + capture[6]; };
    UniqueFunction<std::int64_t()> moved = std::move(sum);
    EXPECT_EQ(moved(), 8);
    const std::uint64_t expected = testing::kAllocationsCounted ? 1 : 0;
    EXPECT_EQ(testing::allocations() - before, expected);
}

TEST(UniqueFunction, HonoursAlignmentBeyondThatOfItsStorage) {
    struct alignas(64) Aligned {
        std::uintptr_t operator()() const { return reinterpret_cast<std::uintptr_t>(this) % 64; }
    };
    UniqueFunction<std::uintptr_t()> f = Aligned{};
    EXPECT_EQ(f(), 0u);
}

TEST(UniqueFunction, TakesWhatCannotBeCopied) {
    UniqueFunction<int()> f = [value = std::make_unique<int>(5)] { return *value; };
    UniqueFunction<int()> g = std::move(f);
    EXPECT_FALSE(f);
    ASSERT_TRUE(g);
    EXPECT_EQ(g(), 5);
    static_assert(!std::is_copy_constructible_v<UniqueFunction<int()>>);
}

TEST(UniqueFunction, KeepsStateBetweenCalls) {
    UniqueFunction<int()> count = [n = 0]() mutable { return ++n; };
    count();
    EXPECT_EQ(count(), 2);
}

TEST(UniqueFunction, DestroysWhatItHoldsExactlyOnce) {
    for (const bool large : {false, true}) {
        int alive = 0;
        {
            UniqueFunction<int()> f;
            if (large) {
                f = [tracked = Tracked(alive), padding = std::array<char, 64>{}] { return tracked() + padding[0]; };
            } else {
                f = Tracked(alive);
            }
            EXPECT_EQ(alive, 1) << large;
            UniqueFunction<int()> g = std::move(f);
            EXPECT_EQ(alive, 1) << large;
            g = [] { return 2; };
            EXPECT_EQ(alive, 0) << large;
            g = Tracked(alive);
            g.reset();
            g.reset();
            EXPECT_EQ(alive, 0) << large;
            f = Tracked(alive);
        }
        EXPECT_EQ(alive, 0) << large;
    }
}

TEST(UniqueFunction, SelfMoveKeepsTheTarget) {
    int alive = 0;
    UniqueFunction<int()> f = Tracked(alive);
    auto& same = f;
    f = std::move(same);
    ASSERT_TRUE(f);
    EXPECT_EQ(alive, 1);
}

TEST(UniqueFunction, PassesExceptionsOn) {
    UniqueFunction<void()> f = [] { throw std::out_of_range("mine"); };
    EXPECT_THROW(f(), std::out_of_range);
    EXPECT_TRUE(f);
}

TEST(UniqueFunction, ConstructorThatThrowsLeaksNothing) {
    struct Stubborn {
        Stubborn() = default;
        Stubborn(const Stubborn&) { throw std::runtime_error("no copies"); }
        void operator()() const {}
        std::array<char, 100> large{};
    };
    const Stubborn stubborn;
    EXPECT_THROW(UniqueFunction<void()>{stubborn}, std::runtime_error);
}

TEST(UniqueFunction, TargetWhoseMoveMayThrowLivesOnTheHeap) {
    // Moving a UniqueFunction is noexcept: a small target whose own move throws must not be moved.
    struct Throwing {
        Throwing() = default;
        Throwing(Throwing&&) noexcept(false) { ++moves; }
        int operator()() const { return moves; }
        int moves = 0;
    };
    UniqueFunction<int()> f = Throwing{};
    const int moves = f();
    UniqueFunction<int()> g = std::move(f);
    EXPECT_EQ(g(), moves);
}

TEST(UniqueFunction, ForwardsReferencesAndMoveOnlyArguments) {
    UniqueFunction<void(int&)> increment = [](int& value) { ++value; };
    int value = 1;
    increment(value);
    EXPECT_EQ(value, 2);
    UniqueFunction<int(std::unique_ptr<int>)> open = [](std::unique_ptr<int> box) { return *box; };
    EXPECT_EQ(open(std::make_unique<int>(3)), 3);
    UniqueFunction<int&()> reference = [&value]() -> int& { return value; };
    reference() = 9;
    EXPECT_EQ(value, 9);
}

TEST(UniqueFunction, DropsTheResultWhereNoneIsWanted) {
    int calls = 0;
    UniqueFunction<void()> f = [&calls] { return ++calls; };
    f();
    EXPECT_EQ(calls, 1);
}

TEST(UniqueFunction, CallingAnEmptyOneThrows) {
    UniqueFunction<int()> empty;
    EXPECT_FALSE(empty);
    EXPECT_THROW(empty(), std::bad_function_call);
    UniqueFunction<int()> null = nullptr;
    EXPECT_THROW(null(), std::bad_function_call);
}

TEST(UniqueFunction, MadeOfNothingCallableIsEmpty) {
    int (*no_function)() = nullptr;
    EXPECT_FALSE(UniqueFunction<int()>(no_function));
    EXPECT_FALSE(UniqueFunction<int()>(std::function<int()>()));
    EXPECT_TRUE(UniqueFunction<int()>(std::function<int()>(seven)));
}

TEST(UniqueFunction, CallsMembersThroughPointers) {
    UniqueFunction<std::size_t(const std::string&)> size = &std::string::size;
    EXPECT_EQ(size("four"), 4u);
}

}  // namespace
}  // namespace trtlab::core
