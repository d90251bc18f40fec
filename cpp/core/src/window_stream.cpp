#include "trtlab/core/window_stream.hpp"

#include <new>

#include "window_state.hpp"

namespace trtlab::core {
namespace {

std::size_t checked_add(std::size_t a, std::size_t b) {
    std::size_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) {
        throw InvalidArgument("a ring of windows: " + std::to_string(a) + " and " + std::to_string(b) +
                              " elements more are beyond what an address can reach");
    }
    return sum;
}

std::string in_words(std::size_t window, std::size_t overlap) {
    return "windows of " + std::to_string(window) + " elements that overlap by " + std::to_string(overlap);
}

}  // namespace

// The newest of `windows` windows ends ceil(overlap / hop) + windows hops behind the oldest's begin at most, and in the worst
// case the two lie on both sides of the wrap: so many hops have to be free of the oldest.
std::size_t WindowStream::min_capacity(std::size_t windows, std::size_t window, std::size_t overlap) {
    if (windows == 0 || overlap >= window) {
        throw InvalidArgument("a ring for " + std::to_string(windows) + " " + in_words(window, overlap) +
                              ": expected at least one window, of at least one element, and an overlap less than that");
    }
    const std::size_t hop = window - overlap;
    const std::size_t hops = checked_add(windows, overlap / hop + (overlap % hop != 0 ? 1 : 0));
    return checked_add(checked_mul(hops, hop), overlap);
}

std::size_t WindowStream::ring_bytes(const Options& options) {
    const std::size_t least = min_capacity(options.windows, options.window, options.overlap);
    if (options.element_bytes == 0) {
        throw InvalidArgument("window stream '" + options.name + "': elements of 0 bytes; an element has at least 1");
    }
    if (options.capacity != 0 && options.capacity < least) {
        throw InvalidArgument("window stream '" + options.name + "': a capacity of " +
                              std::to_string(options.capacity) + " elements is too small for " +
                              std::to_string(options.windows) + " " + in_words(options.window, options.overlap) +
                              ": expected at least " + std::to_string(least) + ", or 0 for that");
    }
    if (!options.pad_value.empty() && options.pad_value.size() != options.element_bytes) {
        throw InvalidArgument("window stream '" + options.name + "': pad_value has " +
                              std::to_string(options.pad_value.size()) + " bytes: expected one element, of " +
                              std::to_string(options.element_bytes));
    }
    return checked_mul(options.capacity != 0 ? options.capacity : least, options.element_bytes);
}

WindowGeometry::WindowGeometry(const WindowStream::Options& options)
    : window(options.window),
      overlap(options.overlap),
      hop(window - overlap),
      windows_a_lap((WindowStream::ring_bytes(options) / options.element_bytes - overlap) / hop),
      lap(windows_a_lap * hop),
      end(lap + overlap),
      element_bytes(options.element_bytes),
      in_flight(options.windows) {}

WindowStream::State::State(const Options& options_, std::unique_ptr<WindowMemory> memory_)
    : options(options_),
      geometry(options_),
      leases(std::make_unique<Lease[]>(options_.windows)),
      memory(std::move(memory_)) {
    returned.reserve(options.windows);
    memory->on_room = [this] {
        WakeUp wake_up;
        std::lock_guard lock(mutex);
        if (copying != nullptr) std::exchange(copying, nullptr)->grant(wake_up);
    };
}

WindowStream::State::~State() {
    try {
        for (std::size_t i = 0; i < geometry.in_flight; ++i) {
            for (const Ref<const Fence>& fence : leases[i].readers) memory->wait_for(*fence);
        }
    } catch (...) {
        log_current_exception(words("giving the ring's memory back"));
    }
}

void WindowStream::State::require_own_process() const {
    if (fork.forked()) throw Closed(words("it stayed in the parent process: make one after the fork"));
}

void WindowStream::State::throw_closed() const {
    throw Closed(words(closed ? "it is closed" : "it is finished: it takes no more elements"));
}

