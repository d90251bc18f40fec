#include "trtlab/core/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <type_traits>
#include <vector>

#include "log_capture.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class T>
class EveryError : public ::testing::Test {};
using Types =
    ::testing::Types<InvalidArgument, NotFound, Timeout, Closed, Cancelled, Overloaded, OutOfMemory, EngineError>;
TYPED_TEST_SUITE(EveryError, Types);

TYPED_TEST(EveryError, IsCaughtAsErrorAndKeepsItsMessage) {
    try {
        throw TypeParam("what went wrong");
    } catch (const Error& error) {
        EXPECT_STREQ(error.what(), "what went wrong");
        EXPECT_NE(dynamic_cast<const TypeParam*>(&error), nullptr);
    }
}

TYPED_TEST(EveryError, IsAStandardRuntimeError) {
    EXPECT_THROW(throw TypeParam("x"), std::runtime_error);
    static_assert(std::is_nothrow_copy_constructible_v<TypeParam>,
                  "an exception that throws when copied ends the process");
}

TEST(Error, NotFoundIsAnInvalidArgumentAndTheOthersAreNot) {
    static_assert(std::is_base_of_v<InvalidArgument, NotFound>);
    static_assert(!std::is_base_of_v<InvalidArgument, Timeout>);
    static_assert(!std::is_base_of_v<InvalidArgument, Closed>);
    static_assert(!std::is_base_of_v<InvalidArgument, EngineError>);
    EXPECT_THROW(throw NotFound("no such model"), InvalidArgument);
}

TEST(Log, GoesToTheSinkInForce) {
    std::vector<std::string> first, second;
    set_log_sink([&](std::string_view message) { first.emplace_back(message); });
    log("one");
    set_log_sink([&](std::string_view message) { second.emplace_back(message); });
    log("two");
    set_log_sink(nullptr);
    EXPECT_THAT(first, ElementsAre("one"));
    EXPECT_THAT(second, ElementsAre("two"));
}

TEST(Log, GoesToStderrWithoutASink) {
    set_log_sink([](std::string_view) { FAIL() << "this sink was replaced"; });
    set_log_sink({});
    ::testing::internal::CaptureStderr();
    log("a message of\nmine");
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "trtlab: a message of\nmine\n");
}

TEST(Log, SurvivesASinkThatThrows) {
    set_log_sink([](std::string_view) { throw 1; });
    log("lost");
    set_log_sink(nullptr);
}

TEST(Log, SinkMayReplaceItself) {
    testing::LogCapture restores_stderr_at_the_end;
    std::atomic<int> calls{0};
    set_log_sink([&](std::string_view) {
        ++calls;
        set_log_sink([&](std::string_view) { calls += 10; });
    });
    log("first");
    log("second");
    EXPECT_EQ(calls, 11);
}

TEST(Log, SinksAreReplacedWhileOtherThreadsLog) {
    std::atomic<int> received{0};
    const auto sink = [&](std::string_view message) { received += message == "x"; };
    set_log_sink(sink);
    constexpr int kThreads = 4, kMessages = 500;
    std::latch start(kThreads + 1);
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
            start.arrive_and_wait();
            for (int n = 0; n < kMessages; ++n) log("x");
        });
    }
    start.arrive_and_wait();
    for (int n = 0; n < kMessages; ++n) set_log_sink(sink);
    threads.clear();
    set_log_sink(nullptr);
    EXPECT_EQ(received, kThreads * kMessages);
}

TEST(LogCurrentException, NamesThePlaceAndTheMessage) {
    testing::LogCapture log;
    try {
        throw EngineError("the engine is on fire");
    } catch (...) {
        log_current_exception("a callback");
    }
    EXPECT_THAT(log.messages(), ElementsAre(AllOf(HasSubstr("a callback"), HasSubstr("the engine is on fire"))));
}

TEST(LogCurrentException, SaysThatItWasNoStandardException) {
    testing::LogCapture log;
    try {
        throw 42;
    } catch (...) {
        log_current_exception("a hook");
    }
    EXPECT_THAT(log.messages(), ElementsAre(AllOf(HasSubstr("a hook"), HasSubstr("not a std::exception"))));
}

}  // namespace
}  // namespace trtlab::core
