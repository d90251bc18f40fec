#include "trtlab/core/topology.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using ::testing::HasSubstr;

TEST(Topology, OfTwoSocketsHasTheCpusOfEach) {
    const Topology machine = Topology::synthetic("Package:2 NUMANode:1(memory=1073741824) Core:4 PU:2");
    EXPECT_EQ(machine.cpus(), CpuSet::range(0, 15));
    EXPECT_EQ(machine.usable_cpus(), machine.cpus());
    ASSERT_EQ(machine.packages().size(), 2u);
    EXPECT_EQ(machine.package(0).cpus, CpuSet::range(0, 7));
    EXPECT_EQ(machine.package(1).cpus, CpuSet::range(8, 15));
    ASSERT_EQ(machine.nodes().size(), 2u);
    EXPECT_EQ(machine.node(1).cpus, CpuSet::range(8, 15));
    EXPECT_EQ(machine.node(1).memory_bytes, 1u << 30);
    ASSERT_EQ(machine.cores().size(), 8u);
    EXPECT_EQ(machine.core(4).cpus, (CpuSet{8, 9}));
    EXPECT_EQ(machine.core_of(9).id, 4);
}

TEST(Topology, OfSeveralNodesInAPackageHasTheCpusOfEach) {
    const Topology machine = Topology::synthetic("Package:2 NUMANode:4 Core:2 PU:1");
    ASSERT_EQ(machine.nodes().size(), 8u);
    EXPECT_EQ(machine.node(5).cpus, (CpuSet{10, 11}));
    EXPECT_EQ(machine.package(1).cpus, CpuSet::range(8, 15));
}

TEST(Topology, OfCpusThatAreNumberedAroundTheCoresKeepsThemApart) {
    // As Linux numbers them on most machines: the second thread of each core comes after the first of all.
    const Topology machine = Topology::synthetic("Package:2 Core:2 PU:2(indexes=0,4,1,5,2,6,3,7)");
    EXPECT_EQ(machine.core_of(6).cpus, (CpuSet{2, 6}));
    EXPECT_EQ(machine.package(1).cpus, (CpuSet{2, 3, 6, 7}));
    EXPECT_EQ(machine.one_cpu_per_core(), CpuSet::range(0, 3));
    EXPECT_EQ(machine.one_cpu_per_core(CpuSet{4, 5, 6, 2}), (CpuSet{2, 4, 5}));
    EXPECT_EQ(machine.one_cpu_per_core(CpuSet{100}), CpuSet());
}

TEST(Topology, OfMoreThan64AndMoreThan1024CpusLeavesNoneOut) {
    const Topology large = Topology::synthetic("Package:2 NUMANode:1 Core:64 PU:2");
    EXPECT_EQ(large.cpus(), CpuSet::range(0, 255));
    EXPECT_EQ(large.node(1).cpus, CpuSet::range(128, 255));
    const Topology largest = Topology::synthetic("Package:4 NUMANode:2 Core:128 PU:2");
    EXPECT_EQ(largest.cpus().count(), 2048u);
    EXPECT_EQ(largest.nodes().size(), 8u);
    EXPECT_EQ(largest.node(7).cpus, CpuSet::range(1792, 2047));
    EXPECT_EQ(largest.one_cpu_per_core().count(), 1024u);
    EXPECT_EQ(largest.nearest_node(CpuSet{1500}), 5);
}

TEST(Topology, HasTheCachesWithTheCpusThatShareThem) {
    const Topology machine =
        Topology::synthetic("Package:1 L3Cache:2(size=33554432) L2Cache:2(size=1048576) L1dCache:1 Core:1 PU:2");
    std::vector<int> levels;
    for (const Topology::Cache& cache : machine.caches()) levels.push_back(cache.level);
    EXPECT_EQ(levels, (std::vector<int>{1, 1, 1, 1, 2, 2, 2, 2, 3, 3}));
    EXPECT_EQ(machine.caches()[0].kind, Topology::CacheKind::data);
    EXPECT_EQ(machine.caches()[5].cpus, (CpuSet{2, 3}));
    EXPECT_EQ(machine.caches()[5].size_bytes, 1u << 20);
    EXPECT_EQ(machine.caches()[9].cpus, CpuSet::range(4, 7));
    EXPECT_EQ(machine.caches()[9].size_bytes, 32u << 20);
    EXPECT_EQ(machine.caches()[9].kind, Topology::CacheKind::unified);
}

