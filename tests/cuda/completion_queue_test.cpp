#include "trtlab/cuda/completion_queue.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "core/log_capture.hpp"
#include "core/yield_until.hpp"
#include "simulated.hpp"

namespace trtlab::cuda::test {
namespace {

using core::testing::yield_until;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// Calls a function.
class Calls final : public Completion {
public:
    explicit Calls(std::function<void(int)> f) : f_(std::move(f)) {}
    void reached(int status) noexcept override { f_(status); }

private:
    std::function<void(int)> f_;
};

class Completions : public Simulated {
protected:
    void SetUp() override {
        Simulated::SetUp();
        stream_.emplace(gpu());
    }
    void TearDown() override {
        stream_.reset();
        Simulated::TearDown();
    }
    std::optional<Stream> stream_;
};

TEST_F(Completions, AreCalledWhenTheEventIsReachedAndNotBefore) {
    CompletionQueue queue(gpu());
    const Event event(gpu());
    std::latch called(1);
    std::atomic<int> status{-1};
    Calls completion([&](int code) {
        status = code;
        called.count_down();
    });
    fake_.hold();
    ASSERT_EQ(fake_.enqueue(stream_->handle(), [&] { EXPECT_EQ(status, -1); }), 0);
    event.record(*stream_);
    queue.watch(event, completion);
    EXPECT_EQ(queue.pending(), 1u);
    fake_.step(1);
    const std::uint64_t looks = fake_.calls("cudaEventQuery");
    yield_until([&] { return fake_.calls("cudaEventQuery") > looks + 2; });
    EXPECT_EQ(status, -1);
    fake_.step(1);
    called.wait();
    EXPECT_EQ(status, 0);
    EXPECT_EQ(queue.pending(), 0u);
}

TEST_F(Completions, RunOnTheQueuesThreadWhichHasAName) {
    CompletionQueue queue(gpu());
    EXPECT_FALSE(queue.on_this_thread());
    const Event event(gpu());
    std::latch called(1);
    std::array<char, 16> name{};
    bool there = false;
    Calls completion([&](int) {
        there = queue.on_this_thread();
        pthread_getname_np(pthread_self(), name.data(), name.size());
        called.count_down();
    });
    queue.watch(event, completion);
    called.wait();
    EXPECT_TRUE(there);
    EXPECT_STREQ(name.data(), "trtlab-cuda");
}

TEST_F(Completions, ThatAreDueComeInTheOrderInWhichTheyWereWatched) {
    CompletionQueue queue(gpu());
    std::deque<Event> events;
    std::deque<Calls> completions;
    std::vector<int> order;  // written by the queue's thread, read after the latch
    std::latch called(20);
    for (int i = 0; i < 20; ++i) {
        events.emplace_back(gpu()).record(*stream_);
        completions.emplace_back([&order, &called, i](int) {
            order.push_back(i);
            called.count_down();
        });
        queue.watch(events.back(), completions.back());
    }
    called.wait();
    for (int i = 0; i < 20; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST_F(Completions, DoNotWaitForEachOther) {
    CompletionQueue queue(gpu());
    const Stream other(gpu());
    const Event slow(gpu()), quick(gpu());
    std::latch first(1), second(1);
    Calls slow_one([&](int) { second.count_down(); }), quick_one([&](int) { first.count_down(); });
    fake_.hold();
    slow.record(*stream_);
    quick.record(other);
    queue.watch(slow, slow_one);
    queue.watch(quick, quick_one);
    fake_.step(1, other.handle());
    first.wait();
    EXPECT_EQ(queue.pending(), 1u);
    fake_.release();
    second.wait();
}

TEST_F(Completions, MayWatchAgainTheSameOne) {
    CompletionQueue queue(gpu());
    const Event event(gpu());
    std::latch called(1000);
    int rounds = 0;
    std::optional<Calls> completion;
    completion.emplace([&](int) {
        if (++rounds < 1000) queue.watch(event, *completion);
        called.count_down();
    });
    queue.watch(event, *completion);
    called.wait();
    EXPECT_EQ(rounds, 1000);
}

TEST_F(Completions, MayDestroyThemselves) {
    CompletionQueue queue(gpu());
    const Event event(gpu());
    std::latch gone(50);
    struct Suicidal final : Completion {
        explicit Suicidal(std::latch& gone_) : gone(gone_) {}
        ~Suicidal() override { gone.count_down(); }
        void reached(int) noexcept override { delete this; }
        std::latch& gone;
    };
    for (int i = 0; i < 50; ++i) queue.watch(event, *new Suicidal(gone));
    gone.wait();
}

TEST_F(Completions, OfALostDeviceAreCalledWithItsError) {
    const core::testing::LogCapture log;  // of the destructors
    CompletionQueue queue(gpu());
    const Event first(gpu()), second(gpu());
    std::latch called(2);
    std::array<std::atomic<int>, 2> status{};
    Calls one([&](int code) {
        status[0] = code;
        called.count_down();
    });
    Calls two([&](int code) {
        status[1] = code;
        called.count_down();
    });
    fake_.hold();
    ASSERT_EQ(fake_.enqueue(stream_->handle(), [] {}), 0);
    first.record(*stream_);
    second.record(*stream_);
    queue.watch(first, one);
    queue.watch(second, two);
    fake_.fail("execute", 1, 719, true);
    fake_.release();
    called.wait();
    EXPECT_EQ(status[0], 719);
    EXPECT_EQ(status[1], 719);
}

TEST_F(Completions, ParkedThreadCallsNothingUntilItIsGivenSomething) {
    CompletionQueue queue(gpu());
    const Event event(gpu());
    for (int i = 0; i < 200; ++i) {
        std::latch called(1);
        Calls completion([&](int) { called.count_down(); });
        queue.watch(event, completion);
        called.wait();
    }
    EXPECT_EQ(fake_.calls("cudaEventQuery"), 200u);
}

TEST_F(Completions, OfManyThreadsAreAllCalled) {
    CompletionQueue queue(gpu());
    constexpr int kThreads = 4, kEach = 500;
    const Event event(gpu());
    std::atomic<int> called{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&] {
            for (int i = 0; i < kEach; ++i) {
                struct Counted final : Completion {
                    explicit Counted(std::atomic<int>& called_) : called(called_) {}
                    void reached(int) noexcept override {
                        std::atomic<int>& counter = called;
                        delete this;
                        ++counter;
                    }
                    std::atomic<int>& called;
                };
                queue.watch(event, *new Counted(called));
                if (i % 64 == 0) std::this_thread::yield();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    yield_until([&] { return called == kThreads * kEach; });
    EXPECT_EQ(queue.pending(), 0u);
}

TEST_F(Completions, DestroyedBusyItWaitsForAllOfThem) {
    const Event event(gpu());
    bool called = false;
    Calls completion([&](int) { called = true; });
    fake_.hold();
    event.record(*stream_);
    std::thread releaser;
    {
        CompletionQueue queue(gpu());
        queue.watch(event, completion);
        releaser = std::thread([&] { fake_.release(); });
    }
    EXPECT_TRUE(called);
    releaser.join();
}

TEST_F(Completions, DestroyedIdleItEnds) {
    for (int i = 0; i < 50; ++i) CompletionQueue queue(gpu());
}

TEST_F(Completions, QueueMayGoInACallOfItsOwn) {
    auto queue = std::make_unique<CompletionQueue>(gpu());
    const Event event(gpu()), later(gpu());
    std::latch gone(1), called(1);
    fake_.hold();
    event.record(*stream_);
    later.record(*stream_);
    Calls last([&](int) { called.count_down(); });
    Calls completion([&](int) {
        queue.reset();
        gone.count_down();
    });
    queue->watch(event, completion);
    queue->watch(later, last);
    fake_.step(1);
    gone.wait();
    fake_.release();
    called.wait();
}

TEST_F(Completions, QueueMayGoAsSoonAsTheLastWasCalled) {
    for (int i = 0; i < 200; ++i) {
        auto queue = std::make_unique<CompletionQueue>(gpu());
        const Event event(gpu());
        std::latch called(1);
        Calls completion([&](int) { called.count_down(); });
        std::thread watcher([&, raw = queue.get()] { raw->watch(event, completion); });
        called.wait();
        queue.reset();  // while the watcher may not have come back
        watcher.join();
    }
}

TEST_F(Completions, QueueOfTheParentIsLeftAloneInAForkedChild) {
    auto* queue = new CompletionQueue(gpu());
    const pid_t child = fork();
    if (child == 0) {
        delete queue;
        _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    delete queue;
}

TEST_F(Completions, ThreadThatCannotMakeTheDeviceCurrentLogsAndGoesOn) {
    stream_.reset();
    restart(2);
    const Device second = gpu(1);
    const Event event(second);
    const core::testing::LogCapture log;
    std::latch called(1);
    Calls completion([&](int) { called.count_down(); });
    fake_.fail("cudaSetDevice", 1, 46);
    CompletionQueue queue(second);
    yield_until([&] { return !log.messages().empty(); });
    queue.watch(event, completion);
    called.wait();
    EXPECT_THAT(log.messages(), ElementsAre(AllOf(HasSubstr("waits for cuda:1"), HasSubstr("cudaSetDevice"))));
}

}  // namespace
}  // namespace trtlab::cuda::test
