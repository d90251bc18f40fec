#include "trtlab/tensorrt/runtime.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class RuntimeOfRelease : public Fake {};
INSTANTIATE_TEST_SUITE_P(Fake, RuntimeOfRelease, releases(), release_name);

TEST_P(RuntimeOfRelease, PassesOnWhatItIsToldToUse) {
    const auto made = runtime({.host_code_allowed = true, .max_threads = 3});
    EXPECT_EQ(fake().max_threads, 3);
    EXPECT_EQ(made->max_threads(), 3);
    EXPECT_TRUE(fake().host_code_allowed);
    EXPECT_EQ(runtime()->max_threads(), 4) << "TensorRT's own choice";
    EXPECT_FALSE(fake().host_code_allowed);
}

TEST_P(RuntimeOfRelease, RefusesAnImpossibleNumberOfThreadsInTensorRTsWords) {
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { runtime({.max_threads = -1}); }),
                AllOf(HasSubstr("max_threads=-1"), HasSubstr("maxThreads > 0")));
}

TEST_P(RuntimeOfRelease, WithoutADriverSaysWhyInTensorRTsWords) {
    fake().no_driver = true;
    if (rtx()) {
        const auto made = Runtime::create_without_device(library(), {});
        EXPECT_THAT(message_of<core::EngineError>([&] { made->deserialize(bytes_of(kTwice), {.name = "twice"}); }),
                    AllOf(HasSubstr("'twice'"), HasSubstr("cudaError 35"), Not(HasSubstr("/_src"))));
        EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->deserialize(bytes_of("garbage")); }),
                    HasSubstr("magicTag"));
        EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->device(); }), HasSubstr("without a device"));
        return;
    }
    EXPECT_THAT(message_of<core::EngineError>([&] { Runtime::create_without_device(library(), {}); }),
                AllOf(HasSubstr("Error Code 6: API Usage Error (CUDA initialization failure with error: 35"),
                      HasSubstr(TRTLAB_FAKE_NVINFER), Not(HasSubstr("/_src"))));
}

TEST_P(RuntimeOfRelease, RefusesWhatIsNoPlanAsInvalid) {
    const auto made = runtime();
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->deserialize({}, {.name = "m"}); }),
                AllOf(HasSubstr("'m'"), HasSubstr("empty")));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->deserialize(bytes_of("garbage"), {.name = "m"}); }),
                AllOf(HasSubstr("'m'"), HasSubstr("7 bytes"), HasSubstr("magicTag"), Not(HasSubstr("fake.cpp"))));
    if (rtx()) {
        EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->deserialize(bytes_of("garbage")); }),
                    HasSubstr("a header alone has 64 bytes"));
    }
    const std::string_view truncated = kTwice.substr(0, kTwice.size() / 2);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->deserialize(bytes_of(truncated)); }),
                HasSubstr("Serialization assertion sizeRead"));
}

TEST_P(RuntimeOfRelease, RefusesAPlanOfAnotherVersionAsTheEngines) {
    const std::string plan = "trtlab fake plan 1\nname of_another_release_of_tensorrt\nrequires 12345\nend\n";
    const std::string message = message_of<core::EngineError>([&] { runtime()->deserialize(bytes_of(plan)); });
    EXPECT_THAT(message, HasSubstr("Version tag does not match"));
    if (rtx()) {
        EXPECT_THAT(message, HasSubstr("it was built with another version"));
    }
}

TEST_P(RuntimeOfRelease, CarriesEveryErrorLineOfTheFailingCallAndNoOther) {
    std::vector<std::string> seen;
    const auto made = runtime({.log = [&](Severity, std::string_view line) { seen.emplace_back(line); }});
    fake().log_in_deserialize(2, "a warning of an engine that is well");
    made->deserialize(bytes_of(kTwice));
    fake().log_in_deserialize(1, "the first reason");
    fake().log_on_other_thread("the second, from a thread of TensorRT's own");
    fake().fail_deserialize("the third");
    EXPECT_THAT(message_of<core::EngineError>([&] { made->deserialize(bytes_of(kTwice)); }),
                AllOf(HasSubstr("the first reason"), HasSubstr("the second, from a thread"), HasSubstr("the third"),
                      Not(HasSubstr("an engine that is well"))));
    EXPECT_THAT(seen, testing::ElementsAre("a warning of an engine that is well", HasSubstr("the first reason"),
                                           HasSubstr("the second"), HasSubstr("the third")));
}

TEST_P(RuntimeOfRelease, KeepsTheErrorBehindAnyNumberOfWarnings) {
    const auto made = runtime();
    fake().log_in_deserialize(2, "a warning", 1000);
    fake().fail_deserialize("the reason");
    const std::string message = message_of<core::EngineError>([&] { made->deserialize(bytes_of(kTwice)); });
    EXPECT_THAT(message, HasSubstr("the reason"));
    EXPECT_LT(message.size(), 1000U);
}

