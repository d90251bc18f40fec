#include "trtlab/core/replicas.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <mutex>
#include <set>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

constexpr std::uint64_t bit(std::size_t index) noexcept { return std::uint64_t{1} << index; }

std::string quoted(const std::string& name) { return "'" + name + "'"; }

/// "model 'm', replica 1 ('m on cuda:1')"
std::string place(const std::string& name, std::size_t index, const Model& model) {
    return "model " + quoted(name) + ", replica " + std::to_string(index) + " (" + quoted(model.spec().name) + ")";
}

[[noreturn]] void refuse_pair(const std::string& name, std::size_t index, const Model& model, const Model& first,
                              const char* direction, const std::string& its, const std::string& firsts) {
    throw InvalidArgument(place(name, index, model) + ": its " + direction + " " + its +
                          " does not go with that of replica 0 (" + quoted(first.spec().name) + "), " + firsts +
                          "; replicas are the same model");
}

std::string list(const std::vector<TensorSpec>& specs) {
    std::string text;
    for (const TensorSpec& spec : specs) text += (text.empty() ? "" : ", ") + quoted(spec.name);
    return text.empty() ? "none" : text;
}

/// Makes `joint`, which holds the extents of the replicas before `index`, those that `its` have as well (inputs: what all
/// accept) or too (outputs: what any may answer).
void join(std::vector<TensorSpec>& joint, const std::vector<TensorSpec>& its, const std::string& name,
          std::size_t index, const Model& model, const Model& first, bool input) {
    const char* direction = input ? "input" : "output";
    if (its.size() != joint.size()) {
        refuse_pair(name, index, model, first, input ? "inputs:" : "outputs:", list(its), list(joint));
    }
    for (std::size_t i = 0; i < its.size(); ++i) {
        const auto refuse = [&] {
            refuse_pair(name, index, model, first, direction, quoted(its[i].name) + " " + its[i].to_string(),
                        quoted(joint[i].name) + " " + joint[i].to_string());
        };
        if (its[i].name != joint[i].name || its[i].dtype != joint[i].dtype || its[i].any_rank != joint[i].any_rank ||
            its[i].shape.size() != joint[i].shape.size()) {
            refuse();
        }
        for (std::size_t axis = 0; axis < its[i].shape.size(); ++axis) {
            const Dimension& other = its[i].shape[axis];
            Dimension& dimension = joint[i].shape[axis];
            if (!input) {
                dimension = {std::min(dimension.min, other.min), std::max(dimension.max, other.max)};
                continue;
            }
            if (std::max(dimension.min, other.min) > std::min(dimension.max, other.max)) refuse();
            dimension = {std::max(dimension.min, other.min), std::min(dimension.max, other.max)};
        }
    }
}

std::shared_ptr<const ModelSpec> joined(const std::string& name, const std::vector<std::shared_ptr<Model>>& models) {
    if (models.empty() || models.size() > Replicas::kMaxReplicas) {
        throw InvalidArgument("model " + quoted(name) + ": expected 1 to " + std::to_string(Replicas::kMaxReplicas) +
                              " replicas, got " + std::to_string(models.size()));
    }
    for (std::size_t i = 0; i < models.size(); ++i) {
        const auto before = models.begin() + static_cast<std::ptrdiff_t>(i);
        if (!models[i]) throw InvalidArgument("model " + quoted(name) + ": replica " + std::to_string(i) + " is null");
        if (std::find(models.begin(), before, models[i]) != before) {
            throw InvalidArgument(place(name, i, *models[i]) + " is given twice");
        }
    }
    const Model& first = *models[0];
    ModelSpec joint = first.spec();
    joint.name = name;
    std::set<std::int32_t> gpus(joint.cuda_devices.begin(), joint.cuda_devices.end());
    for (std::size_t i = 1; i < models.size(); ++i) {
        const ModelSpec& its = models[i]->spec();
        join(joint.inputs, its.inputs, name, i, *models[i], first, true);
        join(joint.outputs, its.outputs, name, i, *models[i], first, false);
        if (joint.platform.find(its.platform) == std::string::npos) joint.platform += "+" + its.platform;
        joint.max_batch_size = std::min(joint.max_batch_size, its.max_batch_size);
        gpus.insert(its.cuda_devices.begin(), its.cuda_devices.end());
    }
    joint.cuda_devices.assign(gpus.begin(), gpus.end());
    joint.validate();
    return std::make_shared<const ModelSpec>(std::move(joint));
}

