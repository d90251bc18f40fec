#include "window_state.hpp"

#include <algorithm>

namespace trtlab::core {
namespace {

/// What is published at once: a consumer gets its windows while the rest of a long write is copied.
constexpr std::size_t kPieceBytes = 64 << 10;

struct Turn : Waiter {
    bool mine = false;
};

}  // namespace

bool WindowStream::State::begin(const Deadline& deadline, const WaitOptions& wait) {
    require_own_process();
    Turn self;
    {
        std::lock_guard lock(mutex);
        if (closed) throw_closed();
        if (!busy) return busy = true;
        if (reserved_by == std::this_thread::get_id()) {
            throw InvalidArgument(words("this thread has a reservation, and would wait for itself; commit or drop it"));
        }
        if (wait.timeout.count() <= 0) return false;
        turns.push(self);
    }
    std::exception_ptr interrupted;
    try {
        self.wait(deadline, wait.on_signal);
    } catch (...) {
        interrupted = std::current_exception();
    }
    {
        std::lock_guard lock(mutex);
        if (!self.granted()) turns.remove(self);
    }
    if (interrupted) {
        if (self.mine) end_turn();
        std::rethrow_exception(interrupted);
    }
    if (self.granted() && !self.mine) throw Closed(words("it was closed while this call waited for its turn"));
    return self.mine;
}

void WindowStream::State::end_turn() noexcept {
    if (fork.forked()) return;
    WakeUp wake_up;
    std::lock_guard lock(mutex);
    reserved_by = {};
    if (auto* next = static_cast<Turn*>(turns.pop())) {
        next->mine = true;
        next->grant(wake_up);
    } else {
        busy = false;
    }
}

std::size_t WindowStream::State::room() const noexcept {
    std::uint64_t at = position - lap * geometry.lap, of_lap = lap;
    if (at == geometry.end) {
        at = geometry.overlap;
        ++of_lap;
    }
    // What a window of the lap before covers is free when it and all before it were given back.
    const std::uint64_t lap_begin = of_lap * geometry.windows_a_lap;
    std::uint64_t free_to = geometry.end;
    if (oldest < lap_begin) free_to = (oldest + geometry.windows_a_lap - lap_begin) * geometry.hop;
    const std::uint64_t most = (oldest + geometry.in_flight - 1) * geometry.hop + geometry.window - position;
    return free_to > at ? std::min(free_to - at, most) : 0;
}

bool WindowStream::State::wait_as_producer(Waiter& self, const Deadline& deadline, const WaitOptions& wait) {
    std::exception_ptr interrupted;
    try {
        self.wait(deadline, wait.on_signal);
    } catch (...) {
        interrupted = std::current_exception();
    }
    {
        std::lock_guard lock(mutex);
        if (!self.granted()) producer = copying = nullptr;
    }
    if (interrupted) std::rethrow_exception(interrupted);
    return self.granted();
}

std::size_t WindowStream::State::wait_for_room(const Deadline& deadline, const WaitOptions& wait) {
    for (;;) {
        Waiter self;
        {
            std::lock_guard lock(mutex);
            if (closed || finished) throw_closed();
            const std::size_t free = room();
            readers_seen = readers > 0;
            if (free > 0 || wait.timeout.count() <= 0) return free;
            producer = &self;
        }
        if (!wait_as_producer(self, deadline, wait)) return 0;
    }
}

std::size_t WindowStream::State::wait_for_writable(const Deadline& deadline, const WaitOptions& wait) {
    const std::size_t free = wait_for_room(deadline, wait);
    while (free > 0) {
        const std::size_t writable = memory->room() / geometry.element_bytes;
        if (writable > 0) return std::min(free, writable);
        if (wait.timeout.count() <= 0) break;
        Waiter self;
        {
            std::lock_guard lock(mutex);
            if (closed) throw_closed();
            copying = &self;
        }
        memory->call_when_room();
        if (!wait_as_producer(self, deadline, wait)) break;
    }
    return 0;
}

std::byte* WindowStream::State::prepare(std::size_t elements) {
    auto* const base = static_cast<std::byte*>(memory->ring().data);
    // Nobody else changes the position and the lap.
    std::uint64_t at = position - lap * geometry.lap, overwritten = 0;
    const bool wrap = at == geometry.end;
    if (wrap) at = geometry.overlap;
    if (const std::uint64_t of_lap = lap + (wrap ? 1 : 0); of_lap > 0) {
        const std::uint64_t touched = (at + elements + geometry.hop - 1) / geometry.hop;
        overwritten = (of_lap - 1) * geometry.windows_a_lap + std::min<std::uint64_t>(geometry.windows_a_lap, touched);
    }
    // A lease is used again only when its window's readers were waited for.
    const std::uint64_t completed = geometry.complete_at(position + elements);
    if (completed > geometry.in_flight) overwritten = std::max(overwritten, completed - geometry.in_flight);
    // Readers that have come since then are of windows that are still held.
    if (readers_seen) {
        std::lock_guard lock(mutex);
        for (std::uint64_t i = cleared; i < overwritten; ++i) {
            const auto& of_window = leases[i % geometry.in_flight].readers;
            waiting_for.insert(waiting_for.end(), of_window.begin(), of_window.end());
        }
    }
    try {
        for (const Ref<const Fence>& fence : waiting_for) memory->wait_for(*fence);
        if (wrap && geometry.overlap > 0) {
            memory->replicate(base, base + geometry.lap * geometry.element_bytes,
                              geometry.overlap * geometry.element_bytes);
        }
    } catch (...) {
        waiting_for.clear();
        throw;
    }
    if (wrap || !waiting_for.empty()) {
        std::lock_guard lock(mutex);
        if (wrap) ++lap;
        for (std::uint64_t i = cleared; i < overwritten; ++i) {
            auto& of_window = leases[i % geometry.in_flight].readers;
            readers -= of_window.size();
            of_window.clear();  // none of them goes: `waiting_for` has them too
        }
    }
    cleared = std::max(cleared, overwritten);
    waiting_for.clear();
    return base + at * geometry.element_bytes;
}

void WindowStream::State::complete(std::uint64_t index, std::size_t size, std::size_t valid,
                                   const Ref<const Fence>& fence) noexcept {
    Lease& lease = leases[index % geometry.in_flight];
    lease.index_ = index;
    lease.data_ = static_cast<const std::byte*>(memory->ring().data) +
                  index % geometry.windows_a_lap * geometry.hop * geometry.element_bytes;
    lease.size_bytes_ = size * geometry.element_bytes;
    lease.valid_bytes_ = valid * geometry.element_bytes;
    lease.element_bytes_ = geometry.element_bytes;
    lease.device_ = memory->ring().device;
    lease.fence_ = fence;
    produced = index + 1;
}

void WindowStream::State::publish(std::size_t elements) {
    // Nobody else changes the position.
    const std::uint64_t first = geometry.complete_at(position), end = geometry.complete_at(position + elements);
    const Ref<const Fence> fence = end > first ? memory->fence() : nullptr;
    bool waited_for = false;
    {
        std::lock_guard lock(mutex);
        position += elements;
        for (std::uint64_t i = first; i < end; ++i) complete(i, geometry.window, geometry.window, fence);
        waited_for = !consumers.empty();
    }
    if (waited_for && end > first) hand_out();
}

std::size_t WindowStream::State::write(std::span<const std::byte> elements, const Deadline& deadline,
                                       const WaitOptions& wait) {
    const std::size_t piece = std::max<std::size_t>(1, kPieceBytes / geometry.element_bytes);
    const std::size_t count = elements.size() / geometry.element_bytes;
    std::size_t done = 0;
    while (done < count) {
        const std::size_t free = wait_for_writable(deadline, wait);
        if (free == 0) break;
        std::size_t now = std::min(free, count - done);
        if (now > piece) now = std::min<std::size_t>(now, geometry.next_completion(position + piece) - position);
        std::byte* const to = prepare(now);
        memory->write(to, elements.data() + done * geometry.element_bytes, now * geometry.element_bytes);
        publish(now);
        done += now;
    }
    return done;
}

void WindowStream::State::commit(std::size_t elements, const Ref<const Fence>& written_fence) {
    {
        std::lock_guard lock(mutex);
        if (closed) throw_closed();
    }
    if (written_fence) memory->wait_for(*written_fence);
    if (elements > 0) publish(elements);
}

bool WindowStream::State::pad(std::size_t elements, const Deadline& deadline, const WaitOptions& wait) {
    std::vector<std::byte> values(
        std::min(elements * geometry.element_bytes, std::max(kPieceBytes, geometry.element_bytes)));
    if (!options.pad_value.empty()) {
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = options.pad_value[i % geometry.element_bytes];
    }
    const std::size_t most = values.size() / geometry.element_bytes;
    std::size_t done = 0;
    const auto advance = [&](std::size_t by) {
        std::lock_guard lock(mutex);
        position += by;
        padding += by;
        done += by;
    };
    try {
        while (done < elements) {
            const std::size_t now = std::min({wait_for_writable(deadline, wait), most, elements - done});
            if (now == 0) break;
            std::byte* const to = prepare(now);
            memory->write(to, values.data(), now * geometry.element_bytes);
            advance(now);
        }
    } catch (...) {
        advance(0 - done);
        throw;
    }
    if (done == elements) return true;
    advance(0 - done);
    return false;
}

void WindowStream::State::finish(const Deadline& deadline, const WaitOptions& wait) {
    if (finished) return;  // nobody else finishes
    const std::uint64_t count = geometry.complete_at(position), begin = count * geometry.hop;
    const std::uint64_t covered = count == 0 ? 0 : begin - geometry.hop + geometry.window;
    const bool rest = position > covered && options.at_end != AtEnd::drop;
    const std::size_t valid = rest ? position - begin : 0;
    if (rest && options.at_end == AtEnd::pad && !pad(geometry.window - valid, deadline, wait)) throw_timeout(wait);
    const Ref<const Fence> fence = rest ? memory->fence() : nullptr;
    {
        std::lock_guard lock(mutex);
        if (closed) throw_closed();
        if (rest) complete(count, options.at_end == AtEnd::pad ? geometry.window : valid, valid, fence);
        finished = true;
        // Relaxed: windows are handed over under the lock, and who has one before may see the end late.
        if (produced > 0) last.store(produced - 1, std::memory_order_relaxed);
    }
    hand_out();
}

}  // namespace trtlab::core
