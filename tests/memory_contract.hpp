#pragma once

// What every core::MemoryResource promises, as one suite. A resource joins with a provider:
//
//     struct Provider {
//         static std::string why_not();                           // "" if there is such memory here
//         static std::shared_ptr<core::MemoryResource> make();
//         static constexpr std::size_t kPromisedAlignment;        // what is more may be refused
//         static constexpr std::size_t kTooMuch;                  // bytes that nobody can have; 0: better not asked for
//         static std::size_t live_blocks();                       // blocks in use, by whoever counts them; 0 if nobody does
//     };
//     INSTANTIATE_TYPED_TEST_SUITE_P(Host, MemoryContract, Provider);

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"

namespace trtlab::core::testing {

template <class Provider>
class MemoryContract : public ::testing::Test {
protected:
    void SetUp() override {
        if (const std::string why = Provider::why_not(); !why.empty()) GTEST_SKIP() << why;
        resource_ = Provider::make();
    }
    void TearDown() override {
        if (resource_ == nullptr) return;
        EXPECT_EQ(Provider::live_blocks(), 0u) << "of " << resource_->name();
    }
    std::shared_ptr<MemoryResource> resource_;
};

TYPED_TEST_SUITE_P(MemoryContract);

TYPED_TEST_P(MemoryContract, AlignmentIsHonouredOrRefused) {
    for (std::size_t alignment = 1; alignment <= 1 << 16; alignment *= 2) {
        void* block = nullptr;
        try {
            block = this->resource_->allocate(100, alignment);
        } catch (const InvalidArgument& error) {
            EXPECT_GT(alignment, TypeParam::kPromisedAlignment) << error.what();
            EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr(this->resource_->name()),
                                                       ::testing::HasSubstr(std::to_string(alignment))));
            continue;
        }
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % alignment, 0u) << alignment;
        this->resource_->deallocate(block, 100, alignment);
    }
}

TYPED_TEST_P(MemoryContract, AlignmentThatIsNoPowerOfTwoIsRefusedWithTheNumber) {
    for (const std::size_t alignment : {0, 3, 96, 255}) {
        try {
            (void)this->resource_->allocate(100, alignment);
            ADD_FAILURE() << "nothing was thrown for " << alignment;
        } catch (const InvalidArgument& error) {
            EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr(this->resource_->name()),
                                                       ::testing::HasSubstr(std::to_string(alignment))));
        }
    }
}

TYPED_TEST_P(MemoryContract, ZeroBytesAreBlocksOfTheirOwn) {
    std::set<void*> blocks;
    for (int i = 0; i < 10; ++i) blocks.insert(this->resource_->allocate(0));
    EXPECT_EQ(blocks.size(), 10u);
    EXPECT_FALSE(blocks.contains(nullptr));
    for (void* block : blocks) this->resource_->deallocate(block, 0);
}

TYPED_TEST_P(MemoryContract, LiveBlocksDoNotOverlap) {
    constexpr std::size_t kSize = 1000;
    std::set<std::uintptr_t> blocks;
    for (int i = 0; i < 50; ++i) blocks.insert(reinterpret_cast<std::uintptr_t>(this->resource_->allocate(kSize)));
    EXPECT_EQ(blocks.size(), 50u);
    std::uintptr_t end = 0;
    for (const std::uintptr_t block : blocks) {
        EXPECT_GE(block, end);
        end = block + kSize;
    }
    for (const std::uintptr_t block : blocks) this->resource_->deallocate(reinterpret_cast<void*>(block), kSize);
}

TYPED_TEST_P(MemoryContract, ExhaustionSaysHowMuchWasAskedAndOfWhom) {
    if constexpr (TypeParam::kTooMuch != 0) {
        try {
            (void)this->resource_->allocate(TypeParam::kTooMuch);
            ADD_FAILURE() << "nothing was thrown";
        } catch (const OutOfMemory& error) {
            EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr(this->resource_->name()),
                                                       ::testing::HasSubstr(std::to_string(TypeParam::kTooMuch))));
        }
    }
    void* block = this->resource_->allocate(100);  // it goes on
    EXPECT_NE(block, nullptr);
    this->resource_->deallocate(block, 100);
}

TYPED_TEST_P(MemoryContract, AnotherThreadMayGiveBack) {
    std::vector<void*> blocks(20);
    for (void*& block : blocks) block = this->resource_->allocate(4096);
    std::thread([&] {
        for (void* block : blocks) this->resource_->deallocate(block, 4096);
    }).join();
}

TYPED_TEST_P(MemoryContract, ManyThreadsMayUseItAtOnce) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int j = 0; j < 50; ++j) {
                const std::size_t size = static_cast<std::size_t>(j) * 37;
                this->resource_->deallocate(this->resource_->allocate(size), size);
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
}

TYPED_TEST_P(MemoryContract, NullIsIgnored) { this->resource_->deallocate(nullptr, 100); }

TYPED_TEST_P(MemoryContract, BufferGivesItsBlockBackAndKeepsTheResource) {
    Buffer buffer(this->resource_, 100);
    EXPECT_EQ(buffer.size_bytes(), 100u);
    EXPECT_EQ(buffer.device(), this->resource_->device());
    EXPECT_EQ(this->resource_.use_count(), 2);
    Buffer moved(std::move(buffer));
    EXPECT_TRUE(moved);
    moved.reset();
    moved.reset();
    EXPECT_EQ(this->resource_.use_count(), 1);
    EXPECT_FALSE(moved);
}

REGISTER_TYPED_TEST_SUITE_P(MemoryContract, AlignmentIsHonouredOrRefused,
                            AlignmentThatIsNoPowerOfTwoIsRefusedWithTheNumber, ZeroBytesAreBlocksOfTheirOwn,
                            LiveBlocksDoNotOverlap, ExhaustionSaysHowMuchWasAskedAndOfWhom, AnotherThreadMayGiveBack,
                            ManyThreadsMayUseItAtOnce, NullIsIgnored, BufferGivesItsBlockBackAndKeepsTheResource);

}  // namespace trtlab::core::testing
