#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "trtlab/core/future.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/ref_counted.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/core/wait.hpp"
#include "trtlab/core/window_memory.hpp"

namespace trtlab::core {

class WindowStream;

/// What the handles and tensors of one window share. When the last is gone, the window's bytes may be overwritten.
class [[gnu::visibility("default")]] WindowLease : public RefCounted {
protected:
    ~WindowLease() override;

private:
    friend class Window;
    friend class WindowStream;
    std::uint64_t index_ = 0;
    const std::byte* data_ = nullptr;
    std::size_t size_bytes_ = 0;
    std::size_t valid_bytes_ = 0;
    std::size_t element_bytes_ = 1;
    Device device_ = {};
    Ref<const Fence> fence_;

    virtual void overwrite_after(Ref<const Fence> fence) = 0;
    virtual bool is_last() const noexcept = 0;
};

/// The right to read one window of a stream, until it is destroyed or `release()`d: in any order, on any thread, also when
/// the stream is gone. Empty: the stream has ended.
/// Owns: a share of the window, and with it of the ring.
/// Threads: as `std::unique_ptr`. Windows that overlap see the same bytes: they are read, and not written.
class [[gnu::visibility("default")]] Window {
public:
    Window() = default;
    Window(Window&&) noexcept = default;
    Window& operator=(Window&&) noexcept = default;

    explicit operator bool() const noexcept { return static_cast<bool>(lease_); }

    /// 0, 1, 2, ... in the order of the stream: it begins at element index x (window - overlap).
    std::uint64_t index() const noexcept { return lease_->index_; }
    /// Contiguous. On a GPU (`device()`) the host can't read it.
    const std::byte* data() const noexcept { return lease_->data_; }
    std::size_t size_bytes() const noexcept { return lease_->size_bytes_; }
    std::size_t size() const noexcept { return lease_->size_bytes_ / lease_->element_bytes_; }
    /// Elements that were written, less than `size()` where the last window was padded.
    std::size_t valid() const noexcept { return lease_->valid_bytes_ / lease_->element_bytes_; }
    Device device() const noexcept { return lease_->device_; }
    std::span<const std::byte> bytes() const noexcept { return {data(), size_bytes()}; }

    /// The elements. Throws InvalidArgument if `T` has another size than the stream's elements, or the host can't read them.
    template <class T>
    std::span<const T> as() const {
        static_assert(std::is_trivially_copyable_v<T>);
        check_element(sizeof(T));
        return {reinterpret_cast<const T*>(data()), size()};
    }

    /// Whether the stream has ended with this window. False while that is not known: before `finish()`.
    bool is_last() const noexcept { return lease_->is_last(); }

    /// When the memory may be read; empty: now.
    const Ref<const Fence>& fence() const noexcept { return lease_->fence_; }

    /// The same memory as a tensor, with a share of its own in the window, and with its fence: for a model, without a copy.
    /// Throws InvalidArgument if it needs more bytes than the window has.
    Tensor tensor(DType dtype, const Shape& shape) const;

    /// Another share in the same window.
    Window share() const noexcept { return Window(Ref<WindowLease>(lease_)); }

    /// The window's bytes are overwritten only behind `fence` too: for work on a GPU that reads them when all shares are
    /// gone. The ring's copies wait for it, and no thread does. Throws InvalidArgument if the ring's memory can't wait for
    /// such a fence: one on the host can't.
    void overwrite_after(Ref<const Fence> fence) const { lease_->overwrite_after(std::move(fence)); }

    /// Gives this share back now. Idempotent.
    void release() noexcept { lease_ = nullptr; }

private:
    friend class WindowStream;
    explicit Window(Ref<WindowLease> lease) noexcept : lease_(std::move(lease)) {}
    void check_element(std::size_t size_bytes) const;

