#include "trtlab/cuda/stream_pool.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "api.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::cuda {
namespace {

constexpr std::size_t kGranule = core::MemoryResource::kAlignment;

}  // namespace

/// The pool as one stream sees it.
class StreamPool::OnStream final : public core::MemoryResource {
public:
    OnStream(std::shared_ptr<StreamPool> pool, core::RangeHeap::Owner side) : pool_(std::move(pool)), side_(side) {}
    ~OnStream() override { pool_->leave(side_); }
    core::Device device() const noexcept override { return pool_->arena_->device(); }
    std::string name() const override { return "pool of streams over " + pool_->arena_->name(); }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override {
        return pool_->allocate(*this, side_, size_bytes, alignment);
    }
    void do_deallocate(void* block, std::size_t, std::size_t) noexcept override {
        pool_->deallocate(*this, side_, block);
    }

private:
    const std::shared_ptr<StreamPool> pool_;
    const core::RangeHeap::Owner side_;
};

std::shared_ptr<StreamPool> StreamPool::create(Device device, std::shared_ptr<core::BlockArena> arena) {
    if (arena == nullptr) throw core::InvalidArgument("pool of streams: the arena is null; give it one");
    return std::shared_ptr<StreamPool>(new StreamPool(std::move(device), std::move(arena)));
}

StreamPool::StreamPool(Device device, std::shared_ptr<core::BlockArena> arena)
    : device_(std::move(device)), arena_(std::move(arena)), ranges_(kGranule, kGranule) {
    sides_.emplace_back(device_);  // owner 0 is there from the start
}

StreamPool::~StreamPool() {
    if (fork_.forked()) return;
    try {
        if (!slabs_.empty()) device_.synchronize();  // who gets them next knows nothing of these streams
    } catch (...) {
        core::log_current_exception("a pool of streams that waited for its device");
    }
    for (const core::BlockArena::Block& slab : slabs_) arena_->release(slab.data);
}

std::shared_ptr<core::MemoryResource> StreamPool::on(const StreamView& stream) {
    if (fork_.forked()) throw core::Closed("a pool of streams stayed in the parent process: make one after the fork");
    if (stream.device().ordinal() != device_.ordinal()) {
        throw core::InvalidArgument("pool of streams over " + arena_->name() + ": the stream is of " +
                                    stream.device().to_string() + ", the pool of " + device_.to_string());
    }
    if (capturing(stream)) {
        throw core::InvalidArgument("pool of streams over " + arena_->name() +
                                    ": the stream is being captured; ask for its memory before the capture begins");
    }
    auto self = shared_from_this();
    std::unique_lock lock(mutex_);
    auto free = std::find_if(sides_.begin(), sides_.end(), [](const Side& side) { return !side.stream.has_value(); });
    if (free == sides_.end()) {
        Side side(device_);
        sides_.reserve(sides_.size() + 1);
        ranges_.add_owner();
        sides_.push_back(std::move(side));
        free = std::prev(sides_.end());
    } else {
        stream.wait(free->reached);  // what it has free is the new stream's, in its order
    }
    free->stream = stream;
    const auto side = static_cast<core::RangeHeap::Owner>(free - sides_.begin());
    lock.unlock();
    try {
        return std::make_shared<OnStream>(std::move(self), side);
    } catch (...) {
        leave(side);
        throw;
    }
}

void StreamPool::leave(core::RangeHeap::Owner side) noexcept {
    if (fork_.forked()) return;
    const std::lock_guard lock(mutex_);
    Side& leaving = sides_[side];
    try {
        leaving.reached.record(*leaving.stream);
    } catch (...) {
        core::log_current_exception("a stream that left its pool");
    }
    leaving.stream.reset();
}

void* StreamPool::allocate(const core::MemoryResource& who, core::RangeHeap::Owner side, std::size_t size_bytes,
                           std::size_t alignment) {
    if (fork_.forked()) throw core::Closed(who.name() + " stayed in the parent process: make one after the fork");
    const auto refusal = [&](const char* why) {
        return core::OutOfMemory(who.name() + ": cannot allocate " + std::to_string(size_bytes) + " bytes: " + why);
    };
    try {
        const std::lock_guard lock(mutex_);
        void* block = ranges_.take(size_bytes, alignment, side);
        if (block != nullptr) return block;
        if (capturing(*sides_[side].stream)) {
            // CUDA takes nothing from the device meanwhile, and order with another stream would become part of the graph.
            throw core::OutOfMemory("the stream is being captured, and has no such range free itself");
        }
        block = take_over(side, size_bytes, alignment);
        if (block == nullptr) block = gather(side, size_bytes, alignment);
        if (block != nullptr) return block;
        try {
            return grow(side, size_bytes, alignment);
        } catch (const core::OutOfMemory&) {
            if (trim_locked() == 0) throw;
            return grow(side, size_bytes, alignment);
        }
    } catch (const core::OutOfMemory& error) {
        throw refusal(error.what());
    } catch (const std::bad_alloc&) {
        throw refusal("the heap has no room for the book-keeping");
    }
}

