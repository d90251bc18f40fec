#include "trtlab/tensorrt/execution_context.hpp"

#include "fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class ContextOfRelease : public Fake {
protected:
    /// A context of `twice` with everything set for two rows.
    struct Ready {
        explicit Ready(const std::shared_ptr<Engine>& engine)
            : device(engine->runtime()->device()),
              x(device, {1, 2, 3, 4, 5, 6, 7, 8}),
              y(device, std::vector<float>(8, -1)),
              stream(device),
              context(engine->create_context()) {
            context->set_input_shape(0, {2, 4});
            context->set_address(0, x.data());
            context->set_address(1, y.data());
            scratch = core::Buffer(std::make_shared<cuda::DeviceMemory>(device), context->activation_bytes());
            context->set_activation_memory(scratch.view());
        }
        cuda::Device device;
        Numbers<float> x, y;
        cuda::Stream stream;
        core::Buffer scratch;
        std::unique_ptr<ExecutionContext> context;
    };
    static std::vector<float> doubled() { return {2, 4, 6, 8, 10, 12, 14, 16}; }
};
INSTANTIATE_TEST_SUITE_P(Fake, ContextOfRelease, releases(), release_name);

TEST_P(ContextOfRelease, ComputesInTheStream) {
    Ready ready(engine());
    EXPECT_EQ(ready.context->activation_bytes(), 512U);
    fake_cuda().hold();
    ready.context->enqueue(ready.stream);
    EXPECT_EQ(fake().executions, 0);
    fake_cuda().release();
    ready.stream.synchronize();
    EXPECT_EQ(ready.y.read(), doubled());
}

TEST_P(ContextOfRelease, TellsShapesAsTheyFollow) {
    const auto twice = engine();
    const auto context = twice->create_context();
    EXPECT_EQ(context->profile(), 0);
    EXPECT_EQ(context->shape(0), core::Shape({-1, 4}));
    EXPECT_EQ(context->shape(1), core::Shape({-1, 4}));
    EXPECT_THAT(message_of<core::EngineError>([&] { context->infer_shapes(); }), HasSubstr("the shape of 'x'"));
    EXPECT_THAT(message_of<core::EngineError>([&] { context->activation_bytes(); }), HasSubstr("the shape of 'x'"));
    EXPECT_THAT(message_of<core::EngineError>([&] { context->max_output_bytes(1); }), HasSubstr("the shape of 'x'"));
    context->set_input_shape(0, {3, 4});
    context->infer_shapes();
    EXPECT_EQ(context->shape(1), core::Shape({3, 4}));
    EXPECT_EQ(context->max_output_bytes(1), 48U);
}

TEST_P(ContextOfRelease, NamesTensorAxisAndRangeOfAShapeThatNoProfileTakes) {
    const auto context = engine()->create_context();
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_input_shape(0, {5, 4}); }),
                AllOf(HasSubstr("engine 'twice'"), HasSubstr("input 'x'"), HasSubstr("axis 0"),
                      HasSubstr("1 to 4 (best 2)"), HasSubstr("profile 0 of 2"), HasSubstr("got 5")));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_input_shape(0, {2, 3}); }),
                AllOf(HasSubstr("axis 1"), HasSubstr("expected 4"), HasSubstr("got 3")));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_input_shape(0, {2}); }), HasSubstr("rank 2"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_input_shape(1, {2, 4}); }), HasSubstr("no input"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_input_shape(2, {2, 4}); }),
                HasSubstr("below 2, got 2"));
    EXPECT_EQ(context->shape(0), core::Shape({-1, 4}));
}

