#include "trtlab/core/batcher.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>

#include "joint_inputs.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace trtlab::core {
namespace {

using Clock = RequestTimes::Clock;

constexpr std::size_t kMaxIdleRequests = 256;
constexpr std::size_t kMaxIdleJoints = 8;
constexpr std::size_t kMaxIdleJointBytes = std::size_t{256} << 20;
constexpr std::size_t kDefaultBatch = 8;

std::string who(const ModelSpec& spec) { return "model '" + spec.name + "'"; }

/// The most rows that the model takes at a time. Throws InvalidArgument if it takes no batches.
std::size_t largest_batch(const ModelSpec& spec) {
    std::int64_t most = spec.max_batch_size > 0 ? spec.max_batch_size : Dimension::kUnbounded;
    for (const TensorSpec& input : spec.inputs) {
        if (input.any_rank) continue;
        if (input.shape.empty() || input.shape[0].max < 2) {
            throw InvalidArgument(who(spec) + ", input '" + input.name + "' " + input.to_string() +
                                  ": requests are joined along the leading axis, which has to accept more than 1");
        }
        most = std::min(most, input.shape[0].max);
    }
    if (spec.inputs.empty()) throw InvalidArgument(who(spec) + " has no inputs that could be joined");
    if (most < 2) throw InvalidArgument(who(spec) + ": its max_batch_size is 1, there is nothing to join");
    return static_cast<std::size_t>(most);
}

Batcher::Options resolved(const Model& model, Batcher::Options options) {
    const ModelSpec& spec = model.spec();
    const std::size_t most = largest_batch(spec);
    if (options.max_batch_size == 0) {
        const bool said = most < static_cast<std::size_t>(Dimension::kUnbounded);
        options.max_batch_size = std::min(said ? most : kDefaultBatch, BatchQueue::kMaxRows);
    } else if (options.max_batch_size > std::min(most, BatchQueue::kMaxRows)) {
        throw InvalidArgument(who(spec) + ": max_batch_size is " + std::to_string(options.max_batch_size) +
                              ", but the model takes no more than " +
                              std::to_string(std::min(most, BatchQueue::kMaxRows)) + " rows");
    }
    if (options.max_in_flight == 0) options.max_in_flight = spec.cuda_devices.empty() ? 1 : 2;
    if (!options.queue_timeout) options.queue_timeout = model.queue_timeout();
    return options;
}

std::shared_ptr<Model> checked(std::shared_ptr<Model> model) {
    if (!model) throw InvalidArgument("a Batcher needs a model, got none");
    return model;
}

std::shared_ptr<const ModelSpec> spec_of(const Model& model, const Batcher::Options& options) {
    ModelSpec spec = model.spec();
    spec.max_batch_size = static_cast<std::int64_t>(options.max_batch_size);
    return std::make_shared<const ModelSpec>(std::move(spec));
}

Dispatcher::Options dispatcher_options(const ModelSpec& spec, const Batcher::Options& options) {
    return {.batching = {.max_rows = options.max_batch_size,
                         .max_in_flight = options.max_in_flight,
                         .max_delay = options.max_delay,
                         .hold_when_idle = options.hold_when_idle,
                         .priorities = options.priorities,
                         .priority_step = options.priority_step,
                         .deadline_slack = options.deadline_slack},
            .max_queue = options.max_queue,
            .name = who(spec),
            .timers = options.timers};
}

}  // namespace

/// What the batches under way need of the batcher, and outlives it with them.
struct Batcher::Shared final : std::enable_shared_from_this<Batcher::Shared> {
    Shared(std::shared_ptr<Model> model_, const Options& options_);

    void run(Ref<Batch> batch);
    void wait_in_line(Ref<Batch> batch, JointTensors joint);
    void hand_over(Ref<Batch> batch, const JointTensors& joint, const WaitOptions& wait);
    void answered(const FutureState<Tensors>& state, Batch& batch);
    JointTensors join(std::span<DispatchItem* const> items, std::size_t rows);
    std::string misfit(const Tensors& outputs, std::size_t rows) const;

    std::shared_ptr<Model> model;  // until the batcher goes
    const Options options;
    const std::shared_ptr<const ModelSpec> spec;
    const Padding padding;
    StatsRecorder stats;
    const std::shared_ptr<std::atomic<std::size_t>> joint_bytes = std::make_shared<std::atomic<std::size_t>>(0);
    const Ref<Recycler<Request>> requests;
    const Ref<Recycler<JointInputs>> joints;
    std::once_flag line_made;
    std::unique_ptr<ThreadPool> line;  // waits in the model's queue
};

