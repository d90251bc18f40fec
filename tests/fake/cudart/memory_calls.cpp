#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "simulation.hpp"

namespace fake {
namespace {

// What CUDA's allocators give; they promise half of it.
constexpr std::size_t kAlignment = 512;
// Behind every block, so that a write over its end is noticed.
constexpr std::size_t kGuardBytes = 64;
constexpr unsigned char kGuard = 0xEC, kFresh = 0xCB, kFreed = 0xDD;
// Larger than what anybody has: refused before the host's allocator is asked, which a sanitizer may take amiss.
constexpr std::size_t kMost = std::size_t{1} << 40;
// Fresh and freed memory is overwritten up to here, so that tests of large blocks stay quick.
constexpr std::size_t kMostOverwritten = std::size_t{16} << 20;
constexpr std::size_t kMostFreedBytes = std::size_t{64} << 20;

struct Copy final : Work {
    int run() override {
        World& simulation = world();
        {
            std::lock_guard lock(simulation.mutex);
            const void* from = staged.empty() ? source : staged.data();
            if (!simulation.allowed(destination, size) || (staged.empty() && !simulation.allowed(from, size))) {
                ++simulation.violations;
                return cudaErrorIllegalAddress;
            }
            const auto side = [&](const void* address) {
                const auto block = simulation.block_at(address);
                return block == simulation.blocks.end() ? -1 : static_cast<int>(block->second.kind);
            };
            const int to = side(destination), of = side(source);
            const auto on_device = [](int kind) { return kind == static_cast<int>(Memory::device); };
            FakeCudaCopies& copies = simulation.copies;
            ++copies.count;
            (on_device(to)   ? on_device(of) ? copies.device_to_device : copies.host_to_device
             : on_device(of) ? copies.device_to_host
                             : copies.host_to_host) += size;
            if (to < 0 || of < 0) copies.pageable += size;
        }
        std::memmove(destination, staged.empty() ? source : staged.data(), size);
        return 0;
    }
    void* destination = nullptr;
    const void* source = nullptr;
    std::size_t size = 0;
    std::vector<unsigned char> staged;
};

struct Fill final : Work {
    int run() override {
        World& simulation = world();
        {
            std::lock_guard lock(simulation.mutex);
            if (!simulation.allowed(destination, size)) {
                ++simulation.violations;
                return cudaErrorIllegalAddress;
            }
        }
        std::memset(destination, value, size);
        return 0;
    }
    void* destination = nullptr;
    int value = 0;
    std::size_t size = 0;
};

void forget_oldest_freed(World& simulation) {
    const std::uintptr_t address = simulation.freed_order.front();
    simulation.freed_order.pop_front();
    simulation.freed_bytes -= simulation.freed[address].size;
    simulation.freed.erase(address);
    std::free(reinterpret_cast<void*>(address));
}

}  // namespace

std::shared_ptr<Work> make_copy(int, void* destination, const void* source, std::size_t size, bool snapshot) {
    auto copy = std::make_shared<Copy>();
    copy->destination = destination;
    copy->source = source;
    copy->size = size;
    if (snapshot) {
        const auto* bytes = static_cast<const unsigned char*>(source);
        copy->staged.assign(bytes, bytes + size);
    }
    return copy;
}

std::shared_ptr<Work> make_fill(int, void* destination, int value, std::size_t size) {
    auto fill = std::make_shared<Fill>();
    fill->destination = destination;
    fill->value = value;
    fill->size = size;
    return fill;
}

int World::allocate(Memory kind, int device, std::size_t size, void** block) {
    if (block == nullptr) return cudaErrorInvalidValue;
    *block = nullptr;
    if (size == 0) return 0;
    DeviceState& state = devices[static_cast<std::size_t>(device)];
    if (size > kMost) return cudaErrorMemoryAllocation;
    if (kind == Memory::device && size > state.total - std::min(state.total, state.used))
        return cudaErrorMemoryAllocation;
    if (kind == Memory::pinned && size > pinned_total - std::min(pinned_total, pinned_used))
        return cudaErrorMemoryAllocation;
    const std::size_t whole = (size + kGuardBytes + kAlignment - 1) / kAlignment * kAlignment;
    auto* memory = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, whole));
    if (memory == nullptr) return cudaErrorMemoryAllocation;
    std::memset(memory, kFresh, std::min(size, kMostOverwritten));
    std::memset(memory + size, kGuard, kGuardBytes);
    blocks[reinterpret_cast<std::uintptr_t>(memory)] = {kind, device, size, 0};
    (kind == Memory::device ? state.used : kind == Memory::pinned ? pinned_used : managed_used) += size;
    *block = memory;
    return 0;
}

