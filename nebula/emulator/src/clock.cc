#include "clock.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

#include "exports.h"
#include "table.h"
#include "work.h"

namespace emulator {
namespace {

struct Stream {
  double busy_until_s = 0;
  int number = 0;
};
struct Moment {  // behind a C_Event
  double at_s = 0;
  uint64_t id = 0;
};

std::mutex g_mutex;
Stream g_null;
std::vector<Stream*> g_streams;   // never freed: few, and Paddle may still wait on a destroyed one
thread_local double t_host_s = 0;  // a background thread must not move the time of the main one
thread_local Stream* t_last = &g_null;
uint64_t g_moments = 0;
std::atomic<int> g_step{0};

using Lock = std::lock_guard<std::mutex>;

Stream* of(C_Stream stream) { return stream ? reinterpret_cast<Stream*>(stream) : &g_null; }
Moment* of(C_Event event) { return reinterpret_cast<Moment*>(event); }

C_Status create_stream(const C_Device, C_Stream* stream) {
  Lock lock(g_mutex);
  auto* made = new Stream;
  g_streams.push_back(made);
  made->number = static_cast<int>(g_streams.size());
  *stream = reinterpret_cast<C_Stream>(made);
  return C_SUCCESS;
}
C_Status destroy_stream(const C_Device, C_Stream) { return C_SUCCESS; }
C_Status query_stream(const C_Device, C_Stream) { return C_SUCCESS; }

C_Status synchronize_stream(const C_Device, C_Stream stream) {
  join(stream);
  return C_SUCCESS;
}
C_Status synchronize_device(const C_Device) {
  join_all();
  return C_SUCCESS;
}
C_Status add_callback(const C_Device device, C_Stream stream, C_Callback callback, void* data) {
  C_Status status = C_SUCCESS;
  callback(device, stream, data, &status);
  return status;
}

C_Status create_event(const C_Device, C_Event* event) {
  Lock lock(g_mutex);
  *event = reinterpret_cast<C_Event>(new Moment{0, ++g_moments});
  return C_SUCCESS;
}
C_Status destroy_event(const C_Device, C_Event event) {
  delete of(event);
  return C_SUCCESS;
}
C_Status query_event(const C_Device, C_Event) { return C_SUCCESS; }

C_Status record_event(const C_Device, C_Stream stream, C_Event event) {
  Lock lock(g_mutex);
  of(event)->at_s = std::max(of(stream)->busy_until_s, t_host_s);
  note({.act = Act::Note, .stream = of(stream)->number, .id = of(event)->id});
  return C_SUCCESS;
}
C_Status synchronize_event(const C_Device, C_Event event) {
  Lock lock(g_mutex);
  t_host_s = std::max(t_host_s, of(event)->at_s);
  note({.act = Act::JoinEvent, .id = of(event)->id});
  return C_SUCCESS;
}
C_Status wait_event(const C_Device, C_Stream stream, C_Event event) {
  Lock lock(g_mutex);
  of(stream)->busy_until_s = std::max(of(stream)->busy_until_s, of(event)->at_s);
  note({.act = Act::Await, .stream = of(stream)->number, .id = of(event)->id});
  return C_SUCCESS;
}

}  // namespace

double begin(C_Stream stream) {
  Lock lock(g_mutex);
  return std::max(of(stream)->busy_until_s, t_host_s);
}

void finish(C_Stream stream, double end_s) {
  Lock lock(g_mutex);
  of(stream)->busy_until_s = std::max(of(stream)->busy_until_s, end_s);
}

double run(C_Stream stream, double seconds) {
  Lock lock(g_mutex);
  if (stream) t_last = of(stream);
  double start = std::max(of(stream)->busy_until_s, t_host_s);
  of(stream)->busy_until_s = start + seconds;
  note({.act = Act::Run, .stream = of(stream)->number, .seconds = seconds});
  return start;
}

void join(C_Stream stream) {
  Lock lock(g_mutex);
  t_host_s = std::max(t_host_s, of(stream)->busy_until_s);
  note({.act = Act::Join, .stream = of(stream)->number});
}

void join_all() {
  t_host_s = latest();
  note({.act = Act::JoinAll});
}

double work_on_host(double seconds) {
  note({.act = Act::Host, .seconds = seconds});
  double start = t_host_s;
  t_host_s += seconds;
  return start;
}

double slowed(double seconds) { return seconds * Table::get().slowness(g_step); }

double latest() {
  Lock lock(g_mutex);
  double latest_s = std::max(t_host_s, g_null.busy_until_s);
  for (auto* stream : g_streams) latest_s = std::max(latest_s, stream->busy_until_s);
  return latest_s;
}

double computed() {
  Lock lock(g_mutex);
  return std::max(t_host_s, t_last->busy_until_s);
}

int number(C_Stream stream) { return of(stream)->number; }

void fill_streams(C_DeviceInterface* interface) {
  interface->create_stream = create_stream;
  interface->destroy_stream = destroy_stream;
  interface->query_stream = query_stream;
  interface->synchronize_stream = synchronize_stream;
  interface->stream_add_callback = add_callback;
  interface->create_event = create_event;
  interface->destroy_event = destroy_event;
  interface->query_event = query_event;
  interface->synchronize_event = synchronize_event;
  interface->record_event = record_event;
  interface->stream_wait_event = wait_event;
  interface->synchronize_device = synchronize_device;
}

}  // namespace emulator

EXPORT double nebula_emulator_virtual_seconds() { return emulator::latest(); }
// A training step begins; not 0 where the table has this rank's device fail now.
EXPORT int nebula_emulator_begin_step(int number) {
  emulator::g_step = number;
  emulator::note({.act = emulator::Act::Step, .peer = number});
  return emulator::Table::get().fails(number);
}
