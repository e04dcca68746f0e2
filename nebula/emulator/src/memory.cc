#include "memory.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "clock.h"
#include "exports.h"
#include "log.h"
#include "table.h"

namespace emulator {
namespace {

constexpr size_t kAlignment = 512;

struct Account {
  std::atomic<size_t> used{0}, peak{0};
  std::mutex mutex;  // of what follows: the request that failed last, and how often in a row
  size_t asked = 0, held = 0;
  std::atomic<int> failures{0};
} g_accounts[64];

// Paddle asks again after it has freed what it keeps unused. Only when nothing was freed meanwhile is the device
// really full, and worth one line.
void refuse(int device, size_t asked, size_t held) {
  Account& account = g_accounts[device];
  std::lock_guard<std::mutex> lock(account.mutex);
  bool again = account.asked == asked && account.held == held;
  account.failures = again ? account.failures + 1 : 1;
  account.asked = asked;
  account.held = held;
  if (account.failures == 2)
    say("device sim_npu:%d is out of memory: asked for %zu bytes, uses %zu of its limit of %zu bytes", device, asked,
        held, Table::get().device(device).memory_bytes);
}

C_Status allocate(const C_Device device, void** address, size_t size) {
  Account& account = g_accounts[device->id];
  size_t limit = Table::get().device(device->id).memory_bytes;
  size_t now = account.used.fetch_add(size) + size;
  *address = nullptr;
  if (now > limit || posix_memalign(address, kAlignment, size ? size : 1) != 0) {
    account.used.fetch_sub(size);
    *address = nullptr;
    refuse(device->id, size, now - size);
    return C_SUCCESS;  // with a null address Paddle raises its own MemoryError; a failure would hide the reason
  }
  account.failures = 0;
  size_t peak = account.peak.load();
  while (now > peak && !account.peak.compare_exchange_weak(peak, now)) {
  }
  return C_SUCCESS;
}
C_Status release(const C_Device device, void* address, size_t size) {
  free(address);
  g_accounts[device->id].used.fetch_sub(size);
  return C_SUCCESS;
}
C_Status allocate_host(const C_Device, void** address, size_t size) {
  return posix_memalign(address, kAlignment, size ? size : 1) ? C_FAILED : C_SUCCESS;
}
C_Status release_host(const C_Device, void* address, size_t) {
  free(address);
  return C_SUCCESS;
}
C_Status stats(const C_Device device, size_t* total, size_t* left) {
  *total = Table::get().device(device->id).memory_bytes;
  *left = *total - std::min(*total, g_accounts[device->id].used.load());
  return C_SUCCESS;
}
C_Status chunk(const C_Device, size_t* size) {
  *size = kAlignment;
  return C_SUCCESS;
}

// Inside a device: each byte is written, and read if it is copied. Without a stream the host waits for all of them.
void charge_memory(const C_Device device, C_Stream stream, const char* name, double bytes) {
  const Device& d = Table::get().device(device->id);
  double seconds = slowed(d.kernel_s + bytes / d.memory_bytes_per_s);
  if (!stream) join_all();
  double start = run(stream, seconds);
  if (!stream) join(nullptr);
  record(kKernel, name, number(stream), start, start + seconds, bytes, 0);
}
C_Status set(const C_Device device, void* to, unsigned char value, size_t size) {
  memset(to, value, size);
  charge_memory(device, nullptr, "memset", static_cast<double>(size));
  return C_SUCCESS;
}
C_Status copy_async(const C_Device device, C_Stream stream, void* to, const void* from, size_t size) {
  memmove(to, from, size);
  charge_memory(device, stream, "copy", 2.0 * static_cast<double>(size));
  return C_SUCCESS;
}
C_Status copy(const C_Device device, void* to, const void* from, size_t size) {
  return copy_async(device, nullptr, to, from, size);
}
C_Status copy_peer(const C_Device to_device, const C_Device, void* to, const void* from, size_t size) {
  return copy(to_device, to, from, size);
}
C_Status copy_peer_async(const C_Device to_device, const C_Device, C_Stream stream, void* to, const void* from,
                         size_t size) {
  return copy_async(to_device, stream, to, from, size);
}

// Between host and device.
double host_copy_s(const C_Device device, size_t size) {
  return static_cast<double>(size) / Table::get().device(device->id).host_bytes_per_s;
}
// The host waits; a copy to the host first waits for all streams, since any of them may still write what it reads.
C_Status copy_now(const C_Device device, void* to, const void* from, size_t size, bool to_host) {
  memcpy(to, from, size);
  to_host ? join_all() : join(nullptr);
  double seconds = host_copy_s(device, size), start = work_on_host(seconds);
  record(kCopy, to_host ? "copy_to_host" : "copy_from_host", -1, start, start + seconds, static_cast<double>(size), 0);
  return C_SUCCESS;
}
C_Status copy_in(const C_Device device, void* to, const void* from, size_t size) {
  return copy_now(device, to, from, size, false);
}
C_Status copy_out(const C_Device device, void* to, const void* from, size_t size) {
  return copy_now(device, to, from, size, true);
}
C_Status copy_later(const C_Device device, C_Stream stream, void* to, const void* from, size_t size,
                    const char* name) {
  memcpy(to, from, size);
  double seconds = host_copy_s(device, size);
  double start = run(stream, seconds);
  record(kCopy, name, number(stream), start, start + seconds, static_cast<double>(size), 0);
  return C_SUCCESS;
}
C_Status copy_in_async(const C_Device device, C_Stream stream, void* to, const void* from, size_t size) {
  return copy_later(device, stream, to, from, size, "copy_from_host");
}
C_Status copy_out_async(const C_Device device, C_Stream stream, void* to, const void* from, size_t size) {
  return copy_later(device, stream, to, from, size, "copy_to_host");
}

}  // namespace

void fill_memory(C_DeviceInterface* interface) {
  interface->device_memory_allocate = allocate;
  interface->device_memory_deallocate = release;
  interface->unified_memory_allocate = allocate;
  interface->unified_memory_deallocate = release;
  interface->host_memory_allocate = allocate_host;
  interface->host_memory_deallocate = release_host;
  interface->device_memory_set = set;
  interface->memory_copy_h2d = copy_in;
  interface->memory_copy_d2h = copy_out;
  interface->memory_copy_d2d = copy;
  interface->memory_copy_p2p = copy_peer;
  interface->async_memory_copy_h2d = copy_in_async;
  interface->async_memory_copy_d2h = copy_out_async;
  interface->async_memory_copy_d2d = copy_async;
  interface->async_memory_copy_p2p = copy_peer_async;
  interface->device_memory_stats = stats;
  interface->device_min_chunk_size = chunk;
}

}  // namespace emulator

EXPORT size_t nebula_emulator_current_bytes(int device) { return emulator::g_accounts[device].used.load(); }
EXPORT size_t nebula_emulator_peak_bytes(int device, int reset) {
  auto& account = emulator::g_accounts[device];
  size_t peak = account.peak.load();
  if (reset) account.peak.store(account.used.load());
  return peak;
}