    Ref<WindowLease> lease_;
};

/// Cuts a stream of elements into windows of one length that overlap, over a ring: each is contiguous memory, and nothing
/// is copied but what comes in, and the overlap once a lap.
///
/// Order: windows are handed out in the order of the stream, to consumers in the order in which they came. Writes are
/// serialised, first come first served: each is contiguous in the stream.
/// Threads: all members may be called from any thread. The destructor closes; whoever waits wakes with Closed, and windows
/// and reservations that are out stay valid.
/// Blocks: `write` and `reserve` on the slowest window that is still held, and on other producers, as `finish`; `next`.
/// Errors: Closed after `close`, for producers also after `finish`, and in a forked child. What fails in the ring's memory
/// (CudaError) fails the `write`, and leaves the stream as it was before the part that failed.
class [[gnu::visibility("default")]] WindowStream {
public:
    /// What becomes of elements behind the last whole window.
    enum class AtEnd {
        drop,
        shorten,  ///< they are a last, shorter window
        pad,      ///< they are a last window, filled up with `pad_value`
    };

    struct Options {
        std::size_t window = 0;         ///< elements
        std::size_t overlap = 0;        ///< elements that a window shares with the one before: less than `window`
        std::size_t element_bytes = 1;  ///< of one element; nothing is cut within
        /// In flight at most: from the oldest that is not given back to the newest that is complete. The ring has room for
        /// so many at any time; who holds one and waits for the one that is so many behind it waits for ever.
        std::size_t windows = 4;
        /// Elements of the ring; 0: `min_capacity`. A longer one copies the overlap less often.
        std::size_t capacity = 0;
        AtEnd at_end = AtEnd::drop;
        std::vector<std::byte> pad_value = {};  ///< one element; empty: zeros
        std::string name = "windows";           ///< for messages
    };

    struct Stats {
        std::uint64_t written = 0;  ///< elements, without padding
        std::uint64_t windows = 0;  ///< complete since the stream was made
        std::uint64_t laps = 0;     ///< how often the overlap was copied to the ring's head
        std::size_t ready = 0;      ///< windows that nobody has taken yet
        std::size_t in_flight = 0;  ///< from the oldest that is not given back to the newest
        std::size_t blocked = 0;    ///< producers that wait
        std::size_t waiting = 0;    ///< consumers that wait
    };

    /// Elements that a ring needs so that `windows` windows can be held at any time. Throws InvalidArgument (no such
    /// windows, or a size that overflows).
    static std::size_t min_capacity(std::size_t windows, std::size_t window, std::size_t overlap);
    /// Bytes of the ring that `options` ask for. Throws InvalidArgument, also for what else is wrong with them.
    static std::size_t ring_bytes(const Options& options);

    /// A ring in memory that the host can write. Throws InvalidArgument, OutOfMemory.
    explicit WindowStream(const Options& options,
                          std::shared_ptr<MemoryResource> memory = std::make_shared<HostMemory>());
    /// `memory` has at least `ring_bytes(options)`.
    WindowStream(const Options& options, std::unique_ptr<WindowMemory> memory);
    // A stream that moves would leave somebody behind who waits in it.
    WindowStream(const WindowStream&) = delete;
    WindowStream& operator=(const WindowStream&) = delete;
    ~WindowStream();

    const Options& options() const noexcept;

    /// Copies elements in, waiting for room as `options` allow, and returns how many: all, unless the time is over. The
    /// source, in host memory, may be changed at once. Throws InvalidArgument (not a whole number of elements); what
    /// `options.on_signal` throws: then some elements may have been taken, see `stats`.
    std::size_t write(std::span<const std::byte> elements, const WaitOptions& options = {});
    template <class T>
        requires(std::is_trivially_copyable_v<T> && !std::is_same_v<std::remove_cv_t<T>, std::byte>)
    std::size_t write(std::span<T> elements, const WaitOptions& options = {}) {
        return write(std::as_bytes(elements), options);
    }
    /// As many as there is room for now. Never blocks.
    std::size_t try_write(std::span<const std::byte> elements) { return write(elements, WaitOptions(kNoTime)); }