bool lost(const std::exception_ptr& error) noexcept {
    try {
        std::rethrow_exception(error);
    } catch (const CudaError& cuda) {
        return cuda.device_lost();
    } catch (...) {
        return false;
    }
}

/// Does `f` to every item, and throws the first error afterwards.
template <class Items, class F>
void for_all(const Items& items, F&& f) {
    std::exception_ptr first;
    for (const auto& item : items) {
        try {
            f(item);
        } catch (...) {
            if (!first) first = std::current_exception();
        }
    }
    if (first) std::rethrow_exception(first);
}

}  // namespace

struct Replicas::Load {
    std::atomic<std::size_t> outstanding{0};
    std::atomic<bool> out{false};
    std::exception_ptr why;  // under Shared's mutex; written once, before `out`
};

struct Replicas::Shared {
    explicit Shared(std::size_t count) : loads(count) { outs.reserve(count); }

    /// From now on the replica gets no requests.
    void take_out(std::size_t index, const std::exception_ptr& why) noexcept {
        {
            std::lock_guard lock(mutex);
            if (loads[index].out.load(std::memory_order_relaxed)) return;
            loads[index].why = why;
            outs.push_back(index);
            loads[index].out.store(true, std::memory_order_relaxed);  // a hint: the mutex orders what goes with it
        }
        try {
            std::rethrow_exception(why);
        } catch (const CudaError&) {
            log_current_exception("a replica is out of use");
        } catch (...) {
            // Closed, by somebody who knows it.
        }
    }

    /// What took the last of `candidates` out; null if none of them is out.
    std::exception_ptr last_error(std::uint64_t candidates) {
        std::lock_guard lock(mutex);
        for (auto index = outs.rbegin(); index != outs.rend(); ++index) {
            if ((candidates & bit(*index)) != 0) return loads[*index].why;
        }
        return nullptr;
    }

    std::vector<Load> loads;
    std::atomic<std::size_t> turn{0};
    std::atomic<std::uint64_t> failovers{0};
    std::atomic<bool> closed{false};
    std::mutex mutex;
    std::vector<std::size_t> outs;  // in the order in which they went
};

/// One request that a replica was given: counted as long as this lives. Called when the future is done.
class Replicas::Outstanding {
public:
    Outstanding(std::shared_ptr<Shared> shared, std::size_t index) noexcept
        : shared_(std::move(shared)), index_(index) {}
    Outstanding(Outstanding&&) noexcept = default;
    Outstanding& operator=(Outstanding&&) = delete;
    ~Outstanding() {
        // Only a measure of load: what the answer holds is ordered by its future.
        if (shared_) shared_->loads[index_].outstanding.fetch_sub(1, std::memory_order_relaxed);
    }

    /// The future runs its callbacks itself, and so outlives them: no share in it, which would be a cycle.
    void watch(const FutureStateBase& future) noexcept { future_ = &future; }
    void operator()() const noexcept {
        if (future_->error() && !future_->cancelled() && lost(future_->error()))
            shared_->take_out(index_, future_->error());
    }

private:
    std::shared_ptr<Shared> shared_;
    std::size_t index_;
    const FutureStateBase* future_ = nullptr;
};

Replicas::Replicas(const std::string& name, std::vector<std::shared_ptr<Model>> models)
    : spec_(joined(name, models)), models_(std::move(models)), shared_(std::make_shared<Shared>(models_.size())) {}