int World::release(void* block, Memory kind, bool any_gpu) {
    if (block == nullptr) return 0;
    const auto address = reinterpret_cast<std::uintptr_t>(block);
    const auto found = blocks.find(address);
    const bool fits =
        found != blocks.end() && (found->second.kind == kind || (any_gpu && found->second.kind != Memory::pinned));
    if (!fits) {
        ++violations;
        return cudaErrorInvalidValue;
    }
    const Block info = found->second;
    blocks.erase(found);
    (info.kind == Memory::device   ? devices[static_cast<std::size_t>(info.device)].used
     : info.kind == Memory::pinned ? pinned_used
                                   : managed_used) -= info.size;
    auto* memory = static_cast<unsigned char*>(block);
    const bool overrun =
        std::any_of(memory + info.size, memory + info.size + kGuardBytes, [](unsigned char c) { return c != kGuard; });
    std::memset(memory, kFreed, std::min(info.size, kMostOverwritten));
    freed[address] = info;
    freed_order.push_back(address);
    freed_bytes += info.size;
    while (freed_bytes > kMostFreedBytes) forget_oldest_freed(*this);
    if (overrun) {
        ++violations;
        lose(info.device, cudaErrorIllegalAddress);
        return cudaErrorIllegalAddress;
    }
    return 0;
}

std::map<std::uintptr_t, Block>::iterator World::block_at(const void* address) {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    auto next = blocks.upper_bound(at);
    if (next == blocks.begin()) return blocks.end();
    --next;
    return at - next->first < next->second.size ? next : blocks.end();
}

bool World::allowed(const void* address, std::size_t size) {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    if (const auto block = block_at(address); block != blocks.end())
        return size <= block->second.size - (at - block->first);
    auto next = freed.upper_bound(at);
    if (next == freed.begin()) return true;
    --next;
    return at - next->first >= next->second.size;
}

namespace {

cudaError_t allocate(const char* name, Memory kind, std::size_t size, void** block) {
    Call call(name);
    if (call.failed()) return call.result();
    if (call.world_.disturbs_capture()) return call.done(cudaErrorStreamCaptureUnsupported);
    return call.done(call.world_.allocate(kind, call.world_.thread().device, size, block));
}

cudaError_t release(const char* name, Memory kind, bool any_gpu, void* block) {
    Call call(name);
    // The block goes even if the device is lost, as it does with the device.
    if (call.failed() && call.world_.trouble(call.world_.thread().device) == 0) return call.result();
    if (call.world_.disturbs_capture()) return call.done(cudaErrorStreamCaptureUnsupported);
    const int code = call.world_.release(block, kind, any_gpu);
    return call.failed() ? call.result() : call.done(code);
}

cudaError_t note_managed(Call& call, const void* address, std::size_t size, unsigned bits) {
    const auto block = call.world_.block_at(address);
    if (block == call.world_.blocks.end() || block->second.kind != Memory::managed ||
        !call.world_.allowed(address, size))
        return call.done(cudaErrorInvalidValue);
    block->second.managed_state |= bits;
    return call.done(0);
}

cudaError_t advise(const char* name, const void* address, std::size_t size, cudaMemoryAdvise advice,
                   cudaMemLocation location) {
    Call call(name);
    if (call.failed()) return call.result();
    if (location.type == cudaMemLocationTypeDevice && !call.world_.valid(location.id))
        return call.done(cudaErrorInvalidDevice);
    return note_managed(call, address, size, advice == cudaMemAdviseSetReadMostly ? 1u : 2u);
}

cudaError_t prefetch(const char* name, const void* address, std::size_t size, cudaMemLocation to, cudaStream_t handle) {
    Call call(name);
    if (call.failed()) return call.result();
    if (call.world_.find_stream(handle) == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (to.type == cudaMemLocationTypeDevice && !call.world_.valid(to.id)) return call.done(cudaErrorInvalidDevice);
    return note_managed(call, address, size, to.type == cudaMemLocationTypeDevice ? 4u : 8u);
}

}  // namespace
}  // namespace fake

