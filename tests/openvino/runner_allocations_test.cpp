#include <gtest/gtest.h>

#include "allocation_count.hpp"
#include "models.hpp"

namespace trtlab::openvino::test {
namespace {

using core::DType;
using core::Tensor;
using core::TensorView;
using trtlab::test::AllocationCount;

/// The number of objects that are recycled settles at the most that were ever in use at once, which a busy machine may
/// reach late: so single allocations are forgiven, and any that come with the requests are not.
template <class Request>
void expect_no_allocation_of_ours(Request request) {
    constexpr int kPasses = 20;
    constexpr int kRequests = 256;  // a multiple of the 32 in flight below
    for (int i = 0; i < kRequests; ++i) request(i);
    long total = 0;
    int passes_without = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
        const AllocationCount count;
        for (int i = 0; i < kRequests; ++i) request(i);
        total += count.ours();
        passes_without += count.ours() == 0;
        ASSERT_GT(count.all(), kRequests)
            << "the counter does not see OpenVINO's own allocations, so it may not see ours";
    }
    EXPECT_GE(passes_without, kPasses / 2);
    EXPECT_LE(total, kPasses * kRequests / 100);
}

TEST(RunnerAllocations, AreCounted) {
    const AllocationCount count;
    const auto mine = std::make_unique<std::vector<int>>(100);
    EXPECT_EQ(count.ours(), 2);
}

TEST(RunnerAllocations, NoneForInputsInPlaceAndOutputsOfFixedShape) {
    const auto model = load(relu({1, 64}));
    const Tensor input = floats({1, 64}, std::vector<float>(64, 1.0F));
    expect_no_allocation_of_ours([&](int) { (void)model->infer(std::span(&input, 1)).get()[0]; });
}

TEST(RunnerAllocations, NoneForCopiedInputsAndOutputsOfChangingShape) {
    const auto model = load(relu({-1, -1}));
    std::vector<float> memory(64 * 64, 1.0F);
    std::vector<Tensor> inputs;
    for (std::int64_t n = 1; n <= 16; ++n)
        inputs.emplace_back(TensorView(memory.data(), DType::float32, {n, n}, {4, 256}));
    expect_no_allocation_of_ours(
        [&](int i) { (void)model->infer(std::span(&inputs[static_cast<std::size_t>(i) % 16], 1)).get()[0]; });
}

TEST(RunnerAllocations, NoneForManyRequestsInFlight) {
    const auto model = load(relu({1, 64}));
    const Tensor input = floats({1, 64}, std::vector<float>(64, 1.0F));
    std::vector<core::Future<core::Tensors>> futures;
    futures.reserve(32);
    expect_no_allocation_of_ours([&](int i) {
        futures.push_back(model->infer(std::span(&input, 1)));
        if (i % 32 != 31) return;
        for (const auto& future : futures) (void)future.wait();
        futures.clear();
    });
}

}  // namespace
}  // namespace trtlab::openvino::test
