// What needs libtorch's CUDA half: the NCCL backend of a process group. A shared object of its own, which is loaded after that
// half was: the binary itself must start where there is none.
#define USE_C10D_NCCL 1
#include <ATen/cuda/CUDAContext.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <cstring>

using namespace c10d;

static_assert(sizeof(ProcessGroupNCCL) == 0x458 && sizeof(ProcessGroupNCCL::Options) == 0xf8, "not the libtorch that this is written for");

#define EXPORT extern "C" __attribute__((visibility("default")))

// The 16 bytes that tell this GPU from all others. Throws.
EXPORT void morph_nccl_uuid(int device, unsigned char* out) { std::memcpy(out, &at::cuda::getDeviceProperties(device)->uuid, 16); }

// A `c10d::Backend*`, owned by the caller. Throws.
EXPORT void* morph_nccl_backend(void* store, const char* name, int rank, int world, int64_t timeout_ms, int device) {
  auto options = ProcessGroupNCCL::Options::create();
  options->timeout = std::chrono::milliseconds(timeout_ms);
  options->group_name = name;
  auto inner = c10::intrusive_ptr<Store>::unsafe_reclaim_from_nonowning(static_cast<Store*>(store));
  // Beside Gloo's keys under the same name.
  c10::intrusive_ptr<Store> prefixed = c10::make_intrusive<PrefixStore>(std::string(name) + "/nccl", inner);
  c10::intrusive_ptr<Backend> backend = c10::make_intrusive<ProcessGroupNCCL>(prefixed, rank, world, options);
  backend->setBoundDeviceId(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
  return backend.release();
}
