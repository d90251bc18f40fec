#include "trtlab/core/window_stream.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "counted_memory.hpp"
#include "refusal.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::CountedMemory;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using testing::refusal;
using AtEnd = WindowStream::AtEnd;

WindowStream::Options ints(std::size_t window, std::size_t overlap, std::size_t windows = 4) {
    return {.window = window, .overlap = overlap, .element_bytes = sizeof(int), .windows = windows};
}

std::vector<int> counting(int begin, int end) {
    std::vector<int> values(static_cast<std::size_t>(end - begin));
    std::iota(values.begin(), values.end(), begin);
    return values;
}

void put(WindowStream& stream, int begin, int end) {
    const std::vector<int> values = counting(begin, end);
    ASSERT_EQ(stream.write(std::span(values), 0s), values.size());
}

std::vector<int> content(const Window& window) {
    const std::span<const int> elements = window.as<int>();
    return {elements.begin(), elements.end()};
}

TEST(WindowStream, CutsAStreamIntoWindowsThatOverlap) {
    WindowStream stream(ints(4, 1));
    put(stream, 0, 10);
    for (std::uint64_t i = 0; i < 3; ++i) {
        const Window window = stream.next(0s);
        EXPECT_EQ(window.index(), i);
        EXPECT_EQ(window.size(), 4u);
        EXPECT_EQ(window.valid(), 4u);
        const int begin = static_cast<int>(i) * 3;
        EXPECT_EQ(content(window), counting(begin, begin + 4));
    }
    EXPECT_THROW((void)stream.next(0s), Timeout);
}

TEST(WindowStream, GivesContiguousWindowsForManyLaps) {
    WindowStream stream(ints(5, 3, 2));
    put(stream, 0, 3);
    for (int i = 0; i < 1000; ++i) {
        put(stream, 3 + 2 * i, 5 + 2 * i);
        ASSERT_EQ(content(stream.next(0s)), counting(2 * i, 2 * i + 5));
    }
    EXPECT_GT(stream.stats().laps, 100u);
}

TEST(WindowStream, LetsAsManyWindowsBeHeldAsWasPromisedWhereverTheRingWraps) {
    for (const std::size_t overlap : {0u, 1u, 3u, 4u, 6u}) {
        WindowStream stream(ints(7, overlap, 3));
        const int hop = 7 - static_cast<int>(overlap);
        put(stream, 0, static_cast<int>(overlap));
        std::vector<Window> held;
        for (int i = 0; i < 50; ++i) {
            const int begin = i * hop;
            put(stream, begin + static_cast<int>(overlap), begin + 7);
            held.push_back(stream.next(0s));
            if (held.size() < 3) continue;
            EXPECT_THROW((void)stream.next(0s), Timeout);
            EXPECT_EQ(stream.stats().in_flight, 3u);
            for (int j = 0; j < 3; ++j) {
                const int of_window = (i - 2 + j) * hop;
                ASSERT_EQ(content(held[static_cast<std::size_t>(j)]), counting(of_window, of_window + 7));
            }
            held.erase(held.begin());
        }
    }
}

TEST(WindowStream, TakesNoMoreThanThereIsRoomForBehindTheSlowestWindow) {
    WindowStream stream(ints(4, 0, 2));
    const std::vector<int> values = counting(0, 100);
    EXPECT_EQ(stream.try_write(std::as_bytes(std::span(values))), 8u);
    Window slowest = stream.next(0s);
    Window second = stream.next(0s);
    second.release();
    EXPECT_EQ(stream.try_write(std::as_bytes(std::span(values))), 0u) << "the one that is held is older";
    slowest.release();
    EXPECT_EQ(stream.try_write(std::as_bytes(std::span(values))), 8u);
}

TEST(WindowStream, AWindowStaysWhatItWasUntilItIsGivenBack) {
    WindowStream stream(ints(4, 2, 3));
    put(stream, 0, 4);
    const Window held = stream.next(0s);
    const std::vector<int> values = counting(4, 100);
    (void)stream.try_write(std::as_bytes(std::span(values)));
    while (stream.try_next()) (void)stream.try_write(std::as_bytes(std::span(values)));
    EXPECT_EQ(content(held), counting(0, 4));
}

TEST(WindowStream, WindowsAreGivenBackInAnyOrder) {
    WindowStream stream(ints(2, 0, 4));
    put(stream, 0, 8);
    std::vector<Window> held;
    for (int i = 0; i < 4; ++i) held.push_back(stream.next(0s));
    for (const std::size_t i : {2u, 1u, 3u}) held[i].release();
    EXPECT_EQ(stream.stats().in_flight, 4u);
    held[0].release();
    held[0].release();
    EXPECT_EQ(stream.stats().in_flight, 0u);
}