TEST_P(ContextOfRelease, SwitchesProfilesAndForgetsShapes) {
    const auto twice = engine();
    const cuda::Stream stream(device());
    const auto context = twice->create_context();
    context->set_input_shape(0, {2, 4});
    context->set_profile(1, stream);
    EXPECT_EQ(context->profile(), 1);
    EXPECT_EQ(context->shape(0), core::Shape({-1, 4}));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_input_shape(0, {2, 4}); }),
                HasSubstr("3 to 8 (best 6)"));
    context->set_input_shape(0, {8, 4});
    context->infer_shapes();
    EXPECT_EQ(context->shape(1), core::Shape({8, 4}));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_profile(2, stream); }),
                HasSubstr("0 to 1, got 2"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_profile(-1, stream); }), HasSubstr("got -1"));
}

TEST_P(ContextOfRelease, HasProfileZeroAlsoWhereTensorRTGivesItToTheFirstOnly) {
    fake().profile_for_first_context_only = true;
    const auto twice = engine();
    const auto first = twice->create_context();
    const auto second = twice->create_context();
    EXPECT_EQ(second->profile(), 0);
    second->set_input_shape(0, {4, 4});
}

TEST_P(ContextOfRelease, FailsToEnqueueInTensorRTsWords) {
    const auto twice = engine();
    const auto context = twice->create_context();
    const cuda::Stream stream(device());
    EXPECT_THAT(message_of<core::EngineError>([&] { context->enqueue(stream); }), HasSubstr("the shape of 'x'"));
    context->set_input_shape(0, {2, 4});
    EXPECT_THAT(message_of<core::EngineError>([&] { context->enqueue(stream); }),
                AllOf(HasSubstr("engine 'twice'"), HasSubstr("Address is not set for input tensor x"),
                      Not(HasSubstr("fake.cpp"))));
    Ready ready(twice);
    fake().enqueues_until_failure = 1;
    ready.context->enqueue(ready.stream);
    EXPECT_THAT(message_of<core::EngineError>([&] { ready.context->enqueue(ready.stream); }),
                HasSubstr("was meant to fail"));
    ready.context->enqueue(ready.stream);
    ready.stream.synchronize();
    EXPECT_EQ(ready.y.read(), doubled());
}

TEST_P(ContextOfRelease, RefusesScratchMemoryThatCannotBe) {
    Ready ready(engine());
    const core::BufferView memory = ready.scratch.view();
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ready.context->set_activation_memory(memory.slice(16, 256)); }),
                AllOf(HasSubstr("aligned to 256"), HasSubstr("16 above")));
    alignas(256) static std::byte on_host[512];
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ready.context->set_activation_memory({on_host, 512, {}}); }),
                HasSubstr("memory of the host"));
    ready.context->set_activation_memory(memory.slice(0, 256));
    EXPECT_THAT(message_of<core::EngineError>([&] { ready.context->enqueue(ready.stream); }),
                AllOf(HasSubstr("256 bytes"), HasSubstr("512")));
}

TEST_P(ContextOfRelease, IsCapturedAndReplayed) {
    Ready ready(engine());
    EXPECT_TRUE(ready.context->capturable(ready.stream));
    {
        const cuda::Graph graph = ready.context->capture(ready.stream);
        EXPECT_EQ(fake().executions, 0) << "recorded only";
        graph.launch(ready.stream);
        graph.launch(ready.stream);
        ready.stream.synchronize();
    }
    EXPECT_EQ(fake().captured, 1);
    EXPECT_EQ(fake().executions, 2);
    EXPECT_EQ(ready.y.read(), doubled());
}

TEST_P(ContextOfRelease, StreamIsAsBeforeWhenACaptureIsRefused) {
    Ready ready(engine());
    fake().refuse_capture = true;
    fake().stream_capturable = false;
    EXPECT_EQ(ready.context->capturable(ready.stream), !rtx()) << "only RTX can tell";
    EXPECT_THAT(message_of<core::EngineError>([&] { ready.context->capture(ready.stream); }),
                HasSubstr("the stream is not captured"));
    ready.context->enqueue(ready.stream);
    ready.stream.synchronize();
    EXPECT_EQ(ready.y.read(), doubled());
}