TEST(Topology, NearestNodeIsTheOneThatMostOfTheCpusAreLocalTo) {
    const Topology machine = Topology::synthetic("Package:2 NUMANode:1 Core:4 PU:1");
    EXPECT_EQ(machine.nearest_node(CpuSet{3, 4, 5}), 1);
    EXPECT_EQ(machine.nearest_node(CpuSet{2, 3, 4}), 0);
    EXPECT_EQ(machine.nearest_node(CpuSet{3, 4}), 0);
    EXPECT_EQ(machine.nearest_node(CpuSet{4}), 1);
    EXPECT_EQ(machine.nearest_node(CpuSet{}), -1);
    EXPECT_EQ(machine.nearest_node(CpuSet{100}), -1);
    // Of a node for the whole machine and one for a package, the one that is nearer.
    const Topology nested = Topology::synthetic("[NUMANode(indexes=2)] Package:2 [NUMANode] Core:2 PU:1");
    ASSERT_EQ(nested.nodes().size(), 3u);
    const int nearest = nested.nearest_node(CpuSet{3});
    EXPECT_EQ(nested.node(nearest).cpus, (CpuSet{2, 3}));
}

TEST(Topology, NamesWhatThereIsWhenAskedForWhatThereIsNot) {
    const Topology machine = Topology::synthetic("Package:2 NUMANode:1 Core:4 PU:2");
    const auto refusal = [](auto call) {
        try {
            call();
        } catch (const NotFound& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    EXPECT_THAT(refusal([&] { (void)machine.node(2); }), HasSubstr("no NUMA node 2 in this machine; there are 0-1"));
    EXPECT_THAT(refusal([&] { (void)machine.package(-1); }), HasSubstr("no package -1"));
    EXPECT_THAT(refusal([&] { (void)machine.core(8); }), HasSubstr("there are 0-7"));
    EXPECT_THAT(refusal([&] { (void)machine.core_of(16); }), HasSubstr("CPUs are 0-15"));
}

TEST(Topology, RefusesADescriptionThatIsNone) {
    for (const char* text : {"", "nonsense", "Package:0 PU:2", "Package:2 PU:", "PU:2 Package:2"})
        EXPECT_THROW((void)Topology::synthetic(text), InvalidArgument) << text;
    EXPECT_THROW((void)Topology::synthetic(std::string(1 << 20, 'x')), InvalidArgument);
}

TEST(Topology, OfThisMachineIsReadOnceAndFitsWhatTheKernelAllows) {
    const Topology& machine = Topology::system();
    EXPECT_EQ(&machine, &Topology::system());
    EXPECT_FALSE(machine.usable_cpus().empty());
    EXPECT_TRUE(machine.cpus().contains(machine.usable_cpus()));
    EXPECT_TRUE(machine.cpus().contains(thread_affinity()));
    CpuSet of_cores, of_packages;
    for (const auto& core : machine.cores()) of_cores |= core.cpus;
    for (const auto& package : machine.packages()) of_packages |= package.cpus;
    EXPECT_TRUE(machine.cpus().contains(of_cores));
    EXPECT_TRUE(machine.cpus().contains(of_packages));
    EXPECT_FALSE(machine.one_cpu_per_core().empty());
    ASSERT_FALSE(machine.nodes().empty());
    std::size_t memory = 0;
    for (std::size_t i = 0; i < machine.nodes().size(); ++i) {
        const auto& node = machine.nodes()[i];
        memory += node.memory_bytes;
        if (node.distances.empty()) continue;
        ASSERT_EQ(node.distances.size(), machine.nodes().size());
        for (const int distance : node.distances) EXPECT_LE(node.distances[i], distance);
    }
    EXPECT_GT(memory, 0u);
    EXPECT_GE(machine.nearest_node(machine.cpus()), 0);
}

}  // namespace
}  // namespace trtlab::core
