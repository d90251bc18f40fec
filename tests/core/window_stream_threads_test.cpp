#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <latch>
#include <memory>
#include <mutex>
#include <numeric>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

#include "counted_memory.hpp"
#include "interruption.hpp"
#include "trtlab/core/window_stream.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::CountedMemory;
using testing::Interrupted;
using testing::InterruptingSignal;
using testing::yield_until;

WindowStream::Options bytes_of(std::size_t window, std::size_t overlap, std::size_t windows) {
    return {.window = window, .overlap = overlap, .windows = windows};
}

std::vector<std::byte> many(std::size_t size, int value = 0) { return {size, static_cast<std::byte>(value)}; }

void throw_interrupted() { throw Interrupted(); }

TEST(WindowStreamThreads, AWriteWaitsForTheSlowestWindow) {
    WindowStream stream(bytes_of(4, 0, 2));
    ASSERT_EQ(stream.try_write(many(8)), 8u);
    Window slow = stream.next(), quick = stream.next();
    std::atomic<bool> written{false};
    std::jthread producer([&] {
        EXPECT_EQ(stream.write(many(4)), 4u);
        written = true;
    });
    yield_until([&] { return stream.stats().blocked == 1; });
    quick.release();
    EXPECT_EQ(stream.stats().blocked, 1u);
    EXPECT_FALSE(written);
    slow.release();
    producer.join();
    EXPECT_TRUE(written);
}

TEST(WindowStreamThreads, AWriteSaysHowMuchItTookWhenItsTimeIsOver) {
    WindowStream stream(bytes_of(4, 0, 2));
    EXPECT_EQ(stream.write(many(9), 1ms), 8u);
    EXPECT_EQ(stream.write(many(1), 1ms), 0u);
    EXPECT_EQ(stream.write(many(1), -1s), 0u);
    EXPECT_THROW((void)stream.reserve(1, 1ms), Timeout);
    EXPECT_EQ(stream.stats().blocked, 0u);
    EXPECT_EQ(stream.stats().written, 8u);
}

TEST(WindowStreamThreads, ProducersTakeTurnsInOrderOfArrival) {
    WindowStream stream(bytes_of(2, 0, 1));
    ASSERT_EQ(stream.try_write(many(2)), 2u);
    std::vector<std::jthread> producers;
    for (int i = 0; i < 4; ++i) {
        producers.emplace_back([&, i] { EXPECT_EQ(stream.write(many(6, i + 1)), 6u); });
        yield_until([&] { return stream.stats().blocked == static_cast<std::size_t>(i + 1); });
    }
    EXPECT_EQ(stream.try_write(many(1)), 0u) << "nobody overtakes";
    EXPECT_THROW(stream.finish(1ms), Timeout);
    (void)stream.next();
    for (int i = 0; i < 12; ++i) {
        const Window window = stream.next();
        const auto value = static_cast<std::byte>(i / 3 + 1);
        EXPECT_THAT(window.bytes(), ::testing::ElementsAre(value, value));
    }
}

TEST(WindowStreamThreads, AReservationHoldsUpOtherProducers) {
    WindowStream stream(bytes_of(4, 0, 2));
    WindowStream::Reservation room = stream.reserve(4);
    std::jthread other([&] { EXPECT_EQ(stream.write(many(4, 2)), 4u); });
    yield_until([&] { return stream.stats().blocked == 1; });
    std::fill(room.bytes().begin(), room.bytes().end(), std::byte{1});
    room.commit(4);
    EXPECT_EQ(stream.next().bytes()[3], std::byte{1});
    EXPECT_EQ(stream.next().bytes()[0], std::byte{2});
}

TEST(WindowStreamThreads, ConsumersGetWindowsInOrderOfArrival) {
    WindowStream stream(bytes_of(1, 0, 8));
    std::mutex mutex;
    std::vector<std::uint64_t> got(4);
    std::vector<std::jthread> consumers;
    for (std::size_t i = 0; i < 4; ++i) {
        consumers.emplace_back([&, i] {
            const Window window = stream.next();
            const std::lock_guard lock(mutex);
            got[i] = window.index();
        });
        yield_until([&] { return stream.stats().waiting == i + 1; });
    }
    EXPECT_FALSE(stream.try_next()) << "nobody overtakes";
    ASSERT_EQ(stream.write(many(4)), 4u);
    consumers.clear();
    EXPECT_THAT(got, ::testing::ElementsAre(0, 1, 2, 3));
}