void WindowStream::State::close() noexcept {
    {
        std::lock_guard lock(mutex);
        closed = true;
        while (Waiter* turn = turns.pop()) {
            WakeUp wake_up;
            turn->grant(wake_up);
        }
        for (Waiter** waiter : {&producer, &copying}) {
            WakeUp wake_up;
            if (*waiter != nullptr) std::exchange(*waiter, nullptr)->grant(wake_up);
        }
    }
    for (;;) {
        Window dropped;
        std::lock_guard lock(mutex);
        if (returned.empty()) break;
        dropped = Window(Ref<WindowLease>::adopt(returned.back()));
        returned.pop_back();
    }
    hand_out();
}

WindowLease::~WindowLease() = default;

void WindowStream::Lease::dispose() noexcept {
    Ref<State> keep = std::move(state);
    const Ref<const Fence> fence = std::move(fence_);
    if (keep->fork.forked()) {
        (void)keep.detach();  // its lock may be held by a thread that stayed in the parent
        return;
    }
    keep->give_back(*this);
}

void WindowStream::Lease::overwrite_after(Ref<const Fence> fence) {
    if (!fence) return;
    if (!state->memory->knows(*fence)) {
        throw InvalidArgument(state->words("its ring on " + state->memory->ring().device.to_string() +
                                           " can't wait for such a fence; keep the window until the fence is reached"));
    }
    std::lock_guard lock(state->mutex);
    readers.push_back(std::move(fence));
    ++state->readers;
}

bool WindowStream::Lease::is_last() const noexcept {
    return state->last.load(std::memory_order_relaxed) == index_;  // nothing else is read on the strength of it
}

Tensor Window::tensor(DType dtype, const Shape& shape) const {
    const TensorView view(const_cast<std::byte*>(data()), dtype, shape, device());
    if (dtype == DType::bytes || view.size_bytes() > size_bytes()) {
        throw InvalidArgument("a tensor of " + std::string(name_of(dtype)) + shape.to_string() + " over window " +
                              std::to_string(index()) + ", which has " + std::to_string(size_bytes()) +
                              " bytes: it needs " +
                              (dtype == DType::bytes ? "views of strings" : std::to_string(view.size_bytes())) +
                              "; choose a dtype and a shape that fit");
    }
    Tensor tensor(view, lease_);
    tensor.set_fence(fence());
    return tensor;
}

void Window::check_element(std::size_t size_bytes) const {
    if (size_bytes == lease_->element_bytes_ && device().host_accessible()) return;
    throw InvalidArgument("the elements of window " + std::to_string(index()) + " have " +
                          std::to_string(lease_->element_bytes_) + " bytes on " + device().to_string() +
                          ": they can't be read by the host as elements of " + std::to_string(size_bytes) + " bytes");
}

WindowStream::WindowStream(const Options& options, std::shared_ptr<MemoryResource> memory)
    : WindowStream(options, std::make_unique<HostWindowMemory>(Buffer(std::move(memory), ring_bytes(options)))) {}

WindowStream::WindowStream(const Options& options, std::unique_ptr<WindowMemory> memory) {
    const std::size_t needed = ring_bytes(options);
    if (memory == nullptr || memory->ring().size_bytes < needed) {
        throw InvalidArgument("window stream '" + options.name + "': its ring needs " + std::to_string(needed) +
                              " bytes, and got " + std::to_string(memory == nullptr ? 0 : memory->ring().size_bytes));
    }
    try {
        state_ = make_ref<State>(options, std::move(memory));
    } catch (const std::bad_alloc&) {
        throw OutOfMemory("window stream '" + options.name + "': no memory to keep the books of " +
                          std::to_string(options.windows) + " windows in flight");
    }
}

WindowStream::~WindowStream() {
    if (state_->fork.forked()) {
        (void)state_.detach();
        return;
    }
    close();
}

const WindowStream::Options& WindowStream::options() const noexcept { return state_->options; }

std::size_t WindowStream::write(std::span<const std::byte> elements, const WaitOptions& options) {
    const Ref<State> state = state_;  // this handle may go away while the thread waits
    if (elements.size() % state->geometry.element_bytes != 0) {
        throw InvalidArgument(state->words("a write of " + std::to_string(elements.size()) +
                                           " bytes is no whole number of elements, which have " +
                                           std::to_string(state->geometry.element_bytes) + " each"));
    }
    const Deadline deadline(options.timeout);
    if (!state->begin(deadline, options)) return 0;
    struct End {
        ~End() { state.end_turn(); }
        State& state;
    } end{*state};
    return state->write(elements, deadline, options);
}