TEST(WindowStream, EndsWithAnEmptyWindow) {
    WindowStream stream(ints(4, 0));
    put(stream, 0, 4);
    stream.finish();
    stream.finish();
    EXPECT_TRUE(stream.next(0s));
    EXPECT_FALSE(stream.next(0s));
    EXPECT_FALSE(stream.next());
    EXPECT_FALSE(stream.try_next().value());
    const std::vector<int> more = counting(0, 1);
    EXPECT_THROW(stream.write(std::span(more)), Closed);
}

TEST(WindowStream, KnowsTheLastWindowOnceTheStreamIsFinished) {
    WindowStream stream(ints(4, 2));
    put(stream, 0, 6);
    const Window first = stream.next(0s), second = stream.next(0s);
    EXPECT_FALSE(second.is_last());
    stream.finish();
    EXPECT_FALSE(first.is_last());
    EXPECT_TRUE(second.is_last());
}

TEST(WindowStream, DropsTheRestUnlessToldOtherwise) {
    WindowStream stream(ints(4, 2));
    put(stream, 0, 7);
    stream.finish();
    EXPECT_TRUE(stream.next(0s));
    EXPECT_TRUE(stream.next(0s).is_last());
    EXPECT_FALSE(stream.next(0s));
}

TEST(WindowStream, GivesTheRestAsAShorterWindow) {
    WindowStream::Options options = ints(4, 2);
    options.at_end = AtEnd::shorten;
    WindowStream stream(options);
    put(stream, 0, 5);
    stream.finish();
    EXPECT_EQ(content(stream.next(0s)), counting(0, 4));
    const Window rest = stream.next(0s);
    EXPECT_EQ(content(rest), counting(2, 5));
    EXPECT_EQ(rest.size(), 3u);
    EXPECT_EQ(rest.valid(), 3u);
    EXPECT_TRUE(rest.is_last());
    EXPECT_FALSE(stream.next(0s));
}

TEST(WindowStream, FillsTheRestUpToAWindow) {
    WindowStream::Options options = ints(6, 2);
    options.at_end = AtEnd::pad;
    const int value = -1;
    const auto bytes = std::as_bytes(std::span(&value, 1));
    options.pad_value.assign(bytes.begin(), bytes.end());
    WindowStream stream(options);
    put(stream, 0, 7);
    stream.finish();
    EXPECT_EQ(content(stream.next(0s)), counting(0, 6));
    const Window rest = stream.next(0s);
    EXPECT_THAT(content(rest), ElementsAre(4, 5, 6, -1, -1, -1));
    EXPECT_EQ(rest.size(), 6u);
    EXPECT_EQ(rest.valid(), 3u);
    EXPECT_EQ(stream.stats().written, 7u);
}

TEST(WindowStream, HasNoRestWhereTheLastWindowCoversEverything) {
    for (const AtEnd at_end : {AtEnd::drop, AtEnd::shorten, AtEnd::pad}) {
        WindowStream::Options options = ints(4, 3);
        options.at_end = at_end;
        WindowStream covered(options), empty(options);
        put(covered, 0, 6);
        covered.finish();
        EXPECT_EQ(covered.stats().windows, 3u);
        empty.finish();
        EXPECT_EQ(empty.stats().windows, 0u);
        EXPECT_FALSE(empty.next(0s));
    }
}

TEST(WindowStream, PaddingNeedsNoWindowGivenBack) {
    for (const std::size_t overlap : {0u, 1u, 2u, 3u, 5u}) {
        for (int laps = 0; laps < 40; ++laps) {
            WindowStream::Options options = ints(6, overlap, 2);
            options.at_end = AtEnd::pad;
            WindowStream stream(options);
            const int hop = 6 - static_cast<int>(overlap);
            put(stream, 0, static_cast<int>(overlap));
            int written = static_cast<int>(overlap);
            for (int i = 0; i < laps; ++i, written += hop) {
                put(stream, written, written + hop);
                (void)stream.next(0s);
            }
            put(stream, written, written + hop);
            const Window held = stream.next(0s);
            put(stream, written + hop, written + hop + 1);
            stream.finish(0s);
            const Window rest = stream.next(0s);
            EXPECT_EQ(rest.valid(), overlap + 1);
            EXPECT_EQ(rest.size(), 6u);
        }
    }
}

TEST(WindowStream, WritesInPlace) {
    WindowStream stream(ints(4, 2));
    int next = 0;
    for (int i = 0; i < 100; ++i) {
        WindowStream::Reservation room = stream.reserve(3, 0s);
        const std::size_t size = room.size_bytes() / sizeof(int);
        ASSERT_GE(size, 1u);
        ASSERT_LE(size, 3u);
        for (std::size_t j = 0; j < size; ++j) reinterpret_cast<int*>(room.data())[j] = next++;
        room.commit(size);
        EXPECT_FALSE(room);
        while (const auto window = stream.try_next()) {
            const int begin = static_cast<int>(window->index()) * 2;
            ASSERT_EQ(content(*window), counting(begin, begin + 4));
        }
    }
    EXPECT_EQ(stream.stats().written, static_cast<std::uint64_t>(next));
}