Replicas::~Replicas() = default;

// --- a request's way ----------------------------------------------------------------------------------------------

Future<Tensors> Replicas::infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>& queue_wait) {
    check_open();
    check_inputs(*spec_, inputs);
    const std::uint64_t readers = readers_of(inputs);
    const WaitOptions wait = queue_wait.value_or(WaitOptions(queue_timeout()));
    std::exception_ptr refusal;
    if (!std::has_single_bit(readers)) {
        const WaitOptions at_once(std::chrono::nanoseconds(0), wait.on_signal);
        std::uint64_t untried = readers;
        while (const auto index = claim(untried)) {
            if (auto future = attempt(*index, inputs, at_once, refusal)) return *std::move(future);
            untried &= ~bit(*index);
        }
    }
    using Clock = std::chrono::steady_clock;
    const bool for_ever = wait.timeout == kForever;
    const Clock::time_point begin = Clock::now();
    // A replica that goes out of use while it is waited for leaves the rest of the time to the others.
    while (const auto index = claim(readers)) {
        const auto left = for_ever ? kForever : wait.timeout - (Clock::now() - begin);
        if (auto future = attempt(*index, inputs, WaitOptions(left, wait.on_signal), refusal))
            return *std::move(future);
        if (!shared_->loads[*index].out.load(std::memory_order_relaxed)) std::rethrow_exception(refusal);
    }
    check_open();
    std::rethrow_exception(shared_->last_error(readers));
}

void Replicas::check_open() const {
    if (shared_->closed.load(std::memory_order_acquire)) {  // pairs with close
        throw Closed("model " + quoted(spec_->name) + " is closed: it takes no more requests; load it again");
    }
}

/// The replicas that can read the memory of all inputs.
std::uint64_t Replicas::readers_of(std::span<const Tensor> inputs) const {
    const std::uint64_t all = ~std::uint64_t{0} >> (kMaxReplicas - models_.size());
    std::uint64_t readers = all;
    for (const Tensor& input : inputs) {
        if (input.device().host_accessible()) continue;
        for (std::size_t i = 0; i < models_.size(); ++i) {
            const std::vector<std::int32_t>& gpus = models_[i]->spec().cuda_devices;
            if (std::find(gpus.begin(), gpus.end(), input.device().index) == gpus.end()) readers &= ~bit(i);
        }
    }
    if (readers != 0) return readers;
    std::string message = "model " + quoted(spec_->name) + ": no replica reads the memory of all inputs:";
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        message += (i == 0 ? " " : ", ") + quoted(spec_->inputs[i].name) + " on " + inputs[i].device().to_string();
    }
    throw InvalidArgument(message + "; bring them to one device, or to host memory");
}

/// Takes a place at the candidate that has the fewest requests outstanding; null if all are out of use.
std::optional<std::size_t> Replicas::claim(std::uint64_t candidates) noexcept {
    const std::size_t count = models_.size();
    // Where the search begins decides between equals, so each begins at the next.
    const std::size_t turn = shared_->turn.fetch_add(1, std::memory_order_relaxed);
    for (;;) {
        std::optional<std::size_t> best;
        std::size_t fewest = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t index = (turn + i) % count;
            const Load& load = shared_->loads[index];
            if ((candidates & bit(index)) == 0 || load.out.load(std::memory_order_relaxed)) continue;
            const std::size_t outstanding = load.outstanding.load(std::memory_order_relaxed);
            if (best && outstanding >= fewest) continue;
            best = index;
            fewest = outstanding;
        }
        // Who comes second of two at the same moment looks again, so that they do not go to the same replica.
        if (!best ||
            shared_->loads[*best].outstanding.compare_exchange_weak(fewest, fewest + 1, std::memory_order_relaxed)) {
            return best;
        }
    }
}

