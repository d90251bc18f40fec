#pragma once

#include <functional>
#include <map>
#include <memory>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/model.hpp"

namespace trtlab::core {

/// Named models that share one `ExecutionBudget`.
///
/// Owns: the registry's shares of the models; handles that callers keep stay valid after `unload` and answer Closed.
/// Threads: all members may be called from any thread. No lock is held while a model is loaded or closed.
class [[gnu::visibility("default")]] InferenceManager {
public:
    /// Makes the model called `name` within `budget`.
    using Loader =
        std::function<std::shared_ptr<Model>(const std::string& name, const std::shared_ptr<ExecutionBudget>& budget)>;

    explicit InferenceManager(const ExecutionBudget::Options& options = {});
    InferenceManager(const InferenceManager&) = delete;
    InferenceManager& operator=(const InferenceManager&) = delete;
    /// Closes, draining.
    ~InferenceManager();

    const std::shared_ptr<ExecutionBudget>& budget() const noexcept { return budget_; }

    /// Registers a model that exists. Throws InvalidArgument if the name is taken or empty, Closed.
    std::shared_ptr<Model> register_model(const std::string& name, std::shared_ptr<Model> model);

    /// Reserves `name`, then runs `loader` on this thread; if it throws, the name is free again.
    std::shared_ptr<Model> load(const std::string& name, const Loader& loader);

    /// Throws NotFound, listing the names there are; Closed.
    std::shared_ptr<Model> model(std::string_view name) const;
    std::vector<std::string> names() const;

    /// Takes the model out of the registry and closes it, letting what was accepted finish. Throws NotFound,
    /// Closed.
    void unload(const std::string& name, Pending pending = Pending::drain);

    /// Closes every model and refuses new ones. Idempotent.
    void close(Pending pending = Pending::drain);
    bool closed() const;

private:
    const ForkGuard fork_;
    const std::shared_ptr<ExecutionBudget> budget_;
    mutable std::shared_mutex mutex_;
    std::map<std::string, std::shared_ptr<Model>, std::less<>> models_;  // a null model is a name being loaded
    bool closed_ = false;
};

}  // namespace trtlab::core