// --- a request ----------------------------------------------------------------------------------------------------

struct Batcher::Request final : Recycled<Request, FutureState<Tensors>>, DispatchItem {
    void prepare(std::shared_ptr<Shared> shared_);
    bool joins(const BatchItem& other) const noexcept override {
        return common == static_cast<const Request&>(other).common;
    }
    bool wanted() const noexcept override { return !done(); }
    bool start() noexcept override { return try_start(); }
    void fail(std::exception_ptr error) noexcept override {
        shared->stats.failed();
        set_exception(std::move(error));
    }
    void leave() noexcept override {
        if (cancelled()) shared->stats.cancelled();
        inputs.clear();
        const std::shared_ptr<Shared> last = std::move(shared);
        release();
    }
    void answer_with(const Tensors& outputs, bool whole, std::size_t first_row, Clock::time_point executed) noexcept;
    void recycle() noexcept {
        reset();
        if (value_) answer = std::move(*value_);  // for its capacity
        value_.reset();
        answer.clear();
        shared.reset();
        inputs.clear();
        common.clear();
        times = {};
    }

    std::shared_ptr<Shared> shared;
    std::vector<Tensor> inputs;
    std::vector<Shape> common;  // what those that are joined with it agree in
    Tensors answer;
    RequestTimes times;
};

/// Works out with whom the request can be joined, from its inputs. Throws InvalidArgument if they are no batch.
void Batcher::Request::prepare(std::shared_ptr<Shared> shared_) {
    shared = std::move(shared_);
    const ModelSpec& spec = *shared->spec;
    std::uint64_t hash = 14695981039346656037u;  // FNV-1a, over extents
    solo = false;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        const Tensor& input = inputs[i];
        const Shape& shape = input.shape();
        if (shape.rank() == 0) {
            throw InvalidArgument(who(spec) + ", input '" + spec.inputs[i].name +
                                  "': expected a leading axis for the batch, got a scalar");
        }
        if (shape[0] != inputs[0].shape()[0]) {
            throw InvalidArgument(who(spec) + ": the leading axis is the batch, but input '" + spec.inputs[i].name +
                                  "' has " + std::to_string(shape[0]) + " rows, and '" + spec.inputs[0].name + "' " +
                                  std::to_string(inputs[0].shape()[0]));
        }
        solo = solo || shape[0] == 0 || !input.device().host_accessible() || input.fence();
        common.push_back(shared->padding.common(i, shape));
        for (const std::int64_t extent : common.back()) {
            hash = (hash ^ static_cast<std::uint64_t>(extent)) * 1099511628211u;
        }
    }
    rows = std::max<std::size_t>(1, static_cast<std::size_t>(inputs[0].shape()[0]));
    key = hash;
    answer.assign_spec(shared->spec);
}

void Batcher::Request::answer_with(const Tensors& outputs, bool whole, std::size_t first_row,
                                   Clock::time_point executed) noexcept {
    try {
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            answer.push_back(whole ? outputs[i] : shared->padding.part(outputs[i], i, first_row, rows, inputs));
        }
    } catch (...) {
        fail(std::current_exception());
        return;
    }
    inputs.clear();
    times.executed = executed;
    times.finished = Clock::now();
    shared->stats.completed(times);
    set_value(std::move(answer));
}

// --- a batch ------------------------------------------------------------------------------------------------------

Batcher::Shared::Shared(std::shared_ptr<Model> model_, const Options& options_)
    : model(checked(std::move(model_))),
      options(resolved(*model, options_)),
      spec(spec_of(*model, options)),
      padding(*spec, options.padding),
      requests(make_ref<Recycler<Request>>(kMaxIdleRequests, [] { return new Request; })),
      joints(make_ref<Recycler<JointInputs>>(
          kMaxIdleJoints, [total = joint_bytes] { return new JointInputs(total); }, kMaxIdleJointBytes)) {}