TEST(WindowStreamThreads, NextGivesUpWhenItsTimeIsOver) {
    WindowStream stream(bytes_of(4, 0, 2));
    EXPECT_THROW((void)stream.next(1ms), Timeout);
    EXPECT_EQ(stream.stats().waiting, 0u);
}

TEST(WindowStreamThreads, FinishWakesEveryConsumerWithTheEnd) {
    WindowStream stream(bytes_of(4, 0, 2));
    std::vector<std::jthread> consumers;
    for (int i = 0; i < 3; ++i) consumers.emplace_back([&] { EXPECT_FALSE(stream.next()); });
    const Future<Window> future = stream.next_async();
    yield_until([&] { return stream.stats().waiting == 4; });
    stream.finish();
    EXPECT_FALSE(future.get());
}

TEST(WindowStreamThreads, CloseWakesEverybodyWithClosed) {
    WindowStream full(bytes_of(4, 0, 1)), empty(bytes_of(4, 0, 1));
    ASSERT_EQ(full.try_write(many(4)), 4u);
    const Window held = full.next();
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] { EXPECT_THROW(full.write(many(1)), Closed); });
        threads.emplace_back([&] { EXPECT_THROW((void)empty.next(), Closed); });
    }
    const Future<Window> future = empty.next_async();
    yield_until([&] { return full.stats().blocked == 3 && empty.stats().waiting == 4; });
    full.close();
    full.close();
    empty.close();
    threads.clear();
    EXPECT_THROW((void)future.get(), Closed);
    EXPECT_THROW(full.write(many(1)), Closed);
    EXPECT_THROW(full.finish(), Closed);
    EXPECT_THROW((void)full.next(), Closed);
    EXPECT_THROW((void)full.try_next(), Closed);
    EXPECT_THROW((void)full.next_async().get(), Closed);
    EXPECT_EQ(held.bytes()[0], std::byte{0});
}

TEST(WindowStreamThreads, DestroyedBusyWakesEverybodyWithClosed) {
    auto stream = std::make_unique<WindowStream>(bytes_of(4, 0, 1));
    ASSERT_EQ(stream->try_write(many(4)), 4u);
    Window held = stream->next();
    std::jthread producer([raw = stream.get()] { EXPECT_THROW(raw->write(many(1)), Closed); });
    std::jthread consumer([raw = stream.get()] { EXPECT_THROW((void)raw->next(), Closed); });
    yield_until([&] { return stream->stats().blocked == 1 && stream->stats().waiting == 1; });
    stream.reset();
}

TEST(WindowStreamThreads, AReservationOutlivesTheStream) {
    auto memory = std::make_shared<CountedMemory>();
    auto stream = std::make_unique<WindowStream>(bytes_of(4, 0, 1), memory);
    WindowStream::Reservation room = stream->reserve(4);
    stream.reset();
    room.bytes()[3] = std::byte{1};
    EXPECT_THROW(room.commit(4), Closed);
    EXPECT_EQ(memory->blocks(), 1);
    room = {};
    EXPECT_EQ(memory->blocks(), 0);
}

// Moving the predecessor's stack of windows left behind what it had yet to wait for: of 5 windows that were still being
// read, it waited for none before it gave their memory back.
TEST(PredecessorDefect13, WindowsThatAreStillReadKeepTheirMemoryWhateverIsMovedOrDestroyed) {
    static_assert(!std::is_move_constructible_v<WindowStream> && !std::is_move_assignable_v<WindowStream>);
    auto memory = std::make_shared<CountedMemory>();
    std::vector<Promise<int>> computing(5);
    std::vector<const std::byte*> addresses;
    {
        WindowStream stream(bytes_of(64, 32, 5), memory);
        ASSERT_EQ(stream.try_write(many(64 + 4 * 32, 7)), 192u);
        stream.finish();
        for_each_window(stream, [&](Window& window) {
            addresses.push_back(window.data());
            Window moved = std::move(window);
            window = std::move(moved);
            return computing[window.index()].future();
        });
        EXPECT_EQ(stream.stats().in_flight, 5u);
    }
    for (std::size_t i = 0; i < 5; ++i) {
        ASSERT_EQ(memory->blocks(), 1) << "window " << i << " is still being computed on";
        EXPECT_EQ(addresses[i][63], std::byte{7});
        computing[i].set_value(0);
    }
    EXPECT_EQ(memory->blocks(), 0);
}

