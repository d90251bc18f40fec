#include "memory_contract.hpp"

#include <optional>

#include "simulated.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::core::testing {
namespace {

using cuda::Device;
using cuda::Library;

std::shared_ptr<const Library> opened_real() {
    static const std::shared_ptr<const Library> library = cuda::test::real_library();
    return library;
}

/// Over the fake runtime.
struct Fake {
    static std::string why_not() { return ""; }
    static Device gpu() {
        cuda().reset();
        return Device(Library::open({.path = cuda::test::fake_path(), .directories = {}}), 0);
    }
    static FakeCuda& cuda() {
        static FakeCuda fake(cuda::test::fake_path());
        return fake;
    }
    static std::size_t live_blocks() {
        const FakeCudaLive live = cuda().live();
        return live.device_blocks + live.pinned_blocks + live.managed_blocks + cuda().violations();
    }
};

/// On a GPU.
struct Real {
    static std::string why_not() {
        return opened_real()->device_count() > 0 ? "" : "no CUDA device: " + opened_real()->why_no_device();
    }
    static Device gpu() { return Device(opened_real(), 0); }
    static std::size_t live_blocks() { return 0; }
};

struct Limits {
    static constexpr std::size_t kPromisedAlignment = 256;
    static constexpr std::size_t kTooMuch = std::size_t{1} << 46;
};

template <class On>
struct OfDevice : On, Limits {
    static std::shared_ptr<MemoryResource> make() { return std::make_shared<cuda::DeviceMemory>(On::gpu()); }
};

template <class On>
struct Pinned : On, Limits {
    static std::shared_ptr<MemoryResource> make() { return std::make_shared<cuda::PinnedMemory>(On::gpu()); }
};

template <class On>
struct Managed : On, Limits {
    static std::shared_ptr<MemoryResource> make() {
        return std::make_shared<cuda::ManagedMemory>(On::gpu(), cuda::ManagedMemory::Advice::prefer_device);
    }
};

/// With the stream that it needs.
class OwnStreamMemory final : public MemoryResource {
public:
    explicit OwnStreamMemory(const Device& gpu) : stream_(gpu), memory_(stream_) {}
    ~OwnStreamMemory() override { stream_.synchronize(); }
    core::Device device() const noexcept override { return memory_.device(); }
    std::string name() const override { return memory_.name(); }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override {
        return memory_.allocate(size_bytes, alignment);
    }
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override {
        memory_.deallocate(block, size_bytes, alignment);
    }

private:
    cuda::Stream stream_;
    cuda::StreamOrderedMemory memory_;
};

template <class On>
struct StreamOrdered : On, Limits {
    static std::string why_not() {
        if (const std::string why = On::why_not(); !why.empty()) return why;
        return On::gpu().properties().memory_pools ? "" : "no CUDA device with memory pools";
    }
    static std::shared_ptr<MemoryResource> make() { return std::make_shared<OwnStreamMemory>(On::gpu()); }
};

/// Managed memory beyond what a GPU has free can hang it, and pinned memory beyond what the host has takes pages until
/// something is ended for it.
template <class Memory>
struct AskedForLittle : Memory {
    static constexpr std::size_t kTooMuch = 0;
};

INSTANTIATE_TYPED_TEST_SUITE_P(FakeDevice, MemoryContract, OfDevice<Fake>);
INSTANTIATE_TYPED_TEST_SUITE_P(FakePinned, MemoryContract, Pinned<Fake>);
INSTANTIATE_TYPED_TEST_SUITE_P(FakeManaged, MemoryContract, Managed<Fake>);
INSTANTIATE_TYPED_TEST_SUITE_P(FakeStreamOrdered, MemoryContract, StreamOrdered<Fake>);
INSTANTIATE_TYPED_TEST_SUITE_P(GpuDevice, MemoryContract, OfDevice<Real>);
INSTANTIATE_TYPED_TEST_SUITE_P(GpuPinned, MemoryContract, AskedForLittle<Pinned<Real>>);
INSTANTIATE_TYPED_TEST_SUITE_P(GpuManaged, MemoryContract, AskedForLittle<Managed<Real>>);
INSTANTIATE_TYPED_TEST_SUITE_P(GpuStreamOrdered, MemoryContract, StreamOrdered<Real>);

}  // namespace
}  // namespace trtlab::core::testing
