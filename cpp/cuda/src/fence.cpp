#include "trtlab/cuda/fence.hpp"

namespace trtlab::cuda {
namespace {

/// As many as requests may be under way without one of them making an event.
constexpr std::size_t kMaxIdle = 256;

}  // namespace

EventFence::~EventFence() = default;

core::Ref<const EventFence> EventFence::record(const StreamView& stream) {
    auto fence = core::make_ref<EventFence>(stream.device());
    fence->event_.record(stream);
    return fence;
}

EventFences::EventFences(const Device& device)
    : recycler_(core::make_ref<core::Recycler<EventFence>>(kMaxIdle, [device] { return new EventFence(device); })) {}

core::Ref<const EventFence> EventFences::record(const StreamView& stream) const {
    core::Ref<EventFence> fence = recycler_->take();
    fence->event().record(stream);
    return fence;
}

}  // namespace trtlab::cuda
