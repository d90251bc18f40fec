// Compiled where TensorRT_INCLUDE_DIR names NVIDIA's own headers: every slot, number and layout of that release, as its
// compiler sees them, against the layer's table.

#include <NvInferRuntime.h>
#include <NvInferVersion.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>

#include "abi.hpp"
#include "interfaces.hpp"
#include "trtlab/tensorrt/runtime.hpp"

// What TensorRT would rather have nobody use is in its tables all the same.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace trtlab::tensorrt::test {
namespace {

constexpr int kVersion = NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;

/// The Itanium C++ ABI writes 1 + 8 x slot into a pointer to a virtual function.
template <class Function>
int slot_of(Function function) {
    std::ptrdiff_t parts[2];
    static_assert(sizeof(function) == sizeof(parts));
    std::memcpy(parts, &function, sizeof(parts));
    return static_cast<int>((parts[0] - 1) / 8);
}

/// Slots as the header has them, by name; what the release lacks is not in it.
using Slots = std::map<std::string, int>;

// A method that this release's class lacks, or has renamed, adds nothing: the requires-expression decides.
#define TRTLAB_HEADER_SLOT(Of, name)                                            \
    [&]<class T>(std::type_identity<T>) {                                       \
        if constexpr (requires { &T::name; }) slots[#name] = slot_of(&T::name); \
    }(std::type_identity<nvinfer1::apiv::Of>{});

#define TRTLAB_HEADER_RUNTIME(name, ...) TRTLAB_HEADER_SLOT(VRuntime, name)
#define TRTLAB_HEADER_ENGINE(name, ...) TRTLAB_HEADER_SLOT(VCudaEngine, name)
#define TRTLAB_HEADER_CONTEXT(name, ...) TRTLAB_HEADER_SLOT(VExecutionContext, name)
#define TRTLAB_HEADER_MEMORY(name, ...) TRTLAB_HEADER_SLOT(VHostMemory, name)
#define TRTLAB_HEADER_CONFIG(name, ...) TRTLAB_HEADER_SLOT(VRuntimeConfig, name)
#define TRTLAB_HEADER_INSPECTOR(name, ...) TRTLAB_HEADER_SLOT(VEngineInspector, name)

#define TRTLAB_HEADER_EXPECT(name, trt10, trt11, rtx14, rtx17, ...) \
    expect(slots, #name, {abi::Slot(trt10), abi::Slot(trt11), abi::Slot(rtx14), abi::Slot(rtx17)});

Generation generation() { return abi::generation_of(kVersion).value(); }

void expect(const Slots& theirs, const char* name, const std::array<abi::Slot, 4>& row) {
    const abi::Slot& ours = row[static_cast<std::size_t>(generation())];
    const bool there = ours.index >= 0 && ours.since <= kVersion;
    const auto found = theirs.find(name);
    ASSERT_EQ(there, found != theirs.end()) << name;
    if (there) {
        EXPECT_EQ(ours.index, found->second) << name;
    }
}

TEST(Header, IsOfAReleaseThatTheTableKnows) { EXPECT_TRUE(abi::generation_of(kVersion).has_value()) << kVersion; }

TEST(Header, RuntimeHasTheSlotsOfTheTable) {
    using abi::at;
    Slots slots;
    // Overloaded in TensorRT 10, so that its address needs the type.
    slots["deserializeCudaEngine"] =
        slot_of(static_cast<nvinfer1::ICudaEngine* (nvinfer1::apiv::VRuntime::*)(void const*, std::size_t)>(
            &nvinfer1::apiv::VRuntime::deserializeCudaEngine));
    TRTLAB_TENSORRT_VRuntime(TRTLAB_HEADER_RUNTIME);
    TRTLAB_TENSORRT_VRuntime(TRTLAB_HEADER_EXPECT);
}

TEST(Header, EngineHasTheSlotsOfTheTable) {
    using abi::at;
    Slots slots;
    TRTLAB_TENSORRT_VCudaEngine(TRTLAB_HEADER_ENGINE);
    TRTLAB_TENSORRT_VCudaEngine(TRTLAB_HEADER_EXPECT);
}

TEST(Header, ContextHasTheSlotsOfTheTable) {
    using abi::at;
    Slots slots;
    TRTLAB_TENSORRT_VExecutionContext(TRTLAB_HEADER_CONTEXT);
    TRTLAB_TENSORRT_VExecutionContext(TRTLAB_HEADER_EXPECT);
}

TEST(Header, PartsHaveTheSlotsOfTheTable) {
    using abi::at;
    Slots slots;
    TRTLAB_TENSORRT_VHostMemory(TRTLAB_HEADER_MEMORY);
    TRTLAB_TENSORRT_VHostMemory(TRTLAB_HEADER_EXPECT);
    TRTLAB_TENSORRT_VEngineInspector(TRTLAB_HEADER_INSPECTOR);
    TRTLAB_TENSORRT_VEngineInspector(TRTLAB_HEADER_EXPECT);
#if NV_TENSORRT_MAJOR < 10 || NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 11
    TRTLAB_TENSORRT_VRuntimeConfig(TRTLAB_HEADER_CONFIG);
    TRTLAB_TENSORRT_VRuntimeConfig(TRTLAB_HEADER_EXPECT);
#endif
}

TEST(Header, CallsTheApplicationWhereItsObjectsHaveTheirFunctions) {
    const bool versioned = abi::versioned(generation());
    EXPECT_EQ(slot_of(&nvinfer1::ILogger::log),
              versioned ? slot_of(&abi::VersionedLogger::log) : slot_of(&abi::OldLogger::log));
    EXPECT_EQ(slot_of(&nvinfer1::IProfiler::reportLayerTime), versioned
                                                                  ? slot_of(&abi::VersionedProfiler::reportLayerTime)
                                                                  : slot_of(&abi::OldProfiler::reportLayerTime));
    EXPECT_EQ(slot_of(&nvinfer1::IGpuAllocator::allocate), slot_of(&abi::GpuAllocator::allocate));
    EXPECT_EQ(slot_of(&nvinfer1::IGpuAllocator::reallocate), slot_of(&abi::GpuAllocator::reallocate));
    EXPECT_EQ(slot_of(&nvinfer1::IGpuAllocator::deallocate), slot_of(&abi::GpuAllocator::deallocate));
    EXPECT_EQ(slot_of(&nvinfer1::IGpuAllocator::allocateAsync), slot_of(&abi::GpuAllocator::allocateAsync));
    EXPECT_EQ(slot_of(&nvinfer1::IGpuAllocator::deallocateAsync), slot_of(&abi::GpuAllocator::deallocateAsync));
    if (abi::is_rtx(generation())) {
        EXPECT_EQ(slot_of(&nvinfer1::IOutputAllocator::notifyShape), slot_of(&abi::RtxOutputAllocator::notifyShape));
    } else {
        EXPECT_EQ(slot_of(&nvinfer1::IOutputAllocator::notifyShape), slot_of(&abi::OutputAllocator::notifyShape));
    }
}

TEST(Header, LaysItsTypesOutAsWeDo) {
    EXPECT_EQ(sizeof(nvinfer1::Dims64), sizeof(abi::Dims));
    EXPECT_EQ(offsetof(nvinfer1::Dims64, d), offsetof(abi::Dims, d));
    EXPECT_EQ(nvinfer1::Dims64::MAX_DIMS, abi::Dims::kMax);
    EXPECT_EQ(sizeof(nvinfer1::InterfaceInfo), sizeof(abi::InterfaceInfo));
    EXPECT_EQ(offsetof(nvinfer1::InterfaceInfo, major), offsetof(abi::InterfaceInfo, major));
    EXPECT_EQ(sizeof(nvinfer1::IRuntime), sizeof(abi::IRuntime));
    EXPECT_EQ(sizeof(nvinfer1::ICudaEngine), sizeof(abi::ICudaEngine));
    EXPECT_EQ(sizeof(nvinfer1::IExecutionContext), sizeof(abi::IExecutionContext));
    EXPECT_EQ(sizeof(nvinfer1::ILogger), sizeof(abi::OldLogger));
    EXPECT_EQ(sizeof(nvinfer1::IGpuAllocator), sizeof(abi::GpuAllocator));
}

#define TRTLAB_HEADER_SAME(name, value) \
    EXPECT_EQ(static_cast<int>(nvinfer1::name::value), static_cast<int>(abi::name::value))

TEST(Header, NumbersThingsAsWeDo) {
    TRTLAB_HEADER_SAME(DataType, kFLOAT);
    TRTLAB_HEADER_SAME(DataType, kHALF);
    TRTLAB_HEADER_SAME(DataType, kINT8);
    TRTLAB_HEADER_SAME(DataType, kINT32);
    TRTLAB_HEADER_SAME(DataType, kBOOL);
    TRTLAB_HEADER_SAME(DataType, kUINT8);
    TRTLAB_HEADER_SAME(DataType, kFP8);
    TRTLAB_HEADER_SAME(DataType, kBF16);
    TRTLAB_HEADER_SAME(DataType, kINT64);
    TRTLAB_HEADER_SAME(DataType, kINT4);
    TRTLAB_HEADER_SAME(TensorIOMode, kINPUT);
    TRTLAB_HEADER_SAME(TensorIOMode, kOUTPUT);
    TRTLAB_HEADER_SAME(TensorLocation, kDEVICE);
    TRTLAB_HEADER_SAME(TensorLocation, kHOST);
    TRTLAB_HEADER_SAME(OptProfileSelector, kMIN);
    TRTLAB_HEADER_SAME(OptProfileSelector, kOPT);
    TRTLAB_HEADER_SAME(OptProfileSelector, kMAX);
    TRTLAB_HEADER_SAME(ExecutionContextAllocationStrategy, kSTATIC);
    TRTLAB_HEADER_SAME(ExecutionContextAllocationStrategy, kUSER_MANAGED);
    TRTLAB_HEADER_SAME(LayerInformationFormat, kONELINE);
    TRTLAB_HEADER_SAME(LayerInformationFormat, kJSON);
    TRTLAB_HEADER_SAME(APILanguage, kCPP);
    EXPECT_EQ(static_cast<int>(nvinfer1::TensorFormat::kLINEAR), abi::kLinearFormat);
    EXPECT_EQ(static_cast<int>(nvinfer1::ILogger::Severity::kINTERNAL_ERROR),
              static_cast<int>(Severity::internal_error));
    EXPECT_EQ(static_cast<int>(nvinfer1::ILogger::Severity::kVERBOSE), static_cast<int>(Severity::verbose));
}

}  // namespace
}  // namespace trtlab::tensorrt::test