TEST(WindowStreamThreads, ASignalEndsAWaitAndLosesNothing) {
    InterruptingSignal signal;
    WindowStream stream(bytes_of(4, 0, 1));
    std::atomic<int> interrupted{0};
    const auto expect_interrupted = [&](auto wait) {
        EXPECT_THROW(wait(WaitOptions(kForever, &throw_interrupted)), Interrupted);
        ++interrupted;
    };
    std::thread consumer([&] { expect_interrupted([&](const WaitOptions& wait) { (void)stream.next(wait); }); });
    signal.interrupt_until(consumer, [&] { return interrupted == 1; });
    consumer.join();
    EXPECT_EQ(stream.stats().waiting, 0u);

    ASSERT_EQ(stream.try_write(many(4)), 4u);
    std::thread producer([&] { expect_interrupted([&](const WaitOptions& wait) { stream.write(many(1), wait); }); });
    signal.interrupt_until(producer, [&] { return interrupted == 2; });
    producer.join();
    EXPECT_EQ(stream.stats().blocked, 0u);

    const WindowStream::Reservation none;
    const Window first = stream.next();
    EXPECT_EQ(first.index(), 0u);
}

std::atomic<WindowStream*> interrupted_stream{nullptr};

/// The window comes just as the signal is seen.
void write_and_throw() {
    if (WindowStream* stream = interrupted_stream.exchange(nullptr)) {
        (void)stream->try_write(many(4, 5));
        throw Interrupted();
    }
}

TEST(WindowStreamThreads, AWindowThatCameAsASignalEndedTheWaitGoesToTheNext) {
    InterruptingSignal signal;
    auto memory = std::make_shared<CountedMemory>();
    for (const bool taken : {true, false}) {
        WindowStream stream(bytes_of(2, 0, 2), memory);
        interrupted_stream = &stream;
        std::atomic<bool> over{false};
        std::thread consumer([&] {
            EXPECT_THROW((void)stream.next(WaitOptions(kForever, &write_and_throw)), Interrupted);
            over = true;
        });
        signal.interrupt_until(consumer, [&] { return over.load(); });
        consumer.join();
        if (!taken) continue;  // closing drops it
        EXPECT_EQ(stream.stats().ready, 2u);
        EXPECT_EQ(stream.next(0s).index(), 0u);
        EXPECT_EQ(stream.next(0s).index(), 1u);
    }
    EXPECT_EQ(memory->blocks(), 0);
}

TEST(WindowStreamThreads, NextAsAFuture) {
    WindowStream stream(bytes_of(4, 2, 2));
    Future<Window> waiting = stream.next_async();
    EXPECT_FALSE(waiting.done());
    ASSERT_EQ(stream.try_write(many(6)), 6u);
    ASSERT_TRUE(waiting.done());
    EXPECT_EQ(waiting.get().index(), 0u);
    const Future<Window> ready = stream.next_async();
    ASSERT_TRUE(ready.done());
    const Window second = ready.get().share();
    EXPECT_EQ(second.index(), 1u);
    waiting = {};
    EXPECT_EQ(stream.stats().in_flight, 1u);
}

TEST(WindowStreamThreads, AFutureThatIsCancelledGivesUpItsPlace) {
    WindowStream stream(bytes_of(4, 0, 2));
    const std::int64_t before = RefCounted::live();
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(stream.next_async().cancel());
    EXPECT_EQ(stream.stats().waiting, 0u);
    EXPECT_EQ(RefCounted::live(), before);
    const Future<Window> first = stream.next_async(), second = stream.next_async();
    EXPECT_TRUE(first.cancel());
    ASSERT_EQ(stream.try_write(many(4)), 4u);
    EXPECT_EQ(second.get().index(), 0u);
    EXPECT_FALSE(second.cancel());
}

TEST(WindowStreamThreads, AFutureOutlivesTheStream) {
    auto memory = std::make_shared<CountedMemory>();
    Future<Window> window, nothing;
    {
        WindowStream stream(bytes_of(4, 0, 2), memory);
        window = stream.next_async();
        ASSERT_EQ(stream.try_write(many(4, 3)), 4u);
        nothing = stream.next_async();
    }
    EXPECT_THROW((void)nothing.get(), Closed);
    EXPECT_EQ(window.get().bytes()[3], std::byte{3});
    EXPECT_EQ(memory->blocks(), 1);
    window = nothing = {};
    EXPECT_EQ(memory->blocks(), 0);
}

