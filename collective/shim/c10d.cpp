// A C face on libtorch's c10d: TCPStore, ProcessGroup over Gloo, the DDP Reducer, and a differentiable all-reduce.
// Handles are leaked intrusive_ptrs: made by *_new, given back by *_free, borrowed by everything else.
#include <unistd.h>

#include "cuda.h"
#include "guard.h"
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <algorithm>

using namespace c10d;
using morph::guard;
using ms = std::chrono::milliseconds;

namespace morph {
std::string& last_error() {
  static thread_local std::string text;
  return text;
}
} // namespace morph

namespace {
template <class T>
void* leak(c10::intrusive_ptr<T> p) { return p.release(); }
template <class T>
c10::intrusive_ptr<T> borrow(void* p) { return c10::intrusive_ptr<T>::unsafe_reclaim_from_nonowning(static_cast<T*>(p)); }
template <class T>
void drop(void* p) { c10::intrusive_ptr<T>::reclaim(static_cast<T*>(p)); }

std::vector<at::Tensor> tensors(void** t, size_t n) {
  std::vector<at::Tensor> v;
  v.reserve(n);
  for (size_t i = 0; i < n; i++) v.push_back(*static_cast<at::Tensor*>(t[i]));
  return v;
}

void sum_in_place(const c10::intrusive_ptr<ProcessGroup>& group, at::Tensor t) {
  std::vector<at::Tensor> v{std::move(t)};
  AllreduceOptions options;
  options.reduceOp = ReduceOp(ReduceOp::SUM);
  group->allreduce(v, options)->wait();
}

// y = sum over ranks of x; dL/dx = sum over ranks of dL/dy.
struct AllReduceSum : torch::autograd::Function<AllReduceSum> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const c10::intrusive_ptr<ProcessGroup>& group) {
    ctx->saved_data["group"] = c10::IValue::make_capsule(group);
    auto y = x.contiguous().clone();
    sum_in_place(group, y);
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list grads) {
    auto group = c10::static_intrusive_pointer_cast<ProcessGroup>(ctx->saved_data["group"].toCapsule());
    auto g = grads[0].contiguous().clone();
    sum_in_place(group, g);
    return {g, at::Tensor()};
  }
};
// rebuild_buckets() is never called (the layout must not depend on the process's life), and it was the one to refuse a new
// step after one whose buckets did not all fill, and to empty the list of gradients in the order in which they came. So both
// are done here: else ranks would part silently, and the list would grow with every step.
struct FixedReducer : Reducer {
  using Reducer::Reducer;
  void finished() { ensure_prior_reduction_finished(); }
  void begin() {
    finished();
    rebuilt_params_.clear();
    rebuilt_param_indices_.clear();
    prepare_for_forward();
  }
};
// The reducer writes to its logger without asking whether there is one.
struct Ddp {
  std::shared_ptr<FixedReducer> reducer;
  std::shared_ptr<Logger> logger;
};
} // namespace