TEST(WindowStream, ReservesMultiplesOfABlockWhereEverythingIs) {
    WindowStream stream({.window = 48, .overlap = 16, .element_bytes = 1, .windows = 2});
    for (int i = 0; i < 100; ++i) {
        WindowStream::Reservation room = stream.reserve(16, 0s);
        ASSERT_EQ(room.size_bytes(), 16u);
        room.commit(16);
        (void)stream.try_next();
    }
}

TEST(WindowStream, AReservationThatIsDroppedWritesNothing) {
    WindowStream stream(ints(4, 2));
    (void)stream.reserve(4, 0s);
    WindowStream::Reservation first = stream.reserve(2, 0s);
    first.commit(0);
    EXPECT_EQ(stream.stats().written, 0u);
    put(stream, 0, 4);
    EXPECT_EQ(content(stream.next(0s)), counting(0, 4));
}

TEST(WindowStream, AReservationCanBeMoved) {
    WindowStream stream(ints(4, 2));
    WindowStream::Reservation first = stream.reserve(2, 0s);
    WindowStream::Reservation second = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): empty, as documented
    EXPECT_THAT(refusal([&] { first.commit(1); }), HasSubstr("was committed or dropped"));
    second = {};
    second = stream.reserve(1, 0s);
    second.commit(1);
    EXPECT_EQ(stream.stats().written, 1u);
}

TEST(WindowStream, RefusesAThreadThatWouldWaitForItsOwnReservation) {
    WindowStream stream(ints(4, 2));
    const WindowStream::Reservation room = stream.reserve(2, 0s);
    const std::vector<int> one = counting(0, 1);
    EXPECT_THAT(refusal([&] { stream.write(std::span(one)); }), HasSubstr("commit or drop it"));
    EXPECT_THAT(refusal([&] { (void)stream.reserve(1); }), HasSubstr("commit or drop it"));
    EXPECT_THAT(refusal([&] { stream.finish(); }), HasSubstr("commit or drop it"));
}

TEST(WindowStream, IsATensorWithoutACopy) {
    auto memory = std::make_shared<CountedMemory>(Device{DeviceType::cuda_host, 0});
    Tensor tensor;
    {
        WindowStream stream(ints(6, 2), memory);
        put(stream, 0, 6);
        Window window = stream.next(0s);
        tensor = window.tensor(DType::int32, {2, 3});
        EXPECT_EQ(tensor.data(), window.data());
        EXPECT_EQ(tensor.device(), window.device());
        EXPECT_THAT(refusal([&] { (void)window.tensor(DType::int64, {4}); }), HasSubstr("it needs 32"));
        EXPECT_THAT(refusal([&] { (void)window.tensor(DType::bytes, {1}); }), HasSubstr("views of strings"));
        EXPECT_THROW((void)window.tensor(DType::int32, {-1}), InvalidArgument);
        window.release();
        EXPECT_EQ(stream.stats().in_flight, 1u);
    }
    EXPECT_EQ(memory->blocks(), 1);
    EXPECT_EQ(tensor.data_as<int>()[5], 5);
    tensor = {};
    EXPECT_EQ(memory->blocks(), 0);
}

TEST(WindowStream, SharesOfAWindowHoldItTogether) {
    WindowStream stream(ints(4, 2));
    put(stream, 0, 4);
    Window first = stream.next(0s), second = first.share();
    first.release();
    EXPECT_EQ(stream.stats().in_flight, 1u);
    EXPECT_EQ(content(second), counting(0, 4));
    second.release();
    EXPECT_EQ(stream.stats().in_flight, 0u);
}

TEST(WindowStream, IsARange) {
    WindowStream stream(ints(4, 2, 1));
    put(stream, 0, 4);
    std::uint64_t seen = 0;
    for (Window& window : stream) {
        EXPECT_EQ(window.index(), seen++);
        window.release();
        if (seen < 5) put(stream, static_cast<int>(seen) * 2 + 2, static_cast<int>(seen) * 2 + 4);
        if (seen == 5) stream.finish();
    }
    EXPECT_EQ(seen, 5u);
}

TEST(WindowStream, ForEachHoldsAWindowUntilItsFutureIsDone) {
    WindowStream stream(ints(2, 0, 3));
    put(stream, 0, 6);
    stream.finish();
    std::vector<Promise<int>> promises(3);
    for_each_window(stream, [&](Window& window) { return promises[window.index()].future(); });
    EXPECT_EQ(stream.stats().in_flight, 3u);
    promises[0].set_value(0);
    EXPECT_EQ(stream.stats().in_flight, 2u);
    promises[1].set_exception(std::make_exception_ptr(EngineError("failed")));
    promises.pop_back();  // dropped
    EXPECT_EQ(stream.stats().in_flight, 0u);
}

