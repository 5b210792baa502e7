// What tch does not expose of libtorch itself.
#include "guard.h"
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <torch/csrc/autograd/grad_mode.h>

using morph::guard;

extern "C" {
int morph_rng_get(void** out) {
  return guard([&] {
    auto g = at::detail::getDefaultCPUGenerator();
    std::lock_guard<std::mutex> lock(g.mutex());
    *out = new at::Tensor(g.get_state());
  });
}
int morph_rng_set(void* state) {
  return guard([&] {
    auto g = at::detail::getDefaultCPUGenerator();
    std::lock_guard<std::mutex> lock(g.mutex());
    g.set_state(*static_cast<at::Tensor*>(state));
  });
}
int morph_set_deterministic(int all) {
  return guard([&] {
    at::globalContext().setDeterministicAlgorithms(all, /*warn_only=*/false);
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setBenchmarkCuDNN(false);
    // Filling fresh memory guards against reading it, at a cost that every step would pay; nothing here reads it.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}
int morph_flush_denormal(int on) { return guard([&] { at::globalContext().setFlushDenormal(on); }); }
}
