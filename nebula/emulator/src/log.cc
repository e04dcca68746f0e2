#include "log.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <vector>

#include "clock.h"
#include "exports.h"

namespace emulator {
namespace {

std::atomic<bool> g_on{false};
std::mutex g_mutex;
std::vector<Event> g_events;

}  // namespace

bool recording() { return g_on.load(std::memory_order_relaxed); }

void record(int kind, const char* name, int stream, double start_s, double end_s, double bytes, double flops) {
  if (!recording()) return;
  Event event{start_s, end_s, bytes, flops, kind, stream, {}};
  strncpy(event.name, name, sizeof event.name - 1);
  std::lock_guard<std::mutex> lock(g_mutex);
  g_events.push_back(event);
}

}  // namespace emulator

EXPORT void nebula_emulator_record(int on) { emulator::g_on = on != 0; }

EXPORT void nebula_emulator_mark(const char* label) {
  double now = emulator::computed();
  emulator::record(emulator::kMark, label, -1, now, now, 0, 0);
}

// Moves up to `room` of the oldest events to `into`; says how many.
EXPORT long nebula_emulator_drain(emulator::Event* into, long room) {
  std::lock_guard<std::mutex> lock(emulator::g_mutex);
  auto& events = emulator::g_events;
  long count = std::min(room, static_cast<long>(events.size()));
  std::copy_n(events.begin(), count, into);
  events.erase(events.begin(), events.begin() + count);
  return count;
}