/// Asks the replica at which a place was claimed. Null with the reason in `refusal` if another one may be asked.
std::optional<Future<Tensors>> Replicas::attempt(std::size_t index, std::span<const Tensor> inputs,
                                                 const WaitOptions& wait, std::exception_ptr& refusal) {
    Outstanding outstanding(shared_, index);
    Future<Tensors> future;
    try {
        future = models_[index]->infer(inputs, wait);
    } catch (const Overloaded&) {
        refusal = std::current_exception();
        return std::nullopt;
    } catch (const Closed&) {
        refusal = std::current_exception();
        shared_->take_out(index, refusal);
        return std::nullopt;
    } catch (const CudaError& error) {
        if (!error.device_lost()) throw;
        refusal = std::current_exception();
        shared_->take_out(index, refusal);
        return std::nullopt;
    }
    if (refusal) shared_->failovers.fetch_add(1, std::memory_order_relaxed);
    outstanding.watch(*future.state());
    try {
        future.on_ready(std::move(outstanding));
    } catch (...) {
        future.cancel();
        throw;
    }
    return future;
}

// --- what is done to all of them ----------------------------------------------------------------------------------

void Replicas::close(Pending pending) {
    shared_->closed.store(true, std::memory_order_release);  // pairs with check_open
    for_all(models_, [&](const auto& model) { model->close(pending); });
}

bool Replicas::closed() const noexcept {
    return shared_->closed.load(std::memory_order_acquire) ||  // pairs with close
           std::all_of(models_.begin(), models_.end(), [](const auto& model) { return model->closed(); });
}

std::chrono::nanoseconds Replicas::queue_timeout() const noexcept {
    std::chrono::nanoseconds shortest = kForever;
    for (const auto& model : models_) shortest = std::min(shortest, model->queue_timeout());
    return shortest;
}

ModelStats Replicas::stats() const noexcept {
    ModelStats sum;
    for (const auto& model : models_) sum += model->stats();
    return sum;
}

std::vector<std::pair<std::string, std::uint64_t>> Replicas::counters() const {
    std::vector<std::pair<std::string, std::uint64_t>> all{
        {"replicas", models_.size()},
        {"healthy_replicas", healthy()},
        {"failovers", shared_->failovers.load(std::memory_order_relaxed)}};
    for (const auto& model : models_) {
        for (auto& [name, count] : model->counters()) {
            const auto known = std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.first == name; });
            if (known != all.end()) {
                known->second += count;
            } else {
                all.emplace_back(std::move(name), count);
            }
        }
    }
    return all;
}

std::vector<MemoryUse> Replicas::memory() const {
    std::vector<MemoryUse> all;
    for (const auto& model : models_) {
        for (MemoryUse& use : model->memory()) all.push_back(std::move(use));
    }
    return all;
}

bool Replicas::in_use(std::size_t index) const noexcept {
    return !shared_->loads[index].out.load(std::memory_order_relaxed) && !models_[index]->closed();
}

std::vector<std::shared_ptr<Model>> Replicas::models_in_use() const {
    std::vector<std::shared_ptr<Model>> in_use_now;
    for (std::size_t i = 0; i < models_.size(); ++i) {
        if (in_use(i)) in_use_now.push_back(models_[i]);
    }
    return in_use_now;
}

void Replicas::prefetch() {
    for_all(models_in_use(), [](const auto& model) { model->prefetch(); });
}

void Replicas::evict() {
    for_all(models_in_use(), [](const auto& model) { model->evict(); });
}

std::size_t Replicas::healthy() const noexcept {
    std::size_t count = 0;
    for (std::size_t i = 0; i < models_.size(); ++i) count += in_use(i) ? 1 : 0;
    return count;
}

std::size_t Replicas::outstanding(std::size_t index) const {
    if (index >= models_.size()) {
        throw InvalidArgument("model " + quoted(spec_->name) + " has " + std::to_string(models_.size()) +
                              " replicas, none at " + std::to_string(index));
    }
    return shared_->loads[index].outstanding.load(std::memory_order_relaxed);
}

}  // namespace trtlab::core
