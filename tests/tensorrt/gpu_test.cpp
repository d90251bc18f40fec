// On a GPU, with the library that is installed and a real plan: TRTLAB_GPU_MODELS is a folder that bench/gpu/models.py has
// filled, with double_float32.plan in it: y = x + x, float32, 1x4 to 64x4.

#include <cstdlib>
#include <filesystem>

#include "fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// Skips where there is no GPU, or nobody has made plans.
class Gpu : public testing::Test {
protected:
    static void SetUpTestSuite() {
        try {
            cuda_ = cuda::Library::open();
        } catch (const core::Error&) {
            return;  // no CUDA runtime: there is no GPU to use
        }
        if (cuda_->device_count() == 0 || std::getenv("TRTLAB_GPU_MODELS") == nullptr) return;
        if (!std::filesystem::exists(plan())) return;
        library_ = Library::open();
        runtime_ = Runtime::create(library_, cuda::Device(cuda_, 0), {});
    }
    static void TearDownTestSuite() {
        runtime_.reset();
        library_.reset();
        cuda_.reset();
    }
    void SetUp() override {
        if (cuda_ == nullptr || cuda_->device_count() == 0) GTEST_SKIP() << "needs a GPU";
        if (!runtime_) GTEST_SKIP() << "needs plans that were made for this GPU: TRTLAB_GPU_MODELS";
    }

    static std::string plan() { return std::string(std::getenv("TRTLAB_GPU_MODELS")) + "/double_float32.plan"; }
    static cuda::Device device() { return cuda::Device(cuda_, 0); }

    struct Ready {
        explicit Ready(const std::shared_ptr<Engine>& engine, std::int64_t rows)
            : device(engine->runtime()->device()),
              x(device, numbers(rows, 1)),
              y(device, std::vector<float>(static_cast<std::size_t>(rows) * 4, -1)),
              stream(device),
              context(engine->create_context()) {
            context->set_input_shape(0, {rows, 4});
            context->infer_shapes();
            context->set_address(0, x.data());
            context->set_address(1, y.data());
            scratch = core::Buffer(std::make_shared<cuda::DeviceMemory>(device), context->activation_bytes());
            context->set_activation_memory(scratch.view());
        }
        static std::vector<float> numbers(std::int64_t rows, float factor) {
            std::vector<float> values(static_cast<std::size_t>(rows) * 4);
            for (std::size_t i = 0; i < values.size(); ++i) values[i] = factor * (static_cast<float>(i) - 3);
            return values;
        }
        cuda::Device device;
        Numbers<float> x, y;
        cuda::Stream stream;
        core::Buffer scratch;
        std::unique_ptr<ExecutionContext> context;
    };

    inline static std::shared_ptr<const cuda::Library> cuda_;
    inline static std::shared_ptr<const Library> library_;
    inline static std::shared_ptr<Runtime> runtime_;
};

TEST_F(Gpu, ReadsAPlan) {
    const auto engine = runtime_->load(plan());
    ASSERT_EQ(engine->tensors().size(), 2U);
    const TensorInfo& x = engine->tensor("x");
    EXPECT_TRUE(x.input);
    EXPECT_EQ(x.dtype, core::DType::float32);
    EXPECT_EQ(x.shape, core::Shape({-1, 4}));
    EXPECT_TRUE(x.linear) << x.format;
    EXPECT_FALSE(x.on_host);
    ASSERT_EQ(x.profiles.size(), 1U);
    EXPECT_EQ(x.profiles[0].min, core::Shape({1, 4}));
    EXPECT_EQ(x.profiles[0].max, core::Shape({64, 4}));
    EXPECT_FALSE(engine->tensor("y").input);
    EXPECT_GE(engine->layer_count(), 1);
    EXPECT_THAT(engine->describe(), HasSubstr("Layers"));
    EXPECT_GT(engine->serialize().size(), 1000U);
    EXPECT_EQ(engine->model_spec("m").max_batch_size, 64);
}

TEST_F(Gpu, ComputesForEveryShapeOfTheProfile) {
    const auto engine = runtime_->load(plan());
    for (const std::int64_t rows : {1, 8, 64}) {
        Ready ready(engine, rows);
        EXPECT_EQ(ready.context->shape(1), core::Shape({rows, 4}));
        EXPECT_LE(ready.context->activation_bytes(), engine->activation_bytes());
        ready.context->enqueue(ready.stream);
        ready.stream.synchronize();
        EXPECT_EQ(ready.y.read(), Ready::numbers(rows, 2));
    }
    EXPECT_FALSE(engine->data_dependent());
}

