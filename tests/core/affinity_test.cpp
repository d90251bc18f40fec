#include "trtlab/core/affinity.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "trtlab/core/topology.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const CpuSet kAbsent = {60000};

/// On a thread of its own, whose mask nobody else has touched.
template <class F>
void on_a_thread(F f) {
    std::thread(f).join();
}

TEST(Affinity, OfAThreadIsWithinWhatTheProcessWasGiven) {
    EXPECT_FALSE(thread_affinity().empty());
    EXPECT_TRUE(process_cpus().contains(thread_affinity()));
    EXPECT_GE(usable_cpus(), 1u);
    EXPECT_LE(usable_cpus(), thread_affinity().count());
}

TEST(Affinity, LastsForAScopeAndLeavesTheThreadAsItWas) {
    on_a_thread([] {
        const CpuSet before = thread_affinity();
        for (const int cpu : process_cpus()) {
            const ScopedAffinity scope(CpuSet{cpu});
            EXPECT_TRUE(scope.pinned());
            EXPECT_THAT(scope.reason(), IsEmpty());
            EXPECT_EQ(thread_affinity(), CpuSet{cpu});
            EXPECT_EQ(sched_getcpu(), cpu);
            EXPECT_EQ(usable_cpus(), 1u);
        }
        EXPECT_EQ(thread_affinity(), before);
    });
}

TEST(Affinity, ScopesMayLieWithinEachOther) {
    on_a_thread([] {
        const CpuSet before = thread_affinity(), first = {process_cpus().first()}, last = {process_cpus().last()};
        {
            const ScopedAffinity outer(first);
            {
                const ScopedAffinity inner(last);  // a pin does not take away what the process was given
                EXPECT_EQ(thread_affinity(), last);
            }
            EXPECT_EQ(thread_affinity(), first);
        }
        EXPECT_EQ(thread_affinity(), before);
    });
}

// As in a container that was given other CPUs than the caller thinks.
TEST(Affinity, ToCpusThatTheProcessMayNotUseIsRefusedWithAReasonAndChangesNothing) {
    on_a_thread([] {
        const CpuSet before = thread_affinity();
        {
            const ScopedAffinity scope(kAbsent);
            EXPECT_FALSE(scope.pinned());
            EXPECT_THAT(scope.reason(), AllOf(HasSubstr("60000"), HasSubstr("may use none of them"),
                                              HasSubstr(process_cpus().to_string())));
            EXPECT_EQ(thread_affinity(), before);
        }
        EXPECT_EQ(thread_affinity(), before);
        EXPECT_THAT(try_pin_thread({}), HasSubstr("none"));
        EXPECT_THAT(try_pin_thread(kAbsent), HasSubstr("60000"));
        EXPECT_EQ(thread_affinity(), before);
    });
}

TEST(Affinity, TakesThoseOfTheCpusThatTheProcessMayUse) {
    on_a_thread([] {
        const CpuSet one = {process_cpus().first()};
        EXPECT_THAT(try_pin_thread(one | kAbsent), IsEmpty());
        EXPECT_EQ(thread_affinity(), one);
    });
}

int memory_policy() {
    int mode = -1;
    return syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0 ? mode : -1;
}

TEST(MemoryNode, IsInForceForAScope) {
    on_a_thread([] {
        const int before = memory_policy();
        const int node = Topology::system().nodes().front().id;
        for (const auto& [policy, mode] :
             {std::pair{NodePolicy::prefer, MPOL_PREFERRED}, {NodePolicy::bind, MPOL_BIND}}) {
            const ScopedMemoryNode outer(node, policy);
            if (!outer.bound()) GTEST_SKIP() << outer.reason();  // a container may forbid it
            EXPECT_EQ(memory_policy(), mode);
            {
                const ScopedMemoryNode inner(node, NodePolicy::bind);
                EXPECT_EQ(memory_policy(), MPOL_BIND);
            }
            EXPECT_EQ(memory_policy(), mode);
        }
        EXPECT_EQ(memory_policy(), before);
    });
}

TEST(MemoryNode, ThatThereIsNotIsRefusedWithAReasonAndChangesNothing) {
    on_a_thread([] {
        const int before = memory_policy();
        for (const int node : {-1, 1000, 4000, 60000, 1 << 30}) {
            const ScopedMemoryNode scope(node, NodePolicy::bind);
            EXPECT_FALSE(scope.bound());
            EXPECT_THAT(scope.reason(), HasSubstr("NUMA node " + std::to_string(node)));
            EXPECT_EQ(memory_policy(), before);
        }
        EXPECT_EQ(memory_policy(), before);
    });
}

}  // namespace
}  // namespace trtlab::core
