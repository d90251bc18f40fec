#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/model.hpp"

namespace trtlab::core {

/// Named models that share an `ExecutionBudget` for every device that they execute on.
///
/// Owns: the budgets, and the registry's shares of the models; handles that callers keep stay valid after `unload` and
/// answer Closed.
/// Threads: all members may be called from any thread. No lock is held while a model is loaded, closed or asked.
class [[gnu::visibility("default")]] InferenceManager {
public:
    /// Makes the model called `name` within the budgets of `manager`: `manager.budget("cuda:1")`.
    using Loader = std::function<std::shared_ptr<Model>(const std::string& name, InferenceManager& manager)>;

    /// `limits` are those of each device. Throws InvalidArgument as ExecutionBudget does.
    explicit InferenceManager(const ExecutionBudget::Options& limits = {});
    InferenceManager(const InferenceManager&) = delete;
    InferenceManager& operator=(const InferenceManager&) = delete;
    /// Closes, draining.
    ~InferenceManager();

    /// What the models on `device` ("cpu", "cuda:0", ...: see `Device::to_string`) share; made when it is first asked
    /// for. Throws InvalidArgument if the name is empty.
    std::shared_ptr<ExecutionBudget> budget(const std::string& device = "cpu");
    /// The limits of each device's budget.
    const ExecutionBudget::Options& limits() const noexcept { return limits_; }
    /// By device, of the budgets that were asked for.
    std::map<std::string, ExecutionBudget::Stats> budget_stats() const;

    /// Registers a model that exists. Throws InvalidArgument if the name is taken or empty, Closed.
    std::shared_ptr<Model> register_model(const std::string& name, std::shared_ptr<Model> model);

    /// Reserves `name`, then runs `loader` on this thread; if it throws, the name is free again.
    std::shared_ptr<Model> load(const std::string& name, const Loader& loader);

    /// Throws NotFound, listing the names there are; Closed.
    std::shared_ptr<Model> model(std::string_view name) const;
    std::vector<std::string> names() const;

    /// Who holds how much memory of what: every model for itself, and every budget for the models that share it. Sorted
    /// by owner. A model with two names is there once.
    std::vector<MemoryUse> memory_report() const;

    /// Takes the model out of the registry and closes it, letting what was accepted finish. Throws NotFound,
    /// Closed.
    void unload(const std::string& name, Pending pending = Pending::drain);

    /// Closes every model and refuses new ones. Idempotent.
    void close(Pending pending = Pending::drain);
    bool closed() const;

private:
    const ForkGuard fork_;
    const ExecutionBudget::Options limits_;
    mutable std::mutex budgets_mutex_;
    std::map<std::string, std::shared_ptr<ExecutionBudget>> budgets_;
    mutable std::shared_mutex mutex_;
    std::map<std::string, std::shared_ptr<Model>, std::less<>> models_;  // a null model is a name being loaded
    bool closed_ = false;
};

}  // namespace trtlab::core
