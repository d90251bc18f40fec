#pragma once

#include <atomic>
#include <mutex>
#include <thread>

#include "trtlab/core/error.hpp"
#include "trtlab/core/window_stream.hpp"

namespace trtlab::core {

/// Where windows lie. A lap is `windows_a_lap` windows side by side, each a hop behind the one before, and at its end the
/// overlap that the first window of the next lap begins with: at the wrap it is copied to the ring's head.
///
///     ring    [ overlap | ................ lap - overlap ............... | tail: overlap ]
///     window  i % windows_a_lap hops from the ring's head, so always contiguous
struct WindowGeometry {
    explicit WindowGeometry(const WindowStream::Options& options);

    /// Windows that are complete when the stream has `position` elements.
    std::uint64_t complete_at(std::uint64_t position) const noexcept {
        return position < window ? 0 : (position - window) / hop + 1;
    }
    /// The position at which the next window is complete, at or behind `position`.
    std::uint64_t next_completion(std::uint64_t position) const noexcept {
        return position <= window ? window : window + (position - window + hop - 1) / hop * hop;
    }

    std::size_t window, overlap, hop;
    std::size_t windows_a_lap;
    std::size_t lap;  ///< elements: windows_a_lap hops
    std::size_t end;  ///< elements of the ring that are used: lap + overlap
    std::size_t element_bytes;
    std::size_t in_flight;
};

/// One of the windows in flight: window i has the lease i % in_flight.
struct WindowStream::Lease final : WindowLease {
    void dispose() noexcept override;
    void overwrite_after(Ref<const Fence> fence) override;
    bool is_last() const noexcept override;

    Ref<State> state;  // while somebody has the window
    // What follows under the state's lock.
    std::vector<Ref<const Fence>> readers;  // until the ring's copies have been told to wait for them
    bool released = false;                  // and an older window is not
};

struct WindowStream::State final : RefCounted {
    State(const Options& options_, std::unique_ptr<WindowMemory> memory_);
    ~State() override;

    /// Makes the calling thread the producer; false if the time is over first.
    bool begin(const Deadline& deadline, const WaitOptions& wait);
    /// The next one's turn.
    void end_turn() noexcept;

    // For the producer only.
    std::size_t write(std::span<const std::byte> elements, const Deadline& deadline, const WaitOptions& wait);
    /// Waits for room behind `position`, and says how many elements; 0 if the time is over.
    std::size_t wait_for_room(const Deadline& deadline, const WaitOptions& wait);
    /// The same for what the memory's `write` can take at once.
    std::size_t wait_for_writable(const Deadline& deadline, const WaitOptions& wait);
    /// Parks until the producer's wait is granted; false if the time is over.
    bool wait_as_producer(Waiter& self, const Deadline& deadline, const WaitOptions& wait);
    /// Makes ready to overwrite `elements` behind `position`: the overlap, and fences of whoever read there.
    std::byte* prepare(std::size_t elements);
    void publish(std::size_t elements);
    void finish(const Deadline& deadline, const WaitOptions& wait);
    /// False if the time is over; the stream is then as before.
    bool pad(std::size_t elements, const Deadline& deadline, const WaitOptions& wait);
    void commit(std::size_t elements, const Ref<const Fence>& written_fence);

    /// Gives windows, or the stream's end, to consumers that wait. Without the lock: futures run callbacks.
    void hand_out() noexcept;
    void give_back(Lease& lease) noexcept;
    void close() noexcept;
    Window next(const WaitOptions& wait);
    std::optional<Window> try_next();
    Future<Window> next_async();

    void require_own_process() const;
    [[noreturn]] void throw_closed() const;
    std::string words(const std::string& text) const { return "window stream '" + options.name + "': " + text; }

    // What follows needs the lock.
    std::size_t room() const noexcept;
    void complete(std::uint64_t index, std::size_t size, std::size_t valid, const Ref<const Fence>& fence) noexcept;
    bool ready() const noexcept { return !closed && (handed < produced || !returned.empty()); }
    bool over() const noexcept { return closed || (finished && handed == produced && returned.empty()); }
    Window take() noexcept;

    const Options options;
    const WindowGeometry geometry;
    const ForkGuard fork;
    std::atomic<std::uint64_t> last{UINT64_MAX};  // the last window's index, once the stream is finished

    mutable std::mutex mutex;
    std::uint64_t position = 0;  // elements in the stream
    std::uint64_t padding = 0;   // of them that were not written
    std::uint64_t lap = 0;       // that `position` lies in
    std::uint64_t produced = 0, handed = 0;
    std::uint64_t oldest = 0;      // every window before it was given back
    std::size_t readers = 0;       // fences in leases
    std::vector<Lease*> returned;  // given to a consumer that a signal took away: with one reference each
    WaitQueue consumers, turns;
    Waiter* producer = nullptr;     // waits for windows to be given back
    Waiter* copying = nullptr;      // the same, for the memory to take more
    bool busy = false;              // a producer has the turn
    std::thread::id reserved_by{};  // who has it as a reservation
    bool finished = false, closed = false;

    // The producer's, whoever that is: handed from one to the next under the lock.
    bool readers_seen = false;  // when room was last looked for
    std::uint64_t cleared = 0;  // the copies wait for the readers of every window before it
    std::vector<Ref<const Fence>> waiting_for;

    const std::unique_ptr<Lease[]> leases;
    const std::unique_ptr<WindowMemory> memory;  // last: it may call back until it is gone
};

}  // namespace trtlab::core
