// The objects that TensorRT calls are C++ classes whose virtual functions must lie where its own have them; and what the
// table leaves out in a release is refused rather than called.

#include <cstring>

#include "call.hpp"
#include "fixture.hpp"
#include "interfaces.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// The slot of a virtual function: the Itanium C++ ABI writes 1 + 8 x slot into a pointer to it.
template <class Function>
int slot_of(Function function) {
    std::ptrdiff_t parts[2];
    static_assert(sizeof(function) == sizeof(parts));
    std::memcpy(parts, &function, sizeof(parts));
    return static_cast<int>((parts[0] - 1) / 8);
}

struct Expected {
    const char* method;
    std::array<int, 4> slots;
};
#define TRTLAB_TENSORRT_EXPECTED(name, trt10, trt11, rtx14, rtx17, ...) Expected{#name, {trt10, trt11, rtx14, rtx17}},

TEST(Interfaces, LieWhereTensorRTLooksForThem) {
    using namespace abi;
    const std::vector<Expected> logger{TRTLAB_TENSORRT_ILogger(TRTLAB_TENSORRT_EXPECTED)};
    EXPECT_THAT(logger.at(0).slots, testing::ElementsAre(slot_of(&OldLogger::log), slot_of(&VersionedLogger::log),
                                                         slot_of(&OldLogger::log), slot_of(&VersionedLogger::log)));
    const std::vector<Expected> profiler{TRTLAB_TENSORRT_IProfiler(TRTLAB_TENSORRT_EXPECTED)};
    const int old_report = slot_of(&OldProfiler::reportLayerTime);
    const int report = slot_of(&VersionedProfiler::reportLayerTime);
    EXPECT_THAT(profiler.at(0).slots, testing::ElementsAre(old_report, report, old_report, report));

    const std::vector<Expected> allocator{TRTLAB_TENSORRT_IGpuAllocator(TRTLAB_TENSORRT_EXPECTED)};
    const std::vector<int> ours{slot_of(&GpuAllocator::allocate), slot_of(&GpuAllocator::reallocate),
                                slot_of(&GpuAllocator::deallocate), slot_of(&GpuAllocator::allocateAsync),
                                slot_of(&GpuAllocator::deallocateAsync)};
    ASSERT_EQ(allocator.size(), ours.size());
    for (std::size_t i = 0; i < ours.size(); ++i) {
        EXPECT_THAT(allocator[i].slots, testing::Each(ours[i])) << allocator[i].method;
    }

    const std::vector<Expected> output{TRTLAB_TENSORRT_IOutputAllocator(TRTLAB_TENSORRT_EXPECTED)};
    EXPECT_THAT(output.at(0).slots, testing::ElementsAre(slot_of(&OutputAllocator::reallocateOutput),
                                                         slot_of(&OutputAllocator::reallocateOutput), -1, -1));
    const int async = slot_of(&OutputAllocator::reallocateOutputAsync);
    const int rtx_async = slot_of(&RtxOutputAllocator::reallocateOutputAsync);
    EXPECT_THAT(output.at(1).slots, testing::ElementsAre(async, async, rtx_async, rtx_async));
    const int notify = slot_of(&OutputAllocator::notifyShape);
    const int rtx_notify = slot_of(&RtxOutputAllocator::notifyShape);
    EXPECT_THAT(output.at(2).slots, testing::ElementsAre(notify, notify, rtx_notify, rtx_notify));
}

TEST(Interfaces, AreOnePointerToATable) {
    EXPECT_EQ(sizeof(abi::OldLogger), sizeof(void*));
    EXPECT_EQ(sizeof(abi::VersionedLogger), sizeof(void*));
    EXPECT_EQ(sizeof(abi::GpuAllocator), sizeof(void*));
    EXPECT_EQ(sizeof(abi::OutputAllocator), sizeof(void*));
}

TEST(Table, RefusesAMethodThatTheReleaseLacks) {
    struct Never : abi::ICudaEngine {
    } engine{};
    Library::Abi table;
    table.generation = Generation::trt10;
    table.version = 101002;
    const abi::ICudaEngine* object = &engine;
    EXPECT_FALSE(table.has(abi::VCudaEngine::createRuntimeConfig));
    EXPECT_THAT(message_of<core::EngineError>([&] { table.call(abi::VCudaEngine::createRuntimeConfig, object); }),
                AllOf(HasSubstr("createRuntimeConfig"), HasSubstr("10.10.2"), HasSubstr("10.11.0 or newer")));
    table.version = 101100;
    EXPECT_TRUE(table.has(abi::VCudaEngine::createRuntimeConfig));
    table.generation = Generation::trt11;
    table.version = 110400;
    EXPECT_THAT(message_of<core::EngineError>([&] { table.call(abi::VCudaEngine::getDeviceMemorySize, object); }),
                AllOf(HasSubstr("getDeviceMemorySize"), HasSubstr("nor in any other of its generation (TensorRT 11)")));
}

TEST(LogLines, LoseThePlacesInTensorRTsSources) {
    EXPECT_EQ(without_sources(
                  "[runtime.cpp::deserialize::71] Error Code 1: Serialization (x failed. In y at /_src/a/b.cpp:71)"),
              "Error Code 1: Serialization (x failed. In y)");
    EXPECT_EQ(without_sources("nothing to lose"), "nothing to lose");
    EXPECT_EQ(without_sources("[W] kept: no place in it"), "[W] kept: no place in it");
    EXPECT_EQ(without_sources("looked at /tmp/engine.plan (missing)\n"), "looked at /tmp/engine.plan (missing)");
    EXPECT_EQ(without_sources("(In f at /a/x.cpp:25 (cudaError 35: too old))"), "(In f (cudaError 35: too old))");
    EXPECT_EQ(without_sources(""), "");
}

}  // namespace
}  // namespace trtlab::tensorrt::test