TEST_F(Gpu, ComputesTheSameFromAGraph) {
    Ready ready(runtime_->load(plan()), 4);
    ready.context->enqueue(ready.stream);  // TensorRT-RTX compiles for the shape here
    ready.stream.synchronize();
    ASSERT_TRUE(ready.context->capturable(ready.stream));
    const cuda::Graph graph = ready.context->capture(ready.stream);
    EXPECT_GT(graph.nodes(), 0U);
    const std::vector<float> poison(16, -7);
    ready.stream.copy_unchecked(ready.y.data(), poison.data(), poison.size() * sizeof(float));
    graph.launch(ready.stream);
    ready.stream.synchronize();
    EXPECT_EQ(ready.y.read(), Ready::numbers(4, 2));
}

TEST_F(Gpu, HasManyContextsThatShareKernelsAndScratchMemory) {
    const auto engine = runtime_->load(plan());
    const std::size_t before = runtime_->other_bytes();
    std::vector<std::unique_ptr<Ready>> all;
    for (int i = 0; i < 8; ++i) all.push_back(std::make_unique<Ready>(engine, 1 + i));
    EXPECT_EQ(runtime_->other_bytes(), before) << "contexts with their users' memory allocate none";
    for (auto& one : all) {
        one->context->set_activation_memory(all[7]->scratch.view());
        one->context->enqueue(one->stream);
        one->stream.synchronize();
    }
    for (std::size_t i = 0; i < all.size(); ++i)
        EXPECT_EQ(all[i]->y.read(), Ready::numbers(static_cast<int>(i) + 1, 2));
}

TEST_F(Gpu, TakesMemoryFromTheResourceAndGivesItBack) {
    const auto memory = std::make_shared<CountedMemory>(device());
    {
        const auto runtime = Runtime::create(library_, device(), {.memory = memory});
        const auto engine = runtime->load(plan());
        EXPECT_EQ(memory->bytes, engine->weights_bytes() + runtime->other_bytes());
        Ready ready(engine, 2);
        ready.context->enqueue(ready.stream);
        ready.stream.synchronize();
        EXPECT_EQ(ready.y.read(), Ready::numbers(2, 2));
    }
    EXPECT_EQ(memory->bytes, 0U);
}

TEST_F(Gpu, GivesLayerTimes) {
    Ready ready(runtime_->load(plan()), 8);
    const auto layers = ready.context->profile_layers(ready.stream);
    ASSERT_FALSE(layers.empty());
    for (const LayerTime& layer : layers) EXPECT_NE(layer.layer, "");
    ready.context->enqueue(ready.stream);
    ready.stream.synchronize();
    EXPECT_EQ(ready.y.read(), Ready::numbers(8, 2));
}

TEST_F(Gpu, SaysWhyItCanNotEnqueue) {
    const auto engine = runtime_->load(plan());
    const auto context = engine->create_context();
    const cuda::Stream stream(device());
    context->set_input_shape(0, {2, 4});
    EXPECT_THAT(message_of<core::EngineError>([&] { context->enqueue(stream); }), HasSubstr("TensorRT says: "));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_input_shape(0, {65, 4}); }),
                AllOf(HasSubstr("1 to 64"), HasSubstr("got 65")));
}

TEST_F(Gpu, RefusesDamagedPlans) {
    const auto whole = runtime_->load(plan())->serialize();
    const std::span<const std::byte> bytes(whole);
    EXPECT_THROW(runtime_->deserialize(bytes.first(bytes.size() / 2)), core::InvalidArgument);
    EXPECT_THROW(runtime_->deserialize(bytes.first(8)), core::InvalidArgument);
    EXPECT_THROW(runtime_->deserialize(bytes.subspan(16)), core::InvalidArgument);
    EXPECT_NE(runtime_->deserialize(bytes), nullptr) << "the runtime is not harmed";
}

TEST_F(Gpu, AdoptsItsOwnKind) {
    const auto owner = runtime_->load(plan());
    const auto adopted = runtime_->adopt(adoptable(*owner), owner, "theirs");
    Ready ready(adopted, 3);
    ready.context->enqueue(ready.stream);
    ready.stream.synchronize();
    EXPECT_EQ(ready.y.read(), Ready::numbers(3, 2));
}

}  // namespace
}  // namespace trtlab::tensorrt::test
