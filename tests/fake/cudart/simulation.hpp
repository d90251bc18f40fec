#pragma once

// What the fake CUDA runtime is made of. One lock guards all of it, and is never held while work runs.

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "fake_cuda.hpp"

namespace fake {

/// A piece of work as streams run it, and as graphs run it again.
struct Work {
    virtual ~Work() = default;
    /// Without the lock. Returns a cudaError_t.
    virtual int run() = 0;
};
using Works = std::vector<std::shared_ptr<Work>>;

struct Stream;

/// A recording that one or more streams put their work into. Work is kept in the order in which it came, which is one that
/// the dependencies allow.
struct Capture {
    Works works;
    Stream* origin = nullptr;
    std::uint64_t thread = 0;  // that began it
    bool relaxed = false;
    bool broken = false;
    std::map<Stream*, bool> joined;  // streams that were drawn in; true: holds work that nobody waited for
};

struct Event {
    int device = 0;
    bool timing = false;
    std::uint64_t recorded = 0;   // how often record was called
    std::uint64_t completed = 0;  // the last record that was reached
    std::int64_t time_ns = 0;
    std::weak_ptr<Capture> capture;  // of the last record, if that was captured
    Stream* captured_in = nullptr;
};

struct Entry {
    enum class Kind { work, record, wait, free_block } kind = Kind::work;
    Works works;
    std::shared_ptr<Event> event;
    std::uint64_t version = 0;  // of the event
    void* block = nullptr;
    std::uint64_t sequence = 0;
};

struct Stream {
    int device = 0;
    bool destroyed = false;
    bool running = false;
    std::deque<Entry> queue;
    std::uint64_t accepted = 0, done = 0;  // entries
    std::shared_ptr<Capture> capture;
};

struct Graph {
    Works works;
};

struct Executable {
    Works works;
    int device = 0;
};

enum class Memory { device, pinned, managed };

struct Block {
    Memory kind = Memory::device;
    int device = 0;
    std::size_t size = 0;
    unsigned managed_state = 0;
};

struct DeviceState {
    std::size_t total = 0, used = 0;
    int lost = 0;     // the error that everything on the device returns
    int pending = 0;  // the error of a piece of work, for the next who asks
    std::map<int, int> attributes;
    std::shared_ptr<Stream> null_stream;
};

struct Failure {
    int nth = 0, code = 0;
    bool sticky = false;
};

/// What each thread of the process has.
struct ThreadState {
    std::uint64_t epoch = 0;
    int device = 0;
    int last_error = 0;
};

struct World {
    World() { begin(); }
    /// With what the environment says; nothing may be running.
    void begin();

    std::mutex mutex;
    std::condition_variable changed;  // something ran
    std::uint64_t epoch = 0;

    int version = 0;
    std::vector<DeviceState> devices;
    std::size_t pinned_total = 0, pinned_used = 0, managed_used = 0;
    bool held = false;
    std::uint64_t sequence = 0;
    std::int64_t clock_ns = 0, cost_ns = 0;
    FakeCudaCopies copies{};
    std::size_t violations = 0;

    std::vector<std::shared_ptr<Stream>> streams;  // also destroyed ones that are not empty
    std::unordered_map<void*, std::shared_ptr<Event>> events;
    std::unordered_map<void*, std::shared_ptr<Graph>> graphs;
    std::unordered_map<void*, std::shared_ptr<Executable>> executables;
    std::map<std::uintptr_t, Block> blocks;
    std::map<std::uintptr_t, Block> freed;  // memory of which is kept for a while, so that its use is noticed
    std::deque<std::uintptr_t> freed_order;
    std::size_t freed_bytes = 0;

    std::map<std::string, std::uint64_t, std::less<>> calls;
    std::map<std::string, Failure, std::less<>> failures;

    // All of these under the lock.
    ThreadState& thread();
    bool valid(int device) const { return device >= 0 && device < static_cast<int>(devices.size()); }
    std::shared_ptr<Stream> find_stream(void* handle);
    std::shared_ptr<Event> find_event(void* handle);
    /// The code that `call` has to fail with; 0: none.
    int injected(const char* call, int device);
    void lose(int device, int code);
    /// What a call on the device has to return before anything else; 0: nothing.
    int trouble(int device);

    int allocate(Memory kind, int device, std::size_t size, void** block);
    /// Gives it back. Only of `kind`; with `any_gpu` device and managed memory alike.
    int release(void* block, Memory kind, bool any_gpu);
    std::map<std::uintptr_t, Block>::iterator block_at(const void* address);
    /// Whether a copy may touch this range; what is in no block is the host's.
    bool allowed(const void* address, std::size_t size);

    /// Puts work into a stream, or into the recording that it is part of, and runs what can run.
    int enqueue(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& stream, Entry entry);
    int enqueue_work(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& stream,
                     std::shared_ptr<Work> work);
    bool run_one(std::unique_lock<std::mutex>& lock, const Stream* only);
    void run_all(std::unique_lock<std::mutex>& lock);

    /// Whether the calling thread is recording, and may do nothing that would disturb a recording: breaks it if so.
    bool disturbs_capture();
};

World& world();
std::uint64_t this_thread_number();

/// One call of CUDA's, from its beginning to its result: takes the lock, counts the call, fails it if a test wants it to.
class Call {
public:
    enum Needs { nothing, a_driver, a_working_device };
    explicit Call(const char* name, Needs needs = a_working_device);
    bool failed() const { return code_ != 0; }
    cudaError_t result() { return done(code_); }
    /// Ends the call: remembers `code` as the thread's last error.
    cudaError_t done(int code);

    World& world_;
    std::unique_lock<std::mutex> lock;

private:
    int code_ = 0;
};

std::shared_ptr<Work> make_copy(int device, void* destination, const void* source, std::size_t size, bool snapshot);
std::shared_ptr<Work> make_fill(int device, void* destination, int value, std::size_t size);

}  // namespace fake