void Batcher::Shared::run(Ref<Batch> batch) {
    JointTensors joint = batch->items().size() > 1 ? join(batch->items(), batch->rows()) : JointTensors();
    const auto staged = Clock::now();
    for (DispatchItem* item : batch->items()) {
        auto& request = static_cast<Request&>(*item);
        request.times.stage_begin = batch->began();
        request.times.stage_end = staged;
    }
    try {
        hand_over(batch, joint, std::chrono::nanoseconds(0));
    } catch (const Overloaded&) {
        wait_in_line(std::move(batch), std::move(joint));
    }
}

/// The model's queue is full, of others' requests: waits for room where nobody else has to.
void Batcher::Shared::wait_in_line(Ref<Batch> batch, JointTensors joint) {
    std::call_once(line_made, [&] {
        line = std::make_unique<ThreadPool>(
            ThreadPool::Options{.threads = 1, .max_queue = options.max_in_flight, .name = "trtlab-in-line"});
    });
    Batch::Stay stay(*batch);
    line->post([stay = std::move(stay), self = shared_from_this(), batch = std::move(batch), joint = std::move(joint)] {
        const Gate::Completion running = stay.here();
        try {
            self->hand_over(batch, joint, self->options.queue_timeout.value());
        } catch (...) {
            batch->fail(std::current_exception());
        }
    });
}

/// Gives the batch to the model, which ends it from then on; if this throws it did not get it.
void Batcher::Shared::hand_over(Ref<Batch> batch, const JointTensors& joint, const WaitOptions& wait) {
    const auto& first = static_cast<const Request&>(*batch->items().front());
    const Future<Tensors> future = model->infer(joint ? joint.view() : first.inputs, wait);
    const auto launched = Clock::now();
    for (DispatchItem* item : batch->items()) {
        auto& request = static_cast<Request&>(*item);
        request.times.launched = launched;
        request.expect_within(future.state()->expected_within());
    }
    // The future runs its callbacks itself, and so outlives them: no share in it, which would be a cycle.
    const FutureState<Tensors>* const state = future.state().get();
    try {
        future.on_ready([self = shared_from_this(), batch, state] { self->answered(*state, *batch); });
    } catch (...) {
        future.cancel();
        throw;
    }
}

/// The requests' rows, one behind the other.
JointTensors Batcher::Shared::join(std::span<DispatchItem* const> items, std::size_t rows) {
    JointTensors joint(joints->take());
    const auto& first = static_cast<const Request&>(*items.front());
    for (std::size_t i = 0; i < spec->inputs.size(); ++i) {
        (*joint).begin(spec->inputs[i].dtype, first.common[i], rows);
        for (const DispatchItem* item : items) {
            (*joint).append(static_cast<const Request&>(*item).inputs[i], padding.filling(i));
        }
    }
    return joint;
}

/// Why the outputs can't be split; empty if they can.
std::string Batcher::Shared::misfit(const Tensors& outputs, std::size_t rows) const {
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        const Shape& shape = outputs[i].shape();
        if (shape.rank() > 0 && shape[0] == static_cast<std::int64_t>(rows)) continue;
        return who(*spec) + ", output '" + spec->outputs[i].name + "': a batch of " + std::to_string(rows) +
               " rows was answered with shape " + shape.to_string() +
               ", which can't be split: expected as many rows; use the model without a Batcher";
    }
    return {};
}

void Batcher::Shared::answered(const FutureState<Tensors>& state, Batch& batch) {
    if (state.error()) {
        batch.fail(state.error());
        return;
    }
    const auto executed = Clock::now();
    const Tensors& outputs = state.value();
    const bool whole = batch.items().size() == 1;
    if (!whole) {
        const std::string misfit = this->misfit(outputs, batch.rows());
        if (!misfit.empty()) {
            batch.fail(std::make_exception_ptr(EngineError(misfit)), Batch::Isolate::no);
            return;
        }
    }
    batch.succeed([&](DispatchItem& item, std::size_t first_row) {
        static_cast<Request&>(item).answer_with(outputs, whole, first_row, executed);
    });
}

// --- the model ----------------------------------------------------------------------------------------------------

Batcher::Batcher(std::shared_ptr<Model> model, const Options& options)
    : shared_(std::make_shared<Shared>(std::move(model), options)),
      dispatcher_(dispatcher_options(*shared_->spec, shared_->options),
                  [shared = shared_](Ref<Batch> batch) { shared->run(std::move(batch)); }) {}

