// Windows against a model that cannot be wrong: slices of everything that was written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "trtlab/core/window_stream.hpp"

namespace trtlab::core {
namespace {

using AtEnd = WindowStream::AtEnd;
using Element = std::uint32_t;

struct Slice {
    std::vector<Element> content;
    std::size_t valid;
};

/// Every window of a stream that was `input`.
std::vector<Slice> slices(const std::vector<Element>& input, const WindowStream::Options& options, Element pad) {
    const std::size_t hop = options.window - options.overlap;
    std::vector<Slice> all;
    std::size_t begin = 0, covered = 0;
    for (; begin + options.window <= input.size(); begin += hop) {
        covered = begin + options.window;
        all.push_back(
            {{input.begin() + static_cast<std::ptrdiff_t>(begin), input.begin() + static_cast<std::ptrdiff_t>(covered)},
             options.window});
    }
    if (covered < input.size() && options.at_end != AtEnd::drop) {
        Slice rest{{input.begin() + static_cast<std::ptrdiff_t>(begin), input.end()}, input.size() - begin};
        if (options.at_end == AtEnd::pad) rest.content.resize(options.window, pad);
        all.push_back(std::move(rest));
    }
    return all;
}

class Random {
public:
    explicit Random(std::uint32_t seed) : engine_(seed) {}
    std::size_t between(std::size_t low, std::size_t high) {
        return std::uniform_int_distribution<std::size_t>(low, high)(engine_);
    }
    Element element() { return static_cast<Element>(engine_()); }

private:
    std::mt19937 engine_;
};

/// One stream with everything about it left to chance, on one thread, so that a failure is the same each time.
void run(std::uint32_t seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const Element pad = random.element();
    WindowStream::Options options{.window = random.between(1, 40), .element_bytes = sizeof(Element)};
    options.overlap = random.between(0, options.window - 1);
    options.windows = random.between(1, 6);
    const std::size_t least = WindowStream::min_capacity(options.windows, options.window, options.overlap);
    if (random.between(0, 1) == 1) options.capacity = least + random.between(0, 50);
    options.at_end = static_cast<AtEnd>(random.between(0, 2));
    const auto pad_bytes = std::as_bytes(std::span(&pad, 1));
    options.pad_value.assign(pad_bytes.begin(), pad_bytes.end());

    std::vector<Element> input(random.between(0, 600));
    for (Element& element : input) element = random.element();
    const std::vector<Slice> expected = slices(input, options, pad);

    WindowStream stream(options);
    std::vector<Window> held;
    std::size_t written = 0, seen = 0;
    bool finished = false;
    const auto check = [&](const Window& window) {
        const Slice& slice = expected.at(window.index());
        const auto elements = window.as<Element>();
        ASSERT_TRUE(std::equal(elements.begin(), elements.end(), slice.content.begin(), slice.content.end()))
            << "window " << window.index();
        ASSERT_EQ(window.valid(), slice.valid);
    };
    for (bool ended = false; !ended;) {
        bool progress = false;
        if (written < input.size()) {
            const std::size_t size = random.between(1, 2 * options.window);
            const auto chunk = std::span(input).subspan(written, std::min(size, input.size() - written));
            std::size_t now = 0;
            if (random.between(0, 1) == 0) {
                now = stream.try_write(std::as_bytes(chunk));
            } else if (now = stream.try_write({}); stream.stats().in_flight < options.windows) {
                WindowStream::Reservation room = stream.reserve(chunk.size(), std::chrono::seconds(0));
                now = random.between(0, room.size_bytes() / sizeof(Element));
                std::copy_n(chunk.begin(), now, reinterpret_cast<Element*>(room.data()));
                room.commit(now);
            }
            written += now;
            progress = now > 0;
        } else if (!finished) {
            stream.finish(std::chrono::seconds(0));
            finished = progress = true;
        }
        for (std::size_t i = random.between(0, 2); i > 0; --i) {
            std::optional<Window> window = stream.try_next();
            if (!window) break;
            progress = true;
            if (!*window) {
                ended = true;
                break;
            }
            ASSERT_EQ(window->index(), seen++);
            ASSERT_NO_FATAL_FAILURE(check(*window));
            held.push_back(std::move(*window));
        }
        ASSERT_LE(stream.stats().in_flight, options.windows);
        // Whoever still holds a window sees what it saw, however much was written since.
        for (const Window& window : held) ASSERT_NO_FATAL_FAILURE(check(window));
        if (!held.empty() && (!progress || random.between(0, 1) == 0)) {
            held.erase(held.begin() + static_cast<std::ptrdiff_t>(random.between(0, held.size() - 1)));
        }
    }
    EXPECT_EQ(seen, expected.size());
    EXPECT_EQ(stream.stats().written, input.size());
    if (!held.empty() && !expected.empty()) {
        EXPECT_EQ(held.back().is_last(), held.back().index() + 1 == expected.size());
    }
    held.clear();
    EXPECT_EQ(stream.stats().in_flight, 0u);
}

TEST(WindowStreamProperty, WindowsAreTheSlicesOfWhatWasWritten) {
    for (std::uint32_t seed = 0; seed < 400 && !::testing::Test::HasFailure(); ++seed) run(seed);
}

/// As long as one window fewer is held than may be in flight, the next one can be written: whatever the geometry, and
/// wherever the ring wraps.
TEST(WindowStreamProperty, BackPressureNeverStopsAStreamWhoseWindowsAreGivenBack) {
    Random random(7);
    for (int i = 0; i < 200; ++i) {
        WindowStream::Options options{.window = random.between(1, 30)};
        options.overlap = random.between(0, options.window - 1);
        options.windows = random.between(1, 5);
        const std::size_t hop = options.window - options.overlap;
        WindowStream stream(options);
        std::vector<std::byte> bytes(options.window);
        ASSERT_EQ(stream.try_write(std::span(bytes).first(options.overlap)), options.overlap);
        std::vector<Window> held;
        for (int j = 0; j < 60; ++j) {
            ASSERT_EQ(stream.try_write(std::span(bytes).first(hop)), hop)
                << "window " << options.window << ", overlap " << options.overlap << ", " << options.windows
                << " in flight, at " << j;
            held.push_back(stream.next(std::chrono::seconds(0)));
            if (held.size() == options.windows) held.erase(held.begin());
        }
    }
}

}  // namespace
}  // namespace trtlab::core
