#include <cstdlib>

#include "simulation.hpp"

namespace {

struct HostWork final : fake::Work {
    HostWork(void (*fn_)(void*), void* arg_, void (*destroy_)(void*)) : fn(fn_), arg(arg_), destroy(destroy_) {}
    HostWork(const HostWork&) = delete;
    HostWork& operator=(const HostWork&) = delete;
    ~HostWork() override {
        if (destroy != nullptr) destroy(arg);
    }
    int run() override {
        fn(arg);
        return 0;
    }
    void (*fn)(void*);
    void* arg;
    void (*destroy)(void*);
};

}  // namespace

extern "C" {

void fake_cuda_reset() {
    fake::World& world = fake::world();
    // Let go after the lock is: they hold what tests put in.
    std::vector<std::shared_ptr<fake::Stream>> streams;
    std::unordered_map<void*, std::shared_ptr<fake::Event>> events;
    std::unordered_map<void*, std::shared_ptr<fake::Graph>> graphs;
    std::unordered_map<void*, std::shared_ptr<fake::Executable>> executables;
    std::unique_lock lock(world.mutex);
    world.changed.wait(lock, [&] {
        for (const auto& stream : world.streams) {
            if (stream->running) return false;
        }
        return true;
    });
    for (const auto& stream : world.streams) {
        stream->done = stream->accepted;  // whoever waits for it is let go
        streams.push_back(stream);
    }
    world.streams.clear();
    events.swap(world.events);
    graphs.swap(world.graphs);
    executables.swap(world.executables);
    for (auto& [address, block] : world.blocks) std::free(reinterpret_cast<void*>(address));
    for (auto& [address, block] : world.freed) std::free(reinterpret_cast<void*>(address));
    world.blocks.clear();
    world.freed.clear();
    world.freed_order.clear();
    world.freed_bytes = 0;
    world.begin();
    world.changed.notify_all();
}

void fake_cuda_set_devices(int count) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    const std::size_t total = world.pinned_total;
    world.devices.resize(static_cast<std::size_t>(count));
    for (fake::DeviceState& device : world.devices) {
        if (device.total == 0) device.total = total;
    }
}

void fake_cuda_set_memory(int device, std::size_t total_bytes) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    if (world.valid(device)) world.devices[static_cast<std::size_t>(device)].total = total_bytes;
}

void fake_cuda_set_pinned_memory(std::size_t total_bytes) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    world.pinned_total = total_bytes;
}

void fake_cuda_set_attribute(int device, int attribute, int value) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    if (world.valid(device)) world.devices[static_cast<std::size_t>(device)].attributes[attribute] = value;
}

void fake_cuda_hold() {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    world.held = true;
}

std::size_t fake_cuda_step(void* stream, std::size_t count) {
    fake::World& world = fake::world();
    std::unique_lock lock(world.mutex);
    std::size_t done = 0;
    while (done < count && world.run_one(lock, static_cast<const fake::Stream*>(stream))) ++done;
    return done;
}

void fake_cuda_release() {
    fake::World& world = fake::world();
    std::unique_lock lock(world.mutex);
    world.held = false;
    world.run_all(lock);
}

std::size_t fake_cuda_queued() {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    std::size_t queued = 0;
    for (const auto& stream : world.streams) queued += stream->queue.size();
    return queued;
}

int fake_cuda_enqueue(void* handle, void (*fn)(void*), void* arg, void (*destroy)(void*)) {
    // Before the call, so that it outlives the lock if nobody takes it.
    std::shared_ptr<fake::Work> work = std::make_shared<HostWork>(fn, arg, destroy);
    fake::Call call("fake_cuda_enqueue");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    return call.done(call.world_.enqueue_work(call.lock, stream, work));
}

void fake_cuda_fail(const char* call, int nth, int code, int sticky) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    if (code == 0) {
        world.failures.erase(call);
    } else {
        world.failures[call] = {nth, code, sticky != 0};
    }
}

std::uint64_t fake_cuda_calls(const char* call) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    const auto found = world.calls.find(call);
    return found != world.calls.end() ? found->second : 0;
}

void fake_cuda_advance(std::int64_t ns) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    world.clock_ns += ns;
}

void fake_cuda_set_cost(std::int64_t ns) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    world.cost_ns = ns;
}

void fake_cuda_live(FakeCudaLive* live) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    *live = {};
    for (const auto& stream : world.streams) {
        const bool made = stream != world.devices[static_cast<std::size_t>(stream->device)].null_stream;
        live->streams += made && !stream->destroyed ? 1 : 0;
    }
    live->events = world.events.size();
    live->graphs = world.graphs.size();
    live->executables = world.executables.size();
    for (const auto& [address, block] : world.blocks) {
        switch (block.kind) {
            case fake::Memory::device:
                ++live->device_blocks;
                live->device_bytes += block.size;
                break;
            case fake::Memory::pinned:
                ++live->pinned_blocks;
                live->pinned_bytes += block.size;
                break;
            case fake::Memory::managed:
                ++live->managed_blocks;
                live->managed_bytes += block.size;
                break;
        }
    }
}

void fake_cuda_copies(FakeCudaCopies* copies) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    *copies = world.copies;
}

std::size_t fake_cuda_violations() {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    return world.violations;
}

std::size_t fake_cuda_room_at(const void* address) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    const auto block = world.block_at(address);
    if (block == world.blocks.end()) return 0;
    return block->second.size - (reinterpret_cast<std::uintptr_t>(address) - block->first);
}

unsigned fake_cuda_managed_state(const void* address) {
    fake::World& world = fake::world();
    std::lock_guard lock(world.mutex);
    const auto block = world.block_at(address);
    return block != world.blocks.end() ? block->second.managed_state : 0;
}

}  // extern "C"