Batcher::~Batcher() {
    if (!dispatcher_.end()) return;
    // Threads that were the last to do something for a batch may have a share of what it shares for a moment longer. The
    // model must not outlive this for it: its owner may be waiting to end what it uses.
    shared_->line.reset();
    shared_->model.reset();
}

const std::shared_ptr<const ModelSpec>& Batcher::shared_spec() const noexcept { return shared_->spec; }
const std::shared_ptr<Model>& Batcher::model() const noexcept { return shared_->model; }
const Batcher::Options& Batcher::options() const noexcept { return shared_->options; }

Future<Tensors> Batcher::infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>& queue_wait) {
    return submit(inputs, {.queue_wait = queue_wait});
}

Future<Tensors> Batcher::submit(std::span<const Tensor> inputs, const RequestOptions& options) {
    const auto asked = Clock::now();
    check_inputs(*shared_->spec, inputs);
    if (options.priority >= shared_->options.priorities) {
        throw InvalidArgument(who(*shared_->spec) + ": priority " + std::to_string(options.priority) +
                              " was asked for, there are 0 to " + std::to_string(shared_->options.priorities - 1) +
                              ", of which 0 comes first");
    }
    const std::optional<std::chrono::nanoseconds> deadline =
        options.deadline ? options.deadline : shared_->options.deadline;
    WaitOptions wait = options.queue_wait.value_or(WaitOptions(*shared_->options.queue_timeout));
    if (deadline) wait.timeout = std::min(wait.timeout, std::max(std::chrono::nanoseconds(0), *deadline));

    Ref<Request> request = shared_->requests->take();
    request->inputs.assign(inputs.begin(), inputs.end());
    request->prepare(shared_);
    request->times.asked = asked;
    request->priority = options.priority;
    request->deadline = BatchItem::kNever;
    if (deadline && *deadline < BatchItem::kNever - asked) request->deadline = asked + *deadline;
    request->add_ref();  // the dispatcher's, until `leave`
    std::exception_ptr interrupted;
    try {
        interrupted = dispatcher_.add(*request, wait);
    } catch (...) {
        request->leave();
        throw;
    }
    if (interrupted) {
        request->cancel();
        std::rethrow_exception(interrupted);
    }
    return Future<Tensors>(std::move(request));
}

void Batcher::close(Pending pending) {
    const std::shared_ptr<Shared> shared = shared_;
    if (pending == Pending::cancel) {
        dispatcher_.shut(pending);
        shared->model->close(pending);  // first: what waits in the model's queue must not be waited for
    }
    dispatcher_.close(pending);
    shared->model->close(pending);
}

bool Batcher::closed() const noexcept { return dispatcher_.closed() || shared_->model->closed(); }
std::chrono::nanoseconds Batcher::queue_timeout() const noexcept { return *shared_->options.queue_timeout; }
ModelStats Batcher::stats() const noexcept { return shared_->stats.read(); }

std::vector<std::pair<std::string, std::uint64_t>> Batcher::counters() const {
    const Dispatcher::Stats stats = dispatcher_.stats();
    std::vector<std::pair<std::string, std::uint64_t>> all{{"batches", stats.batches},
                                                           {"batched_requests", stats.items},
                                                           {"expired", stats.expired},
                                                           {"isolated", stats.isolated},
                                                           {"overloaded", stats.overloaded}};
    std::size_t used = stats.rows_histogram.size();
    while (used > 0 && stats.rows_histogram[used - 1] == 0) --used;
    for (std::size_t i = 0; i < used; ++i) {
        const std::size_t most = std::size_t{1} << i;
        const std::string range =
            i < 2 ? std::to_string(most) : std::to_string(most / 2 + 1) + "_to_" + std::to_string(most);
        all.emplace_back("batches_of_" + range, stats.rows_histogram[i]);
    }
    for (auto& count : shared_->model->counters()) all.push_back(std::move(count));
    return all;
}

std::vector<MemoryUse> Batcher::memory() const {
    std::vector<MemoryUse> all = shared_->model->memory();
    const std::size_t bytes = shared_->joint_bytes->load(std::memory_order_relaxed);
    if (bytes > 0) all.push_back({shared_->spec->name, "inputs joined to batches", {}, bytes});
    return all;
}

void Batcher::prefetch() { shared_->model->prefetch(); }
void Batcher::evict() { shared_->model->evict(); }

}  // namespace trtlab::core
