// What trtlab adds to one lone request on a model of one operation: bare OpenVINO does the same work in the same
// process, turn by turn. The bare calls bind their input and output for each request, as a program must that gets them
// anew with each request; "bound once" is the engine call alone.

#include <benchmark/benchmark.h>
#include <time.h>

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "bare_openvino.hpp"
#include "rounds.hpp"
#include "tiny_model.hpp"
#include "trtlab/core/budget.hpp"
#include "trtlab/core/function_model.hpp"
#include "trtlab/openvino/runner.hpp"

namespace {

using namespace trtlab;
using Clock = std::chrono::steady_clock;
using Request = std::function<void()>;

constexpr int kBackToBack = 4000;
constexpr int kPaused = 150;
constexpr int kManyInputs = 8;
constexpr std::chrono::microseconds kIdle{5};

/// A budget's part of a request alone: what takes the buffer and the token gives them back at once.
class EmptyJob final : public core::Job {
public:
    explicit EmptyJob(core::ExecutionBudget& budget) : budget_(budget) {}
    bool more = false;

private:
    core::Staging stage() override { return core::Staging::done; }
    void launch() override { more = budget_.give_back_both(); }
    bool wanted() const noexcept override { return true; }
    void abandon(std::exception_ptr) noexcept override {}
    void discard() noexcept override {}
    core::ExecutionBudget& budget_;
};

/// Times each request on its own; percentiles as counters, in nanoseconds.
void measure(benchmark::State& state, const Request& request, std::chrono::nanoseconds pause) {
    static std::vector<double> samples(kBackToBack);
    for (int i = 0; i < (pause.count() == 0 ? 200 : 5); ++i) request();
    std::size_t count = 0;
    for (auto _ : state) {
        if (pause.count() != 0) {
            const timespec length{.tv_sec = 0, .tv_nsec = pause.count()};
            nanosleep(&length, nullptr);
        }
        const auto begin = Clock::now();
        request();
        const auto took = std::chrono::duration<double>(Clock::now() - begin).count();
        state.SetIterationTime(took);
        samples[count++] = took * 1e9;
    }
    std::vector<double> sorted(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(count));
    state.counters["p10_ns"] = bench::percentile(sorted, 0.1);
    state.counters["p50_ns"] = bench::percentile(sorted, 0.5);
    state.counters["p99_ns"] = bench::percentile(sorted, 0.99);
}

std::shared_ptr<openvino::Runner> load_tiny(const std::shared_ptr<openvino::Library>& library, int inputs) {
    openvino::Runner::Options options;
    options.name = "tiny";
    options.streams = 1;
    const std::string model = bench::tiny_model(inputs);
    return openvino::Runner::load_from_memory(library, std::as_bytes(std::span(model)), options);
}

/// Times `infer` until it returns, on an idle model; the answer is waited for outside of that, and then a little, so that
/// the lane has put away what it did for the last request, and still looks out for work.
void add_infer_alone(const std::string& name, core::Model& model, std::span<const core::Tensor> inputs) {
    const auto run = [&model, inputs](benchmark::State& state) {
        std::vector<double> samples;
        samples.reserve(kBackToBack);
        for (auto _ : state) {
            const auto begin = Clock::now();
            core::Future<core::Tensors> future = model.infer(inputs);
            const auto took = std::chrono::duration<double>(Clock::now() - begin).count();
            state.SetIterationTime(took);
            samples.push_back(took * 1e9);
            (void)future.wait();
            future = {};
            const auto idle = Clock::now() + kIdle;
            while (Clock::now() < idle) {
            }
        }
        state.counters["p10_ns"] = bench::percentile(samples, 0.1);
        state.counters["p50_ns"] = bench::percentile(samples, 0.5);
        state.counters["p99_ns"] = bench::percentile(samples, 0.99);
    };
    benchmark::RegisterBenchmark(name.c_str(), run)->Iterations(kBackToBack)->UseManualTime();
}

void add(const std::string& name, const Request& request) {
    benchmark::RegisterBenchmark(name.c_str(), [request](benchmark::State& state) { measure(state, request, {}); })
        ->Iterations(kBackToBack)
        ->UseManualTime();
    benchmark::RegisterBenchmark(
        (name + ", after 1 ms").c_str(),
        [request](benchmark::State& state) { measure(state, request, std::chrono::milliseconds(1)); })
        ->Iterations(kPaused)
        ->UseManualTime();
}

}  // namespace