TEST_P(RuntimeOfRelease, TellsErrorsThatNoExceptionTookToTheLog) {
    const LogCapture log;
    const auto made = runtime();
    fake().log_in_deserialize(1, "an error that nothing failed for");
    made->deserialize(bytes_of(kTwice));
    fake().log_in_deserialize(2, "a mere warning");
    made->deserialize(bytes_of(kTwice));
    EXPECT_THAT(log.text(), AllOf(HasSubstr("TensorRT: an error that nothing failed for"), Not(HasSubstr("warning"))));
}

TEST_P(RuntimeOfRelease, SurvivesALogFunctionThatThrows) {
    const LogCapture log;
    const auto made =
        runtime({.log = [](Severity, std::string_view) { throw std::runtime_error("from the log function"); }});
    EXPECT_THROW(made->deserialize(bytes_of("garbage")), core::InvalidArgument);
    EXPECT_THAT(log.text(), HasSubstr("from the log function"));
}

TEST_P(RuntimeOfRelease, LogsFromTheSeverityAskedForUp) {
    std::vector<Severity> seen;
    const auto made =
        runtime({.log_severity = Severity::info, .log = [&](Severity s, std::string_view) { seen.push_back(s); }});
    for (const int severity : {0, 1, 2, 3, 4}) {
        fake().log_in_deserialize(severity, "a line");
        made->deserialize(bytes_of(kTwice));
    }
    EXPECT_THAT(seen,
                testing::ElementsAre(Severity::internal_error, Severity::error, Severity::warning, Severity::info));
}

TEST_P(RuntimeOfRelease, TakesDeviceMemoryFromTheResourceItWasGiven) {
    const auto memory = std::make_shared<CountedMemory>(device());
    {
        const auto made = runtime({.memory = memory});
        const auto engine = made->deserialize(bytes_of(kTwice));
        EXPECT_EQ(memory->bytes, 1536U);
        EXPECT_EQ(memory->alignment, 256U);
        EXPECT_EQ(engine->weights_bytes(), 1536U);
        EXPECT_EQ(made->other_bytes(), 0U) << "what passed while the plan was read is given back";
    }
    EXPECT_EQ(memory->bytes, 0U);
    EXPECT_EQ(memory->calls, 3U);
}

TEST_P(RuntimeOfRelease, TakesTheWeightsOfOneEngineFromElsewhere) {
    const auto memory = std::make_shared<CountedMemory>(device());
    const auto made = runtime({.memory = memory});
    const auto managed = std::make_shared<cuda::ManagedMemory>(device());
    const auto engine = made->deserialize(bytes_of(kTwice), {.name = "managed", .weights = managed});
    EXPECT_EQ(memory->bytes, 0U);
    EXPECT_EQ(fake_cuda().live().managed_bytes, 1536U);
    const auto blocks = engine->weights();
    ASSERT_EQ(blocks.size(), 2U);
    EXPECT_EQ(blocks[0].size_bytes, 1024U);
    EXPECT_EQ(blocks[0].device, managed->device());
    const auto second = made->deserialize(bytes_of(kTwice));
    EXPECT_EQ(memory->bytes, 1536U) << "the next one's do not";
    EXPECT_EQ(engine->weights_bytes(), 1536U);
}

TEST_P(RuntimeOfRelease, ForgetsWhereWeightsGoWhenADeserializationFails) {
    const auto memory = std::make_shared<CountedMemory>(device());
    const auto elsewhere = std::make_shared<CountedMemory>(device());
    const auto made = runtime({.memory = memory});
    fake().fail_deserialize("half-way");
    EXPECT_THROW(made->deserialize(bytes_of(kTwice), {.name = "m", .weights = elsewhere}), core::EngineError);
    const auto engine = made->deserialize(bytes_of(kTwice));
    EXPECT_EQ(elsewhere->bytes, 0U);
    EXPECT_EQ(memory->bytes, 1536U);
}

TEST_P(RuntimeOfRelease, CountsWhatContextsKeepApartFromWeights) {
    fake().context_bytes = 4096;
    const auto made = runtime();
    const auto engine = made->deserialize(bytes_of(kTwice));
    auto context = engine->create_context();
    EXPECT_EQ(made->other_bytes(), 4096U);
    EXPECT_EQ(engine->weights_bytes(), 1536U);
    context.reset();
    EXPECT_EQ(made->other_bytes(), 0U);
}

TEST_P(RuntimeOfRelease, OutOfMemorySaysWhoAskedForHowMuch) {
    const auto memory = std::make_shared<CountedMemory>(device());
    memory->limit = 1200;
    const auto made = runtime({.memory = memory});
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { made->deserialize(bytes_of(kTwice), {.name = "m"}); }),
                AllOf(HasSubstr("'m'"), HasSubstr("512 bytes for weights"), HasSubstr("counted memory has too little"),
                      HasSubstr("bytes free"), HasSubstr("Error Code 2: OutOfMemory")));
    EXPECT_EQ(memory->bytes, 0U) << "what was allocated before is given back";
    memory->limit = 2048;
    const auto engine = made->deserialize(bytes_of(kTwice));
    fake().context_bytes = 4096;
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { engine->create_context(); }),
                AllOf(HasSubstr("4096 bytes of working memory"), HasSubstr("execution context of engine 'twice'")));
}

