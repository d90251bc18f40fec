#include "simulation.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <utility>

namespace fake {
namespace {

std::size_t from_environment(const char* name, std::size_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 0) : otherwise;
}

}  // namespace

World& world() {
    // Never destroyed: threads may still call while static objects go.
    static World* const instance = new World;
    return *instance;
}

std::uint64_t this_thread_number() {
    static std::atomic<std::uint64_t> next{1};
    thread_local const std::uint64_t number = next.fetch_add(1);
    return number;
}

void World::begin() {
    ++epoch;
    version = static_cast<int>(from_environment("FAKE_CUDA_VERSION", CUDART_VERSION));
    const std::size_t total = from_environment("FAKE_CUDA_MEMORY_BYTES", std::size_t{8} << 30);
    devices.clear();
    devices.resize(from_environment("FAKE_CUDA_DEVICES", 1));
    for (DeviceState& device : devices) device.total = total;
    pinned_total = total;
    pinned_used = managed_used = 0;
    held = false;
    clock_ns = 0;
    cost_ns = 1000;
    copies = {};
    violations = 0;
    calls.clear();
    failures.clear();
}

ThreadState& World::thread() {
    thread_local ThreadState state;
    if (state.epoch != epoch) state = {epoch, 0, 0};
    return state;
}

std::shared_ptr<Stream> World::find_stream(void* handle) {
    // Null, and CUDA's names for it: the default stream of the current device.
    if (reinterpret_cast<std::uintptr_t>(handle) <= 2) {
        const int device = thread().device;
        if (!valid(device)) return nullptr;
        std::shared_ptr<Stream>& stream = devices[static_cast<std::size_t>(device)].null_stream;
        if (stream == nullptr) {
            stream = std::make_shared<Stream>();
            stream->device = device;
            streams.push_back(stream);
        }
        return stream;
    }
    const auto found = std::find_if(streams.begin(), streams.end(),
                                    [&](const auto& stream) { return stream.get() == handle && !stream->destroyed; });
    return found != streams.end() ? *found : nullptr;
}

std::shared_ptr<Event> World::find_event(void* handle) {
    const auto found = events.find(handle);
    return found != events.end() ? found->second : nullptr;
}

int World::injected(const char* call, int device) {
    const auto found = failures.find(call);
    if (found == failures.end()) return 0;
    Failure& failure = found->second;
    if (failure.nth > 1) {
        --failure.nth;
        return 0;
    }
    const Failure due = failure;
    if (failure.nth == 1) failures.erase(found);
    if (due.sticky) lose(device, due.code);
    return due.code;
}

void World::lose(int device, int code) {
    if (valid(device)) devices[static_cast<std::size_t>(device)].lost = code;
    changed.notify_all();
}

int World::trouble(int device) {
    if (!valid(device)) return 0;
    DeviceState& state = devices[static_cast<std::size_t>(device)];
    return state.lost != 0 ? state.lost : std::exchange(state.pending, 0);
}

int World::enqueue(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& stream, Entry entry) {
    entry.sequence = ++sequence;
    stream->queue.push_back(std::move(entry));
    ++stream->accepted;
    if (!held) run_all(lock);
    return 0;
}

int World::enqueue_work(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& stream,
                        std::shared_ptr<Work> work) {
    if (stream->capture != nullptr) {
        if (stream->capture->broken) return cudaErrorStreamCaptureInvalidated;
        stream->capture->works.push_back(std::move(work));
        if (const auto joined = stream->capture->joined.find(stream.get()); joined != stream->capture->joined.end())
            joined->second = true;
        return 0;
    }
    Entry entry;
    entry.works.push_back(std::move(work));
    return enqueue(lock, stream, std::move(entry));
}

bool World::run_one(std::unique_lock<std::mutex>& lock, const Stream* only) {
    std::shared_ptr<Stream> oldest;
    for (const std::shared_ptr<Stream>& stream : streams) {
        if ((only != nullptr && stream.get() != only) || stream->running || stream->queue.empty()) continue;
        const Entry& front = stream->queue.front();
        if (front.kind == Entry::Kind::wait && front.event->completed < front.version) continue;
        if (oldest == nullptr || front.sequence < oldest->queue.front().sequence) oldest = stream;
    }
    if (oldest == nullptr) return false;

    const std::uint64_t before = epoch;
    Stream& stream = *oldest;
    Entry entry = std::move(stream.queue.front());
    stream.queue.pop_front();
    int code = 0;
    clock_ns += cost_ns;
    if (entry.kind == Entry::Kind::work && devices[static_cast<std::size_t>(stream.device)].lost == 0) {
        code = injected("execute", stream.device);
        stream.running = true;
        lock.unlock();
        for (const std::shared_ptr<Work>& work : entry.works) {
            if (code == 0) code = work->run();
        }
        entry.works.clear();  // may be the last to hold them, and their end is a test's code
        lock.lock();
        stream.running = false;
    } else if (entry.kind == Entry::Kind::free_block) {
        code = release(entry.block, Memory::device, true);
    } else if (entry.kind == Entry::Kind::record) {
        entry.event->completed = std::max(entry.event->completed, entry.version);
        entry.event->time_ns = clock_ns;
    }
    ++stream.done;
    if (epoch == before && code != 0) {
        DeviceState& device = devices[static_cast<std::size_t>(stream.device)];
        if (code == cudaErrorIllegalAddress) lose(stream.device, code);
        if (device.lost == 0) device.pending = code;
    }
    if (stream.destroyed && stream.queue.empty()) std::erase(streams, oldest);
    changed.notify_all();
    lock.unlock();  // an event or works left over may go here, and with them a test's code
    entry = {};
    lock.lock();
    return true;
}

void World::run_all(std::unique_lock<std::mutex>& lock) {
    while (run_one(lock, nullptr)) {
    }
}

bool World::disturbs_capture() {
    bool disturbs = false;
    for (const std::shared_ptr<Stream>& stream : streams) {
        Capture* capture = stream->capture.get();
        if (capture != nullptr && !capture->relaxed && capture->thread == this_thread_number()) {
            capture->broken = true;
            disturbs = true;
        }
    }
    return disturbs;
}

Call::Call(const char* name, Needs needs) : world_(world()), lock(world_.mutex) {
    ++world_.calls[name];
    const int device = world_.thread().device;
    code_ = world_.injected(name, device);
    if (code_ != 0 || needs == nothing) return;
    if (world_.devices.empty()) {
        code_ = cudaErrorInsufficientDriver;
    } else if (needs == a_working_device) {
        code_ = world_.trouble(device);
    }
}

cudaError_t Call::done(int code) {
    if (code != 0) world_.thread().last_error = code;
    return static_cast<cudaError_t>(code);
}

}  // namespace fake