int main(int argc, char** argv) {
    bench::Rounds rounds(argc, argv);
    const auto library = bench::open_library();
    rounds.describe("OpenVINO", library->version());
    rounds.describe("model", "relu(x), float32[1, 16]; 1 stream");

    alignas(64) static std::array<float, bench::kTinyElements> x{-1, 1}, y{};
    const bench::BareOpenVino bare(*library);
    ov_compiled_model_t* const compiled = bare.compile(bare.read_memory(bench::tiny_model()), 1);
    ov_infer_request_t* const request = bare.make_request(compiled);
    ov_tensor_t* const output = bare.view(ov_element_type_e::F32, {1, bench::kTinyElements}, y.data());
    const auto bind = [&bare, request, output] {
        std::array<std::int64_t, 2> dims{1, bench::kTinyElements};
        ov_tensor_t* input = nullptr;
        bare.check(bare.tensor_create_from_host_ptr(ov_element_type_e::F32, {2, dims.data()}, x.data(), &input),
                   "input");
        bare.check(bare.set_input(request, 0, input), "set_input");
        bare.tensor_free(input);
        bare.check(bare.set_output(request, 0, output), "set_output");
    };
    const auto read = [&bare, request] {
        ov_tensor_t* tensor = nullptr;
        void* data = nullptr;
        bare.check(bare.get_output(request, 0, &tensor), "get_output");
        bare.check(bare.tensor_data(tensor, &data), "tensor_data");
        bare.tensor_free(tensor);
        benchmark::DoNotOptimize(*static_cast<float*>(data));
    };

    // Bound once: another request, whose tensors nobody changes.
    ov_infer_request_t* const bound = bare.make_request(compiled);
    bare.check(bare.set_input(bound, 0, bare.view(ov_element_type_e::F32, {1, bench::kTinyElements}, x.data())),
               "set_input");
    bare.check(bare.set_output(bound, 0, output), "set_output");

    const auto runner = load_tiny(library, 1);
    const core::Tensor input(core::TensorView(x.data(), core::DType::float32, {1, bench::kTinyElements}));

    core::ModelSpec spec{
        .name = "nothing", .inputs = {{.name = "x", .shape = {1, 16}}}, .outputs = {{.name = "y", .shape = {1, 16}}}};
    core::FunctionModel function(
        spec, [](std::span<const core::Tensor> inputs) { return std::vector(inputs.begin(), inputs.end()); });
    core::ExecutionBudget budget({.max_executions = 1, .max_buffers = 2, .max_queue = 16});
    static EmptyJob job(budget);

    add("bare infer, bound once", [&] { bare.check(bare.infer(bound), "infer"); });
    add("bare infer", [&, bind, read] {
        bind();
        bare.check(bare.infer(request), "infer");
        read();
    });
    add("trtlab Runner", [&] { benchmark::DoNotOptimize(runner->infer({&input, 1}).get()[0].data_as<float>()[0]); });
    add("bare start_async + wait", [&, bind, read] {
        bind();
        bare.check(bare.start_async(request), "start_async");
        bare.check(bare.wait(request), "wait");
        read();
    });
    add("trtlab FunctionModel", [&] { benchmark::DoNotOptimize(function.infer({&input, 1}).get()[0].data()); });
    add("trtlab ExecutionBudget alone", [&] {
        budget.admit(job, &job, "job", core::WaitOptions(core::kForever));
        if (job.more) budget.pump();
    });

    const auto wide_runner = load_tiny(library, kManyInputs);
    const std::vector<core::Tensor> wide_input(kManyInputs, input);
    add_infer_alone("trtlab infer() alone, 1 input", *runner, {&input, 1});
    add_infer_alone("trtlab infer() alone, 8 inputs", *wide_runner, wide_input);

    using Kind = bench::Comparison::Kind;
    std::vector<bench::Comparison> comparisons;
    for (const std::string pause : {"", ", after 1 ms"}) {
        for (const std::string metric : {"p10_ns", "p50_ns", "p99_ns"}) {
            const std::string aim = metric == "p50_ns" && pause.empty() ? "<= 5000 ns" : "";
            comparisons.push_back({"trtlab Runner" + pause, "bare infer" + pause, metric, Kind::difference, aim});
            comparisons.push_back(
                {"trtlab Runner" + pause, "bare infer, bound once" + pause, metric, Kind::difference, {}});
            comparisons.push_back(
                {"trtlab Runner" + pause, "bare start_async + wait" + pause, metric, Kind::difference, {}});
        }
    }
    return rounds.run(comparisons);
}