extern "C" {

cudaError_t cudaMalloc(void** block, std::size_t size) {
    return fake::allocate("cudaMalloc", fake::Memory::device, size, block);
}
cudaError_t cudaHostAlloc(void** block, std::size_t size, unsigned) {
    return fake::allocate("cudaHostAlloc", fake::Memory::pinned, size, block);
}
cudaError_t cudaMallocManaged(void** block, std::size_t size, unsigned) {
    return fake::allocate("cudaMallocManaged", fake::Memory::managed, size, block);
}
cudaError_t cudaFree(void* block) { return fake::release("cudaFree", fake::Memory::device, true, block); }
cudaError_t cudaFreeHost(void* block) { return fake::release("cudaFreeHost", fake::Memory::pinned, false, block); }

cudaError_t cudaMallocAsync(void** block, std::size_t size, cudaStream_t handle) {
    fake::Call call("cudaMallocAsync");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    return call.done(call.world_.allocate(fake::Memory::device, stream->device, size, block));
}

cudaError_t cudaFreeAsync(void* block, cudaStream_t handle) {
    fake::Call call("cudaFreeAsync");
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (call.world_.block_at(block) == call.world_.blocks.end()) {
        ++call.world_.violations;
        return call.done(cudaErrorInvalidValue);
    }
    fake::Entry entry;
    entry.kind = fake::Entry::Kind::free_block;
    entry.block = block;
    const int code = call.world_.enqueue(call.lock, stream, std::move(entry));
    return call.failed() ? call.result() : call.done(code);
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
    fake::Call call("cudaMemGetInfo");
    if (call.failed()) return call.result();
    const auto& device = call.world_.devices[static_cast<std::size_t>(call.world_.thread().device)];
    *total_bytes = device.total;
    *free_bytes = device.total - std::min(device.total, device.used);
    return call.done(0);
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, std::size_t size, cudaMemcpyKind,
                            cudaStream_t handle) {
    fake::Call call("cudaMemcpyAsync");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (size == 0) return call.done(0);
    if (destination == nullptr || source == nullptr) return call.done(cudaErrorInvalidValue);
    const bool captured = stream->capture != nullptr;
    const auto pageable = [&](const void* address) {
        return call.world_.block_at(address) == call.world_.blocks.end() && call.world_.allowed(address, 1);
    };
    const int code = call.world_.enqueue_work(
        call.lock, stream, fake::make_copy(stream->device, destination, source, size, !captured && pageable(source)));
    if (code == 0 && !captured && pageable(destination)) {
        const std::uint64_t ticket = stream->accepted;
        call.world_.changed.wait(call.lock, [&] { return stream->done >= ticket; });
        if (const int trouble = call.world_.trouble(stream->device); trouble != 0) return call.done(trouble);
    }
    return call.done(code);
}

cudaError_t cudaMemsetAsync(void* destination, int value, std::size_t size, cudaStream_t handle) {
    fake::Call call("cudaMemsetAsync");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (size == 0) return call.done(0);
    if (destination == nullptr) return call.done(cudaErrorInvalidValue);
    return call.done(
        call.world_.enqueue_work(call.lock, stream, fake::make_fill(stream->device, destination, value, size)));
}

cudaError_t cudaMemPrefetchAsync(const void* address, std::size_t size, cudaMemLocation to, unsigned,
                                 cudaStream_t stream) {
    return fake::prefetch("cudaMemPrefetchAsync", address, size, to, stream);
}
cudaError_t cudaMemPrefetchAsync_v2(const void* address, std::size_t size, cudaMemLocation to, unsigned,
                                    cudaStream_t stream) {
    return fake::prefetch("cudaMemPrefetchAsync_v2", address, size, to, stream);
}
cudaError_t cudaMemAdvise(const void* address, std::size_t size, cudaMemoryAdvise advice, cudaMemLocation location) {
    return fake::advise("cudaMemAdvise", address, size, advice, location);
}
cudaError_t cudaMemAdvise_v2(const void* address, std::size_t size, cudaMemoryAdvise advice, cudaMemLocation location) {
    return fake::advise("cudaMemAdvise_v2", address, size, advice, location);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
    fake::Call call("cudaPointerGetAttributes", fake::Call::a_driver);
    if (call.failed()) return call.result();
    *attributes = {};
    attributes->device = -1;
    const auto block = call.world_.block_at(address);
    if (block == call.world_.blocks.end()) return call.done(0);
    constexpr cudaMemoryType kTypes[] = {cudaMemoryTypeDevice, cudaMemoryTypeHost, cudaMemoryTypeManaged};
    attributes->type = kTypes[static_cast<int>(block->second.kind)];
    attributes->device = block->second.device;
    attributes->devicePointer = const_cast<void*>(address);
    attributes->hostPointer = block->second.kind == fake::Memory::device ? nullptr : const_cast<void*>(address);
    return call.done(0);
}

}  // extern "C"