/// Keeps what TensorRT asks for.
class Kept final : public OutputMemory {
public:
    explicit Kept(const cuda::Device& device) : device_(device) {}
    void* reserve(std::string_view tensor, std::size_t size_bytes, std::size_t alignment,
                  cuda::StreamHandle stream_) noexcept override {
        name = tensor;
        size = size_bytes;
        stream = stream_;
        if (refuses) return nullptr;
        buffer = core::Buffer(std::make_shared<cuda::DeviceMemory>(device_), size_bytes, alignment);
        return buffer.data();
    }
    void shape_known(std::string_view, const core::Shape& shape_) noexcept override { shape = shape_; }

    bool refuses = false;
    std::string name;
    std::size_t size = 0;
    cuda::StreamHandle stream = nullptr;
    core::Shape shape;
    core::Buffer buffer;

private:
    cuda::Device device_;
};

TEST_P(ContextOfRelease, AsksForMemoryOfAnOutputWhoseSizeDependsOnData) {
    const auto nonzero = engine(kNonzero);
    Numbers<float> x(device(), {0, 7, 0, 0, 1});
    const cuda::Stream stream(device());
    Kept kept(device());
    const auto context = nonzero->create_context();
    context->set_input_shape(0, {5});
    context->set_address(0, x.data());
    context->set_output_memory(1, &kept);
    EXPECT_EQ(context->shape(1), core::Shape({-1}));
    EXPECT_EQ(context->max_output_bytes(1), 40U);
    context->enqueue(stream);
    EXPECT_EQ(kept.name, "y");
    EXPECT_EQ(kept.size, 16U);
    EXPECT_EQ(kept.stream, stream.handle());
    EXPECT_EQ(kept.shape, core::Shape({2}));
    std::vector<std::int64_t> found(2);
    stream.copy_unchecked(found.data(), kept.buffer.data(), 16);
    stream.synchronize();
    EXPECT_THAT(found, ElementsAre(1, 4));

    kept.refuses = true;
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { context->enqueue(stream); }),
                AllOf(HasSubstr("engine 'nonzero'"), HasSubstr("output 'y' needs 16 bytes")));
    context->set_output_memory(1, nullptr);
    EXPECT_THAT(message_of<core::EngineError>([&] { context->enqueue(stream); }), HasSubstr("Address is not set"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { context->set_output_memory(0, &kept); }),
                HasSubstr("no output"));
}

TEST_P(ContextOfRelease, GivesAnOutputOfKnownShapeMemoryToo) {
    Ready ready(engine());
    Kept kept(ready.device);
    ready.context->set_output_memory(1, &kept);
    ready.context->enqueue(ready.stream);
    ready.stream.synchronize();
    EXPECT_EQ(kept.shape, core::Shape({2, 4}));
    EXPECT_EQ(kept.size, 32U);
    EXPECT_EQ(ready.y.read(), std::vector<float>(8, -1)) << "the address set before is not used";
}

