#include "trtlab/core/task.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "frame_count.hpp"
#include "log_capture.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::FrameCount;
using Token = FrameCount::Token;

Task<int> give(Token, int value) { co_return value; }
Task<int> fail(Token, std::string what) {
    if (!what.empty()) throw std::runtime_error(what);
    co_return 0;
}
Task<int> add(Token token, int a, int b) { co_return co_await give(token, a) + co_await give(token, b); }
Task<void> note(Token, std::vector<std::string>* notes, std::string text) {
    notes->push_back(std::move(text));
    co_return;
}

TEST(Task, BeginsWhenItIsAwaitedAndNotBefore) {
    FrameCount frames;
    std::vector<std::string> notes;
    Task<void> task = note(frames.token(), &notes, "ran");
    EXPECT_TRUE(task.valid());
    EXPECT_THAT(notes, ::testing::IsEmpty());
    spawn(std::move(task)).get();
    EXPECT_THAT(notes, ::testing::ElementsAre("ran"));
    EXPECT_EQ(frames.alive(), 0);
}

TEST(Task, GivesItsValueToTheOneThatAwaitsIt) {
    FrameCount frames;
    EXPECT_EQ(spawn(add(frames.token(), 3, 4)).get(), 7);
    EXPECT_EQ(frames.alive(), 0);
}

TEST(Task, ThrowsWhereItIsAwaited) {
    FrameCount frames;
    const auto outer = [](Token token) -> Task<std::string> {
        try {
            (void)co_await fail(token, "the inner one's trouble");
        } catch (const std::runtime_error& error) {
            co_return error.what();
        }
        co_return "nothing was thrown";
    };
    EXPECT_EQ(spawn(outer(frames.token())).get(), "the inner one's trouble");
    const Future<int> failed = spawn(fail(frames.token(), "kept"));
    EXPECT_THROW(failed.get(), std::runtime_error);
    EXPECT_EQ(frames.alive(), 0);
}

TEST(Task, CarriesWhatCanOnlyBeMoved) {
    const auto make = [](int value) -> Task<std::unique_ptr<int>> { co_return std::make_unique<int>(value); };
    const auto use = [&make]() -> Task<int> {
        const std::unique_ptr<int> made = co_await make(5);
        co_return *made;
    };
    EXPECT_EQ(spawn(use()).get(), 5);
    EXPECT_EQ(*spawn(make(6)).get(), 6);
}

TEST(Task, DroppedBeforeItBeganItDestroysWhatItTook) {
    FrameCount frames;
    {
        Task<int> task = give(frames.token(), 1);
        EXPECT_EQ(frames.alive(), 1);
        task = give(frames.token(), 2);
        EXPECT_EQ(frames.alive(), 1);
        auto& same = task;
        task = std::move(same);
        EXPECT_EQ(frames.alive(), 1);
        Task<int> moved = std::move(task);
        EXPECT_FALSE(task.valid());  // NOLINT(bugprone-use-after-move): moved from is empty
        EXPECT_EQ(frames.alive(), 1);
    }
    EXPECT_EQ(frames.alive(), 0);
}

TEST(Task, EmptyOneIsRefused) {
    EXPECT_THROW(spawn(Task<int>()), InvalidArgument);
    const auto twice = [](Task<int> task) -> Task<int> {
        const int first = co_await std::move(task);
        co_return first + co_await std::move(task);  // NOLINT(bugprone-use-after-move): that is the mistake
    };
    FrameCount frames;
    EXPECT_THROW(spawn(twice(give(frames.token(), 1))).get(), InvalidArgument);
    EXPECT_EQ(frames.alive(), 0);
}

TEST(Task, IsGoneWithAllThatItHoldsBeforeItsFutureIsReady) {
    FrameCount frames;
    ThreadPool pool(1);
    const auto work = [](Token, ThreadPool* threads) -> Task<int> {
        co_await threads->schedule();
        co_return 3;
    };
    for (int round = 0; round < 200; ++round) {
        EXPECT_EQ(spawn(work(frames.token(), &pool)).get(), 3);
        ASSERT_EQ(frames.alive(), 0);
    }
}

// Without -O2, and with a sanitizer, g++ makes calls of symmetric transfers, each of which takes stack.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
constexpr int kTasksInARow = 500;
#else
constexpr int kTasksInARow = 300'000;
#endif