TEST(WindowStream, ForEachGivesWindowsBackAsTheFunctionReturnsOrThrows) {
    WindowStream stream(ints(2, 0, 3));
    put(stream, 0, 6);
    int seen = 0;
    const auto failing = [&](Window&) {
        if (++seen == 2) throw EngineError("the user's");
    };
    EXPECT_THROW(for_each_window(stream, failing), EngineError);
    EXPECT_EQ(stream.stats().in_flight, 1u);
    EXPECT_EQ(stream.stats().ready, 1u);
}

TEST(WindowStream, RefusesWhatMakesNoWindows) {
    EXPECT_THAT(refusal([] { WindowStream::min_capacity(0, 4, 2); }), HasSubstr("at least one window"));
    EXPECT_THAT(refusal([] { WindowStream::min_capacity(1, 4, 4); }), HasSubstr("an overlap less than that"));
    EXPECT_THAT(refusal([] { WindowStream::min_capacity(1, 0, 0); }), HasSubstr("windows of 0 elements"));
    EXPECT_THROW(WindowStream::min_capacity(SIZE_MAX, 4, 3), InvalidArgument);
    EXPECT_THROW(WindowStream::min_capacity(SIZE_MAX / 2, 8, 0), InvalidArgument);
    WindowStream::Options options = ints(4, 2, 2);
    EXPECT_EQ(WindowStream::ring_bytes(options), 8 * sizeof(int));
    options.capacity = 7;
    EXPECT_THAT(refusal([&] { WindowStream stream(options); }), HasSubstr("expected at least 8"));
    options.capacity = 0;
    options.pad_value.resize(3);
    EXPECT_THAT(refusal([&] { WindowStream stream(options); }), HasSubstr("pad_value has 3 bytes"));
    options.pad_value.clear();
    options.element_bytes = 0;
    EXPECT_THAT(refusal([&] { WindowStream stream(options); }), HasSubstr("elements of 0 bytes"));
    options.element_bytes = SIZE_MAX / 4;
    EXPECT_THROW(WindowStream stream(options), InvalidArgument);
}

TEST(WindowStream, RefusesMemoryThatDoesNotSuit) {
    const auto gpu = std::make_shared<CountedMemory>(Device{DeviceType::cuda, 0});
    EXPECT_THAT(refusal([&] { WindowStream stream(ints(4, 2), gpu); }), HasSubstr("the host cannot write it"));
    EXPECT_THAT(refusal([&] {
                    WindowStream stream(ints(4, 2),
                                        std::make_unique<HostWindowMemory>(Buffer(std::make_shared<HostMemory>(), 8)));
                }),
                HasSubstr("and got 8"));
    EXPECT_THROW(WindowStream stream(ints(4, 2), std::unique_ptr<WindowMemory>()), InvalidArgument);
}

TEST(WindowStream, RefusesPartsOfElementsAndOtherTypes) {
    WindowStream stream(ints(4, 2));
    const std::vector<std::byte> bytes(6);
    EXPECT_THAT(refusal([&] { stream.write(bytes); }), HasSubstr("6 bytes is no whole number of elements"));
    put(stream, 0, 4);
    const Window window = stream.next(0s);
    EXPECT_THAT(refusal([&] { (void)window.as<double>(); }), HasSubstr("have 4 bytes"));
    WindowStream::Reservation room = stream.reserve(2, 0s);
    EXPECT_THAT(refusal([&] { room.commit(3); }), HasSubstr("only 2 were reserved"));
    EXPECT_THAT(refusal([&] { (void)stream.reserve(0); }), HasSubstr("at least 1"));
}

struct UnknownFence final : Fence {};

TEST(WindowStream, OnTheHostRefusesFencesThatItCannotWaitFor) {
    WindowStream stream(ints(4, 2));
    put(stream, 0, 4);
    const Window window = stream.next(0s);
    EXPECT_FALSE(window.fence());
    const Ref<const Fence> fence(new UnknownFence);
    EXPECT_THAT(refusal([&] { window.overwrite_after(fence); }), HasSubstr("keep the window until"));
    window.overwrite_after({});
    WindowStream::Reservation room = stream.reserve(2, 0s);
    EXPECT_FALSE(room.fence());
    EXPECT_THAT(refusal([&] { room.commit(2, fence); }), HasSubstr("commit when the fence is reached"));
    room.commit(2);
    EXPECT_EQ(stream.stats().written, 6u);
}

}  // namespace
}  // namespace trtlab::core
