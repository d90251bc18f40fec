#include "trtlab/tensorrt/engine.hpp"

#include "fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class EngineOfRelease : public Fake {};
INSTANTIATE_TEST_SUITE_P(Fake, EngineOfRelease, releases(), release_name);

TEST_P(EngineOfRelease, TellsWhatItIsMadeOf) {
    const auto twice = engine();
    EXPECT_EQ(twice->name(), "twice");
    EXPECT_EQ(twice->profile_count(), 2);
    EXPECT_EQ(twice->layer_count(), 2);
    EXPECT_EQ(twice->aux_streams(), 1);
    EXPECT_FALSE(twice->refittable());
    EXPECT_FALSE(twice->data_dependent());
    EXPECT_EQ(twice->describe(), R"({"Layers": ["double", "cast"]})");
    const auto plan = twice->serialize();
    EXPECT_EQ(std::string(static_cast<const char*>(static_cast<const void*>(plan.data())), plan.size()), kTwice);
    EXPECT_TRUE(engine("trtlab fake plan 1\nrefittable\nend\n")->refittable());
    EXPECT_EQ(engine("trtlab fake plan 1\nend\n")->name(), "unnamed");
}

TEST_P(EngineOfRelease, TellsItsTensorsInputsFirst) {
    const auto mixed = engine(R"(trtlab fake plan 1
output z float32 -1x-1 = fill x s
input x float32 1
input s int64 2 shape
values s 1x1 2x3 4x4
end
)");
    ASSERT_EQ(mixed->tensors().size(), 3U);
    const TensorInfo& x = mixed->tensors()[0];
    EXPECT_EQ(x.name, "x");
    EXPECT_TRUE(x.input);
    EXPECT_EQ(x.dtype, core::DType::float32);
    EXPECT_EQ(x.shape, core::Shape({1}));
    EXPECT_TRUE(x.linear);
    EXPECT_EQ(x.format, "Row major linear");
    EXPECT_FALSE(x.on_host);
    EXPECT_FALSE(x.shape_input);
    const TensorInfo& s = mixed->tensor("s");
    EXPECT_TRUE(s.on_host);
    EXPECT_TRUE(s.shape_input);
    const TensorInfo& z = mixed->tensor("z");
    EXPECT_FALSE(z.input);
    EXPECT_EQ(z.shape, core::Shape({-1, -1}));
    EXPECT_THAT(z.profiles, testing::IsEmpty());
    EXPECT_THAT(message_of<core::NotFound>([&] { mixed->tensor("w"); }),
                AllOf(HasSubstr("'w'"), HasSubstr("'x', 's', 'z'")));
}

TEST_P(EngineOfRelease, TellsTheShapesOfItsProfiles) {
    const auto twice = engine();
    const auto& profiles = twice->tensor("x").profiles;
    ASSERT_EQ(profiles.size(), 2U);
    EXPECT_EQ(profiles[0].min, core::Shape({1, 4}));
    EXPECT_EQ(profiles[0].opt, core::Shape({2, 4}));
    EXPECT_EQ(profiles[1].min, core::Shape({3, 4}));
    EXPECT_EQ(profiles[1].max, core::Shape({8, 4}));
    EXPECT_EQ(twice->activation_bytes(0), 1024U);
    EXPECT_EQ(twice->activation_bytes(1), 2048U);
    EXPECT_EQ(twice->activation_bytes(), 2048U);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { twice->activation_bytes(2); }), HasSubstr("from 0 to 1"));
}

TEST_P(EngineOfRelease, KnowsEveryElementType) {
    using core::DType;
    const std::vector<std::pair<const char*, DType>> types{
        {"float32", DType::float32}, {"float16", DType::float16},   {"int8", DType::int8},
        {"int32", DType::int32},     {"bool", DType::boolean},      {"uint8", DType::uint8},
        {"int64", DType::int64},     {"bfloat16", DType::bfloat16}, {"float8", DType::float8_e4m3fn}};
    for (const auto& [name, dtype] : types) {
        const auto one = engine("trtlab fake plan 1\ninput x " + std::string(name) + " 4\nend\n");
        EXPECT_TRUE(one->tensor("x").type_known) << name;
        EXPECT_EQ(one->tensor("x").dtype, dtype) << name;
    }
    for (const auto& [name, number] : {std::pair("int4", 9), std::pair("fp4", 10), std::pair("e8m0", 11)}) {
        const auto one = engine("trtlab fake plan 1\ninput x " + std::string(name) + " 4\nend\n");
        EXPECT_FALSE(one->tensor("x").type_known);
        EXPECT_EQ(one->tensor("x").type_number, number);
        EXPECT_THAT(message_of<core::InvalidArgument>([&] { one->model_spec("m"); }),
                    AllOf(HasSubstr("'m'"), HasSubstr("input 'x'"), HasSubstr("number " + std::to_string(number))));
    }
}

