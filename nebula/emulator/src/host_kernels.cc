#include "host_kernels.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "stub.h"
#include "table.h"

#include "paddle/phi/core/compat/convert_utils.h"
#include "paddle/phi/core/kernel_factory.h"

namespace emulator {
namespace {

struct Candidate {
  phi::KernelKeyMap* keys;
  std::string name;
  phi::KernelKey key;
  phi::Kernel cpu;  // a copy: inserting moves what the map holds
};

// Transfers and collectives keep Paddle's own way; what is listed in `local` only sounds like one.
bool is_transfer(const std::string& name) {
  static const char* const local[] = {"c_embedding", "c_embedding_grad"};
  for (auto* other : local)
    if (name == other) return false;
  static const char* const prefixes[] = {
      "memcpy", "copy_to", "c_",    "all_gather", "all_reduce", "all_to_all", "broadcast_", "p_recv",
      "p_send", "reduce_scatter", "partial_", "send_", "recv_", "mp_allreduce", "feed",      "fetch",
      "print",  "data",    "sync_", "load_",      "save_",      "global_",    "dist_concat", "barrier",
      "shadow_"};
  for (auto* prefix : prefixes)
    if (name.compare(0, strlen(prefix), prefix) == 0) return true;
  return name == "broadcast" || name == "reduce";
}

std::vector<Candidate> candidates(phi::Backend backend) {
  std::vector<Candidate> found;
  for (auto& named : phi::KernelFactory::Instance().kernels()) {
    if (is_transfer(named.first)) continue;
    for (auto& [key, kernel] : named.second) {
      phi::KernelKey mine(backend, key.layout(), key.dtype());
      if (key.backend() == phi::Backend::CPU && !named.second.count(mine) &&
          kernel.GetKernelRegisteredType() == phi::KernelRegisteredType::FUNCTION)
        found.push_back({&named.second, named.first, mine, kernel});
    }
  }
  return found;
}

// The same kernel for the device: entered through a thunk, its tensors allowed on host and device.
phi::Kernel device_kernel(HostKernel* entry, unsigned char* thunk, phi::Backend backend) {
  write_thunk(thunk, entry);
  phi::Kernel kernel([entry](phi::KernelContext* context) { run_with_context(entry, context); }, thunk);
  *kernel.mutable_args_def() = entry->cpu->args_def();
  for (auto& input : kernel.mutable_args_def()->input_defs()) input.SetBackend(phi::Backend::ALL_BACKEND);
  for (auto& output : kernel.mutable_args_def()->output_defs())
    if (output.backend == phi::Backend::CPU) output.SetBackend(backend);
  return kernel;
}

}  // namespace

void register_host_kernels() {
  auto backend = phi::TransToPhiBackend(phi::CustomPlace("sim_npu", 0));
  auto found = candidates(backend);
  size_t bytes = (found.size() * kThunkBytes + 4095) & ~size_t{4095};
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    say("no memory for the kernels of the emulated device");
    return;
  }
  auto* next = static_cast<unsigned char*>(memory);
  for (auto& candidate : found) {
    auto* entry = new HostKernel;
    entry->name = candidate.name;
    entry->cpu = new phi::Kernel(candidate.cpu);
    entry->function = reinterpret_cast<void*>(candidate.cpu.GetVariadicKernelFn<void (*)()>());
    entry->rule = rule_for(candidate.name);
    // a view, whatever its name; but a reshape that strides do not allow has to copy
    if (candidate.key.layout() == phi::DataLayout::STRIDED && entry->rule.form != Form::FreeIfShared)
      entry->rule.form = Form::Free;
    if (!entry->function || !lay_out(candidate.cpu.args_def(), entry)) {
      delete entry->cpu;  // Paddle's fall-back to the CPU serves it
      delete entry;
      continue;
    }
    (*candidate.keys)[candidate.key] = device_kernel(entry, next, backend);
    next += kThunkBytes;
  }
  mprotect(memory, bytes, PROT_READ | PROT_EXEC);
}

}  // namespace emulator
