#include "trtlab/core/ref_counted.hpp"

namespace trtlab::core {
namespace {
std::atomic<std::int64_t> live_objects{0};
}

RefCounted::RefCounted() noexcept { live_objects.fetch_add(1, std::memory_order_relaxed); }
RefCounted::~RefCounted() { live_objects.fetch_sub(1, std::memory_order_relaxed); }

std::int64_t RefCounted::live() noexcept { return live_objects.load(std::memory_order_relaxed); }

}  // namespace trtlab::core
