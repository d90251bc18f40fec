#include "device_resources.hpp"

#include <algorithm>
#include <utility>

#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {
namespace {

// Threads that copy pageable inputs to pinned memory where the thread that sees answers come would have to: a few reach the
// bandwidth of a CPU's memory.
constexpr std::size_t kMostStagers = 4;

std::size_t stager_count() noexcept { return std::clamp<std::size_t>(core::usable_cpus() / 4, 1, kMostStagers); }

}  // namespace

void grow(core::Buffer& buffer, std::size_t size_bytes, const std::shared_ptr<core::MemoryResource>& memory,
          std::atomic<std::size_t>& held) {
    size_bytes = std::max<std::size_t>(size_bytes, 1);
    if (buffer.size_bytes() >= size_bytes) return;
    held.fetch_sub(buffer.size_bytes(), std::memory_order_relaxed);  // for reports
    buffer.reset();                                                  // first: both together may not fit
    buffer = core::Buffer(memory, size_bytes);
    held.fetch_add(size_bytes, std::memory_order_relaxed);
}

core::BufferView Token::reserve(std::size_t size_bytes, const std::shared_ptr<core::MemoryResource>& memory) {
    grow(activations, size_bytes, memory, activation_bytes);
    return activations.view();
}

IoBuffer::IoBuffer(std::size_t index_, const cuda::Device& device)
    : index(index_), stream(device), computed(device), done(device) {}

void IoBuffer::time(Point point, bool timed) {
    if (!timed) return;
    while (timing.size() < kPoints) timing.emplace_back(stream.device(), cuda::Event::Kind::timing);
    timing[point].record(stream);
}

std::shared_ptr<DeviceResources> DeviceResources::of(core::ExecutionBudget& budget, const cuda::Device& device) {
    return std::static_pointer_cast<DeviceResources>(budget.shared(
        "tensorrt " + device.to_string(), [&] { return std::make_shared<DeviceResources>(device, budget.options()); }));
}

DeviceResources::DeviceResources(const cuda::Device& device_, const core::ExecutionBudget::Options& limits)
    : device(device_),
      device_memory(std::make_shared<cuda::DeviceMemory>(device_)),
      pinned_memory(std::make_shared<cuda::PinnedMemory>(device_)),
      host_memory(std::make_shared<core::HostMemory>()),
      completions(device_),
      // What they copy from and to lies near the GPU, or is to.
      stagers({.threads = stager_count(),
               .max_queue = limits.max_buffers,
               .name = "trtlab-stage",
               .cpus = device_.properties().cpus,
               .pinning = core::ThreadPool::Pinning::shared}),
      may_spin(core::usable_cpus() > 2) {
    for (std::size_t i = 0; i < limits.max_executions; ++i) {
        tokens_.push_back(std::make_unique<Token>(i));
        free_tokens_.push_back(tokens_.back().get());
    }
    free_buffers_.reserve(limits.max_buffers);
    for (std::size_t i = 0; i < limits.max_buffers; ++i) {
        buffers_.push_back(std::make_unique<IoBuffer>(i, device_));
        free_buffers_.push_back(buffers_.back().get());
    }
}

DeviceResources::~DeviceResources() = default;

IoBuffer& DeviceResources::take_buffer() noexcept {
    std::lock_guard lock(mutex_);
    // The least recently used, so that all take turns in the same order, and meet the same tokens.
    IoBuffer* buffer = free_buffers_.front();
    free_buffers_.erase(free_buffers_.begin());
    return *buffer;
}

void DeviceResources::give_back(IoBuffer& buffer) noexcept {
    std::lock_guard lock(mutex_);
    free_buffers_.push_back(&buffer);  // cannot throw: reserved for every buffer
}

Token& DeviceResources::take_token(const IoBuffer& buffer) noexcept {
    executing_.fetch_add(1, std::memory_order_relaxed);  // a hint
    std::lock_guard lock(mutex_);
    const std::size_t wanted = buffer.index % free_tokens_.size();
    Token** slot = &free_tokens_[wanted];
    if (*slot == nullptr) {
        slot = &*std::find_if(free_tokens_.begin(), free_tokens_.end(),
                              [](const Token* token) { return token != nullptr; });
    }
    return *std::exchange(*slot, nullptr);
}

void DeviceResources::give_back(Token& token) noexcept {
    executing_.fetch_sub(1, std::memory_order_relaxed);  // a hint
    std::lock_guard lock(mutex_);
    free_tokens_[token.index] = &token;
}

std::vector<core::MemoryUse> DeviceResources::memory() const {
    std::size_t activations = 0, device_bytes = 0, pinned_bytes = 0, answer_bytes = 0, host_bytes = 0;
    for (const auto& token : tokens_) activations += token->activation_bytes.load(std::memory_order_relaxed);
    for (const auto& buffer : buffers_) {
        device_bytes += buffer->device_bytes.load(std::memory_order_relaxed);
        pinned_bytes += buffer->pinned_bytes.load(std::memory_order_relaxed);
        answer_bytes += buffer->answer_bytes.load(std::memory_order_relaxed);
        host_bytes += buffer->host_bytes.load(std::memory_order_relaxed);
    }
    const core::Device host{core::DeviceType::cuda_host, 0};
    return {{"execution tokens of " + device.to_string(), "activations", device.core_device(), activations},
            {"IO buffers of " + device.to_string(), "inputs and outputs", device.core_device(), device_bytes},
            {"IO buffers of " + device.to_string(), "inputs being staged", host, pinned_bytes},
            {"IO buffers of " + device.to_string(), "outputs being fetched", host, answer_bytes},
            {"IO buffers of " + device.to_string(), "shape tensors", {}, host_bytes}};
}

}  // namespace trtlab::tensorrt