TEST_P(EngineOfRelease, IsTheSpecOfAModel) {
    const core::ModelSpec spec = engine()->model_spec("doubler");
    EXPECT_EQ(spec.name, "doubler");
    EXPECT_EQ(spec.platform, rtx() ? "tensorrt_rtx" : "tensorrt");
    ASSERT_EQ(spec.inputs.size(), 1U);
    EXPECT_EQ(spec.inputs[0].to_string(), "float32[1..8, 4]") << "what some profile takes";
    EXPECT_EQ(spec.outputs.at(0).to_string(), "float32[?, 4]");
    EXPECT_EQ(spec.max_batch_size, 8);
}

TEST_P(EngineOfRelease, HasABatchAxisOnlyIfAllInputsLeadWithOne) {
    const auto batch = [&](const std::string& second) {
        return engine("trtlab fake plan 1\ninput x float32 -1x4\nprofile x 1x4 2x4 4x4\n" + second + "end\n")
            ->model_spec("m")
            .max_batch_size;
    };
    EXPECT_EQ(batch("input w float32 -1\nprofile w 1 2 3\n"), 3);
    EXPECT_EQ(batch("input w float32 4\n"), 0);
    EXPECT_EQ(batch("input w float32 ()\n"), 0);
}

TEST_P(EngineOfRelease, WithAFormatOfItsOwnIsNoModel) {
    const auto odd = engine("trtlab fake plan 1\ninput x float32 1x32 vectorized\nend\n");
    EXPECT_FALSE(odd->tensor("x").linear);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { odd->model_spec("m"); }),
                AllOf(HasSubstr("input 'x'"), HasSubstr("channel % 32"), HasSubstr("linear")));
}

TEST_P(EngineOfRelease, LearnsWithTheFirstContextWhetherShapesDependOnData) {
    const auto fill = engine(kFill);
    const auto nonzero = engine(kNonzero);
    const auto known = engine("trtlab fake plan 1\ninput x float32 4\noutput y int64 -1 = nonzero x\nend\n");
    EXPECT_TRUE(known->data_dependent()) << "nothing else can make the shape dynamic";
    EXPECT_FALSE(nonzero->data_dependent());
    EXPECT_FALSE(fill->data_dependent());
    const auto first = nonzero->create_context();
    const auto second = fill->create_context();
    EXPECT_TRUE(nonzero->data_dependent());
    EXPECT_FALSE(fill->data_dependent()) << "it follows from the values of s";
    EXPECT_THAT(message_of<core::EngineError>([&] { first->infer_shapes(); }), HasSubstr("the shape of 'x'"));
    EXPECT_THAT(message_of<core::EngineError>([&] { second->infer_shapes(); }), HasSubstr("'s'"));
}

TEST_P(EngineOfRelease, StreamsWeightsWithinABudget) {
    const auto streaming = engine("trtlab fake plan 1\nstreamable 4096\nend\n");
    EXPECT_EQ(streaming->streamable_weights_bytes(), 4096U);
    if (GetParam() == 100000) {
        EXPECT_THAT(message_of<core::EngineError>([&] { streaming->set_weight_streaming_budget(1); }),
                    AllOf(HasSubstr("setWeightStreamingBudgetV2"), HasSubstr("10.0.0"), HasSubstr("10.1.0 or newer")));
        return;
    }
    EXPECT_EQ(streaming->automatic_weight_streaming_budget(), 2048U);
    streaming->set_weight_streaming_budget(1000);
    EXPECT_EQ(streaming->weight_streaming_budget(), 1000U);
    EXPECT_THAT(message_of<core::EngineError>([&] { streaming->set_weight_streaming_budget(5000); }),
                AllOf(HasSubstr("5000"), HasSubstr("is above 4096")));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { streaming->set_weight_streaming_budget(SIZE_MAX); }),
                HasSubstr("more than there can be"));
    const auto context = streaming->create_context();
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { streaming->set_weight_streaming_budget(1); }),
                HasSubstr("1 contexts"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { engine()->set_weight_streaming_budget(1); }),
                HasSubstr("not built for weight streaming"));
}

TEST_P(EngineOfRelease, SharesCompiledKernelsAmongItsContextsWhereThereAreAny) {
    const auto twice = engine();
    const auto first = twice->create_context();
    const auto second = twice->create_context();
    EXPECT_EQ(fake().kernel_caches, rtx() ? 1 : 0);
    EXPECT_EQ(fake().contexts_with_cache, rtx() ? 2 : 0);
    const auto apart = twice->create_context({.share_kernels = false});
    EXPECT_EQ(fake().contexts_with_cache, rtx() ? 2 : 0);
}

TEST_P(EngineOfRelease, SaysWhyAContextCouldNotBeMade) {
    const auto twice = engine();
    fake().fail_context("no kernel for this GPU");
    EXPECT_THAT(message_of<core::EngineError>([&] { twice->create_context(); }),
                AllOf(HasSubstr("execution context of engine 'twice'"), HasSubstr("no kernel for this GPU")));
    EXPECT_NE(twice->create_context(), nullptr) << "the next one is not harmed";
}

}  // namespace
}  // namespace trtlab::tensorrt::test
