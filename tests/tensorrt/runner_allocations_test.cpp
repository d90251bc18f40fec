#include "allocation_count.hpp"
#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using trtlab::test::AllocationCount;

class RunnerAllocations : public RunnerOfRelease {
protected:
    static Runner::Options with_graphs() {
        Runner::Options options = cold(budget_of(2, 4));
        options.graphs = true;
        return options;
    }

    /// Sends all inputs again and again, so many at a time, and counts what trtlab allocates. The number of objects that are
    /// recycled settles at the most that were ever in use at once, which a busy machine may reach late: so single
    /// allocations are forgiven, and any that come with the requests are not.
    static void expect_none(Runner& model, const std::vector<std::vector<Tensor>>& inputs, std::size_t at_a_time) {
        constexpr int kPasses = 20;
        constexpr std::size_t kRequests = 256;
        std::vector<Future<Tensors>> futures;
        futures.reserve(at_a_time);
        const auto pass = [&] {
            for (std::size_t i = 0; i < kRequests; ++i) {
                futures.push_back(model.infer(std::span<const Tensor>(inputs[i % inputs.size()])));
                if (futures.size() < at_a_time) continue;
                for (const auto& future : futures) (void)future.get();
                futures.clear();
            }
        };
        for (int i = 0; i < 3; ++i) pass();
        long total = 0;
        int passes_without = 0;
        for (int i = 0; i < kPasses; ++i) {
            const AllocationCount count;
            pass();
            total += count.ours();
            passes_without += count.ours() == 0;
            ASSERT_GT(count.all(), static_cast<long>(kRequests))
                << "the counter does not see those of the fakes, so it may not see ours";
        }
        EXPECT_GE(passes_without, kPasses / 2);
        EXPECT_LE(total, kPasses * static_cast<long>(kRequests) / 100);
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerAllocations, two_releases(), release_name);

TEST_P(RunnerAllocations, AreCounted) {
    const AllocationCount count;
    const auto mine = std::make_unique<std::vector<int>>(100);
    EXPECT_EQ(count.ours(), 2);
}

TEST_P(RunnerAllocations, NoneForInputsOfTheHost) { expect_none(*load(kTwice, with_graphs()), {{rows_of(1, 1)}}, 1); }

TEST_P(RunnerAllocations, NoneWithoutGraphs) {
    expect_none(*load(kTwice, cold(budget_of(2, 4))), {{rows_of(1, 1)}}, 1);
}

TEST_P(RunnerAllocations, NoneForShapesThatChange) {
    std::vector<std::vector<Tensor>> inputs;
    for (std::int64_t rows = 1; rows <= 8; ++rows) inputs.push_back({rows_of(rows, 1)});
    expect_none(*load(kTwice, with_graphs()), inputs, 1);
}

TEST_P(RunnerAllocations, NoneForMoreShapesThanThereAreGraphsKept) {
    std::vector<std::vector<Tensor>> inputs;
    for (std::int64_t rows = 1; rows <= 8; ++rows) inputs.push_back({rows_of(rows, 1)});
    Runner::Options options = with_graphs();
    options.max_graphs = 8;
    expect_none(*load(kTwice, options), inputs, 1);
}

TEST_P(RunnerAllocations, NoneForManyInFlight) { expect_none(*load(kTwice, with_graphs()), {{rows_of(1, 1)}}, 32); }

TEST_P(RunnerAllocations, NoneForInputsOnTheDeviceWhoseAddressesChange) {
    std::vector<std::vector<Tensor>> inputs;
    for (int i = 0; i < 96; ++i) inputs.push_back({on_device({1, 4}, {1, 2, 3, 4})});
    expect_none(*load(kTwice, with_graphs()), inputs, 1);
    expect_none(*load(kTwice, cold(budget_of(2, 4))), inputs, 1);
}

TEST_P(RunnerAllocations, NoneForOutputsOfComputedShape) {
    expect_none(*load(kNonzero, with_graphs()), {{floats({4}, {0, 1, 0, 1})}, {floats({3}, {0, 0, 0})}}, 1);
}

TEST_P(RunnerAllocations, NoneForShapesThatInputsHold) {
    std::vector<std::vector<Tensor>> inputs;
    for (std::int32_t n = 1; n <= 4; ++n)
        inputs.push_back({floats({1}, {1}), tensor<std::int32_t>(DType::int32, {2}, {n, n})});
    expect_none(*load(kFill, with_graphs()), inputs, 1);
}

TEST_P(RunnerAllocations, NoneForInputsWithAFence) {
    const cuda::Stream stream(device());
    Tensor input = on_device({1, 4}, {1, 2, 3, 4});
    input.set_fence(cuda::EventFence::record(stream));
    expect_none(*load(kTwice, with_graphs()), {{input}}, 1);
}

}  // namespace
}  // namespace trtlab::tensorrt::test