TEST_P(ContextOfRelease, ReadsShapesFromValuesOnTheHost) {
    const auto fill = engine(kFill);
    Numbers<float> x(device(), {21});
    Numbers<float> y(device(), std::vector<float>(16, 0));
    const cuda::Stream stream(device());
    const auto context = fill->create_context();
    std::int32_t shape[2] = {3, 2};
    context->set_address(0, x.data());
    context->set_address(1, shape);
    context->set_address(2, y.data());
    context->infer_shapes();
    EXPECT_EQ(context->shape(2), core::Shape({3, 2}));
    context->enqueue(stream);
    stream.synchronize();
    EXPECT_EQ(y.read(), (std::vector<float>{42, 42, 42, 42, 42, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_P(ContextOfRelease, RecordsWhenInputsAreConsumed) {
    Ready ready(engine());
    {
        const cuda::Event consumed(ready.device);
        ready.context->set_input_consumed_event(&consumed);
        fake_cuda().hold();
        ready.context->enqueue(ready.stream);
        EXPECT_FALSE(consumed.done());
        fake_cuda().release();
        EXPECT_TRUE(consumed.done());
        ready.context->set_input_consumed_event(nullptr);
    }
    ready.context->enqueue(ready.stream);
    ready.stream.synchronize();
}

TEST_P(ContextOfRelease, TakesNoMoreAuxiliaryStreamsThanTheEngineUses) {
    Ready ready(engine());
    const cuda::Stream a(ready.device), b(ready.device);
    const std::vector<cuda::StreamView> one{a}, two{a, b};
    ready.context->set_aux_streams(one);
    EXPECT_THAT(message_of<core::EngineError>([&] { ready.context->set_aux_streams(two); }),
                AllOf(HasSubstr("2 streams"), HasSubstr("nbStreams")));
}

TEST_P(ContextOfRelease, TellsHowLongItsLayersTake) {
    Ready ready(engine());
    const auto layers = ready.context->profile_layers(ready.stream);
    ASSERT_EQ(layers.size(), 2U);
    EXPECT_EQ(layers[0].layer, "double");
    EXPECT_FLOAT_EQ(layers[1].milliseconds, 0.25F);
    ready.context->enqueue(ready.stream);
    fake().enqueues_until_failure = 0;
    EXPECT_THROW(ready.context->profile_layers(ready.stream), core::EngineError);
    EXPECT_EQ(ready.context->profile_layers(ready.stream).size(), 2U) << "none of the runs in between";
}

TEST_P(ContextOfRelease, RefusesAStreamOfAnotherDevice) {
    fake_cuda().set_devices(2);
    Ready ready(engine());
    const cuda::Stream elsewhere(cuda::Device(cuda_library(), 1));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ready.context->enqueue(elsewhere); }),
                AllOf(HasSubstr("cuda:0"), HasSubstr("cuda:1")));
    EXPECT_THROW(ready.context->capture(elsewhere), core::InvalidArgument);
}

TEST_P(ContextOfRelease, GivesTensorRTTemporaryMemoryInTheOrderOfTheStream) {
    const auto memory = std::make_shared<CountedMemory>(device());
    {
        Ready ready(runtime({.memory = memory})->deserialize(bytes_of(kTwice)));
        const std::size_t before = memory->bytes;
        const std::size_t calls = memory->calls;
        fake().enqueue_bytes = 1024;
        ready.context->enqueue(ready.stream);
        EXPECT_EQ(memory->calls, calls + 1);
        EXPECT_EQ(memory->bytes, before);
        memory->limit = before;
        EXPECT_THAT(message_of<core::OutOfMemory>([&] { ready.context->enqueue(ready.stream); }),
                    HasSubstr("1024 bytes of working memory"));
        ready.stream.synchronize();
    }
    EXPECT_EQ(memory->bytes, 0U);
}

TEST_P(ContextOfRelease, SharesScratchMemoryWithOthersThatRunOneAfterAnother) {
    const auto twice = engine();
    Ready one(twice);
    const auto other = twice->create_context();
    Numbers<float> y(device(), std::vector<float>(8, -1));
    other->set_input_shape(0, {2, 4});
    other->set_address(0, one.x.data());
    other->set_address(1, y.data());
    other->set_activation_memory(one.scratch.view());
    one.context->enqueue(one.stream);
    other->enqueue(one.stream);
    one.stream.synchronize();
    EXPECT_EQ(one.y.read(), doubled());
    EXPECT_EQ(y.read(), doubled());
}

TEST_P(ContextOfRelease, MayGoWhileWhatItEnqueuedIsStillToRun) {
    const auto twice = engine();
    Ready ready(twice);
    fake_cuda().hold();
    ready.context->enqueue(ready.stream);
    ready.context.reset();
    EXPECT_EQ(fake().contexts, 0);
    fake_cuda().release();
    ready.stream.synchronize();
    EXPECT_EQ(ready.y.read(), doubled());
}

}  // namespace
}  // namespace trtlab::tensorrt::test