    /// Room in the ring to write in place, until it is committed or dropped: meanwhile other producers wait.
    /// Threads: as `std::unique_ptr`. Other calls of a producer on the thread that made it throw InvalidArgument.
    class [[gnu::visibility("default")]] Reservation {
    public:
        Reservation() = default;
        Reservation(Reservation&& other) noexcept;
        Reservation& operator=(Reservation&& other) noexcept;
        ~Reservation();

        explicit operator bool() const noexcept { return data_ != nullptr; }
        std::byte* data() const noexcept { return data_; }
        std::size_t size_bytes() const noexcept { return size_bytes_; }
        std::span<std::byte> bytes() const noexcept { return {data_, size_bytes_}; }
        /// When the memory may be written; empty: now.
        const Ref<const Fence>& fence() const noexcept { return fence_; }

        /// The first `elements` were written, behind `written` if that is not empty, and become part of the stream. Throws
        /// InvalidArgument (more than reserved, or a fence that the ring's memory can't wait for; the reservation stays),
        /// Closed.
        void commit(std::size_t elements, Ref<const Fence> written = {});

    private:
        friend class WindowStream;
        void drop() noexcept;
        Ref<RefCounted> state_;
        std::byte* data_ = nullptr;
        std::size_t size_bytes_ = 0;
        Ref<const Fence> fence_;
    };

    /// At least one and at most `elements` elements, as many as are free and contiguous: fewer near the ring's end. Sizes are
    /// multiples of a block's if window, overlap and all that is committed are. Throws Timeout, InvalidArgument.
    Reservation reserve(std::size_t elements, const WaitOptions& options = {});

    /// The end of the stream: what is complete is still handed out, the rest as `at_end` says. Waits for other producers, and
    /// for none of the windows: there is always room for padding. Idempotent. Throws Timeout: the stream is not finished then.
    void finish(const WaitOptions& options = {});

    /// Gives up: everybody who waits wakes with Closed, windows that nobody has taken are dropped. Idempotent.
    void close() noexcept;

    /// The next window; an empty one once the stream has ended. Throws Timeout, Closed.
    [[nodiscard]] Window next(const WaitOptions& options = {});
    /// Nothing if there is no window yet, or others wait for it. Throws Closed.
    [[nodiscard]] std::optional<Window> try_next();
    /// The same as a future, which the producing thread completes. Its window is held by the future as well: `share()` it, or
    /// drop the future. Cancelling gives up the place in the queue; a future that can't be cancelled has a window.
    [[nodiscard]] Future<Window> next_async();

    Stats stats() const;

    /// For `for (Window& window : stream)`: the window is given back when the next is asked for, unless it was moved away.
    class Iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = Window;
        using difference_type = std::ptrdiff_t;
        using pointer = Window*;
        using reference = Window&;

        explicit Iterator(WindowStream& stream) : stream_(&stream), current_(stream.next()), ended_(!current_) {}
        Window& operator*() noexcept { return current_; }
        Window* operator->() noexcept { return &current_; }
        Iterator& operator++() {
            current_.release();
            current_ = stream_->next();
            ended_ = !current_;
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const Iterator& self, std::default_sentinel_t) noexcept { return self.ended_; }

    private:
        WindowStream* stream_;
        Window current_;
        bool ended_;
    };
    Iterator begin() { return Iterator(*this); }
    std::default_sentinel_t end() const noexcept { return {}; }

private:
    static constexpr std::chrono::nanoseconds kNoTime{0};
    struct Lease;
    struct State;
    Ref<State> state_;
};

/// Calls `f` with each window until the stream ends. Where `f` returns a future, the window is held until that is done: the
/// next call does not wait for it, and as many windows are under way as the stream has in flight.
template <class F>
void for_each_window(WindowStream& stream, F&& f, const WaitOptions& options = {}) {
    using Result = std::invoke_result_t<F&, Window&>;
    while (Window window = stream.next(options)) {
        if constexpr (requires(Result& result) { result.on_ready(FutureStateBase::Callback()); }) {
            const Result future = f(window);
            future.on_ready([held = std::move(window)] {});
        } else {
            f(window);
        }
    }
}

}  // namespace trtlab::core
