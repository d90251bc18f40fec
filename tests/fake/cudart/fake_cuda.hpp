#pragma once

// A CUDA runtime without a GPU, for tests: a shared library with the functions of libcudart that trtlab calls, on host
// memory, and the functions below to steer it. Open it where libcudart would be opened; then find these with dlsym, or
// through FakeCuda. Streams are first-in-first-out queues with events and captures between them, allocations have bounds,
// and what breaks the rules is counted rather than forgiven. No header of CUDA's is needed to steer it.
//
// It starts with one device. The environment variables FAKE_CUDA_DEVICES, FAKE_CUDA_MEMORY_BYTES (of each device) and
// FAKE_CUDA_VERSION (13050) set what a process begins with, and what `fake_cuda_reset` goes back to.

#include <dlfcn.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

extern "C" {

/// What was made and not yet given back.
struct FakeCudaLive {
    std::size_t streams;
    std::size_t events;
    std::size_t graphs;       ///< cudaGraph_t
    std::size_t executables;  ///< cudaGraphExec_t
    std::size_t device_blocks;
    std::size_t pinned_blocks;
    std::size_t managed_blocks;
    std::size_t device_bytes;
    std::size_t pinned_bytes;
    std::size_t managed_bytes;
};

/// What copies have moved since the last reset, in bytes, when they ran.
struct FakeCudaCopies {
    std::uint64_t count;
    std::uint64_t host_to_device;
    std::uint64_t device_to_host;
    std::uint64_t device_to_device;
    std::uint64_t host_to_host;
    std::uint64_t pageable;  ///< part of the above: from or to memory that CUDA does not know
};

/// Everything as in a fresh process: nothing lives, nothing fails, immediate mode. Waits for work that is running.
void fake_cuda_reset(void);
/// 0: every call says cudaErrorInsufficientDriver (35), as without a driver.
void fake_cuda_set_devices(int count);
/// cudaMalloc beyond this is out of memory.
void fake_cuda_set_memory(int device, std::size_t total_bytes);
/// The same for pinned memory.
void fake_cuda_set_pinned_memory(std::size_t total_bytes);
/// What cudaDeviceGetAttribute answers.
void fake_cuda_set_attribute(int device, int attribute, int value);

/// From now on work stays in its stream until it is stepped, or released. What blocks (cudaStreamSynchronize) then blocks
/// until another thread does so.
void fake_cuda_hold(void);
/// Runs up to `count` things that are first in their stream (`stream`, or any if null), the oldest first: a copy, a fill,
/// host work, a launch of a graph, the record of an event, or a wait whose event was reached. Returns how many ran.
std::size_t fake_cuda_step(void* stream, std::size_t count);
/// Runs everything, and whatever comes from now on as it comes.
void fake_cuda_release(void);
/// Things in streams that did not run yet.
std::size_t fake_cuda_queued(void);

/// Puts host work into a stream, or into the recording that the stream is capturing. `destroy(arg)` is called once, when
/// neither a stream nor a graph needs it any more, also if this fails. Returns a cudaError_t.
int fake_cuda_enqueue(void* stream, void (*fn)(void*), void* arg, void (*destroy)(void*));

/// The `nth` call from now (1: the next; 0: every one) of `call`, such as "cudaMalloc", has no effect and returns `code`;
/// code 0 ends that. "execute" stands for running a piece of work in a stream. If `sticky`, the device is lost: everything
/// on it returns `code` from then on.
void fake_cuda_fail(const char* call, int nth, int code, int sticky);
/// Calls of `call` since the last reset.
std::uint64_t fake_cuda_calls(const char* call);

/// The clock that events are stamped with: goes on by itself by the cost of every piece of work (1,000 ns).
void fake_cuda_advance(std::int64_t ns);
void fake_cuda_set_cost(std::int64_t ns);

void fake_cuda_live(struct FakeCudaLive* live);
void fake_cuda_copies(struct FakeCudaCopies* copies);
/// Copies out of bounds or into freed memory, writes behind the end of a block (noticed when it is freed), and frees of
/// what is no block. Each but the last also loses the device, as an illegal address does.
std::size_t fake_cuda_violations(void);
/// The bytes of the block that `address` lies in, from `address` on; 0 if it is in no live block.
std::size_t fake_cuda_room_at(const void* address);
/// What managed memory was advised or prefetched to: bit 0 read-mostly, bit 1 preferred location, bit 2 prefetched to a
/// device, bit 3 prefetched to the host. For the block that `address` lies in.
unsigned fake_cuda_managed_state(const void* address);

}  // extern "C"