TEST(Task, ManyAwaitedOneAfterAnotherNeedNoMoreStackThanOne) {
    FrameCount frames;
    const auto sum = [](Token token, int count) -> Task<long> {
        long total = 0;
        for (int i = 0; i < count; ++i) total += co_await give(token, i);
        co_return total;
    };
    EXPECT_EQ(spawn(sum(frames.token(), kTasksInARow)).get(), kTasksInARow * (kTasksInARow - 1L) / 2);
}

TEST(Spawn, RunsOnTheCallersThreadUntilTheTaskFirstWaits) {
    Promise<void> promise;
    const auto work = [](Future<void> awaited) -> Task<std::pair<std::thread::id, std::thread::id>> {
        const std::thread::id before = std::this_thread::get_id();
        co_await awaited;
        co_return std::pair(before, std::this_thread::get_id());
    };
    const auto future = spawn(work(promise.future()));
    EXPECT_FALSE(future.done());
    EXPECT_TRUE(future.running());
    EXPECT_FALSE(future.cancel());
    std::thread::id completing;
    std::jthread([&] {
        completing = std::this_thread::get_id();
        promise.set_value();
    }).join();
    const auto [before, after] = future.get();
    EXPECT_EQ(before, std::this_thread::get_id());
    EXPECT_EQ(after, completing);
}

TEST(AwaitFuture, GivesAReferenceIfItHasANameAndACopyIfNot) {
    Promise<std::string> promise;
    const Future<std::string> future = promise.future();
    const auto by_name = [](const Future<std::string>& awaited) -> Task<const std::string*> {
        const std::string& value = co_await awaited;
        co_return &value;
    };
    const auto temporary = [](Promise<std::string>* promised) -> Task<std::string> {
        auto&& value = co_await promised->future();
        static_assert(std::is_same_v<decltype(value), std::string&&>);
        co_return std::move(value);
    };
    const auto first = spawn(by_name(future));
    const auto second = spawn(temporary(&promise));
    promise.set_value("the answer");
    EXPECT_EQ(first.get(), &future.get());
    EXPECT_EQ(second.get(), "the answer");
    EXPECT_EQ(future.get(), "the answer");
    EXPECT_EQ(spawn(by_name(future)).get(), &future.get());  // done already
}

TEST(AwaitFuture, ThrowsWhatTheProducerThrewOrThatItWasCancelledOrDropped) {
    FrameCount frames;
    const auto wait = [](Token, Future<int> awaited) -> Task<int> { co_return co_await awaited; };
    Promise<int> failing, cancelled;
    std::optional<Promise<int>> dropped(std::in_place);
    const auto first = spawn(wait(frames.token(), failing.future()));
    const auto second = spawn(wait(frames.token(), cancelled.future()));
    const auto third = spawn(wait(frames.token(), dropped->future()));
    EXPECT_EQ(frames.alive(), 3);
    failing.set_exception(std::make_exception_ptr(std::runtime_error("the producer's")));
    EXPECT_TRUE(cancelled.future().cancel());
    dropped.reset();
    EXPECT_THROW(first.get(), std::runtime_error);
    EXPECT_THROW(second.get(), Cancelled);
    EXPECT_THROW(third.get(), Closed);
    EXPECT_THROW(spawn(wait(frames.token(), Future<int>())).get(), InvalidArgument);
    EXPECT_EQ(frames.alive(), 0);
}

TEST(AwaitFuture, AChainOfAnyLengthNeedsNoMoreStackThanOne) {
    FrameCount frames;
    const auto link = [](Token, Future<int> awaited) -> Task<int> { co_return co_await awaited + 1; };
    Promise<int> promise;
    Future<int> last = promise.future();
    constexpr int kLinks = 50'000;
    for (int i = 0; i < kLinks; ++i) last = spawn(link(frames.token(), last));
    EXPECT_EQ(frames.alive(), kLinks);
    promise.set_value(0);
    EXPECT_EQ(last.get(), kLinks);
    EXPECT_EQ(frames.alive(), 0);
}

TEST(AwaitFuture, RacingWithItsCompletionResumesOnce) {
    FrameCount frames;
    ThreadPool pool(2);
    const auto wait = [](Token, Future<int> awaited) -> Task<int> { co_return co_await awaited; };
    for (int round = 0; round < 2000; ++round) {
        ASSERT_EQ(spawn(wait(frames.token(), pool.submit([round] { return round; }))).get(), round);
    }
    EXPECT_EQ(frames.alive(), 0);
}

}  // namespace
}  // namespace trtlab::core