TEST_P(RuntimeOfRelease, SaysThatAMemoryResourceFailedInItsWords) {
    class Broken final : public core::MemoryResource {
    public:
        core::Device device() const noexcept override { return {core::DeviceType::cuda, 0}; }
        std::string name() const override { return "broken"; }

    protected:
        void* do_allocate(std::size_t, std::size_t) override { throw core::InvalidArgument("broken on purpose"); }
        void do_deallocate(void*, std::size_t, std::size_t) noexcept override {}
    };
    const auto made = runtime();
    EXPECT_THAT(message_of<core::EngineError>(
                    [&] { made->deserialize(bytes_of(kTwice), {.name = "m", .weights = std::make_shared<Broken>()}); }),
                HasSubstr("broken on purpose"));
}

TEST_P(RuntimeOfRelease, LoadsAFile) {
    const std::string path = (std::filesystem::path(testing::TempDir()) / "trtlab_twice.plan").string();
    std::ofstream(path) << kTwice;
    const auto made = runtime();
    EXPECT_EQ(made->load(path)->name(), path);
    EXPECT_EQ(made->load(path, {.name = "called"})->name(), "called");
    EXPECT_THAT(message_of<core::NotFound>([&] { made->load("/nowhere/m.plan"); }), HasSubstr("/nowhere/m.plan"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->load(testing::TempDir()); }), HasSubstr("is no file"));
    std::filesystem::remove(path);
}

TEST_P(RuntimeOfRelease, LoadsOneAfterAnotherFromManyThreads) {
    const auto made = runtime();
    std::vector<std::jthread> threads;
    std::vector<std::shared_ptr<Engine>> engines(4);
    for (std::size_t i = 0; i < engines.size(); ++i) {
        threads.emplace_back([&, i] { engines[i] = made->deserialize(bytes_of(kTwice), {.name = std::to_string(i)}); });
    }
    threads.clear();
    for (std::size_t i = 0; i < engines.size(); ++i) {
        EXPECT_EQ(engines[i]->name(), std::to_string(i));
        EXPECT_EQ(engines[i]->weights_bytes(), 1536U);
    }
}

TEST_P(RuntimeOfRelease, StaysUntilTheLastOfItsContextsIsGone) {
    auto made = runtime();
    auto engine = made->deserialize(bytes_of(kTwice));
    auto context = engine->create_context();
    made.reset();
    engine.reset();
    EXPECT_EQ(fake().runtimes, 1);
    EXPECT_EQ(fake().engines, 1);
    context.reset();
    EXPECT_EQ(fake().runtimes, 0);
}

TEST_P(RuntimeOfRelease, AdoptsAnEngineThatSomebodyElseOwns) {
    // Somebody with NVIDIA's headers: the object is what the library itself gave out.
    const auto other = runtime();
    const auto theirs = other->deserialize(bytes_of(kTwice));
    void* const object = adoptable(*theirs);
    const auto made = runtime();
    auto adopted = made->adopt(object, theirs, "theirs");
    EXPECT_EQ(adopted->name(), "theirs");
    EXPECT_EQ(adopted->tensors().size(), 2U);
    EXPECT_EQ(adopted->weights_bytes(), 0U);
    EXPECT_EQ(theirs.use_count(), 2);
    EXPECT_EQ(made->adopt(object, nullptr)->name(), "twice") << "its own name";
    {
        const auto context = adopted->create_context();
        fake().fail_context("for the other logger");
        const LogCapture log;
        EXPECT_THAT(message_of<core::EngineError>([&] { adopted->create_context(); }),
                    HasSubstr("its own logger has the reason"));
        EXPECT_THAT(log.text(), HasSubstr("for the other logger"));
    }
    adopted.reset();
    EXPECT_EQ(fake().engines, 1) << "not destroyed";
    EXPECT_EQ(theirs.use_count(), 1);
}

TEST_P(RuntimeOfRelease, DoesNotAdoptWhatIsNoEngineOfTheLibrary) {
    const auto made = runtime();
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->adopt(nullptr, nullptr); }), HasSubstr("null"));
    struct Other {
        virtual ~Other() = default;
        void* impl = nullptr;
    } other;
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { made->adopt(&other, nullptr); }),
                HasSubstr(TRTLAB_FAKE_NVINFER));
}

TEST_P(RuntimeOfRelease, MayStillBeThereWhenTheProcessEnds) {
    EXPECT_EXIT(
        {
            // Kept by what is destroyed at exit, after everything here.
            static std::unique_ptr<ExecutionContext> kept;
            kept = engine()->create_context();
            std::exit(0);
        },
        testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace trtlab::tensorrt::test
