#include "trtlab/core/dtype.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

TEST(DType, NamesAndSizesAreNumpys) {
    const std::pair<std::string_view, std::size_t> expected[] = {
        {"bool", 1},    {"int8", 1},     {"int16", 2},   {"int32", 4},   {"int64", 8},
        {"uint8", 1},   {"uint16", 2},   {"uint32", 4},  {"uint64", 8},  {"float8_e4m3fn", 1},
        {"float16", 2}, {"bfloat16", 2}, {"float32", 4}, {"float64", 8}, {"bytes", sizeof(std::string_view)}};
    static_assert(std::size(expected) == kDTypeCount);
    for (std::size_t i = 0; i < kDTypeCount; ++i) {
        const auto dtype = static_cast<DType>(i);
        EXPECT_EQ(name_of(dtype), expected[i].first);
        EXPECT_EQ(size_of(dtype), expected[i].second) << expected[i].first;
    }
    EXPECT_EQ(static_cast<std::size_t>(DType::bytes), kDTypeCount - 1);
}

TEST(DType, EveryNameLeadsBackToItsType) {
    std::set<std::string_view> names;
    for (std::size_t i = 0; i < kDTypeCount; ++i) {
        const auto dtype = static_cast<DType>(i);
        EXPECT_EQ(dtype_from_name(name_of(dtype)), dtype);
        names.insert(name_of(dtype));
    }
    EXPECT_EQ(names.size(), kDTypeCount);
}

TEST(DType, UnknownNameIsRefusedWithTheNamesKnown) {
    for (const std::string name : {"", "float", "Float32", "float32 ", "int128"}) {
        try {
            (void)dtype_from_name(name);
            FAIL() << name;
        } catch (const InvalidArgument& error) {
            EXPECT_THAT(error.what(), ::testing::HasSubstr("'" + name + "'"));
            EXPECT_THAT(error.what(), ::testing::HasSubstr("bfloat16"));
            EXPECT_THAT(error.what(), ::testing::HasSubstr(" bytes"));
        }
    }
}

}  // namespace
}  // namespace trtlab::core
