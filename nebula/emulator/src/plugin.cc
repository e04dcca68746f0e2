// Which functions make up the device? Paddle loads the library, calls InitPlugin and then these.
#include <cstring>
#include <mutex>

#include "clock.h"
#include "collectives.h"
#include "exports.h"
#include "host_kernels.h"
#include "memory.h"
#include "table.h"

#include "paddle/phi/backends/device_ext.h"

namespace emulator {
namespace {

thread_local int t_device = 0;

C_Status done() { return C_SUCCESS; }
C_Status done_with(const C_Device) { return C_SUCCESS; }

// Kernels are registered here and not in init_device: Paddle calls that one inside a kernel launch, where a grown
// kernel map would move under its feet.
C_Status set_device(const C_Device device) {
  static std::once_flag once;
  std::call_once(once, register_host_kernels);
  t_device = device->id;
  return C_SUCCESS;
}
C_Status get_device(const C_Device device) {
  device->id = t_device;
  return C_SUCCESS;
}
C_Status device_count(size_t* count) {
  *count = Table::get().devices().size();
  return C_SUCCESS;
}
C_Status device_list(size_t* list) {
  for (size_t i = 0; i < Table::get().devices().size(); ++i) list[i] = i;
  return C_SUCCESS;
}
C_Status version(const C_Device, size_t* value) {
  *value = 1;
  return C_SUCCESS;
}
C_Status capability(const C_Device, size_t* value) {
  *value = 0;
  return C_SUCCESS;
}
C_Status yes(const C_Device, bool* value) {
  *value = true;
  return C_SUCCESS;
}

void fill_devices(C_DeviceInterface* interface) {
  interface->initialize = done;
  interface->finalize = done;
  interface->init_device = done_with;
  interface->deinit_device = done_with;
  interface->set_device = set_device;
  interface->get_device = get_device;
  interface->get_device_count = device_count;
  interface->get_device_list = device_list;
  interface->get_compute_capability = capability;
  interface->get_runtime_version = version;
  interface->get_driver_version = version;
  interface->is_float16_supported = yes;
  interface->is_bfloat16_supported = yes;
}

}  // namespace
}  // namespace emulator

EXPORT void InitPlugin(CustomRuntimeParams* params) {
  if (emulator::Table::get().plain()) return;
  PADDLE_CUSTOM_RUNTIME_CHECK_VERSION(params);
  params->device_type = const_cast<char*>("sim_npu");
  params->sub_device_type = const_cast<char*>("nebula");
  auto* interface = params->interface;
  memset(interface, 0, sizeof *interface);
  interface->size = sizeof *interface;
  emulator::fill_devices(interface);
  emulator::fill_streams(interface);
  emulator::fill_memory(interface);
  emulator::fill_collectives(interface);
}