/// The functions above, of a library that was opened.
class FakeCuda {
public:
    /// `path`: the file of the fake, which the code under test opens as well. Throws std::runtime_error.
    explicit FakeCuda(const std::string& path) : library_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
        if (library_ == nullptr) throw std::runtime_error(dlerror());
    }

    void reset() const { find<decltype(fake_cuda_reset)>("fake_cuda_reset")(); }
    void set_devices(int count) const { find<decltype(fake_cuda_set_devices)>("fake_cuda_set_devices")(count); }
    void set_memory(int device, std::size_t bytes) const {
        find<decltype(fake_cuda_set_memory)>("fake_cuda_set_memory")(device, bytes);
    }
    void set_pinned_memory(std::size_t bytes) const {
        find<decltype(fake_cuda_set_pinned_memory)>("fake_cuda_set_pinned_memory")(bytes);
    }
    void set_attribute(int device, int attribute, int value) const {
        find<decltype(fake_cuda_set_attribute)>("fake_cuda_set_attribute")(device, attribute, value);
    }
    void hold() const { find<decltype(fake_cuda_hold)>("fake_cuda_hold")(); }
    std::size_t step(std::size_t count = 1, void* stream = nullptr) const {
        return find<decltype(fake_cuda_step)>("fake_cuda_step")(stream, count);
    }
    void release() const { find<decltype(fake_cuda_release)>("fake_cuda_release")(); }
    std::size_t queued() const { return find<decltype(fake_cuda_queued)>("fake_cuda_queued")(); }
    int enqueue(void* stream, std::function<void()> work) const {
        return find<decltype(fake_cuda_enqueue)>("fake_cuda_enqueue")(
            stream, [](void* arg) { (*static_cast<std::function<void()>*>(arg))(); },
            new std::function<void()>(std::move(work)),
            [](void* arg) { delete static_cast<std::function<void()>*>(arg); });
    }
    void fail(const char* call, int nth, int code, bool sticky = false) const {
        find<decltype(fake_cuda_fail)>("fake_cuda_fail")(call, nth, code, sticky ? 1 : 0);
    }
    std::uint64_t calls(const char* call) const { return find<decltype(fake_cuda_calls)>("fake_cuda_calls")(call); }
    void advance(std::chrono::nanoseconds by) const {
        find<decltype(fake_cuda_advance)>("fake_cuda_advance")(by.count());
    }
    void set_cost(std::chrono::nanoseconds cost) const {
        find<decltype(fake_cuda_set_cost)>("fake_cuda_set_cost")(cost.count());
    }
    FakeCudaLive live() const {
        FakeCudaLive live{};
        find<decltype(fake_cuda_live)>("fake_cuda_live")(&live);
        return live;
    }
    /// Streams, events, graphs and blocks that live.
    std::size_t live_objects() const {
        const FakeCudaLive now = live();
        return now.streams + now.events + now.graphs + now.executables + now.device_blocks + now.pinned_blocks +
               now.managed_blocks;
    }
    FakeCudaCopies copies() const {
        FakeCudaCopies copies{};
        find<decltype(fake_cuda_copies)>("fake_cuda_copies")(&copies);
        return copies;
    }
    std::size_t violations() const { return find<decltype(fake_cuda_violations)>("fake_cuda_violations")(); }
    std::size_t room_at(const void* address) const {
        return find<decltype(fake_cuda_room_at)>("fake_cuda_room_at")(address);
    }
    unsigned managed_state(const void* address) const {
        return find<decltype(fake_cuda_managed_state)>("fake_cuda_managed_state")(address);
    }

private:
    template <class Function>
    Function* find(const char* name) const {
        void* symbol = dlsym(library_, name);
        if (symbol == nullptr) throw std::runtime_error(std::string("the fake CUDA runtime has no ") + name);
        return reinterpret_cast<Function*>(symbol);
    }
    void* library_;
};