TEST(WindowStreamThreads, AForkedChildIsRefusedAndDestroysNothing) {
    WindowStream stream(bytes_of(4, 0, 2));
    ASSERT_EQ(stream.try_write(many(4)), 4u);
    auto window = std::make_unique<Window>(stream.next());
    const pid_t child = fork();
    if (child == 0) {
        int refused = 0;
        const auto expect_closed = [&](auto call) {
            try {
                call();
            } catch (const Closed&) {
                ++refused;
            }
        };
        expect_closed([&] { stream.write(many(1)); });
        expect_closed([&] { (void)stream.next(); });
        expect_closed([&] { (void)stream.stats(); });
        stream.close();
        window.reset();
        _exit(refused);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 3);
}

/// Every byte of a window is compared with what was written there, while the producer overwrites what was given back.
void stress(std::size_t window, std::size_t overlap, std::size_t windows, int producers, int consumers) {
    constexpr std::uint64_t kElements = 60'000;
    const std::size_t hop = window - overlap;
    WindowStream stream(
        {.window = window, .overlap = overlap, .element_bytes = sizeof(std::uint32_t), .windows = windows});
    std::atomic<std::uint64_t> seen{0}, wrong{0};
    std::uint32_t next = 0;  // by whoever has the reservation
    std::atomic<int> producing{producers};
    std::vector<std::jthread> threads;
    for (int i = 0; i < producers; ++i) {
        threads.emplace_back([&, i] {
            for (bool more = true; more;) {
                WindowStream::Reservation room = stream.reserve(static_cast<std::size_t>(i) * 7 + 5);
                std::size_t size = room.size_bytes() / sizeof(std::uint32_t);
                if (next + size > kElements) size = kElements - next;
                for (std::size_t j = 0; j < size; ++j) reinterpret_cast<std::uint32_t*>(room.data())[j] = next++;
                more = next < kElements;
                room.commit(size);
            }
            if (--producing == 0) stream.finish();
        });
    }
    for (int i = 0; i < consumers; ++i) {
        threads.emplace_back([&, i] {
            // Who holds windows does not wait for more: the oldest of them may be what the producer waits for.
            for (;;) {
                std::vector<Window> held;
                held.push_back(i % 2 == 0 ? stream.next() : stream.next_async().get().share());
                if (!held.back()) break;
                while (held.size() < 3) {
                    std::optional<Window> more = stream.try_next();
                    if (!more || !*more) break;
                    held.push_back(std::move(*more));
                }
                for (; !held.empty(); ++seen) {
                    const std::size_t out = held.back().index() % held.size();
                    auto expected = static_cast<std::uint32_t>(held[out].index() * hop);
                    for (const std::uint32_t element : held[out].as<std::uint32_t>()) wrong += element != expected++;
                    held.erase(held.begin() + static_cast<std::ptrdiff_t>(out));
                }
            }
        });
    }
    threads.clear();
    EXPECT_EQ(wrong, 0u);
    EXPECT_EQ(seen, (kElements - window) / hop + 1);
    EXPECT_EQ(stream.stats().in_flight, 0u);
}

TEST(WindowStreamStress, OneProducerAndSeveralConsumers) { stress(64, 24, 5, 1, 3); }
TEST(WindowStreamStress, SeveralProducersAndOneConsumer) { stress(50, 45, 3, 3, 1); }
TEST(WindowStreamStress, WithoutOverlap) { stress(16, 0, 4, 2, 2); }

TEST(WindowStreamStress, CloseMeetsEverybody) {
    for (int i = 0; i < 50; ++i) {
        auto stream = std::make_unique<WindowStream>(bytes_of(4, 1, 2));
        WindowStream& shared = *stream;
        std::latch begun(3);
        std::jthread producer([&] {
            begun.count_down();
            EXPECT_THROW(for (;;) shared.write(many(10)), Closed);
        });
        std::jthread consumer([&] {
            begun.count_down();
            EXPECT_THROW(for (;;)(void) shared.next(), Closed);
        });
        std::jthread canceller([&] {
            begun.count_down();
            try {
                for (;;) {
                    const Future<Window> future = shared.next_async();
                    if (!future.cancel()) (void)future.get();
                }
            } catch (const Closed&) {
            }
        });
        begun.wait();
        shared.close();
    }
}

}  // namespace
}  // namespace trtlab::core