void StreamPool::deallocate(const core::MemoryResource& who, core::RangeHeap::Owner side, void* block) noexcept {
    if (fork_.forked()) return;
    {
        const std::lock_guard lock(mutex_);
        if (ranges_.put(block, side).size_bytes != 0) return;
    }
    try {
        core::log(who.name() + ": what was given back is no block of it, or was given back before; it is left alone");
    } catch (...) {
        core::log_current_exception("a block that was given back to the wrong pool");
    }
}

bool StreamPool::capturing(const StreamView& stream) const noexcept {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t asked = device_.library()->api().StreamIsCapturing(stream.handle(), &status);
    return asked != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

/// What is put into `then` from now on comes after what the side's stream was given to do so far.
void StreamPool::follow(const Side& first, const StreamView& then) const {
    if (first.stream.has_value()) first.reached.record(*first.stream);
    then.wait(first.reached);
}

void* StreamPool::take_over(core::RangeHeap::Owner side, std::size_t size_bytes, std::size_t alignment) {
    const StreamView& stream = *sides_[side].stream;
    for (core::RangeHeap::Owner other = 0; other < sides_.size(); ++other) {
        if (other == side || ranges_.largest(other) < size_bytes) continue;
        if (sides_[other].stream.has_value() && capturing(*sides_[other].stream)) continue;
        void* const block = ranges_.take(size_bytes, alignment, other);
        if (block == nullptr) continue;
        try {
            follow(sides_[other], stream);
        } catch (...) {
            ranges_.put(block, other);
            throw;
        }
        ++taken_over_;
        return block;
    }
    return nullptr;
}

/// Neighbours that different streams have free may be large enough together.
void* StreamPool::gather(core::RangeHeap::Owner side, std::size_t size_bytes, std::size_t alignment) {
    const StreamView& stream = *sides_[side].stream;
    if (ranges_.stats().free_bytes < size_bytes) return nullptr;
    bool any = false;
    for (core::RangeHeap::Owner other = 0; other < sides_.size(); ++other) {
        if (other == side || ranges_.largest(other) == 0) continue;
        if (sides_[other].stream.has_value() && capturing(*sides_[other].stream)) continue;
        follow(sides_[other], stream);
        ranges_.hand_over(other, side);
        any = true;
    }
    if (!any) return nullptr;
    ++gathered_;
    return ranges_.take(size_bytes, alignment, side);
}

void* StreamPool::grow(core::RangeHeap::Owner side, std::size_t size_bytes, std::size_t alignment) {
    const std::size_t room = kGranule + (alignment > kGranule ? alignment - kGranule : 0);
    if (size_bytes > std::numeric_limits<std::size_t>::max() - room)
        throw core::OutOfMemory("with its alignment it is larger than the address space");
    slabs_.reserve(slabs_.size() + 1);
    const core::BlockArena::Block slab = arena_->acquire((size_bytes + room - 1) & ~(kGranule - 1));
    try {
        ranges_.add_region({slab.data, slab.size_bytes}, side);
    } catch (...) {
        arena_->release(slab.data);
        throw;
    }
    slabs_.push_back(slab);
    bytes_ += slab.size_bytes;
    return ranges_.take(size_bytes, alignment, side);
}

std::size_t StreamPool::trim() {
    if (fork_.forked()) throw core::Closed("a pool of streams stayed in the parent process: make one after the fork");
    const std::lock_guard lock(mutex_);
    return trim_locked();
}

std::size_t StreamPool::trim_locked() {
    device_.synchronize();
    // Nothing is under way, and nobody can be given a block meanwhile: whose the free ranges are does not matter.
    for (core::RangeHeap::Owner other = 1; other < sides_.size(); ++other) ranges_.hand_over(other, 0);
    std::size_t gone = 0;
    std::erase_if(slabs_, [&](const core::BlockArena::Block& slab) {
        if (!ranges_.remove_region({slab.data, slab.size_bytes})) return false;
        arena_->release(slab.data);
        gone += slab.size_bytes;
        return true;
    });
    bytes_ -= gone;
    return gone;
}

StreamPool::Stats StreamPool::stats() const {
    if (fork_.forked()) throw core::Closed("a pool of streams stayed in the parent process: make one after the fork");
    const std::lock_guard lock(mutex_);
    const core::RangeHeap::Stats ranges = ranges_.stats();
    const auto streams =
        std::count_if(sides_.begin(), sides_.end(), [](const Side& side) { return side.stream.has_value(); });
    return {slabs_.size(), bytes_,   ranges.live_bytes, ranges.live_ranges, static_cast<std::size_t>(streams),
            taken_over_,   gathered_};
}

}  // namespace trtlab::cuda
