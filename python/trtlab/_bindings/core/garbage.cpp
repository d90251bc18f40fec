#include "garbage.hpp"

namespace trtlab::bindings {

std::atomic<Garbage*> Garbage::dropped_{nullptr};

void Garbage::dispose() noexcept {
    Garbage* head = dropped_.load(std::memory_order_relaxed);
    do {
        next_ = head;
        // Release pairs with the acquire in collect_all: the collector sees a finished object.
    } while (!dropped_.compare_exchange_weak(head, this, std::memory_order_release, std::memory_order_relaxed));
}

void Garbage::collect_all() noexcept {
    Garbage* garbage = dropped_.exchange(nullptr, std::memory_order_acquire);  // pairs with dispose
    while (garbage != nullptr) std::exchange(garbage, garbage->next_)->free();
}

namespace {

constexpr std::size_t kMaxIdle = 64;

// Guarded by the GIL. Never destroyed: the interpreter may end before or after static objects do.
std::vector<BorrowedBuffers*>& idle_buffers() {
    static auto* idle = [] {
        auto* made = new std::vector<BorrowedBuffers*>;
        made->reserve(kMaxIdle);
        return made;
    }();
    return *idle;
}

}  // namespace

core::Ref<BorrowedBuffers> BorrowedBuffers::make(std::size_t count) {
    auto& idle = idle_buffers();
    core::Ref<BorrowedBuffers> buffers;
    if (idle.empty()) {
        buffers = core::Ref<BorrowedBuffers>(new BorrowedBuffers);
    } else {
        buffers = core::Ref<BorrowedBuffers>(idle.back());
        idle.pop_back();
    }
    buffers->buffers_.reserve(count);
    return buffers;
}

void BorrowedBuffers::free_idle() noexcept {
    for (BorrowedBuffers* buffers : idle_buffers()) delete buffers;
    idle_buffers().clear();
}

void BorrowedBuffers::release_buffers() noexcept {
    for (Py_buffer& buffer : buffers_) PyBuffer_Release(&buffer);
    buffers_.clear();
    writable = false;
}

void BorrowedBuffers::free() noexcept {
    release_buffers();
    if (idle_buffers().size() < kMaxIdle) {
        idle_buffers().push_back(this);
    } else {
        delete this;
    }
}

}  // namespace trtlab::bindings