extern "C" {
// Ends the process without atexit handlers: other threads may be deep in libtorch, whose statics they would pull away.
[[noreturn]] void morph_exit(int code) { _exit(code); }

const char* morph_last_error(void) { return morph::last_error().c_str(); }

int morph_store_new(const char* host, uint16_t port, int server, int64_t world, int64_t timeout_ms, void** out, uint16_t* bound) {
  return guard([&] {
    TCPStoreOptions options;
    options.port = port;
    options.isServer = server;
    options.numWorkers = world;
    options.waitWorkers = false;
    options.timeout = ms(timeout_ms);
    auto store = c10::make_intrusive<TCPStore>(host, options);
    *bound = store->getPort();
    *out = leak<Store>(std::move(store));
  });
}
void morph_store_free(void* store) { guard([&] { drop<Store>(store); }); }

// CPU tensors go over Gloo. CUDA tensors go over NCCL, where there is a backend of it for this group (taken over), else over Gloo too,
// by way of main memory.
int morph_group_new(void* store, const char* name, int rank, int world, int64_t timeout_ms, const char* host, int device, void** out) {
  return guard([&] {
    auto options = ProcessGroupGloo::Options::create(ms(timeout_ms));
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname(host, false));
    c10::intrusive_ptr<Store> prefixed = c10::make_intrusive<PrefixStore>(name, borrow<Store>(store));
    c10::intrusive_ptr<Backend> gloo = c10::make_intrusive<ProcessGroupGloo>(prefixed, rank, world, options);
    auto group = c10::make_intrusive<ProcessGroup>(prefixed, rank, world);
    group->setDefaultBackend(ProcessGroup::GLOO);
    group->setBackend(c10::DeviceType::CPU, ProcessGroup::GLOO, gloo);
    if (device < 0) {
      group->setBackend(c10::DeviceType::CUDA, ProcessGroup::GLOO, gloo);
    } else {
      void* raw = morph::nccl_backend(store, name, rank, world, timeout_ms, device);
      group->setBackend(c10::DeviceType::CUDA, ProcessGroup::NCCL, c10::intrusive_ptr<Backend>::reclaim(static_cast<Backend*>(raw)));
    }
    group->setGroupName(name);
    group->setGroupDesc(name);
    *out = leak(std::move(group));
  });
}
void morph_group_free(void* group) { guard([&] { drop<ProcessGroup>(group); }); }

int morph_all_reduce_sum(void* group, void** t, size_t n) {
  return guard([&] {
    auto g = borrow<ProcessGroup>(group);
    for (auto& x : tensors(t, n)) sum_in_place(g, x.detach());
  });
}
int morph_all_reduce_sum_autograd(void* group, void* x, void** out) {
  return guard([&] { *out = new at::Tensor(AllReduceSum::apply(*static_cast<at::Tensor*>(x), borrow<ProcessGroup>(group))); });
}
int morph_broadcast(void* group, void** t, size_t n, int root) {
  return guard([&] {
    auto g = borrow<ProcessGroup>(group);
    for (auto& x : tensors(t, n)) {
      std::vector<at::Tensor> v{x.detach()};
      BroadcastOptions options;
      options.rootRank = root;
      g->broadcast(v, options)->wait();
    }
  });
}
int morph_barrier(void* group) { return guard([&] { borrow<ProcessGroup>(group)->barrier(BarrierOptions())->wait(); }); }

int morph_reducer_new(void* group, void** params, size_t n, int64_t first_bytes, int64_t bytes, int find_unused, void** out) {
  return guard([&] {
    auto p = tensors(params, n);
    std::vector<bool> sparse(n, false);
    auto [buckets, limits] = compute_bucket_assignment_by_size(p, {(size_t)first_bytes, (size_t)bytes}, sparse, {}, {});
    std::reverse(buckets.begin(), buckets.end());
    auto g = borrow<ProcessGroup>(group);
    verify_params_across_processes(g, p, {});
    std::unordered_map<size_t, std::string> names;
    for (size_t i = 0; i < n; i++) names[i] = "p" + std::to_string(i);
    auto reducer = std::make_shared<FixedReducer>(
        p, buckets, g, sparse, bytes, find_unused, /*gradient_as_bucket_view=*/false, names, first_bytes,
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
    auto logger = std::make_shared<Logger>(reducer);
    reducer->set_logger(logger);
    *out = new Ddp{std::move(reducer), std::move(logger)};
  });
}
void morph_reducer_free(void* r) { guard([&] { delete static_cast<Ddp*>(r); }); }
int morph_reducer_before_forward(void* r) { return guard([&] { static_cast<Ddp*>(r)->reducer->begin(); }); }
int morph_reducer_before_backward(void* r, void** outputs, size_t n) {
  return guard([&] { static_cast<Ddp*>(r)->reducer->prepare_for_backward(tensors(outputs, n)); });
}
int morph_reducer_finished(void* r) { return guard([&] { static_cast<Ddp*>(r)->reducer->finished(); }); }

void morph_sizes(size_t* out) {
  out[0] = sizeof(ProcessGroupGloo);
  out[1] = sizeof(Reducer);
  out[2] = sizeof(TCPStore);
  out[3] = sizeof(ProcessGroup);
}
}
