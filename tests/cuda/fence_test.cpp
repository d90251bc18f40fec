#include "trtlab/cuda/fence.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "simulated.hpp"
#include "trtlab/core/tensor.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::HasSubstr;

class CudaFence : public Simulated {};

TEST_F(CudaFence, IsReachedWhenItsStreamIs) {
    const Stream stream(gpu());
    fake_.hold();
    fake_.enqueue(stream.handle(), [] {});
    const core::Ref<const EventFence> fence = EventFence::record(stream);
    EXPECT_FALSE(fence->event().done());
    fake_.release();
    EXPECT_TRUE(fence->event().done());
}

TEST_F(CudaFence, MakesAnotherStreamWaitAndNotTheHost) {
    const Stream writing(gpu()), reading(gpu());
    int value = 0, seen = -1;
    fake_.hold();
    fake_.enqueue(writing.handle(), [&] { value = 7; });
    core::Tensor tensor(core::TensorView(&value, core::DType::int32, {}, gpu().core_device()));
    tensor.set_fence(EventFence::record(writing));

    const auto* fence = dynamic_cast<const EventFence*>(tensor.fence().get());
    ASSERT_NE(fence, nullptr);
    reading.wait(fence->event());
    fake_.enqueue(reading.handle(), [&] { seen = value; });
    EXPECT_EQ(fake_.step(100, reading.handle()), 0u);
    fake_.release();
    EXPECT_EQ(seen, 7);
}

TEST_F(CudaFence, UsesItsEventAgain) {
    const Stream stream(gpu());
    const EventFences fences(gpu());
    for (int i = 0; i < 100; ++i) {
        const auto first = fences.record(stream), second = fences.record(stream);
        EXPECT_NE(first->event().handle(), second->event().handle());
    }
    EXPECT_EQ(fake_.live().events, 2u);
}

TEST_F(CudaFence, ThatIsUsedAgainDoesNotHoldUpWhoWaitedForItBefore) {
    const Stream early(gpu()), late(gpu()), reading(gpu());
    const EventFences fences(gpu());
    bool read = false;
    fake_.hold();
    reading.wait(fences.record(early)->event());
    fake_.enqueue(reading.handle(), [&] { read = true; });
    fake_.enqueue(late.handle(), [] {});
    const auto again = fences.record(late);
    EXPECT_EQ(fake_.live().events, 1u);

    fake_.step(1, early.handle());
    fake_.step(2, reading.handle());
    EXPECT_TRUE(read);
    EXPECT_FALSE(again->event().done());
    fake_.release();
}

TEST_F(CudaFence, OutlivesWhatMadeIt) {
    core::Ref<const EventFence> fence;
    {
        const Stream stream(gpu());
        fence = EventFences(gpu()).record(stream);
    }
    EXPECT_TRUE(fence->event().done());
}

TEST_F(CudaFence, ThatCannotBeRecordedIsAnErrorAndNothingIsLost) {
    const Stream stream(gpu());
    const EventFences fences(gpu());
    fake_.fail("cudaEventRecord", 0, 700);
    EXPECT_THAT(message_of<core::CudaError>([&] { EventFence::record(stream); }), HasSubstr("cudaEventRecord"));
    EXPECT_THAT(message_of<core::CudaError>([&] { fences.record(stream); }), HasSubstr("cudaEventRecord"));
    fake_.fail("cudaEventRecord", 0, 0);
    fake_.fail("cudaEventCreateWithFlags", 1, 2);
    const auto idle = fences.record(stream);
    EXPECT_TRUE(idle->event().done());
    EXPECT_THROW(fences.record(stream), core::OutOfMemory);
}

}  // namespace
}  // namespace trtlab::cuda::test