WindowStream::Reservation WindowStream::reserve(std::size_t elements, const WaitOptions& options) {
    const Ref<State> state = state_;
    if (elements == 0) throw InvalidArgument(state->words("a reservation of 0 elements; reserve at least 1"));
    const Deadline deadline(options.timeout);
    if (!state->begin(deadline, options)) throw_timeout(options);
    Reservation reservation;
    reservation.state_ = state;  // from here on it ends the turn
    const std::size_t free = state->wait_for_room(deadline, options);
    if (free == 0) throw_timeout(options);
    const std::size_t size = std::min(free, elements);
    std::byte* const data = state->prepare(size);
    reservation.fence_ = state->memory->fence();
    reservation.data_ = data;
    reservation.size_bytes_ = size * state->geometry.element_bytes;
    const std::lock_guard lock(state->mutex);
    state->reserved_by = std::this_thread::get_id();
    return reservation;
}

WindowStream::Reservation::Reservation(Reservation&& other) noexcept
    : state_(std::move(other.state_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      fence_(std::move(other.fence_)) {}

WindowStream::Reservation& WindowStream::Reservation::operator=(Reservation&& other) noexcept {
    if (this != &other) {
        drop();
        state_ = std::move(other.state_);
        data_ = std::exchange(other.data_, nullptr);
        size_bytes_ = std::exchange(other.size_bytes_, 0);
        fence_ = std::move(other.fence_);
    }
    return *this;
}

WindowStream::Reservation::~Reservation() { drop(); }

void WindowStream::Reservation::drop() noexcept {
    if (!state_) return;
    static_cast<State&>(*state_).end_turn();
    state_ = nullptr;
    data_ = nullptr;
    size_bytes_ = 0;
    fence_ = nullptr;
}

void WindowStream::Reservation::commit(std::size_t elements, Ref<const Fence> written) {
    if (!state_) throw InvalidArgument("this reservation was committed or dropped: make a new one");
    auto& state = static_cast<State&>(*state_);
    const std::size_t reserved = size_bytes_ / state.geometry.element_bytes;
    if (elements > reserved) {
        throw InvalidArgument(state.words("a commit of " + std::to_string(elements) + " elements, and only " +
                                          std::to_string(reserved) + " were reserved"));
    }
    if (written && !state.memory->knows(*written)) {
        throw InvalidArgument(state.words("its ring on " + state.memory->ring().device.to_string() +
                                          " can't wait for such a fence; commit when the fence is reached"));
    }
    state.require_own_process();
    state.commit(elements, written);
    drop();
}

void WindowStream::finish(const WaitOptions& options) {
    const Ref<State> state = state_;
    const Deadline deadline(options.timeout);
    if (!state->begin(deadline, options)) throw_timeout(options);
    struct End {
        ~End() { state.end_turn(); }
        State& state;
    } end{*state};
    state->finish(deadline, options);
}

void WindowStream::close() noexcept {
    const Ref<State> state = state_;
    if (!state->fork.forked()) state->close();
}

Window WindowStream::next(const WaitOptions& options) { return Ref<State>(state_)->next(options); }
std::optional<Window> WindowStream::try_next() { return Ref<State>(state_)->try_next(); }
Future<Window> WindowStream::next_async() { return Ref<State>(state_)->next_async(); }

WindowStream::Stats WindowStream::stats() const {
    const Ref<State> state = state_;
    state->require_own_process();
    const std::lock_guard lock(state->mutex);
    return {.written = state->position - state->padding,
            .windows = state->produced,
            .laps = state->lap,
            .ready =
                state->ready() ? static_cast<std::size_t>(state->produced - state->handed) + state->returned.size() : 0,
            .in_flight = static_cast<std::size_t>(state->produced - state->oldest),
            .blocked = state->turns.size() + (state->producer != nullptr || state->copying != nullptr ? 1 : 0),
            .waiting = state->consumers.size()};
}

}  // namespace trtlab::core
